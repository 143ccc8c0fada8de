"""The gateway: one OpenAI-compatible address for all models."""

from dataclasses import dataclass

from pulumi import ComponentResource, Input, Resource, ResourceOptions

from components.containers import Runtime, run_container
from planning.plans import GatewayPlan


@dataclass(frozen=True, kw_only=True)
class GatewayArgs:
    plan: GatewayPlan
    runtime: Runtime


class Gateway(ComponentResource):
    """LiteLLM instances, replaced one at a time, and nginx in front of them."""

    url: str
    """Where clients point their OpenAI SDK: `http://127.0.0.1:8080/v1`."""

    def __init__(self, name: str, args: GatewayArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("inference-stack:gateway:Gateway", name, None, opts)
        previous: list[Input[Resource]] = []
        for instance in args.plan.litellm:
            running = run_container(instance, args.runtime, ResourceOptions(parent=self, depends_on=[*previous]))
            previous = [running.ready]
        run_container(args.plan.nginx, args.runtime, ResourceOptions(parent=self))
        self.url = f"http://127.0.0.1:{args.plan.nginx.ports[0].host}/v1"
        self.register_outputs({"url": self.url})
