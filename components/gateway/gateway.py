"""The gateway: one OpenAI-compatible address for all models."""

from collections.abc import Mapping
from dataclasses import dataclass

from pulumi import ComponentResource, Input, Output, Resource, ResourceOptions

from components.containers import Runtime, run_container
from planning.plans import GatewayPlan


@dataclass(frozen=True, kw_only=True)
class GatewayArgs:
    plan: GatewayPlan
    runtimes: Mapping[str, Runtime]
    """By host."""
    mesh_key: Output[str] | None = None
    """What nginx's secret file holds, if it has one."""


class Gateway(ComponentResource):
    """LiteLLM instances, replaced one at a time, nginx in front of them, and fronts on the other hosts."""

    url: str
    """Where clients on the gateway's host point their OpenAI SDK: `http://127.0.0.1:8080/v1`."""
    ready: Input[Resource]
    """nginx, once it is healthy."""

    def __init__(self, name: str, args: GatewayArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("inference-stack:gateway:Gateway", name, None, opts)
        for front in args.plan.fronts:
            run_container(front, args.runtimes[front.host], ResourceOptions(parent=self))
        previous: list[Input[Resource]] = []
        for instance in args.plan.litellm:
            runtime = args.runtimes[instance.host]
            running = run_container(instance, runtime, ResourceOptions(parent=self, depends_on=[*previous]))
            previous = [running.ready]
        nginx = args.plan.nginx
        secrets = dict.fromkeys(nginx.secret_files, args.mesh_key) if args.mesh_key else None
        self.ready = run_container(nginx, args.runtimes[nginx.host], ResourceOptions(parent=self), secrets).ready
        self.url = f"http://127.0.0.1:{nginx.ports[0].host}/v1"
        self.register_outputs({"url": self.url})
