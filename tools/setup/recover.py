"""After a run that was killed: what is in the way of the next one, and how it is cleared.

Looks at the local file backend's own files first: where there is no lock and no pending operation, it costs two quick
questions to Docker. Removes only what carries this stack's label, is not in its state, and is the cut-off run's own:
one of its pending creates, or made since it began. (Another clone's stack may have the same name.)
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.setup import objects, paths, processes, state
from tools.setup.objects import STACK_LABEL, Found
from tools.setup.progress import Step

CONTAINER_TYPE = "docker:index/container:Container"
PREVIOUS = "-previous-"
"""In the name of a container that was put aside while its successor starts; as in components/replacement.py."""
END_S = 5
"""Seconds that a left-over plugin has to end before it is killed."""
ORPHAN_S = 30
"""Seconds that a left-over Pulumi has to save its state."""
WRITE_S = 1
"""Seconds that writing a lock takes at most."""


@dataclass(frozen=True)
class Lock:
    """Who holds a stack's lock, as the file backend notes it."""

    pid: int
    hostname: str
    username: str = ""


@dataclass(frozen=True)
class Plan:
    """What to do before the next run."""

    living: Lock | None = None
    """Somebody's run holds the stack: nothing may be done."""
    cancel: bool = False
    """A dead run's lock is to be cleared, and what it left running is to be ended."""
    remove: tuple[Found, ...] = ()
    foreign: tuple[Found, ...] = ()
    """Another clone's objects of a stack with the same name: the next run would fail on their names."""
    back: tuple[Found, ...] = ()
    """Containers that a cut-off replacement has put aside, and that are to serve again."""
    gone: tuple[str, ...] = ()
    """Containers that are in the state and that somebody removed."""
    refresh: bool = False


class Damaged(Exception):
    """The stack's state can't be read."""


def decide(
    locks: Sequence[Lock],
    alive: Iterable[int],
    here: str,
    latest: Mapping[str, Any],
    objects: Sequence[Found] | None,
    began: float | None,
) -> Plan:
    """Pure: from locks, living processes, the state's latest deployment and Docker's objects to what is to be done.

    `objects` is None where nobody can know them all, since a host is away: then nothing is concluded from them.
    `began` is when a run of `make up` or `make down` began that did not end well (seconds since 1970), else None.
    """
    running = set(alive)
    # Another machine's process can't be judged from here.
    dead = [lock for lock in locks if lock.hostname == here and lock.pid not in running]
    living = next((lock for lock in locks if lock not in dead), None)
    if living:
        return Plan(living=living)
    if objects is None:
        return Plan(cancel=bool(dead))
    managed = {r["id"] for r in latest.get("resources") or [] if r.get("id")}
    pending = list(latest.get("pending_operations") or [])
    half_made = {
        str((p.get("resource") or {}).get("inputs", {}).get("name")) for p in pending if p.get("type") == "creating"
    }

    def own(found: Found) -> bool:
        return found.name in half_made or (began is not None and found.created >= began)

    there = {o.ident for o in objects}
    containers = [r for r in latest.get("resources") or [] if r.get("type") == CONTAINER_TYPE and not r.get("delete")]
    gone = [r for r in containers if r.get("id") not in there]
    unknown = [o for o in objects if o.ident not in managed and o.name not in managed]
    stray = [o for o in unknown if own(o)]
    failed = [o for o in objects if o.failed_job and o not in unknown]
    foreign = [o for o in unknown if o not in stray and o.kind == "container"]
    # Containers first: a network or volume that one of them uses can't go before it.
    remove = sorted([*stray, *failed], key=lambda o: ("container", "network", "volume").index(o.kind))
    names = {o.name for o in objects if o not in remove}
    aside = [o for o in objects if o.kind == "container" and PREVIOUS in o.name and o.ident in managed]
    back = [o for o in aside if o.name.split(PREVIOUS)[0] not in names]
    return Plan(
        cancel=bool(dead),
        remove=tuple(remove),
        back=tuple(back),
        foreign=tuple(foreign),
        gone=tuple(str(r["inputs"].get("name")) for r in gone),
        refresh=bool(dead or pending or remove or gone or back),
    )


