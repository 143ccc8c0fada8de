"""Names that plans agree on: services, volumes, users. (Docker's own names come from `components.naming`.)"""

from zlib import crc32

MODELS_VOLUME = "models"
"""Holds the weights, one folder a model and revision."""
COMPILED_VOLUME = "compiled"
"""Holds what engines compile for the host's GPUs, one folder a replica."""
LITELLM_ALIAS = "litellm"
"""Resolves to all LiteLLM instances."""
LITELLM_PORT = 4000
NGINX_PORT = 8080
VLLM_PORT = 8000
FRONT_PORT = 8300
"""Of a host that the gateway does not run on: the way to its engines and exporters."""
PROMETHEUS_PORT = 9090
ALERTMANAGER_PORT = 9093
NODE_EXPORTER_PORT = 9100
DCGM_EXPORTER_PORT = 9400
GRAFANA_PORT = 3000
CONNECTOR_SERVICE = "cloudflared"
CONNECTOR_METRICS_PORT = 2000
OUTSIDE_METRICS_PORT = 8083
"""Of nginx: the connector's metrics, for Prometheus, which shares no network with the connector."""
OUTSIDE_VOLUME = "outside"
"""Holds the socket on which nginx takes what a tunnel hands over."""

COOLDOWN_S = 10
"""How long the gateway leaves out a replica that failed it, seconds; also one that is back meanwhile."""


def replica_service(model: str, index: int) -> str:
    """The service (and DNS) name of a model's replica: `chat-0`."""
    return f"{model}-{index}"


def litellm_service(index: int) -> str:
    return f"litellm-{index}"


def uid_of(service: str) -> int:
    """A uid that is the service's own and never depends on what else the stack runs."""
    return 20_000 + crc32(service.encode()) % 40_000
