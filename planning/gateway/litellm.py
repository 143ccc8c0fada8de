"""LiteLLM: keys, limits, routing, retries, fallbacks, one log line per request."""

import json
from math import ceil
from pathlib import Path

from planning.containers import FILES_DIR, ContainerPlan, Health, Network
from planning.gateway.litellm_config import (
    GeneralSettings,
    GroupRetryPolicy,
    LitellmParams,
    LitellmSettings,
    ModelEntry,
    ModelInfo,
    ProxyConfig,
    RetryPolicy,
    RouterSettings,
)
from planning.names import COOLDOWN_S, LITELLM_ALIAS, LITELLM_PORT, litellm_service, uid_of
from planning.network.mesh import RESOLVER
from planning.placement import engine_url, gateway_host, placed, served
from stack_configs.schema.gateway import Gateway
from stack_configs.schema.stack import StackSpec

PLUGINS = ("key_auth.py", "request_log.py")
"""Python that runs inside LiteLLM, kept under `files/` beside this module."""

STREAM_SILENCE_S = 600
"""Longest silence in a stream, the wait for the first token included. A queued prompt may wait for minutes; an engine
that hangs must not hold a client for an hour."""
DRAIN_S = 60
"""How long requests in flight may go on after a stop is asked for. LiteLLM refuses new ones from that moment."""

LARGEST_AT_ONCE = 4
"""Requests of the largest size that memory is planned for. Measured on 1.103.2: 347 MiB at rest, 371 MiB after 1060
requests from 32 clients, 710 MiB with four bodies of 19 MiB at once: 4.5 times each body."""

READY_URL = f"http://127.0.0.1:{LITELLM_PORT}/health/readiness"
"""Never `/health`: it sends completions to the engines."""

# LiteLLM refuses to start without a master key. Nobody needs one here: keys.json has every key that may be used, and
# key_auth.py knows no other. So each start makes one at random, which dies with the process.
START = f"""\
LITELLM_MASTER_KEY="sk-$(python3 -c 'import secrets; print(secrets.token_hex(32))')" && export LITELLM_MASTER_KEY &&
exec litellm --config {FILES_DIR}/config.yaml --host 0.0.0.0 --port {LITELLM_PORT} --num_workers 1"""


def plan_litellm(spec: StackSpec) -> tuple[ContainerPlan, ...]:
    """The LiteLLM instances, all alike. Each has one worker: instances are what is added for more load (a worker does
    about 125 requests/s), and a worker's metrics and limits need no shared files or Redis."""
    image = spec.images["litellm"]
    elsewhere = any(replica.host != gateway_host(spec) for replica in placed(spec))
    networks: tuple[Network, ...] = ("inner", "edge") if elsewhere else ("inner",)
    files = {
        "config.yaml": proxy_config(spec).to_yaml(),
        "keys.json": keys_json(spec),
        **{name: (Path(__file__).parent / "files" / name).read_text() for name in PLUGINS},
    }
    return tuple(
        ContainerPlan(
            service=service,
            host=gateway_host(spec),
            component="gateway",
            image=image.ref,
            user=f"{uid_of(service)}:{uid_of(service)}",
            entrypoint=("sh", "-c", START),
            env=ENV,
            files=files,
            tmpfs={"/tmp": "size=64m,mode=1777"},
            networks=networks,
            resolver=RESOLVER if spec.file.network.mesh else None,
            sysctls=SYSCTLS,
            aliases=(LITELLM_ALIAS,),
            memory_mib=512 + LARGEST_AT_ONCE * 6 * spec.file.gateway.max_body_mib,
            max_processes=128,  # 16 threads were seen under load
            health=Health(
                command=("python3", "-c", f"import urllib.request as u; u.urlopen({READY_URL!r}, timeout=4)"),
                start_period_s=90,
            ),
            stop_grace_s=DRAIN_S + 5,
            starts_in_s=image.starts_in_s,
        )
        for service in map(litellm_service, range(spec.file.gateway.instances))
    )


ENV = {
    "HOME": "/tmp",
    "PYTHONDONTWRITEBYTECODE": "1",
    # Its errors quote the engine's, which can quote a prompt. request_log.py says what failed, where and how.
    "LITELLM_LOG": "CRITICAL",
    "LITELLM_MODE": "PRODUCTION",  # reads no .env file
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else the start waits for a download
    "DISABLE_ADMIN_UI": "True",
    "NO_DOCS": "True",
    "NO_REDOC": "True",
    "NO_OPENAPI": "True",
    "GRACEFUL_SHUTDOWN_TIMEOUT": str(DRAIN_S),
    # While an engine computes, its connection says nothing: the kernel asks whether the host is there, and takes 15 s
    # of silence (5, and 5 times 2) for its end. LiteLLM's `constants.py` has these names.
    "AIOHTTP_SO_KEEPALIVE": "True",
    "AIOHTTP_TCP_KEEPIDLE": "5",
    "AIOHTTP_TCP_KEEPINTVL": "2",
    "AIOHTTP_TCP_KEEPCNT": "5",
}

