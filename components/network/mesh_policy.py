"""The policy of a mesh, as resources of the stack that owns it.

Tailscale's is written by Pulumi's plugin, which replaces what anybody has edited: a hook before it looks. For a
headscale there is no plugin: what is written stands in the state as a `pulumi.Stash`, so that a preview shows each line
that changes, and a hook before its creation or change does the writing. A hook that raises leaves the state as it was,
so that the next `up` tries again.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pulumi
from pulumi import ComponentResource, Resource, ResourceHook, ResourceHookArgs, ResourceHookBinding, ResourceOptions

from planning.network.plan import PolicyPlan

Write = Callable[[], Awaitable[None]]
"""Writes the policy to its headscale, or lets Tailscale's plugin write it; raises when it may not, or can't."""


@dataclass(frozen=True, kw_only=True)
class MeshPolicyArgs:
    plan: PolicyPlan
    write: Write


class MeshPolicy(ComponentResource):
    """Who may talk to whom in the mesh. Nodes join after it: a mesh without a policy lets everything through."""

    written: Sequence[Resource]
    """What nodes that join depend on."""

    def __init__(self, name: str, args: MeshPolicyArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("inference-stack:network:MeshPolicy", name, None, opts)
        self._args = args
        child = ResourceOptions(parent=self)
        if args.plan.control == "tailscale":
            from components.network.tailnet import own_tailnet

            self.written = own_tailnet(args.plan, self._before("tailnet-policy"), child)
        else:
            self.written = [self._stash("mesh-policy", child)]
        self.register_outputs({})

    def prove(self, joined: Sequence[Resource]) -> None:
        """Write it once more when the nodes are there: a headscale takes tests about nodes only once it has them."""
        if self._args.plan.control == "headscale":
            self._stash("mesh-policy-tests", ResourceOptions(parent=self, depends_on=list(joined)))

    def _stash(self, name: str, opts: ResourceOptions) -> Resource:
        plan, hook = self._args.plan, self._before(name)
        hooks = ResourceHookBinding(before_create=[hook], before_update=[hook])
        kept = {"policy": dict(plan.policy), "taken-over": plan.taken_over or "", "where": plan.where}
        return pulumi.Stash(name, input=kept, opts=ResourceOptions.merge(opts, ResourceOptions(hooks=hooks)))

    def _before(self, name: str) -> ResourceHook:
        write = self._args.write

        async def before(_args: ResourceHookArgs) -> None:
            await write()

        return ResourceHook(f"{name}-written", before)
