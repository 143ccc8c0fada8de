"""The real nginx and LiteLLM, hardened as planned, in front of a fake engine: what clients and operators meet."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.gateway import KEYS, RunningGateway, running_gateway
from tests.docker_run import docker, inspect

LINE_FIELDS = [
    *("time", "log", "request_id", "key", "requested_model", "model", "replica", "tokens_in", "tokens_out"),
    *("latency_s", "ttft_s", "stream", "finish_reason", "status", "attempts", "error"),
]
NOT_ALLOWED = (
    *("/", "/v1", "/v1/", "/metrics", "/metrics/", "/v1/../metrics", "//v1/models", "/v1//models", "/v1/models/"),
    *(
        "/v1/models/../../metrics",
        "/v1/models/%2e%2e/%2e%2e/metrics",
        "/v1/models/..%2f..%2fmetrics",
        "/v1%2fmodels%2fx",
    ),
    *("/v1/chat/completions/..", "/v1/chat/completions/", "/V1/models", "/v1/models/chat/..", "/v1/models/chat%00"),
    *("/ui", "/ui/", "/docs", "/redoc", "/openapi.json", "/swagger", "/routes", "/model/info", "/v1/model/info"),
    *("/key/generate", "/key/info", "/user/new", "/team/new", "/config/yaml", "/get/config/callbacks", "/global/spend"),
    *("/health/readiness", "/health/liveliness", "/health/services", "/health/", "/test", "/sso/key/generate"),
    *("/chat/completions", "/models", "/engines/chat/chat/completions", "/openai/deployments/chat/chat/completions"),
    *("/v1/responses", "/v1/messages", "/v1/files", "/v1/batches", "/v1/assistants", "/invocations", "/tokenize"),
    *("/vllm/v1/models", "/hosted_vllm/v1/models", "/mcp", "/sleep", "/reset_prefix_cache", "/nginx_status"),
)
ESCAPES = ("/v1/models/..", "/v1/chat/../models/.", "/key/generate/../../v1/completions/../models")
"""Paths that mean an allowed one. LiteLLM is sent its plain name."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    with running_gateway(request_timeout_s=10, max_body_mib=1) as running:
        yield running


@pytest.fixture(autouse=True)
def healthy_engine(gateway: RunningGateway) -> None:
    gateway.fake("/fail", {})
    gateway.fake("/forget", {})


def test_a_chat_is_answered_and_leaves_exactly_one_line(gateway: RunningGateway) -> None:
    reply = gateway.chat("tokens=5", headers={"X-Request-Id": "plain-1"})
    assert (reply.status, reply.json["usage"]["completion_tokens"]) == (200, 5)
    (line,) = gateway.lines("plain-1")
    assert list(line) == LINE_FIELDS
    assert line["time"].endswith("+00:00")
    assert 0 < line["latency_s"] < 5
    expected = {
        **{"key": "me", "requested_model": "chat", "model": "chat", "tokens_in": 7, "tokens_out": 5, "ttft_s": None},
        **{"stream": False, "finish_reason": "stop", "status": 200, "attempts": 1, "error": None},
    }
    assert {name: line[name] for name in expected} == expected
    assert line["replica"] == gateway.fake("/seen")["seen"][0]["replica"]


def test_completions_and_embeddings_are_answered(gateway: RunningGateway) -> None:
    text = gateway.call("/v1/completions", {"model": "chat", "prompt": "tokens=2"}, headers={"X-Request-Id": "text-1"})
    assert text.json["choices"][0]["text"] == "tok tok "
    (line,) = gateway.lines("text-1")
    assert (line["tokens_out"], line["finish_reason"]) == (2, "stop")
    vector = gateway.call("/v1/embeddings", {"model": "spare", "input": "x"}, headers={"X-Request-Id": "vector-1"})
    assert vector.json["data"][0]["embedding"] == [0.5, 0.25]
    (line,) = gateway.lines("vector-1")
    assert (line["replica"], line["tokens_in"]) == ("spare-0", 3)


