"""Replacing a container so that the one before comes back when the new one can't start.

Pulumi creates the new container before it deletes the old one, and these hooks make room in between: the old one is
stopped and renamed, but kept. When the new one isn't ready in time, the old one is started again under its name, `up`
fails with the reason, and the next `up` tries again: state then holds the failed container, which Pulumi replaces in
any case, and the old one as still to be deleted. Whatever is left over goes with the first `up` that succeeds.

Hooks run where Pulumi runs; what they do to a host over SSH they do there, by its own docker and nvidia-smi. If that
process, its machine or the connection is lost in between, a timer on the host brings the old container back; on this
machine `make up` does (tools/setup).
"""

import asyncio
import shlex
import subprocess
import time
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi import ErrorHook, ErrorHookArgs, ResourceHook, ResourceHookArgs, ResourceHookBinding

from planning.containers import ContainerPlan
from planning.names import COOLDOWN_S

PREVIOUS = "-previous-"
"""Between a container's name and the first digits of its id, while it is kept for the way back."""
FAILED = "-failed-"
"""The same for a new one that did not become ready."""
RELEASE_S = 60
"""Seconds after its end in which an engine's processes must have left the GPUs."""
SPARE_S = 60
"""What a replacement may take besides ending, giving memory back and starting, before the host undoes it by itself."""
RC_OF_SSH = 255

_ready_at: list[float] = []
"""When each replacement of this run was ready, on the monotonic clock."""

BRING_BACK = """\
name=$1 old=$2
show='{{.Id}} {{if .State.Health}}{{.State.Health.Status}}{{end}}'
now=$(docker container inspect --format "$show" "$name" 2>/dev/null)
case $now in
"$old "*) ;;
*" healthy") exit 0 ;;
*)
    [ -z "$now" ] || docker rm --force "$name"
    docker rename "$old" "$name"
    ;;
esac
docker start "$old"
"""
"""What the host does when nobody has told it how a replacement went."""


class NotReleasedError(Exception):
    """A stopped engine's processes still hold GPU memory."""


@dataclass(frozen=True)
class Docker:
    """The docker command of a host, and what else is run there."""

    shell: tuple[str, ...] = ()

    def __call__(self, *args: str, quiet: bool = False) -> str:
        return self.run("docker", *args, quiet=quiet)

    def run(self, *argv: str, quiet: bool = False) -> str:
        return _run(self.shell, list(argv), quiet)


@dataclass(frozen=True)
class Kept:
    """The container that makes room: `name` is its own, without the mark."""

    ident: str
    name: str


def way_back(plan: ContainerPlan, name: str, shell: tuple[str, ...] = ()) -> ResourceHookBinding:
    """Hooks for the container called `name`, to be used with `delete_before_replace=False`.

    `shell` runs a command on the container's host; empty on this machine.
    """
    kept: list[Kept] = []
    here = Docker(shell)

    async def make_room(_args: ResourceHookArgs) -> None:
        found = await asyncio.to_thread(_current, here, name)
        if found:
            kept.append(found)
            await asyncio.sleep(_left_out_for_s(time.monotonic()))
            pulumi.log.info(f"{plan.service}: the container before finishes its requests, and stops")
            await asyncio.to_thread(_put_aside, here, plan, found)

    async def let_go(_args: ResourceHookArgs) -> None:
        if kept:
            _ready_at.append(time.monotonic())
            if shell:
                await asyncio.to_thread(_disarm, here, name)

    async def bring_back(args: ErrorHookArgs) -> bool:
        if args.failed_operation == "create" and kept:
            await asyncio.to_thread(_undo, here, kept[-1])
            pulumi.log.error(f"{plan.service} was not replaced: the container before it serves again")
        return False  # no further try in this run

    return ResourceHookBinding(
        before_create=[ResourceHook(f"{plan.service}-make-room", make_room)],
        after_create=[ResourceHook(f"{plan.service}-let-go", let_go)],
        on_error=[ErrorHook(f"{plan.service}-bring-back", bring_back)],
    )


def _left_out_for_s(now: float) -> float:
    """How long the gateway may yet leave out what was replaced before, seconds.

    It asked while nobody answered there, so it asks nobody there for a while: who stops now leaves none to ask.
    """
    return max([0.0, *(at + COOLDOWN_S - now for at in _ready_at)])


