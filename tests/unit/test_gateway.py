"""What the gateway's plan says, and the rules inside its plugins."""

import asyncio
import hashlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from planning.gateway.litellm import DRAIN_S, proxy_config
from planning.gateway.nginx_conf import ROUTES, SHUTDOWN_S, nginx_conf
from planning.gateway.plan import plan_gateway
from planning.names import LITELLM_ALIAS
from tests.contract.gateway import KEYS, gateway_spec

FILES = Path(__file__).parents[2] / "planning" / "gateway" / "files"


def test_each_replica_is_an_entry_that_logs_can_name() -> None:
    config = yaml.safe_load(plan_gateway(gateway_spec()).litellm[0].files["config.yaml"])
    entries = {entry["model_info"]["id"]: entry for entry in config["model_list"]}
    assert list(entries) == ["chat-0", "chat-1", "spare-0"]
    assert entries["chat-1"]["model_name"] == "chat"
    assert entries["chat-1"]["litellm_params"]["api_base"] == "http://chat-1:8000/v1"


def test_numbers_of_the_spec_arrive() -> None:
    settings = proxy_config(gateway_spec(num_retries=4, request_timeout_s=90)).router_settings
    assert (settings.num_retries, settings.timeout, settings.stream_timeout) == (4, 90, 90)
    assert settings.fallbacks == ({"chat": ("spare",)},)
    assert proxy_config(gateway_spec(request_timeout_s=7200)).router_settings.stream_timeout == 600


def test_limits_are_shared_by_the_instances() -> None:
    def rpm(instances: int) -> int:
        keys = json.loads(plan_gateway(gateway_spec(instances=instances)).litellm[0].files["keys.json"])["keys"]
        return next(int(key["rpm"]) for key in keys.values() if key["id"] == "slow")

    assert [rpm(instances) for instances in (1, 2, 3)] == [2, 1, 1]


def test_no_key_is_in_any_plan() -> None:
    plan = plan_gateway(gateway_spec())
    for container in (*plan.litellm, plan.nginx):
        assert not [key for key in KEYS.values() if key in repr(container)]


def test_a_change_of_models_and_keys_leaves_nginx_alone() -> None:
    before = plan_gateway(gateway_spec())
    after = plan_gateway(gateway_spec(keys={"me": {"rpm": 5}, "narrow": {}, "slow": {}}, fallbacks={}))
    assert before.nginx == after.nginx
    assert before.litellm != after.litellm
    assert "chat-0" not in before.nginx.files["nginx.conf"]


def test_only_nginx_is_published_and_only_it_can_leave() -> None:
    plan = plan_gateway(gateway_spec(instances=2, port=8123))
    assert [port.host for port in plan.nginx.ports] == [8123]
    assert [(c.ports, c.networks, c.aliases) for c in plan.litellm] == [((), ("inner",), (LITELLM_ALIAS,))] * 2
    assert len({c.user for c in plan.litellm}) == 2


def test_nothing_departs_from_hardening() -> None:
    plan = plan_gateway(gateway_spec())
    for container in (*plan.litellm, plan.nginx):
        assert (container.exceptions, container.capabilities) == ({}, ())
        assert list(container.tmpfs) == ["/tmp"]
        assert not container.user.startswith("0")


def test_streams_have_time_to_end_at_a_stop() -> None:
    plan = plan_gateway(gateway_spec())
    assert plan.litellm[0].stop_grace_s > DRAIN_S
    assert (plan.nginx.stop_signal, plan.nginx.stop_grace_s > SHUTDOWN_S) == ("SIGQUIT", True)


def test_a_dead_host_is_given_up_long_before_its_answer_would_be() -> None:
    (litellm,) = plan_gateway(gateway_spec()).litellm
    idle, interval, count = (int(litellm.env[f"AIOHTTP_TCP_KEEP{name}"]) for name in ("IDLE", "INTVL", "CNT"))
    asked_s = idle + interval * count
    sent_s = 0.2 * (2 ** (int(litellm.sysctls["net.ipv4.tcp_retries2"]) + 1) - 1)
    connecting_s = 6 * (2 ** (int(litellm.sysctls["net.ipv4.tcp_syn_retries"]) + 1) - 1)
    assert litellm.env["AIOHTTP_SO_KEEPALIVE"] == "True"
    assert max(asked_s, sent_s) + connecting_s < 45


