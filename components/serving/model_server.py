"""One model: the job that fetches its weights, and its engine processes."""

from dataclasses import dataclass

from pulumi import ComponentResource, ResourceOptions

from components.containers import Runtime, run_container
from planning.plans import ModelPlan


@dataclass(frozen=True, kw_only=True)
class ModelServerArgs:
    plan: ModelPlan
    runtime: Runtime


class ModelServer(ComponentResource):
    """A model's weights in the stack's volume, and its replicas, each healthy before the next is touched.

    Healthy means: the engine answers `/health`, lists the model, and has answered one real completion.
    """

    replicas: list[str]
    """Service names: `chat-0`."""

    def __init__(self, name: str, args: ModelServerArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("inference-stack:serving:ModelServer", name, None, opts)
        child = ResourceOptions(parent=self)
        fetch = run_container(args.plan.fetch, args.runtime, child)
        # A chain: the engine replaces one replica, sees it healthy, and only then goes on to the next.
        previous = fetch.ready
        for replica in args.plan.replicas:
            running = run_container(replica, args.runtime, ResourceOptions(parent=self, depends_on=[previous]))
            previous = running.ready
        self.replicas = [replica.service for replica in args.plan.replicas]
        self.register_outputs({"replicas": self.replicas})
