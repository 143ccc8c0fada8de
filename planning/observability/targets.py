"""What Prometheus scrapes, and how its configuration says so."""

import yaml

from planning.names import (
    ALERTMANAGER_PORT,
    DCGM_EXPORTER_PORT,
    LITELLM_PORT,
    NODE_EXPORTER_PORT,
    PROMETHEUS_PORT,
    VLLM_PORT,
    litellm_service,
    replica_service,
)
from stack_configs.schema.base import GpuUuid
from stack_configs.schema.stack import StackSpec

RULES_FILE = "rules.yml"


def gpus(spec: StackSpec) -> tuple[GpuUuid, ...]:
    """The NVIDIA GPUs to watch: those that hosts name, and those found on this machine.

    One exporter sees one host's GPUs only; until containers are placed on hosts, all are taken for one host's.
    """
    named = (uuid for host in spec.file.hosts.values() for uuid in host.gpus)
    return tuple(dict.fromkeys((*named, *spec.local_gpus)))


def watches_gpus(spec: StackSpec) -> bool:
    """Whether DCGM exporter runs, and GPU rules and panels with it."""
    return bool(gpus(spec)) and "dcgm-exporter" in spec.images


def prometheus_yml(spec: StackSpec) -> str:
    """The text of prometheus.yml. Targets are services by their DNS names on the network `inner`."""
    interval = spec.file.observability.prometheus.scrape_interval_s
    replicas = [
        {
            "targets": [f"{replica_service(name, index)}:{VLLM_PORT}"],
            "labels": {"model": name, "replica": replica_service(name, index)},
        }
        for name, model in spec.file.models.items()
        for index in range(len(model.replicas))
    ]
    gateways = [f"{litellm_service(index)}:{LITELLM_PORT}" for index in range(spec.file.gateway.instances)]
    jobs: list[dict[str, object]] = [
        {"job_name": "vllm", "static_configs": replicas},
        # /metrics redirects to /metrics/, and a redirect is one more request every time.
        {"job_name": "litellm", "metrics_path": "/metrics/", "static_configs": [{"targets": gateways}]},
        _job("node", f"node-exporter:{NODE_EXPORTER_PORT}"),
        _job("prometheus", f"prometheus:{PROMETHEUS_PORT}"),
        _job("alertmanager", f"alertmanager:{ALERTMANAGER_PORT}"),
    ]
    if watches_gpus(spec):
        jobs.append(_job("dcgm", f"dcgm-exporter:{DCGM_EXPORTER_PORT}"))
    config = {
        "global": {
            "scrape_interval": f"{interval}s",
            # Prometheus refuses a timeout above the interval.
            "scrape_timeout": f"{min(10, interval)}s",
            "evaluation_interval": f"{interval}s",
        },
        "rule_files": [RULES_FILE],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"alertmanager:{ALERTMANAGER_PORT}"]}]}]},
        "scrape_configs": jobs,
    }
    return yaml.safe_dump(config, sort_keys=False)


def _job(name: str, target: str) -> dict[str, object]:
    return {"job_name": name, "static_configs": [{"targets": [target]}]}
