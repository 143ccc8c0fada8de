"""The gateway's containers: LiteLLM instances, and nginx in front of them."""

from pathlib import Path

from planning.containers import FILES_DIR, ContainerPlan, Health, PublishedPort
from planning.gateway.litellm import config_yaml, keys_json
from planning.gateway.nginx import nginx_conf
from planning.names import LITELLM_ALIAS, LITELLM_PORT, NGINX_PORT, litellm_service, uid_of
from planning.plans import GatewayPlan
from stack_configs.schema.stack import StackSpec

PLUGINS = Path(__file__).parent / "files"

NGINX_USER = "101:101"
"""Of the official unprivileged image."""

START_LITELLM = (
    'LITELLM_MASTER_KEY="sk-$(head -c 32 /dev/urandom | base64 | tr -d /+=)" exec litellm '
    f"--config {FILES_DIR}/config.yaml --host 0.0.0.0 --port {LITELLM_PORT} --num_workers 1"
)
"""LiteLLM does not start without a master key. Nobody needs one here, so each start makes one that nobody knows."""

READY_URL = f"http://127.0.0.1:{LITELLM_PORT}/health/readiness"
"""Not /health: that one asks every backend for a completion."""

STOP_GRACE_S = 60
"""Requests in flight are finished first, streams included; then Docker kills."""


def plan_gateway(spec: StackSpec) -> GatewayPlan:
    """LiteLLM `gateway.instances` times, and one nginx."""
    instances = range(spec.file.gateway.instances)
    return GatewayPlan(litellm=tuple(_litellm(index, spec) for index in instances), nginx=_nginx(spec))


def _litellm(index: int, spec: StackSpec) -> ContainerPlan:
    service = litellm_service(index)
    user = uid_of(service)
    image = spec.images["litellm"]
    return ContainerPlan(
        service=service,
        component="gateway",
        image=image.ref,
        user=f"{user}:{user}",
        entrypoint=("sh", "-c", START_LITELLM),
        env={
            "DO_NOT_TRACK": "1",
            "HOME": "/tmp",
            # Its price list is in the package; else it is fetched at every start.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
            "PYTHONDONTWRITEBYTECODE": "1",
            # Its own lines repeat what ours say, and show request bodies on errors.
            "LITELLM_LOG": "ERROR",
        },
        files={
            "config.yaml": config_yaml(spec),
            "keys.json": keys_json(spec),
            "key_auth.py": (PLUGINS / "key_auth.py").read_text(),
            "request_log.py": (PLUGINS / "request_log.py").read_text(),
        },
        tmpfs={"/tmp": "size=128m,mode=1777"},
        aliases=(LITELLM_ALIAS,),
        # 330 MiB after the start, more under many streams.
        memory_mib=1024,
        max_processes=512,
        health=Health(
            command=("python3", "-c", f"import urllib.request as r; r.urlopen({READY_URL!r}, timeout=4)"),
            start_period_s=60,
        ),
        stop_grace_s=STOP_GRACE_S,
        starts_in_s=image.starts_in_s,
    )


def _nginx(spec: StackSpec) -> ContainerPlan:
    image = spec.images["nginx"]
    return ContainerPlan(
        service="nginx",
        component="gateway",
        image=image.ref,
        user=NGINX_USER,
        command=("nginx", "-c", f"{FILES_DIR}/nginx.conf", "-g", "daemon off;"),
        files={"nginx.conf": nginx_conf(spec.file.gateway)},
        tmpfs={"/tmp": "size=64m,mode=1777"},
        networks=("inner", "edge"),
        ports=(PublishedPort(container=NGINX_PORT, host=spec.file.gateway.port),),
        memory_mib=128,
        max_processes=64,
        # Its own answer: that LiteLLM is well is LiteLLM's check.
        health=Health(command=("wget", "-q", "-O", "/dev/null", f"http://127.0.0.1:{NGINX_PORT}/nginx-health")),
        # SIGQUIT lets open streams end.
        stop_signal="SIGQUIT",
        stop_grace_s=STOP_GRACE_S,
        starts_in_s=image.starts_in_s,
    )