def test_a_large_body_fits_the_memory_of_nginx() -> None:
    for body in (1, 20, 1024):
        nginx = plan_gateway(gateway_spec(max_body_mib=body)).nginx
        assert nginx.memory_mib > 4 * body
        assert f"client_max_body_size {body}m;" in nginx.files["nginx.conf"]


def test_nginx_waits_longer_than_litellm() -> None:
    assert "proxy_read_timeout 115s;" in nginx_conf(gateway_spec(request_timeout_s=100).file.gateway)


def test_what_litellm_gets_is_never_the_path_that_the_client_wrote() -> None:
    conf = nginx_conf(gateway_spec().file.gateway)
    passes = [line.strip() for line in conf.splitlines() if "proxy_pass http" in line]
    assert passes == [f"proxy_pass http://$litellm:4000{route.upstream};" for route in ROUTES]
    assert not [line for line in passes if "$uri" in line or "$request_uri" in line]


class _ProxyError(Exception):
    def __init__(self, **fields: Any) -> None:
        super().__init__(fields["message"])
        self.__dict__.update(fields)


class _Http(Exception):
    def __init__(self, status_code: int, detail: str, headers: dict[str, str]) -> None:
        super().__init__(detail)
        self.status_code, self.headers = status_code, headers


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """key_auth and request_log, loaded as LiteLLM does, with stand-ins for what its image has."""

    def module(name: str, **members: Any) -> None:
        made = types.ModuleType(name)
        made.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, made)

    module("fastapi", Request=object, HTTPException=_Http)
    module("litellm")
    module("litellm.integrations")
    module("litellm.integrations.custom_logger", CustomLogger=object)
    module("litellm.proxy")
    module("litellm.proxy._types", ProxyException=_ProxyError, UserAPIKeyAuth=types.SimpleNamespace)
    keys = tmp_path / "keys.json"
    keys.write_text(plan_gateway(gateway_spec()).litellm[0].files["keys.json"])
    monkeypatch.setenv("GATEWAY_KEYS", str(keys))

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, loaded)
        spec.loader.exec_module(loaded)
        return loaded

    return types.SimpleNamespace(auth=load("key_auth"), log=load("request_log"))


def _authenticate(plugins: Any, key: str) -> Any:
    request = types.SimpleNamespace(headers={"x-request-id": "id-1"})
    return asyncio.run(plugins.auth.authenticate(request, key))


def _check(plugins: Any, key: str, body: dict[str, Any]) -> dict[str, Any]:
    data = {**body, "proxy_server_request": {"body": body}}
    checked = asyncio.run(
        plugins.auth.policy.async_pre_call_hook(_authenticate(plugins, key), None, data, "completion")
    )
    return dict(checked)


def test_a_key_is_known_with_and_without_bearer(plugins: Any) -> None:
    for text in (KEYS["slow"], f"Bearer {KEYS['slow']}"):
        found = _authenticate(plugins, text)
        assert (found.key_alias, found.rpm_limit, found.models) == ("slow", 2, ["chat", "spare"])


@pytest.mark.parametrize("text", ["", "Bearer ", "sk-wrong", KEYS["me"].upper(), hashlib.sha256(b"me").hexdigest()])
def test_what_is_no_key_is_401_and_keeps_its_request_id(plugins: Any, text: str) -> None:
    with pytest.raises(_ProxyError) as raised:
        _authenticate(plugins, text)
    assert (raised.value.__dict__["code"], raised.value.__dict__["gateway_request_id"]) == (401, "id-1")


@pytest.mark.parametrize(
    ("model", "status"),
    [("spare", 403), ("nope", 404), (None, 400), ("", 400), (["chat"], 400), ({"chat": 1}, 400), ("chat ", 404)],
)
def test_a_model_that_the_key_may_not_use_is_refused(plugins: Any, model: Any, status: int) -> None:
    with pytest.raises(_ProxyError) as raised:
        _check(plugins, KEYS["narrow"], {"model": model})
    assert raised.value.__dict__["code"] == status


def test_fallbacks_are_only_those_that_the_key_may_use(plugins: Any) -> None:
    assert _check(plugins, KEYS["narrow"], {"model": "chat"})["fallbacks"] == []
    assert "fallbacks" not in _check(plugins, KEYS["me"], {"model": "chat"})


