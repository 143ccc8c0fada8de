"""One machine over SSH, prepared to run containers on its GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass

from pulumi import ComponentResource, Resource, ResourceOptions

from components.remote import Invite, Reach, no_invitation, once, run_step
from planning.hosts.plan import HostPlan


@dataclass(frozen=True, kw_only=True)
class GpuHostArgs:
    plan: HostPlan
    reach: Reach
    invite: Invite = no_invitation
    after: Sequence[Resource] = ()
    """What its first step waits for."""


class GpuHost(ComponentResource):
    """A host's steps, each after the one before; undone in the reverse order when the host leaves the spec."""

    ready: list[Resource]
    """For `depends_on` of what runs there: the last step, if there is any."""
    joined: Sequence[Resource]
    """The step that makes it a node of the mesh, if there is one."""

    def __init__(self, name: str, args: GpuHostArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("inference-stack:hosts:GpuHost", name, None, opts)
        self.ready = list(args.after)
        self.joined = ()
        reach = once(args.reach)
        for step in args.plan.steps:
            child = ResourceOptions(parent=self, depends_on=self.ready)
            asked = args.reach if step.name == "join" else reach
            self.ready = [run_step(args.plan, step, asked, child, args.invite)]
            if step.name == "join":
                self.joined = self.ready
        self.register_outputs({"steps": {step.name: step.summary for step in args.plan.steps}})
