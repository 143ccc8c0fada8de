"""One SSH connection to each host, opened before anything needs it."""

import asyncio
import subprocess
import threading
import time
from pathlib import Path

from pulumi import ResourceHook, ResourceHookArgs, ResourceHookBinding

from components.ssh import command_on

TRIES = 3
PAUSE_S = 1.0


class NotConnectedError(Exception):
    """A host can't be reached. The text says which, and what ssh says."""


def connected(host: str, config: Path) -> ResourceHookBinding:
    """A hook for all that is made on the host: it sees to the one connection that all others then go through.

    Without it each resource of a host opens one of its own in the first moment, and a server that gets more than ten at
    once refuses some at random (sshd's MaxStartups; seen).
    """
    lock = threading.Lock()

    def one_at_a_time() -> None:
        with lock:
            connect(host, config)

    async def connect_first(_args: ResourceHookArgs) -> None:
        await asyncio.to_thread(one_at_a_time)

    hook = ResourceHook(f"{host}-connected", connect_first)
    return ResourceHookBinding(before_create=[hook], before_update=[hook])


def connect(host: str, config: Path) -> None:
    """Open the connection, if it isn't. ssh keeps it in the background. Raises NotConnectedError."""
    for left in reversed(range(TRIES)):
        if _run("ssh", "-F", str(config), "-O", "check", host).returncode == 0:
            return
        done = _run(*command_on(host, config), "true")
        if done.returncode == 0:
            return
        if left:
            time.sleep(PAUSE_S)
    reason = (done.stderr.strip().splitlines() or ["ssh gave no reason"])[-1]
    raise NotConnectedError(f"{host} can't be reached over SSH: {reason}")


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