def recover(stack: str, step: Step, env: Mapping[str, str], *, over_ssh: bool = False) -> None:
    """Clear a dead run's lock, processes, strays and pending operations. Raises SetupError for a living one.

    `over_ssh`: the stack's containers are on other machines.
    """
    if not state.is_local_backend(dict(env)):
        step.note = "the backend is not this clone's: Pulumi itself looks after its locks"
        return
    try:
        latest = _latest(stack)
    except Damaged as error:
        file = state.checkpoint(stack)
        raise step.fail(
            f"the state of the stack {stack} is damaged: {file}: {error}",
            f"bring back the version before: `cp {file}.bak {file}` (older ones are in "
            f"{state.stack_folder('backups')}), then run the same command again",
        ) from error
    _end_orphans(stack, step, env)
    held = locks(stack)
    began = _began(stack)
    there = objects.over_ssh(stack, step) if over_ssh else objects.of_stack(stack)
    plan = decide(held, _alive(held), socket.gethostname(), latest, there, began)
    if plan.living:
        lock = plan.living
        raise step.fail(
            f"a Pulumi run of {lock.username or 'somebody'} on {lock.hostname} (process {lock.pid}) "
            f"holds the stack {stack}",
            "wait until it has ended; if that machine is gone, `. ./activate && pulumi cancel -s "
            f"{stack}` removes its lock",
        )
    for torn in torn_locks(stack):
        step.say(f"removing {torn.name}, a lock that a full disk left half-written")
        torn.unlink(missing_ok=True)
    if plan.cancel:
        step.say("a run was killed: ending what it left, clearing its lock")
        _end_leftovers(env)
        state.pulumi(step, dict(env), "cancel", "--yes", stack)
    for found in plan.remove:
        step.say(f"removing the {found.kind} {found.name}")
        force = ["--force"] if found.kind == "container" else []
        objects.docker(found.kind, "rm", *force, found.ident, on=found.on)
    for found in plan.back:
        name = found.name.split(PREVIOUS)[0]
        step.say(f"its replacement was cut off: {name} serves again")
        # Before the refresh, which sees whether it runs.
        objects.docker("rename", found.ident, name, on=found.on)
        objects.docker("start", found.ident, on=found.on)
    if plan.refresh:
        step.say("comparing the state with Docker")
        state.pulumi(step, dict(env), "refresh", "--yes", "--clear-pending-creates", "--skip-preview", "-s", stack)
        step.note = (
            f"an earlier run was cut off: {len(plan.remove)} left-over objects removed, state refreshed"
            if plan.cancel or plan.remove or began or not plan.gone
            else f"state refreshed, since somebody removed {', '.join(plan.gone)}"
        )
        step.note += "".join(f"; {found.name.split(PREVIOUS)[0]} serves again" for found in plan.back)
    if plan.foreign:
        names = ", ".join(found.name for found in plan.foreign[:4]) + (" …" if len(plan.foreign) > 4 else "")
        raise step.fail(
            f"{len(plan.foreign)} containers of a stack `{stack}` are here that this clone does not know: {names}",
            f"they are another clone's: run `make down STACK={stack}` there. If that clone is gone:\n"
            f"docker rm --force $(docker ps --all --quiet --filter label={STACK_LABEL}={stack})",
        )


@contextlib.contextmanager
def noted(stack: str) -> Iterator[None]:
    """Keep a note while a run lasts, and after it when it does not end well: when it began."""
    note = _note(stack)
    began = _began(stack) or int(time.time())  # what an earlier run left half-made counts too
    note.write_text(f"{began:.0f} {os.getpid()}\n")
    yield
    note.unlink(missing_ok=True)


def locks(stack: str) -> list[Lock]:
    """The stack's locks."""
    found = []
    for file in _lock_folder(stack).glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            told = json.loads(file.read_text())
            found.append(Lock(int(told["pid"]), told["hostname"], told.get("username", "")))
    return found


def torn_locks(stack: str) -> list[Path]:
    """Files in the stack's lock folder that no lock can be read from: Pulumi ends at them without naming them (seen).

    Looked at twice: one that is just being written is half-written only for a moment.
    """
    found = _unreadable_locks(stack)
    if found:
        time.sleep(WRITE_S)
        found &= _unreadable_locks(stack)
    return sorted(found)


def _unreadable_locks(stack: str) -> set[Path]:
    found = set()
    for file in _lock_folder(stack).glob("*.json*"):
        try:
            json.loads(file.read_text())
        except ValueError:
            found.add(file)
        except OSError:
            continue
    return found


def resources(stack: str) -> bool:
    """Whether this clone's backend holds resources of the stack; a damaged state counts as yes."""
    try:
        return bool(_latest(stack).get("resources"))
    except Damaged:
        return True


def _latest(stack: str) -> dict[str, Any]:
    """The latest deployment in the state file; empty where there is none yet. Raises Damaged."""
    file = state.checkpoint(stack)
    if not file.exists():
        return {}
    try:
        return dict(json.loads(file.read_text())["checkpoint"].get("latest") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(str(error) or type(error).__name__) from error


def _lock_folder(stack: str) -> Path:
    return state.stack_folder("locks") / "organization" / "inference-stack" / stack


def _note(stack: str) -> Path:
    return paths.STATE / f"run-began-{stack}"


def _began(stack: str) -> float | None:
    try:
        return float(_note(stack).read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _alive(held: Iterable[Lock]) -> list[int]:
    """The locks' processes that run, and are Pulumi: a number can have been given to another program since."""

    def is_pulumi(pid: int) -> bool:
        try:
            return "pulumi" in Path(f"/proc/{pid}/comm").read_text()
        except OSError:
            return False

    return [lock.pid for lock in held if processes.runs(lock.pid) and is_pulumi(lock.pid)]


def _end_orphans(stack: str, step: Step, env: Mapping[str, str]) -> None:
    """End the Pulumi of a `make up` that was itself killed: nobody reads its output any more, and it would go on.

    Ours lead sessions of their own; one that somebody runs by hand does not, and is left alone.
    """
    try:
        maker = int(_note(stack).read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return
    if processes.runs(maker):
        return
    mark = f"PULUMI_BACKEND_URL={env['PULUMI_BACKEND_URL']}".encode()
    left = [
        pid
        for pid in processes.find(mark, (b"pulumi",))
        if processes.below_pulumi(pid) and os.getsid(pid) == pid and stack.encode() in processes.words(pid)
    ]
    if left:
        step.say("ending the Pulumi of a run that was killed")
        processes.end(left, ORPHAN_S)


def _end_leftovers(env: Mapping[str, str]) -> None:
    """End the language host, program and plugins of a killed Pulumi: they live on in groups of their own.

    Known by this clone's backend in their environment, and by having no living Pulumi above them.
    """
    mark = f"PULUMI_BACKEND_URL={env['PULUMI_BACKEND_URL']}".encode()
    plugins = processes.find(mark, (b"pulumi-resource-", b"pulumi-language-"))
    processes.end([pid for pid in plugins if not processes.below_pulumi(pid)], END_S)