def _put_aside(docker: Docker, plan: ContainerPlan, found: Kept) -> None:
    """Stop and rename. Raises NotReleasedError, with everything as it was, when the GPUs are not free afterwards."""
    processes = _gpu_processes(docker, found.ident) if plan.gpus else frozenset()
    if docker.shell:
        _arm(docker, plan, found)
    docker("stop", found.ident)
    docker("rename", found.ident, f"{found.name}{PREVIOUS}{found.ident[:8]}", quiet=True)
    try:
        _released(docker, plan, processes)
    except NotReleasedError:
        _bring_back(docker, found)
        raise


def _undo(docker: Docker, kept: Kept) -> None:
    """Put the new container aside, if there is one, and start the kept one."""
    new = _ident(docker, kept.name)
    if new and new != kept.ident:
        docker("stop", "--time", "10", new)
        docker("rename", new, f"{kept.name}{FAILED}{new[:8]}")
    _bring_back(docker, kept)


def _current(docker: Docker, name: str) -> Kept | None:
    """The container called `name`, or the one that an interrupted run has put aside."""
    ident = _ident(docker, name)
    if ident:
        return Kept(ident, name)
    rows = docker("ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}", "--filter", f"name=^/{name}{PREVIOUS}")
    return Kept(rows.split()[0], name) if rows else None


def _bring_back(docker: Docker, kept: Kept) -> None:
    docker("rename", kept.ident, kept.name, quiet=True)
    docker("start", kept.ident)
    if docker.shell:
        _disarm(docker, kept.name)


def _arm(docker: Docker, plan: ContainerPlan, kept: Kept) -> None:
    """Have the host bring the kept container back by itself, should nobody call this off."""
    after_s = plan.stop_grace_s + RELEASE_S + plan.ready_within_s + SPARE_S
    _disarm(docker, kept.name)
    docker.run(
        *("sudo", "-n", "systemd-run", "--quiet", "--collect", f"--unit={_unit(kept.name)}", f"--on-active={after_s}s"),
        *("--timer-property=AccuracySec=1s", "/bin/sh", "-c", BRING_BACK, "sh", kept.name, kept.ident),
    )


def _disarm(docker: Docker, name: str) -> None:
    docker.run("sudo", "-n", "systemctl", "stop", f"{_unit(name)}.timer", quiet=True)


def _unit(name: str) -> str:
    return f"{name}-way-back"


def _ident(docker: Docker, name: str) -> str:
    return docker("container", "inspect", "--format", "{{.Id}}", name, quiet=True)


def _gpu_processes(docker: Docker, ident: str) -> frozenset[str]:
    """Process ids, on the host, of everything in the container."""
    return frozenset(docker("top", ident, "-eo", "pid", quiet=True).split()[1:])


def _released(docker: Docker, plan: ContainerPlan, processes: frozenset[str]) -> None:
    """Wait until none of the processes is on the plan's GPUs. Raises NotReleasedError."""
    deadline = time.monotonic() + RELEASE_S
    while processes:
        left = [line for line in _compute_apps(docker) if line[0] in plan.gpus and line[1] in processes]
        if not left:
            return
        if time.monotonic() > deadline:
            told = "; ".join(f"process {pid} ({name}) holds {mib} MiB of {gpu}" for gpu, pid, name, mib in left)
            raise NotReleasedError(
                f"{plan.service} has ended, but {RELEASE_S} s later {told}. End that process, then run `up` again"
            )
        time.sleep(1)


def _compute_apps(docker: Docker) -> list[tuple[str, str, str, str]]:
    """GPU, process id, process name and MiB of everything that computes on a GPU of the host."""
    fields = "--query-compute-apps=gpu_uuid,pid,process_name,used_memory"
    told = docker.run("nvidia-smi", fields, "--format=csv,noheader,nounits")
    rows: list[Any] = [tuple(part.strip() for part in line.split(",")) for line in told.splitlines()]
    return [row for row in rows if len(row) == 4]


def _run(shell: tuple[str, ...], argv: list[str], quiet: bool) -> str:
    """What the command prints, on the host that `shell` leads to. With `quiet`, its failure is an empty answer."""
    there = [*shell, shlex.join(argv)] if shell else argv
    done = subprocess.run(there, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    # A host that can't be reached is no answer to anything.
    lost = bool(shell) and done.returncode == RC_OF_SSH
    if done.returncode != 0 and (lost or not quiet):
        raise RuntimeError(f"`{' '.join(there)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout.strip() if done.returncode == 0 else ""
