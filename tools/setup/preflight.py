"""Whether this machine can run the dev stack at all: told at once, all of it, before anything is fetched."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.setup import paths
from tools.setup.progress import Step

CORES = 2
MEMORY_GIB = 7.5
"""An "8 GB" machine shows a little less."""
DISK_FRESH_GIB = 23
"""25 GB. The peak from empty caches is 19 GiB when images are built one by one and after Pulumi; see images.py."""
DISK_ROOMY_GIB = 32
"""From here on Pulumi and all images are built at once: that peak is 29 GiB (measured)."""
DISK_READY_GIB = 3
"""With images and caches in place: weights, logs, metrics."""
CPU_FLAG = "avx2"
"""The least that vLLM's CPU wheel has kernels for."""
ARCHITECTURES = ("x86_64", "aarch64")


@dataclass(frozen=True, kw_only=True)
class Machine:
    system: str
    arch: str
    cores: int
    memory_gib: float
    disk_free_gib: float
    cpu_flags: frozenset[str]


def look() -> Machine:
    """What this machine is."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    flags = next((line.split(":", 1)[1].split() for line in info.splitlines() if line.startswith("flags")), [])
    existing = next(p for p in (paths.cache(), *paths.cache().parents) if p.exists())
    return Machine(
        system=platform.system(),
        arch=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        disk_free_gib=shutil.disk_usage(existing).free / 2**30,
        cpu_flags=frozenset(flags),
    )


def too_small(machine: Machine, *, ready: bool) -> list[str]:
    """Everything that is missing; `ready` when images and caches are in place."""
    if machine.system != "Linux":
        return [f"the stack runs on Linux; this is {machine.system}: use a Linux machine, or a virtual one"]
    missing = []
    if machine.cores < CORES:
        missing.append(f"{machine.cores} CPU core; {CORES} are needed")
    if machine.memory_gib < MEMORY_GIB:
        missing.append(f"{machine.memory_gib:.1f} GiB of memory; 8 GB are needed")
    need = DISK_READY_GIB if ready else DISK_FRESH_GIB
    if machine.disk_free_gib < need:
        missing.append(
            f"{machine.disk_free_gib:.0f} GiB of free disk; {need} are needed: `make clean` frees our caches"
        )
    if machine.arch not in ARCHITECTURES:
        missing.append(f"a CPU of the kind {machine.arch}; images exist for {' and '.join(ARCHITECTURES)}")
    if machine.arch == "x86_64" and CPU_FLAG not in machine.cpu_flags:
        missing.append(f"a CPU without {CPU_FLAG}, which vLLM needs: use a machine from 2014 or later")
    return missing


def is_roomy() -> bool:
    """Whether the disk of our caches has room for building all at once."""
    return look().disk_free_gib >= DISK_ROOMY_GIB


def check_machine(step: Step) -> None:
    """Raises SetupError with all that is missing."""
    ready = (paths.cache() / "images-built").exists()
    missing = too_small(look(), ready=ready)
    if missing:
        raise step.fail("this machine is too small for the dev stack:\n" + "\n".join(missing), "use a larger one")


def taken(ports: Mapping[str, int], listening: Iterable[int], ours: Iterable[int]) -> dict[str, int]:
    """Setting → port, of those that something else listens on."""
    blocked = set(listening) - set(ours)
    return {setting: port for setting, port in ports.items() if port in blocked}


def published(ports: Mapping[str, int], way: str) -> dict[str, int]:
    """Of the file's ports, those that are used: Grafana is left out where images are built."""
    return {setting: port for setting, port in ports.items() if way == "registry" or "grafana" not in setting}


def check_ports(stack: str, ports: Mapping[str, int], step: Step) -> None:
    """Raises SetupError naming every port that is taken by something that is not this stack."""
    found = taken(ports, [p for p in ports.values() if _listens(p)], _published(stack))
    if found:
        says = "\n".join(f"{setting}: 127.0.0.1:{port} is in use{_by(port)}" for setting, port in found.items())
        raise step.fail(says, f"stop what uses it, or choose another port in stack_configs/{stack}.yaml")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _published(stack: str) -> set[int]:
    """Ports that this stack's own containers publish now."""
    if not shutil.which("docker"):  # a preview comes before `up` has got it
        return set()
    label = f"label=inference-stack.stack={stack}"
    done = subprocess.run(
        ["docker", "ps", "--filter", label, "--format", "{{.Ports}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    pairs = [entry for row in done.stdout.splitlines() for entry in row.split(", ") if "->" in entry]
    return {int(pair.split("->")[0].rsplit(":", 1)[1]) for pair in pairs}


def _by(port: int) -> str:
    if not shutil.which("ss"):
        return ""
    done = subprocess.run(["ss", "-Hltnp", f"sport = :{port}"], capture_output=True, text=True, check=False)
    _, _, users = done.stdout.partition("users:((")
    return f" by {users.split(',')[0].strip(chr(34))}" if users else ""
