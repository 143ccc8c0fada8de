"""Prometheus, Alertmanager, their exporters, and Grafana where its image can be had."""

from collections.abc import Mapping
from dataclasses import dataclass

from pulumi import ComponentResource, ResourceOptions

from components.containers import Runtime, run_container
from planning.plans import ObservabilityPlan


@dataclass(frozen=True, kw_only=True)
class MonitoringArgs:
    plan: ObservabilityPlan
    runtimes: Mapping[str, Runtime]
    """By host."""


class Monitoring(ComponentResource):
    """Everything that watches the stack. Nothing that serves depends on it."""

    urls: dict[str, str]
    """Service → the address of its pages on the gateway's host."""

    def __init__(self, name: str, args: MonitoringArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("inference-stack:observability:Monitoring", name, None, opts)
        for plan in args.plan.containers:
            run_container(plan, args.runtimes[plan.host], ResourceOptions(parent=self))
        self.urls = {
            plan.service: f"http://127.0.0.1:{plan.ports[0].host}" for plan in args.plan.containers if plan.ports
        }
        self.register_outputs({"urls": self.urls})
