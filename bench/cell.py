"""What a preview of a stack costs by the number of its hosts: memory, CPU time, seconds.

    make parts && .venv/bin/python -m bench.cell

Pulumi runs one process of the Docker plugin for each host over SSH. A preview asks no host anything, so that these
needn't exist: the stack is planned as any other, with one replica on each of them. Memory is the most that all of the
plugin's processes held at once, as they count it (RSS) and with shared pages counted once (PSS); CPU time is Pulumi's,
the plugins' and the program's. planning/hosts/cell.py has the figures per host.
"""

import argparse
import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from components.stack import InferenceStack, InferenceStackArgs
from planning.stack import plan_stack
from stack_configs.schema.stack import StackSpec
from tests.golden.specs import SOURCE, spec
from tests.hosts.engine import Project

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIumnuqwAbwVxkW3A3ilAXsq50U+4ysZRVQ/mbTSRxUJ"
PLUGIN = "pulumi-resource-docker"


def spec_of(count: int) -> StackSpec:
    names = [f"host-{number}" for number in range(count)]
    return spec(
        "cell",
        {
            "versions": "2026.11",
            "hosts": {
                name: {
                    "connection": {"kind": "ssh", "address": f"{name}.example", "user": "ops", "host_key": HOST_KEY},
                    "lan_address": f"10.0.{number // 200}.{number % 200 + 1}",
                }
                for number, name in enumerate(names)
            },
            "models": {"chat": {"source": SOURCE, "replicas": [{"host": name} for name in names]}},
            "gateway": {"host": names[0], "keys": {"me": {}}},
        },
    )


class Watch(threading.Thread):
    """The most memory that the plugin's processes held at once, MiB, and how many they were."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = {"Rss": 0, "Pss": 0}
        self.processes = 0
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.2):
            held = [kib for folder in Path("/proc").glob("[0-9]*") if (kib := self._held(folder))]
            self.processes = max(self.processes, len(held))
            for kind in self.most:
                self.most[kind] = max(self.most[kind], sum(kib[kind] for kib in held) // 1024)

    def _held(self, folder: Path) -> dict[str, int] | None:
        try:
            if PLUGIN not in (folder / "exe").readlink().name or not self._mine(int(folder.name)):
                return None
            rows = (row.split() for row in (folder / "smaps_rollup").read_text().splitlines()[1:])
            return {row[0].rstrip(":"): int(row[1]) for row in rows if row[0].rstrip(":") in self.most}
        except OSError:
            return None  # it has ended

    def _mine(self, pid: int) -> bool:
        while pid > 1:
            if pid == os.getpid():
                return True
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        return False


def cpu_s() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def program(inputs: dict[str, Any]) -> None:
    InferenceStack("cell", InferenceStackArgs(plan=inputs["plan"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 8, 24, 48])
    counts = parser.parse_args().hosts
    seen: list[tuple[int, float, int]] = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)  # where Pulumi starts programs and plugins
            plan = plan_stack(spec_of(count))
            project = Project(Path(folder), program, {"plan": plan})
            watch, before, began = Watch(), cpu_s(), time.monotonic()
            watch.start()
            project.preview()
            took, used = time.monotonic() - began, cpu_s() - before
            watch.ended.set()
            watch.join()
            os.chdir("/")
        seen.append((count, used, watch.most["Rss"]))
        print(
            f"{count:3} hosts, {len(plan.containers):3} containers: {took:5.1f} s, {used:5.1f} s of CPU time, "
            f"{watch.processes} plugins with {watch.most['Rss']} MiB ({watch.most['Pss']} MiB without what they share)",
            flush=True,
        )
    (few, cpu_few, mib_few), (many, cpu_many, mib_many) = seen[0], seen[-1]
    if many > few:
        each = many - few
        print(f"a host more: {(cpu_many - cpu_few) / each:.2f} s of CPU time, {(mib_many - mib_few) / each:.0f} MiB")


if __name__ == "__main__":
    main()
