"""After an `up` that was killed: what is in the way of the next one, and how it is cleared.

Looks at the local file backend's own files first: where there is no lock and no pending operation, it costs nothing.
Removes only containers, networks and volumes that carry this stack's label and are not in its state.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.setup import state
from tools.setup.progress import Step

STACK_LABEL = "inference-stack.stack"
JOB_LABEL = "inference-stack.job"


@dataclass(frozen=True)
class Lock:
    """Who holds a stack's lock, as the file backend notes it."""

    pid: int
    hostname: str
    username: str = ""


@dataclass(frozen=True)
class Stray:
    """A Docker object of this stack."""

    kind: str
    """`container`, `network` or `volume`."""
    ident: str
    name: str
    failed_job: bool = False


def locks(stack: str) -> list[Lock]:
    """The stack's locks."""
    folder = state.stack_folder("locks") / "organization" / "inference-stack" / stack
    found = []
    for file in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            noted = json.loads(file.read_text())
            found.append(Lock(int(noted["pid"]), noted["hostname"], noted.get("username", "")))
    return found


def pending(stack: str) -> list[Mapping[str, Any]]:
    """Operations that the stack's state says were begun and never ended."""
    return list(_deployment(stack).get("pending_operations") or [])


def managed_ids(stack: str) -> set[str]:
    """Docker ids (for volumes: names) in the stack's state."""
    return {r["id"] for r in _deployment(stack).get("resources") or [] if r.get("id")}


def _deployment(stack: str) -> dict[str, Any]:
    try:
        return dict(json.loads(state.checkpoint(stack).read_text())["checkpoint"].get("latest") or {})
    except (OSError, ValueError, KeyError):
        return {}


def is_dead(lock: Lock, here: str, alive: Iterable[int]) -> bool:
    """A lock of this machine whose process is gone. Another machine's can't be judged from here."""
    return lock.hostname == here and lock.pid not in set(alive)


def to_remove(strays: Iterable[Stray], managed: set[str], interrupted: bool) -> list[Stray]:
    """Objects of the stack that stand in the next run's way.

    After an interrupted run: all that the state doesn't know. Always: jobs that failed, so that they run again.
    """
    return [s for s in strays if s.failed_job or (interrupted and s.ident not in managed and s.name not in managed)]


def recover(stack: str, step: Step, env: dict[str, str]) -> None:
    """Clear a dead run's lock, plugins, strays and pending operations. Raises SetupError for a living one."""
    if not state.is_local_backend(env):
        step.note = "the backend is not this clone's: Pulumi itself looks after its locks"
        return
    held = locks(stack)
    here = socket.gethostname()
    dead = [lock for lock in held if is_dead(lock, here, _alive(held))]
    living = [lock for lock in held if lock not in dead]
    if living:
        lock = living[0]
        raise step.fail(
            f"a Pulumi run of {lock.username or 'somebody'} on {lock.hostname} (process {lock.pid}) "
            f"holds the stack {stack}",
            "wait until it has ended; if that machine is gone, `. ./activate && pulumi cancel -s "
            f"{stack}` removes its lock",
        )
    interrupted = bool(dead) or bool(pending(stack))
    if dead:
        step.say("a run was killed: clearing its lock")
        for lock in dead:
            _end_plugins(lock.pid)
        state.pulumi(step, env, "cancel", "--yes", stack)
    gone = to_remove(strays(stack), managed_ids(stack), interrupted)
    for stray in gone:
        step.say(f"removing the {stray.kind} {stray.name}")
        force = ["--force"] if stray.kind == "container" else []
        subprocess.run(["docker", stray.kind, "rm", *force, stray.ident], capture_output=True, check=False)
    if interrupted or gone:
        step.say("comparing the state with Docker")
        state.pulumi(step, env, "refresh", "--yes", "--clear-pending-creates", "--skip-preview", "-s", stack)
        step.note = f"an earlier run was cut off: {len(gone)} left-over objects removed"


def strays(stack: str) -> list[Stray]:
    """Every Docker object that carries the stack's label."""
    found = []
    label = f"label={STACK_LABEL}={stack}"
    form = f'{{{{.ID}}}}\t{{{{.Names}}}}\t{{{{.Label "{JOB_LABEL}"}}}}\t{{{{.Status}}}}'
    rows = _docker("container", "ls", "--all", "--no-trunc", "--filter", label, "--format", form)
    for ident, name, job, status in (row.split("\t") for row in rows):
        failed = job == "true" and status.startswith("Exited") and not status.startswith("Exited (0)")
        found.append(Stray("container", ident, name, failed))
    for row in _docker("network", "ls", "--no-trunc", "--filter", label, "--format", "{{.ID}}\t{{.Name}}"):
        ident, name = row.split("\t")
        found.append(Stray("network", ident, name))
    for name in _docker("volume", "ls", "--filter", label, "--format", "{{.Name}}"):
        # The model cache outlives the stack: it may be here without being in state.
        if not name.endswith("-models"):
            found.append(Stray("volume", name, name))
    return found


def _docker(*args: str) -> list[str]:
    done = subprocess.run(["docker", *args], capture_output=True, text=True, check=False)
    return done.stdout.splitlines() if done.returncode == 0 else []


def _alive(held: Iterable[Lock]) -> list[int]:
    return [lock.pid for lock in held if Path(f"/proc/{lock.pid}").exists()]


def _end_plugins(parent: int) -> None:
    """End what a killed Pulumi left running: its language host and plugins live in groups of their own."""
    ours = str(state.ENGINE_BIN.read_text().strip()) if state.ENGINE_BIN.exists() else ""
    folder = str(Path(ours).parent) if ours else ""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == parent:
            continue
        with contextlib.suppress(OSError):
            exe = str((process / "exe").readlink())
            parent_now = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            orphan = parent_now == 1
            is_plugin = Path(exe).name.startswith(("pulumi-language-", "pulumi-resource-"))
            if folder and exe.startswith(folder) and is_plugin and orphan:
                os.kill(int(process.name), signal.SIGTERM)
