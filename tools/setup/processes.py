"""Other processes of this machine, as /proc tells of them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path


def end(pids: Iterable[int], seconds: float) -> None:
    """Ask them to end, and kill those that have not after `seconds`."""
    left = list(pids)
    for sent, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 1.0)):
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, sent)
        deadline = time.monotonic() + patience
        while (left := [pid for pid in left if runs(pid)]) and time.monotonic() < deadline:
            time.sleep(0.1)


def find(mark: bytes, programs: Iterable[bytes]) -> list[int]:
    """Processes with `mark` in their environment and one of `programs` on their command line."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (process / "cmdline").read_bytes()
            if any(name in line for name in programs) and mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def words(pid: int) -> list[bytes]:
    """Of its command line; none for one that has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def below_pulumi(pid: int) -> bool:
    """Whether a living `pulumi` is above it, or it is one."""
    while pid > 1:
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() == "pulumi":
                return True
            pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            return False
    return False


def runs(pid: int) -> bool:
    """Whether it runs: one that has ended and that nobody has asked after (state Z) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
