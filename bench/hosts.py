"""How long preparing several hosts by `pulumi up` takes, against the same scripts by plain ssh.

    .venv/bin/python -m bench.hosts

Systemd hosts in containers, from bare to ready: small packages with NVIDIA's names, Debian's Docker, a reboot each.
Each way gets fresh hosts. The floor is plain ssh to all hosts side by side; goal: ratio ≤ 1.1. One after another is
told too, and an `up` that has nothing to do.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.hosts.gpu_host import GpuHost, GpuHostArgs
from planning.hosts import steps
from planning.hosts.plan import HostPlan
from tests.hosts.card import RTX_4090, Card
from tests.hosts.engine import Project
from tests.hosts.host import Host, bare_hosts, login
from tests.hosts.repository import Repository, driver, toolkit
from tools.reach import reach

DOCKER = {"version": "29.8.2", "distributions": {"debian-13": "26.1.5"}, "source": "bench"}
SETTINGS = {"driver": {"branch": "580"}, "engine": "distribution", "reboot": "allowed"}
GOAL = 1.1


def by_ssh(host: Host, plan: HostPlan) -> None:
    """All steps of one host, as the plugin runs them."""
    for step in plan.steps:
        boot = host.boot_id()
        host.ssh("sudo -n bash -s apply", stdin=steps.text(step))
        if step.name == "reboot":
            host.wait_until_up(after=boot)


def side_by_side(hosts: Sequence[Host], plans: Sequence[HostPlan]) -> None:
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(by_ssh, hosts, plans))


def one_after_another(hosts: Sequence[Host], plans: Sequence[HostPlan]) -> None:
    for host, plan in zip(hosts, plans, strict=True):
        by_ssh(host, plan)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hosts", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--hosts", type=int, default=4)
    count = parser.parse_args().hosts
    took: dict[str, float] = {}
    os.environ.update(login().env)  # the program runs in here, and asks each host before its steps
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder) / "apt")
        repository.publish(*driver("580.173.02"), *toolkit())

        def fresh(**ways: Callable[[Sequence[Host], Sequence[HostPlan]], None]) -> None:
            """Time each way, one after another, on hosts that are bare for the first."""
            names = [f"host-{number}" for number in range(count)]
            cards = [Card.of(RTX_4090) for _ in names]
            with bare_hosts(*names, distribution="debian-13", cards=cards) as hosts:
                plans = []
                for host, card in zip(hosts, cards, strict=True):
                    repository.copy_to(host)
                    spec = repository.spec(host, {**SETTINGS, "gpus": list(card.uuids)}, docker=DOCKER)
                    plans.append(steps.plan_host(host.name, spec))
                for way, run in ways.items():
                    started = time.monotonic()
                    run(hosts, plans)
                    took[way] = time.monotonic() - started
                    print(f"{way.replace('_', ' '):<22} {took[way]:6.1f} s", flush=True)

        def by_pulumi(_hosts: Sequence[Host], plans: Sequence[HostPlan]) -> None:
            def program(_inputs: dict[str, Any]) -> None:
                for plan in plans:
                    GpuHost(plan.name, GpuHostArgs(plan=plan, reach=reach))

            project.program = program
            project.up()

        scratch = Path(folder) / "project"
        scratch.mkdir()
        project = Project(scratch, lambda _inputs: None)
        fresh(ssh_side_by_side=side_by_side)
        fresh(pulumi_up=by_pulumi, pulumi_up_again=by_pulumi)
        fresh(ssh_one_after_another=one_after_another)
    ratio = took["pulumi_up"] / took["ssh_side_by_side"]
    print(f"{count} hosts by up, against plain ssh side by side: {ratio:.2f} (goal: {GOAL} or less)")
    print(f"against plain ssh one after another: {took['pulumi_up'] / took['ssh_one_after_another']:.2f}")
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