@pytest.mark.parametrize(
    "name", ["fallbacks", "api_base", "no-log", "litellm_trace_id", "mock_response", "user_config"]
)
def test_a_field_that_steers_is_refused_by_name(plugins: Any, name: str) -> None:
    with pytest.raises(_ProxyError, match=f"decides these itself: {name}"):
        _check(plugins, KEYS["me"], {"model": "chat", name: "x"})


def test_what_openai_and_vllm_know_passes(plugins: Any) -> None:
    body = {"model": "chat", "temperature": 0, "top_k": 5, "user": "u", "metadata": {"a": "b"}, "tools": [], "seed": 1}
    assert _check(plugins, KEYS["me"], body)["top_k"] == 5


def _logged(plugins: Any, capsys: pytest.CaptureFixture[str], *steps: str) -> list[dict[str, Any]]:
    """The lines that a request leaves after attempts on replicas, `ok` and `fail`."""
    log = plugins.log.RequestLog()
    data: dict[str, Any] = {
        "model": "chat",
        "metadata": {},
        "proxy_server_request": {"headers": {"X-Request-ID": "id-2"}},
    }
    asyncio.run(log.async_pre_call_hook(None, None, data, "completion"))
    response = types.SimpleNamespace(choices=[types.SimpleNamespace(finish_reason="length")])
    for step in steps:
        params = {**data, "model_info": {"id": step}}
        if step == "ok":
            payload = {
                "prompt_tokens": 1,
                "completion_tokens": 2,
                "model_id": "chat-1",
                "stream": False,
                "endTime": 0.0,
            }
            kwargs = {"litellm_params": params, "standard_logging_object": payload}
            asyncio.run(log.async_log_success_event(kwargs, response, None, None))
        elif step == "fail":
            error = _ProxyError(message="a prompt", code="503")
            asyncio.run(log.async_post_call_failure_hook(data, error, types.SimpleNamespace(key_alias="me")))
        else:
            log.log_pre_api_call("chat", [], {"litellm_params": params})
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_line_however_many_attempts(plugins: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = _logged(plugins, capsys, "chat-0", "chat-1", "ok", "ok", "fail")
    assert (line["request_id"], line["attempts"], line["finish_reason"]) == ("id-2", 2, "length")


def test_a_failure_names_the_last_replica_and_no_message(plugins: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = _logged(plugins, capsys, "chat-0", "chat-1", "fail", "fail")
    assert (line["status"], line["replica"], line["attempts"], line["error"]) == (503, "chat-1", 2, "_ProxyError")
    assert "a prompt" not in json.dumps(line)


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        ("InternalServerError", 500, 503),
        ("RouterRateLimitError", None, 503),
        ("ProxyException", 429, None),
        ("BadRequestError", 400, None),
    ],
)
def test_whom_no_replica_could_answer_is_told_when_to_ask_again(
    plugins: Any, capsys: pytest.CaptureFixture[str], kind: str, status: int | None, told: int | None
) -> None:
    error = type(kind, (Exception,), {"status_code": status})("Connection error with a prompt")
    instead = asyncio.run(plugins.log.RequestLog().async_post_call_failure_hook({"model": "chat"}, error, None))
    assert (instead.status_code if instead else None) == told
    assert not instead or instead.headers == {"Retry-After": "10"}
    (line,) = (json.loads(text) for text in capsys.readouterr().out.splitlines())
    assert (line["status"], line["error"]) == (told or status, kind)


def test_a_retry_avoids_what_was_tried_while_it_can(plugins: Any) -> None:
    log = plugins.log.RequestLog()
    data: dict[str, Any] = {"metadata": {}}
    asyncio.run(log.async_pre_call_hook(None, None, data, "completion"))
    replicas = [{"model_info": {"id": name}} for name in ("chat-0", "chat-1")]

    def left() -> list[str]:
        return [d["model_info"]["id"] for d in asyncio.run(log.async_filter_deployments("chat", replicas, None, data))]

    seen = [left()]
    for replica in replicas:
        log.log_pre_api_call("chat", [], {"litellm_params": {**data, **replica}})
        seen.append(left())
    assert seen == [["chat-0", "chat-1"], ["chat-1"], ["chat-0", "chat-1"]]


def test_memory_of_requests_is_bounded(plugins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins.log, "REMEMBERED", 3)
    log = plugins.log.RequestLog()
    for _ in range(9):
        asyncio.run(log.async_pre_call_hook(None, None, {"metadata": {}}, "completion"))
    assert len(log._open) == 3
