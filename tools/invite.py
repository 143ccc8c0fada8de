"""Brings a host the key that it joins the mesh with: made for it at that moment, used up by joining, kept nowhere."""

import asyncio

from components.network.control import Control, ControlError
from components.remote import Invite, no_invitation
from planning.hosts.plan import HostPlan
from tools.ssh import Completed, SshError, run_script

IN_MESH = 'tailscale status --json --peers=false 2>/dev/null | grep -q \'"BackendState": "Running"\'\n'
DELIVER = 'printf %s "$KEY" | sudo -n install -m 600 /dev/stdin /run/inference-stack-join-key\n'
"""Where `join` looks for it: in memory, readable by root alone."""
NOTED = "sudo -n cat /var/lib/inference-stack/steps/join 2>/dev/null || true\n"
WITHIN_S = 40
"""For each of them."""


class NotInvitedError(Exception):
    """The host got no key. The text is one line."""


def invitation(control: Control | None) -> Invite:
    """How hosts are invited. Without a control plane nobody is: a host that needs a key and got none says so itself."""
    if control is None:
        return no_invitation

    async def invite(plan: HostPlan) -> None:
        try:
            # A node that is in the mesh needs no key, and keeps its place there.
            if (await asyncio.to_thread(_on, plan, IN_MESH)).rc == 0:
                return
            key = await asyncio.to_thread(_new_key, control, plan)
            if (await asyncio.to_thread(_on, plan, DELIVER, KEY=key)).rc:
                raise NotInvitedError(f"{plan.name}: the key to join the mesh with could not be put there")
        except (ControlError, SshError) as error:
            raise NotInvitedError(f"{plan.name}: no key to join the mesh with: {error}") from error

    return invite


def is_out(plan: HostPlan) -> bool:
    """Whether a host says, at its own address, that it is no node of the mesh; False where it can't be asked there."""
    if plan.bootstrap is None:
        return False
    try:
        return _on(plan, IN_MESH).rc != 0
    except SshError:
        return False


def rejoins(plan: HostPlan) -> int:
    """What the counter of `join` must be for such a host to join again: raised by one, and not once more before the
    `up` that it was raised for."""
    (join,) = (step for step in plan.steps if step.name == "join")
    try:
        noted = _on(plan, NOTED).out.strip()
    except SshError:
        noted = ""
    return join.repair + 1 if noted in ("", join.digest) else join.repair


def _new_key(control: Control, plan: HostPlan) -> str:
    """A key; what is left of a node that has lost its state would keep the name that the host is to have."""
    for node in control.nodes():
        if node.name == plan.name and set(node.tags) == set(plan.tags):
            control.delete_node(node.id)
    return control.mint_key(plan.tags)


def _on(plan: HostPlan, script: str, **settings: str) -> Completed:
    """What a script says on a host that is not in the mesh yet."""
    assert plan.bootstrap
    return run_script(plan.name, plan.bootstrap, script, settings=settings, limit_s=WITHIN_S)
