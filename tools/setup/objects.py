"""A stack's objects in Docker, on this machine and on hosts over SSH, known by their labels."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from tools.setup import paths
from tools.setup.progress import Step

STACK_LABEL = "inference-stack.stack"
JOB_LABEL = "inference-stack.job"
KEPT_VOLUME = "-models"
"""The model cache outlives the stack: it may be there without being in state."""
ASK_S = 40
"""Seconds for a host over SSH to say anything at all; ssh itself gives up before."""


@dataclass(frozen=True)
class Found:
    """A Docker object of this stack."""

    kind: str
    """`container`, `network` or `volume`."""
    ident: str
    name: str
    created: float = 0.0
    """Seconds since 1970."""
    failed_job: bool = False
    on: tuple[str, ...] = ()
    """Words before a command that run it where the object is; none for this machine."""


def over_ssh(stack: str, step: Step) -> list[Found] | None:
    """`of_stack` for every host that earlier runs knew; None where one can't be reached."""
    known = places(stack)

    def ask(on: tuple[str, ...]) -> list[Found] | None:
        reached = subprocess.run([*on, "true"], cwd=paths.REPO, capture_output=True, check=False, timeout=ASK_S)
        return of_stack(stack, on) if reached.returncode == 0 else None

    with ThreadPoolExecutor(len(known) or 1) as pool:
        answers = list(pool.map(ask, known.values()))
    away = [host for host, answer in zip(known, answers, strict=True) if answer is None]
    if away:
        step.say(f"not looked for what earlier runs left, since {', '.join(away)} can't be reached")
        return None
    return [found for answer in answers for found in answer or ()]


def places(stack: str) -> dict[str, tuple[str, ...]]:
    """Every host over SSH that a run has known → the words before a command that run it there."""
    file = paths.REPO / ssh_config(stack)
    known = re.findall(r"^Host (\S+)$", file.read_text(), re.MULTILINE) if file.exists() else []
    hosts = [name for name in known if not name.startswith("jump-to-")]
    return {host: ("ssh", "-F", ssh_config(stack), "-T", host, "--") for host in hosts}


def noted(on: tuple[str, ...]) -> list[str]:
    """Why a host has stopped replicas (planning/hosts/scripts/fence.sh), and which of its uplinks are dead
    (uplinks_watch.sh), a line each; none where it doesn't answer."""
    notes = "/var/lib/inference-stack/pending"
    argv = there(on, "sh", "-c", f"cat {notes}/fenced-* {notes}/uplink-*")
    return subprocess.run(argv, cwd=paths.REPO, capture_output=True, text=True, check=False).stdout.splitlines()


def ssh_config(stack: str) -> str:
    """Where the program writes ssh's configuration (components/ssh.py), relative to the repository."""
    return f".state/ssh/{stack}/config"


def of_stack(stack: str, on: tuple[str, ...] = ()) -> list[Found]:
    """Every Docker object that carries the stack's label, but the model cache. `on`: see Found."""
    label = f"label={STACK_LABEL}={stack}"
    found = []
    for kind, every in (("container", ["--all"]), ("network", []), ("volume", [])):
        names = docker(kind, "ls", *every, "--quiet", "--filter", label, on=on).split()
        rows = json.loads(docker(kind, "inspect", *names, on=on) or "[]") if names else []
        for row in rows:
            name = row["Name"].removeprefix("/")
            if kind == "volume" and name.endswith(KEPT_VOLUME):
                continue
            labels = row.get("Config", row).get("Labels") or {}
            status = row.get("State", {})
            found.append(
                Found(
                    kind=kind,
                    ident=row.get("Id", name),
                    name=name,
                    created=seconds(row.get("Created") or row.get("CreatedAt") or ""),
                    failed_job=labels.get(JOB_LABEL) == "true"
                    and status.get("Status") == "exited"
                    and status.get("ExitCode") != 0,
                    on=on,
                )
            )
    return found


def seconds(stamp: str) -> float:
    """Docker's time, such as 2026-11-21T03:15:12.123456789Z, as seconds since 1970; parts of a second are left out."""
    if len(stamp) < 20:
        return 0.0
    zone = stamp[19:].lstrip(".0123456789").replace("Z", "+00:00")
    return datetime.fromisoformat(stamp[:19] + (zone or "+00:00")).timestamp()


def docker(*args: str, on: tuple[str, ...] = ()) -> str:
    argv = there(on, "docker", *args)
    return subprocess.run(argv, cwd=paths.REPO, capture_output=True, text=True, check=False).stdout


def there(on: tuple[str, ...], *words: str) -> list[str]:
    """A command as it is run where the object is: ssh hands it to a shell."""
    return [*on, shlex.join(words)] if on else [*words]
