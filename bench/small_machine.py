"""The whole dev stack on the smallest machine that we ask for: 2 cores and 8 GB of memory, images in place.

    make dev parts && sudo .venv/bin/python -m bench.small_machine

The machine is made of namespaces and cgroups, has a Docker of its own and no network (tests/faults/machine.py), so that
the limits hold for Docker, Pulumi and every container together. Its cores are two of this machine's, which does other
things as well: times are upper bounds. Images are copied, which takes two minutes, so that the memory that caches their
files counts. Told: `make up` with images in place; how long the engine took from the create of its container until its
health check, which asks for a completion, was passed (goal: 180 s); and the memory of all processes (anonymous, shared,
mapped files), at its highest.
"""

import re
import sys
import tempfile
import threading
import time
from pathlib import Path

from images import recipes
from tests.deploy.clone import make_clone
from tests.faults.conftest import IMAGES, Site
from tests.faults.machine import Machine, missing

CORES = "0-1"
MEMORY_BYTES = 8 * 10**9
READY_S = 180
EVERY_S = 0.2
PROCESSES = ("total_rss", "total_shmem", "total_mapped_file")


class Held(threading.Thread):
    """Samples the memory that a machine holds."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(daemon=True)
        self.machine = machine
        self.most = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(EVERY_S):
            stat = self.machine.memory_stat()
            self.most = max(self.most, sum(stat[kind] for kind in PROCESSES))


def main() -> None:
    if why := missing():
        sys.exit(why)
    with tempfile.TemporaryDirectory() as folder, Machine(cores=CORES, memory_bytes=MEMORY_BYTES) as machine:
        site = Site(machine, make_clone(Path(folder) / "inference-stack"))
        machine.give([recipes.tag(name) for name in IMAGES], copy=True)
        held = Held(machine)
        held.start()
        begun = time.monotonic()
        site.up()
        first = time.monotonic() - begun
        log = (site.clone.path / ".state/logs/pulumi-up.log").read_text()
        begun = time.monotonic()
        site.up()
        second = time.monotonic() - begun
        for _ in range(8):
            site.ask()
        held.stop.set()
        ready = float(re.findall(r"Container chat-0 created \((\d+)s\)", log)[0])
        killed = machine.docker("ps", "--all", "--quiet", "--filter", "exited=137")
        stat = machine.memory_stat()
        print(f"make up, images in place: {first:.0f} s; again: {second:.1f} s")
        print(f"engine ready after {ready:.0f} s; ratio to the goal of {READY_S} s: {ready / READY_S:.2f}")
        share = held.most / MEMORY_BYTES
        print(f"memory of processes at most: {held.most / 1e9:.1f} GB of {MEMORY_BYTES / 1e9:.0f}; ratio {share:.2f}")
        print(f"at the end: {stat['total_rss'] / 1e9:.1f} GB anonymous, {stat['total_cache'] / 1e9:.1f} GB page cache")
        print(f"containers killed for memory: {len(killed.split())}")


if __name__ == "__main__":
    main()