def test_chunks_of_a_stream_arrive_one_by_one(gateway: RunningGateway) -> None:
    """The engine makes a token only when the one before it has arrived here."""
    arrived = 0
    for _ in _stream(gateway, "tokens=6 asked=1", "stream-1"):
        arrived += 1
        if arrived < 6:
            gateway.fake("/go", {})
    assert arrived >= 6
    (line,) = gateway.lines("stream-1")
    assert line["stream"]
    assert 0 < line["ttft_s"] < line["latency_s"]
    assert (line["tokens_in"], line["tokens_out"], line["finish_reason"]) == (7, 6, "stop")


def test_a_long_stream_outlives_the_time_limit_while_tokens_come(gateway: RunningGateway) -> None:
    # 10 s is the time limit here: of silence, not of the whole answer.
    assert len(list(_stream(gateway, "tokens=12 delay=1.0", "long-1"))) >= 12


def test_an_answer_that_takes_too_long_is_an_error_of_litellm(gateway: RunningGateway) -> None:
    reply = gateway.chat("tokens=1 delay=12", model="spare", headers={"X-Request-Id": "slow-1"}, timeout_s=90)
    assert reply.status == 408
    (line,) = gateway.lines("slow-1")
    assert (line["status"], line["replica"]) == (reply.status, "spare-0")


def test_request_ids_pass_and_bad_ones_are_replaced(gateway: RunningGateway) -> None:
    assert gateway.chat(headers={"X-Request-Id": "my.id:1_2-3"}).headers["x-request-id"] == "my.id:1_2-3"
    assert len(gateway.lines("my.id:1_2-3", log="access")) == 1
    for bad in ("x" * 129, "two words", 'quote"', ""):
        made = gateway.chat(headers={"X-Request-Id": bad}).headers["x-request-id"]
        assert made != bad
        assert len(made) == 32
        assert len(gateway.lines(made)) == 1
    assert gateway.call("/nothing", headers={"X-Request-Id": "lost-1"}).headers["x-request-id"] == "lost-1"


@pytest.mark.parametrize(
    "key", [None, "sk-wrong", KEYS["me"][:-1], "sk-" + "0" * 64], ids=["none", "bad", "cut", "long"]
)
def test_no_key_no_answer(gateway: RunningGateway, key: str | None) -> None:
    for reply in (gateway.chat(key=key), gateway.call("/v1/models", key=key)):
        assert (reply.status, reply.json["error"]["type"]) == (401, "authentication_error")
    assert gateway.fake("/seen")["seen"] == []


def test_a_refused_key_has_its_line(gateway: RunningGateway) -> None:
    gateway.chat(key="sk-wrong", headers={"X-Request-Id": "refused-1"})
    (line,) = gateway.lines("refused-1")
    assert (line["status"], line["key"], line["attempts"]) == (401, None, 0)


def test_a_hash_from_keys_json_is_no_key(gateway: RunningGateway) -> None:
    for digest in gateway.spec.key_hashes.values():
        assert gateway.chat(key=digest).status == 401


def test_a_key_is_held_to_its_models(gateway: RunningGateway) -> None:
    assert gateway.chat(key=KEYS["narrow"]).status == 200
    reply = gateway.chat(model="spare", key=KEYS["narrow"])
    assert reply.status == 403
    assert reply.json["error"]["message"] == "This key may not use the model 'spare'. It may use: chat."
    assert [m["id"] for m in gateway.call("/v1/models", key=KEYS["narrow"]).json["data"]] == ["chat"]
    assert [m["id"] for m in gateway.call("/v1/models").json["data"]] == ["chat", "spare"]
    assert gateway.call("/v1/models/chat", key=KEYS["narrow"]).json["id"] == "chat"
    assert gateway.call("/v1/models/spare", key=KEYS["narrow"]).status == 404


@pytest.mark.parametrize("model", ["nope", "chat-0", "hosted_vllm/chat", "openai/gpt-4", "*", "CHAT"])
def test_an_unknown_model_is_404(gateway: RunningGateway, model: str) -> None:
    assert gateway.chat(model=model).status == 404


@pytest.mark.parametrize("model", [["spare"], {"a": 1}, 7, "", None])
def test_a_model_that_is_no_name_is_refused(gateway: RunningGateway, model: Any) -> None:
    reply = gateway.call("/v1/chat/completions", {"model": model, "messages": []}, key=KEYS["narrow"])
    assert reply.status in (400, 403, 404, 422)
    assert gateway.fake("/seen")["seen"] == []


