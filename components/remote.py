"""The one way a script is run on a host: a resource for each step, by pulumi-command, whose only importer this is.

The host gets the step's settings and script through standard input, so a changed script or setting shows in the
preview as that step of that host, and nothing of it stands in a process list. Leaving the spec runs `undo` with the
script that was applied last, at the address it was applied to.
"""

import asyncio
import shlex
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pulumi
from pulumi import Resource, ResourceHook, ResourceHookArgs, ResourceHookBinding, ResourceOptions
from pulumi_command import remote

from planning.hosts import steps
from planning.hosts.plan import HostPlan, Step

DIALS = 2
"""Failed dials after which the plugin gives up at one more. It waits between them for less than a second."""
DIAL_S = 5
"""For the TCP connection of one dial: a dead host that leaves the spec costs 15 s."""
UNDO_S = 1200
"""Longest time for `undo`: waiting ten minutes for apt's lock is in it."""
KILL_S = 30
"""From the end of a step's time to the end of its processes."""

NAMED_WITHIN_S = 30
"""After a host has joined the mesh: until this machine, which is in it too, knows its name."""

Reach = Callable[[HostPlan, bool], None]
"""Returns once the host answers and its user may sudo, and raises otherwise, in bounded time; the flag says that it may
just have been rebooted. The plugin alone would dial a host for ever that accepts connections and stays silent."""


Invite = Callable[[HostPlan], Awaitable[None]]
"""Brings a host what it needs to join the mesh, over the connection that it joins by; raises when it can't."""


def no_question(_plan: HostPlan, _rebooting: bool) -> None:
    """For programs that leave it to the plugin."""


def once(reach: Reach) -> Reach:
    """The same question for all steps of a host: one that has just come to its end is an answer for the next one."""
    answered = False

    def asked(plan: HostPlan, rebooting: bool) -> None:
        nonlocal answered
        if rebooting or not answered:
            reach(plan, rebooting)
            answered = True

    return asked


async def no_invitation(_plan: HostPlan) -> None:
    """For hosts that need none."""


def run_step(
    plan: HostPlan, step: Step, reach: Reach, opts: ResourceOptions, invite: Invite = no_invitation
) -> Resource:
    """Run one step on its host, now if it is new or has changed. `opts` carries parent and dependencies."""
    # What is done once is not done again because its script has changed: only its arguments and `repair` count, which
    # its digest names. It stands here too, since where the script stays as it was, so does the digest in it.
    again = ("apply", step.summary, *step.once, *([step.digest] if step.once else []))
    return remote.Command(
        f"{plan.name}-{step.name}",
        connection=_connection(_as_joining(plan) if step.name == "join" else plan),
        create=_command(step.timeout_s, *again),
        delete=_command(UNDO_S, "undo") if step.undone else None,
        stdin=steps.text(step),
        add_previous_output_in_env=False,
        opts=ResourceOptions.merge(
            opts,
            ResourceOptions(
                hooks=_reached_before(plan, step, reach, invite),
                ignore_changes=["connection", "delete", "stdin"] if step.once else None,
                custom_timeouts=pulumi.CustomTimeouts(
                    create=_seconds(step.timeout_s), update=_seconds(step.timeout_s), delete=_seconds(UNDO_S)
                ),
            ),
        ),
    )


def _command(within_s: int, *words: str) -> str:
    """Also ends a script that hangs on the host, where its end of the connection is all that's left."""
    return f"sudo -n timeout --kill-after={KILL_S} {within_s} bash -s {shlex.join(words)}"


def _seconds(script_s: int) -> str:
    return f"{script_s + KILL_S + (DIALS + 1) * (DIAL_S + 1)}s"


def _as_joining(plan: HostPlan) -> HostPlan:
    """The host as it is reached before it has a name in the mesh."""
    return replace(plan, connection=plan.bootstrap or plan.connection)


def _connection(plan: HostPlan) -> remote.ConnectionArgs:
    """The user's SSH agent logs in: its socket is another one on each machine, so it is no input."""
    to, jump = plan.connection, plan.connection.jump
    return remote.ConnectionArgs(
        host=to.address,
        port=to.port,
        user=to.user,
        host_key=to.host_key,
        dial_error_limit=DIALS,
        per_dial_timeout=DIAL_S,
        proxy=remote.ProxyConnectionArgs(
            host=jump.address,
            port=jump.port,
            user=jump.user,
            host_key=jump.host_key,
            dial_error_limit=DIALS,
            per_dial_timeout=DIAL_S,
        )
        if jump
        else None,
    )


def _reached_before(plan: HostPlan, step: Step, reach: Reach, invite: Invite) -> ResourceHookBinding:
    # After `reboot` the next step is the one that waits until the host is back.
    patient = plan.may_reboot and step.name == "engine"
    just_named = plan.bootstrap is not None and step.name == "base"

    async def wait(_args: ResourceHookArgs) -> None:
        if step.name == "join":
            await asyncio.to_thread(reach, _as_joining(plan), False)
            await invite(plan)
            return
        deadline = time.monotonic() + (NAMED_WITHIN_S if just_named else 0)
        while True:
            try:
                await asyncio.to_thread(reach, plan, patient)
            except Exception:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(1)
            else:
                return

    hook = ResourceHook(f"{plan.name}-{step.name}-reached", wait)
    return ResourceHookBinding(before_create=[hook], before_update=[hook])