SYSCTLS = {"net.ipv4.tcp_retries2": "5", "net.ipv4.tcp_syn_retries": "1"}
"""How long the kernel tries to reach an engine on a host that has lost its power, in LiteLLM's own network.

What was sent and is not acknowledged is given up at the sixth time-out, each twice as long as the one before: 63 times
the first, 12.6 s in all; more on a slow network, whose round trip makes the first longer than 0.2 s. Connecting is
given up after 3 s, and LiteLLM connects twice for each of its tries. Linux' own values are 15 minutes and 2. Measured
with every packet dropped, two replicas lost and two retries: the fallback had answered after 29 s what was asked on
open connections, after 36 s what waited for its answer, after 19 s what was asked later.
Source: https://docs.kernel.org/networking/ip-sysctl.html, `tcp_retries2` and `tcp_syn_retries`.
"""


def proxy_config(spec: StackSpec) -> ProxyConfig:
    gateway = spec.file.gateway
    timeout = gateway.request_timeout_s
    stream_timeout = min(timeout, STREAM_SILENCE_S)
    return ProxyConfig(
        model_list=tuple(
            ModelEntry(
                model_name=replica.model,
                litellm_params=LitellmParams(
                    model=f"hosted_vllm/{replica.model}",
                    api_base=engine_url(replica, spec),
                    api_key="none",
                    timeout=timeout,
                    stream_timeout=stream_timeout,
                ),
                model_info=ModelInfo(id=replica.service),
            )
            for replica in placed(spec)
        ),
        router_settings=RouterSettings(
            # Splits evenly; the latency- and usage-based strategies starved one of two equal replicas.
            routing_strategy="simple-shuffle",
            num_retries=gateway.num_retries,
            retry_policy=RetryPolicy(TimeoutErrorRetries=0),
            # Before it asks the only replica again, LiteLLM sleeps, 4 s in all: whoever has a fallback needn't.
            model_group_retry_policy={
                name: GroupRetryPolicy(DefaultRetries=0)
                for name in _fallbacks(spec)
                if len(spec.file.models[name].replicas) == 1
            },
            retry_after=0,
            allowed_fails=3,
            cooldown_time=COOLDOWN_S,
            fallbacks=tuple({name: targets} for name, targets in _fallbacks(spec).items()),
            timeout=timeout,
            stream_timeout=stream_timeout,
        ),
        litellm_settings=LitellmSettings(
            callbacks=("prometheus", "key_auth.policy", "request_log.log"),
            request_timeout=timeout,
            drop_params=False,
            require_auth_for_metrics_endpoint=False,
            json_logs=True,
            set_verbose=False,
            global_disable_no_log_param=True,
        ),
        general_settings=GeneralSettings(
            master_key="os.environ/LITELLM_MASTER_KEY",
            custom_auth="key_auth.authenticate",
            custom_auth_run_common_checks=True,
            cancel_on_disconnect=True,
        ),
    )


def keys_json(spec: StackSpec) -> str:
    """What key_auth.py reads: each key's SHA-256 → who it is and what it may do. No secret is in it."""
    gateway, models = spec.file.gateway, served(spec)
    keys = {
        spec.key_hashes[name]: {
            "id": name,
            "models": [model for model in models if key.models == "all" or model in key.models],
            "rpm": _share(key.rpm, gateway),
            "tpm": _share(key.tpm, gateway),
        }
        for name, key in gateway.keys.items()
    }
    fallbacks = {name: list(targets) for name, targets in _fallbacks(spec).items()}
    return json.dumps({"keys": keys, "models": list(models), "fallbacks": fallbacks}, indent=1)


def _fallbacks(spec: StackSpec) -> dict[str, tuple[str, ...]]:
    """The spec's, without models that wait for their host."""
    models = served(spec)
    found = {
        name: tuple(target for target in targets if target in models)
        for name, targets in spec.file.gateway.fallbacks.items()
        if name in models
    }
    return {name: targets for name, targets in found.items() if targets}


def _share(limit: int | None, gateway: Gateway) -> int | None:
    """One instance's part of a limit, rounded up: instances count for themselves, and nginx spreads requests evenly."""
    return None if limit is None else ceil(limit / gateway.instances)
