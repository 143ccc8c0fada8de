"""One model: the jobs that come before its engines, and its engine processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pulumi import ComponentResource, Input, Resource, ResourceOptions

from components.containers import Runtime, run_container
from planning.plans import ModelPlan


@dataclass(frozen=True, kw_only=True)
class ModelServerArgs:
    plan: ModelPlan
    runtimes: Mapping[str, Runtime]
    """By host."""
    after: Sequence[Input[Resource]] = ()
    """What must be ready before a replica is touched."""


class ModelServer(ComponentResource):
    """A model's weights on each of its hosts, and its replicas, each healthy before the next is touched.

    Healthy means: the engine answers `/health`, lists the model, and has answered one real completion.
    """

    replicas: list[str]
    """Service names: `chat-0`."""
    ready: Sequence[Input[Resource]]
    """For `depends_on`: the last replica once it is healthy."""

    def __init__(self, name: str, args: ModelServerArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("inference-stack:serving:ModelServer", name, None, opts)
        child = ResourceOptions(parent=self)
        # No engine is stopped before every host has the weights, and the new one's image understands its arguments.
        previous: list[Input[Resource]] = [
            run_container(job, args.runtimes[job.host], child).ready for job in (*args.plan.fetches, *args.plan.checks)
        ]
        previous += args.after
        # A chain: the engine replaces one replica, sees it healthy, and only then goes on to the next.
        for replica in args.plan.replicas:
            after = ResourceOptions(parent=self, depends_on=previous)
            previous = [run_container(replica, args.runtimes[replica.host], after).ready]
        self.ready = previous
        self.replicas = [replica.service for replica in args.plan.replicas]
        self.register_outputs({"replicas": self.replicas})
