"""The control plane of a stack's mesh: who asks it, with which secret, and what is done there."""

import asyncio
import hashlib
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from components.network.control import Control, ControlError
from components.network.headscale import NEW_KEY, Headscale
from components.network.mesh_policy import Write
from components.network.tailscale import NEW_CLIENT, Tailscale
from planning.network.compare import difference, read
from planning.network.policy import Node, is_ours, mistagged, own_tags, policy, present, stale_nodes, tags, text
from stack_configs.schema.network import Mesh
from stack_configs.schema.stack import StackSpec


def control_of(stack: str, mesh: Mesh, root: Path) -> Control:
    """The control plane, by the secrets of the stack's Pulumi config. Raises ControlError where one is missing."""
    found = _control(mesh, lambda key: _config(key, stack, root))
    if found is None and mesh.login_server:
        raise ControlError(f"there is no API key for {mesh.login_server}: {NEW_KEY}")
    if found is None:
        raise ControlError(f"there is no OAuth client for Tailscale: {NEW_CLIENT}")
    return found


def control_by(spec: StackSpec, secrets: Mapping[str, str | None]) -> Control | None:
    """The same inside of Pulumi's program; None where there is no mesh, or no secret for it."""
    mesh = spec.file.network.mesh
    return _control(mesh, secrets.get) if mesh else None


def _control(mesh: Mesh, config: Callable[[str], str | None]) -> Control | None:
    if mesh.login_server:
        key = config("inference-stack:headscaleApiKey")
        return Headscale(mesh.login_server, key) if key else None
    # The plugin's own names and variables.
    client = config("tailscale:oauthClientId") or os.environ.get("TAILSCALE_OAUTH_CLIENT_ID")
    secret = config("tailscale:oauthClientSecret") or os.environ.get("TAILSCALE_OAUTH_CLIENT_SECRET")
    return Tailscale(client, secret) if client and secret else None


def _config(key: str, stack: str, root: Path) -> str | None:
    argv = ["pulumi", "config", "get", key, "--stack", stack, "--non-interactive"]
    try:
        done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ControlError("there is no pulumi here: run `. ./activate` first") from None
    if done.returncode and "not found" not in done.stderr:
        reason = (done.stderr.strip().splitlines() or ["pulumi gave no reason"])[-1]
        raise ControlError(f"{key} can't be read: {reason}")
    return done.stdout.strip() or None if done.returncode == 0 else None


def writer(spec: StackSpec, control: Control | None) -> Write:
    """What `pulumi up` does before the policy of the stack that owns it changes."""

    async def write() -> None:
        if isinstance(control, Headscale):
            await asyncio.to_thread(write_policy, spec, control)
        elif control:
            await asyncio.to_thread(refuse_others, spec, control)
        else:
            mesh = spec.file.network.mesh
            with_what = NEW_CLIENT if mesh and mesh.control == "tailscale" else NEW_KEY
            raise ControlError(f"there is nothing to ask the mesh's control plane with: {with_what}")

    return write


def write_policy(spec: StackSpec, headscale: Headscale) -> None:
    """Make the spec's policy the mesh's, with the tests that its nodes allow. Raises ControlError."""
    refuse_others(spec, headscale)
    nodes = headscale.nodes()
    headscale.set_policy(text(policy(spec, present(nodes)), spec.stack))


def refuse_others(spec: StackSpec, control: Control) -> None:
    """Raises ControlError for a policy in force that this stack did not write, or that was edited since, unless it is
    the one that was taken over or says the same."""
    found = control.policy()
    if found is not None and not may_replace(spec, found):
        mesh = spec.file.network.mesh
        raise ControlError(
            f"{(mesh and mesh.login_server) or 'Tailscale'} has a policy that the stack {spec.stack} did not write: "
            f"`make policy STACK={spec.stack}` shows the difference, and with TAKE_OVER=yes the next `up` replaces it"
        )


def may_replace(spec: StackSpec, found: str) -> bool:
    """Whether the policy in force is this stack's own, was taken over, or says the same."""
    if is_ours(found, spec.stack) or digest(found) == spec.taken_over_policy:
        return True
    try:
        return not difference(policy(spec), read(found))
    except ValueError:
        return False


def digest(found: str) -> str:
    """What names a policy in Pulumi's config."""
    return hashlib.sha256(found.encode()).hexdigest()


def remove_stale(spec: StackSpec, control: Control, *, every: bool = False) -> tuple[Node, ...]:
    """Remove nodes from the mesh whose hosts have left the spec; `every` node of the stack where it is gone itself.

    Returns those that were removed. Raises ControlError.
    """
    nodes = control.nodes()
    own = own_tags(spec.stack)
    gone = tuple(node for node in nodes if own & set(node.tags)) if every else stale_nodes(spec, nodes)
    for node in gone:
        control.delete_node(node.id)
    return gone


def retag(spec: StackSpec, control: Control) -> tuple[Node, ...]:
    """Give the stack's nodes the tags that are theirs since the gateway moved: else the policy would cut them off.

    Returns those that had others. Raises ControlError.
    """
    others = mistagged(spec, control.nodes())
    for node in others:
        control.set_tags(node.id, tags(node.name, spec))
    return others