@pytest.mark.parametrize(
    "more",
    [
        {"fallbacks": ["spare"]},
        {"fallbacks": [{"chat": ["spare"]}]},
        {"api_base": "http://spare-0:8000/v1"},
        {"num_retries": 50},
        {"no-log": True},
        {"timeout": 1},
        {"litellm_metadata": {}},
        {"model_list": []},
        {"specific_deployment": True},
        {"router_settings_override": {"fallbacks": [{"chat": ["spare"]}]}},
    ],
    ids=lambda more: next(iter(more)),
)
def test_a_request_cannot_steer_the_gateway(gateway: RunningGateway, more: dict[str, Any]) -> None:
    assert gateway.chat(body=more, key=KEYS["narrow"]).status in (400, 401, 403)
    assert gateway.fake("/seen")["seen"] == []


def test_a_limit_answers_429_with_retry_after(gateway: RunningGateway) -> None:
    replies = [gateway.chat(key=KEYS["slow"]) for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert 0 < int(replies[2].headers["retry-after"]) <= 60


def test_a_retry_goes_to_the_other_replica(gateway: RunningGateway) -> None:
    gateway.fake("/fail", {"chat-0": 500})
    ids = [f"retry-{number}" for number in range(8)]
    assert {gateway.chat(key=KEYS["narrow"], headers={"X-Request-Id": name}).status for name in ids} == {200}
    lines = [gateway.lines(name) for name in ids]
    assert [len(found) for found in lines] == [1] * len(ids)
    assert {(found[0]["replica"], found[0]["attempts"]) for found in lines} <= {("chat-1", 1), ("chat-1", 2)}


def test_a_model_that_fails_falls_back_for_keys_that_may_use_the_other(gateway: RunningGateway) -> None:
    gateway.fake("/fail", {"chat-0": 500, "chat-1": 500})
    reply = gateway.chat(headers={"X-Request-Id": "fall-1"})
    assert reply.status == 200
    (line,) = gateway.lines("fall-1")
    assert (line["requested_model"], line["model"], line["replica"], line["status"]) == (
        "chat",
        "spare",
        "spare-0",
        200,
    )
    gateway.fake("/forget", {})
    reply = gateway.chat(key=KEYS["narrow"], headers={"X-Request-Id": "fall-2"})
    assert reply.status == 503
    assert reply.headers["retry-after"] == "10"
    assert "can answer now" in reply.json["error"]["message"]
    (line,) = gateway.lines("fall-2")
    assert line["status"] == reply.status
    assert "spare-0" not in {asked["replica"] for asked in gateway.fake("/seen")["seen"]}


def test_the_only_replica_of_a_model_with_a_fallback_is_asked_once() -> None:
    """LiteLLM would sleep before it asks the same one again."""
    with running_gateway(fallbacks={"spare": ["chat"]}) as gateway:
        gateway.fake("/fail", {"spare-0": 500})
        assert gateway.chat(model="spare", headers={"X-Request-Id": "once"}).status == 200
        asked = [request["replica"] for request in gateway.fake("/seen")["seen"]]
        assert asked[0] == "spare-0"
        assert asked[1] in ("chat-0", "chat-1")
        assert len(asked) == 2


def test_a_client_that_leaves_stops_the_engine(gateway: RunningGateway) -> None:
    for number, stream in enumerate((True, False), start=1):
        with socket.create_connection(("127.0.0.1", gateway.port)) as wire:
            text = "tokens=2000 delay=0.05"
            body = json.dumps(
                {"model": "spare", "stream": stream, "messages": [{"role": "user", "content": text}]}
            ).encode()
            wire.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                + f"Authorization: Bearer {KEYS['me']}\r\nX-Request-Id: left-{number}\r\n".encode()
                + f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            if stream:
                wire.recv(100)
            time.sleep(1)
        deadline = time.monotonic() + 30
        while gateway.fake("/seen")["cut"] < number and time.monotonic() < deadline:
            time.sleep(0.1)
        assert gateway.fake("/seen")["cut"] == number, f"stream={stream}: the engine went on"
        (line,) = gateway.lines(f"left-{number}")
        assert line["status"] == (200 if stream else 499)


@pytest.mark.parametrize("path", NOT_ALLOWED)
def test_nothing_else_is_there(gateway: RunningGateway, path: str) -> None:
    assert gateway.raw(path) in (400, 404)


@pytest.mark.parametrize("path", ESCAPES)
def test_a_strange_spelling_reaches_nothing_else(gateway: RunningGateway, path: str) -> None:
    assert gateway.raw(path) in (200, 404)
    assert gateway.call(path).status in (200, 404)


def test_errors_of_nginx_are_json(gateway: RunningGateway) -> None:
    for reply, status in (
        (gateway.call("/metrics"), 404),
        (gateway.call("/v1/models", {}), 405),
        (gateway.call("/v1/chat/completions"), 405),
        (gateway.call("/v1/chat/completions", b"x" * (1 << 20) + b"x"), 413),
        (gateway.call("/" + "x" * 9000), 414),
    ):
        assert (reply.status, reply.json["error"]["code"]) == (status, str(status))
        assert reply.headers["content-type"] == "application/json"


def test_health_says_nothing_of_what_is_inside(gateway: RunningGateway) -> None:
    reply = gateway.call("/health", key=None)
    assert (reply.status, reply.json["status"]) == (200, "healthy")
    assert "litellm" not in reply.text


def test_no_header_tells_how_the_stack_is_built(gateway: RunningGateway) -> None:
    for reply in (
        gateway.chat(),
        gateway.chat(body={"stream": True}),
        gateway.chat(model="nope"),
        gateway.call("/health"),
    ):
        told = [name for name in reply.headers if name.startswith(("x-litellm-", "llm_provider-"))]
        assert [name for name in told if "limit" not in name and "remaining" not in name] == []


def test_prometheus_reads_metrics_without_a_key(gateway: RunningGateway) -> None:
    gateway.chat()
    time.sleep(1)
    page = gateway.direct("/metrics/")
    assert page.status == 200
    assert "litellm_proxy_total_requests_metric_total" in page.text
    assert 'model_id="chat-' in page.text


def test_no_secret_and_no_prompt_is_left_anywhere(gateway: RunningGateway) -> None:
    gateway.fake("/fail", {"chat-0": 500, "chat-1": 400, "spare-0": 500})
    for key in KEYS.values():
        gateway.chat("the-secret-prompt", key=key)
        gateway.call("/v1/models?api_key=" + key, key=key)
        gateway.chat("the-secret-prompt", key=key[:-1] + "x")
    time.sleep(1)
    left = gateway.logs() + "".join(json.dumps(inspect(name)) for name in (*gateway.litellm, gateway.nginx))
    left += "".join(docker("top", name) for name in (*gateway.litellm, gateway.nginx))
    for secret in ("the-secret-prompt", *KEYS.values(), *(key[:-1] for key in KEYS.values())):
        assert secret not in left
    assert "sk-" not in json.dumps(inspect(gateway.litellm[0])["Config"]["Env"])


def test_every_line_of_nginx_is_json(gateway: RunningGateway) -> None:
    gateway.call('/x"y\\z')
    gateway.call("/nothing?api_key=quite-secret")
    for line in docker("logs", gateway.nginx).splitlines():
        assert "quite-secret" not in line
        entry = json.loads(line)
        assert set(entry) >= {"time", "request_id", "status", "path", "request_time"}
        assert "?" not in entry["path"]


def test_it_stays_far_below_its_limits(gateway: RunningGateway) -> None:
    for name in (*gateway.litellm, gateway.nginx):
        used = docker("stats", "--no-stream", "--format", "{{.MemPerc}} {{.PIDs}}", name).split()
        assert float(used[0].rstrip("%")) < 80
        assert int(used[1]) < 64


def _stream(gateway: RunningGateway, text: str, request_id: str) -> Iterator[bytes]:
    """The events of a streamed chat, as they come."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    body = {"model": "chat", "stream": True, "messages": [{"role": "user", "content": text}]}
    headers = {"Authorization": f"Bearer {KEYS['me']}", "Content-Type": "application/json", "X-Request-Id": request_id}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    assert answer.status == 200
    for line in answer:
        if line.startswith(b"data: {"):
            assert b'"error"' not in line
            yield line
    connection.close()
