"""What Prometheus scrapes, and how its configuration says so."""

from collections.abc import Callable

import yaml

from planning.names import (
    ALERTMANAGER_PORT,
    CONNECTOR_METRICS_PORT,
    CONNECTOR_SERVICE,
    DCGM_EXPORTER_PORT,
    LITELLM_PORT,
    NODE_EXPORTER_PORT,
    OUTSIDE_METRICS_PORT,
    PROMETHEUS_PORT,
    VLLM_PORT,
    litellm_service,
)
from planning.placement import front_address, gateway_host, named_on, placed, ready_hosts
from stack_configs.schema.base import GpuUuid
from stack_configs.schema.stack import StackSpec

RULES_FILE = "rules.yml"


def gpus(spec: StackSpec, host: str) -> tuple[GpuUuid, ...]:
    """The NVIDIA GPUs of a host to watch: those that the spec names, and on this machine those that were found."""
    there = spec.file.hosts[host]
    found = spec.local_gpus if there.connection.kind == "local" else ()
    return tuple(dict.fromkeys((*there.gpus, *found)))


def watches_gpus(spec: StackSpec, *hosts: str) -> bool:
    """Whether DCGM exporter runs on one of these hosts (all, if none is named), and GPU rules and panels with it."""
    return "dcgm-exporter" in spec.images and any(gpus(spec, host) for host in hosts or spec.file.hosts)


def prometheus_yml(spec: StackSpec) -> str:
    """The text of prometheus.yml.

    On the gateway's host targets are services by their DNS names on the network `inner`; elsewhere, paths of a front.
    """
    interval = spec.file.observability.prometheus.scrape_interval_s
    replicas = [
        _target(
            replica.service,
            replica.service,
            replica.host,
            VLLM_PORT,
            spec,
            {"model": replica.model, "replica": replica.service},
        )
        for replica in placed(spec)
    ]
    gateways = [f"{litellm_service(index)}:{LITELLM_PORT}" for index in range(spec.file.gateway.instances)]
    jobs: list[dict[str, object]] = [
        {"job_name": "vllm", "static_configs": replicas},
        # /metrics redirects to /metrics/, and a redirect is one more request every time.
        {"job_name": "litellm", "metrics_path": "/metrics/", "static_configs": [{"targets": gateways}]},
        {"job_name": "node", "static_configs": _per_host("node", NODE_EXPORTER_PORT, spec)},
        _job("prometheus", f"prometheus:{PROMETHEUS_PORT}"),
        _job("alertmanager", f"alertmanager:{ALERTMANAGER_PORT}"),
    ]
    if spec.file.network.ingress:
        # By way of nginx: who holds the connector must not reach Prometheus.
        jobs.append(
            _job("ingress", f"nginx:{OUTSIDE_METRICS_PORT}", instance=f"{CONNECTOR_SERVICE}:{CONNECTOR_METRICS_PORT}")
        )
    if watches_gpus(spec):
        dcgm = _per_host("dcgm", DCGM_EXPORTER_PORT, spec, lambda host: bool(gpus(spec, host)))
        jobs.append({"job_name": "dcgm", "static_configs": dcgm})
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


def _job(name: str, target: str, **labels: str) -> dict[str, object]:
    return {"job_name": name, "static_configs": [{"targets": [target], **({"labels": labels} if labels else {})}]}


def _per_host(
    service: str, port: int, spec: StackSpec, wanted: Callable[[str], bool] = lambda _: True
) -> list[dict[str, object]]:
    """An exporter on every host; with several hosts, each with its host's name."""
    several = len(spec.file.hosts) > 1
    return [
        _target(
            named_on(f"{service}-exporter", host, spec), service, host, port, spec, {"host": host} if several else {}
        )
        for host in ready_hosts(spec)
        if wanted(host)
    ]


def _target(service: str, path: str, on: str, port: int, spec: StackSpec, labels: dict[str, str]) -> dict[str, object]:
    """`service` on the host `on`. Series keep their names when an address changes: `instance` never has it."""
    if on == gateway_host(spec):
        target = f"{service}:{port}"
    else:
        target = front_address(on, spec)
        labels = {**labels, "instance": f"{service}:{port}", "__metrics_path__": f"/{path}/metrics"}
    return {"targets": [target], **({"labels": labels} if labels else {})}
