"""A whole stack: the only place where the domains meet."""

from dataclasses import dataclass

from pulumi import ComponentResource, Input, ResourceOptions

from components.containers import Runtime, make_networks, make_volume
from components.gateway.gateway import Gateway, GatewayArgs
from components.naming import Names
from components.observability.monitoring import Monitoring, MonitoringArgs
from components.serving.model_server import ModelServer, ModelServerArgs
from planning.names import MODELS_VOLUME
from planning.plans import StackPlan


@dataclass(frozen=True, kw_only=True)
class InferenceStackArgs:
    plan: StackPlan


class InferenceStack(ComponentResource):
    """Networks, volumes, models, gateway and monitoring of one stack."""

    url: str | None
    """None while the gateway's host waits."""
    models: list[str]
    monitoring: dict[str, str]

    def __init__(self, name: str, args: InferenceStackArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("inference-stack:index:InferenceStack", name, None, opts)
        plan = args.plan
        child = ResourceOptions(parent=self)
        local = self._local(plan)
        runtimes = {container.host: local for container in plan.containers}
        for model in plan.models:
            ModelServer(model.name, ModelServerArgs(plan=model, runtimes=runtimes), child)
        self.url = None
        if plan.gateway:
            self.url = Gateway("gateway", GatewayArgs(plan=plan.gateway, runtimes=runtimes), child).url
        monitoring = Monitoring("monitoring", MonitoringArgs(plan=plan.observability, runtimes=runtimes), child)
        self.models = [model.name for model in plan.models]
        self.monitoring = monitoring.urls
        self.register_outputs({"url": self.url, "models": self.models, "monitoring": self.monitoring})

    def _local(self, plan: StackPlan) -> Runtime:
        child = ResourceOptions(parent=self)
        names = Names(plan.stack)
        volumes: dict[str, Input[str]] = {
            # Weights are slow to fetch again: they outlive the stack.
            MODELS_VOLUME: make_volume(
                names, MODELS_VOLUME, "serving", ResourceOptions(parent=self, retain_on_delete=True)
            )
        }
        for container in plan.containers:
            for mount in container.mounts:
                if not mount.source.startswith("/") and mount.source not in volumes:
                    volumes[mount.source] = make_volume(names, mount.source, container.component, child)
        return Runtime(names=names, networks=make_networks(names, child), volumes=volumes)
