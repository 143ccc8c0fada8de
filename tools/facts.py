"""`make facts STACK=prod [HOST=name]`: ask hosts over SSH what they are, and keep each one's answer.

Writes stack_configs/facts/<stack>/<host>.json, to be checked in: gate, ledger and previews read it, so that they need
no SSH. It changes nothing on a host. Ends with 1 where a host could not be asked; the others' files are written all
the same.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from planning.hosts.facts import SCRIPT, BrokenAnswers, parse_facts, read_answers, settings
from planning.hosts.facts_answers import MARKER
from stack_configs import facts_files
from stack_configs.load import ROOT, ssh_hosts
from stack_configs.problems import SpecError
from stack_configs.schema.facts import Facts
from stack_configs.schema.hosts import Host, SshConnection
from tools.ssh import SshError, run_script

AT_ONCE = 16
"""Hosts asked side by side."""
LIMIT_S = 180
"""For one host. A question that hangs is given up after 8 s by the script itself."""


def ask_all(hosts: Mapping[str, Host]) -> dict[str, Facts | str]:
    """Each host's facts, or why it could not be asked, in the order of `hosts`."""
    with ThreadPoolExecutor(min(AT_ONCE, len(hosts)) or 1) as pool:
        return dict(zip(hosts, pool.map(_ask, hosts, hosts.values()), strict=True))


def _ask(name: str, host: Host) -> Facts | str:
    assert isinstance(host.connection, SshConnection)
    try:
        done = run_script(name, host.connection, SCRIPT.read_text(), settings=settings(host), limit_s=LIMIT_S)
        answers = read_answers(done.out if MARKER in done.out else done.out + done.err)
        return parse_facts(name, answers, datetime.now(UTC))
    except SshError as error:
        return str(error)
    except BrokenAnswers as error:
        return f"{name}: {error}"


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows as lines, in columns as wide as their widest cell."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def show(stack: str, hosts: Mapping[str, Host], asked: Mapping[str, Facts]) -> str:
    """What the hosts are, their GPUs, what could not be read, and what to write into the stack's file."""
    parts = [
        table([("host", "system", "kernel", "driver", "docker", "prepared", "free for models"), *_rows(hosts, asked)])
    ]
    if any(facts.gpus for facts in asked.values()):
        parts.append(table([("host", "GPU", "memory", "compute", "MIG", "UUID", "name"), *_gpu_rows(asked)]))
    notes = [f"{name}: {note}" for name, facts in asked.items() for note in _notes(hosts[name], facts)]
    return "\n\n".join("\n".join(part) for part in (*parts, notes, _lines_to_paste(stack, hosts, asked)) if part)


def _rows(hosts: Mapping[str, Host], asked: Mapping[str, Facts]) -> Iterable[Sequence[str]]:
    for name, facts in asked.items():
        driver, engine = facts.driver, facts.engine
        loaded = f"{driver.loaded} {driver.modules or ''}".strip() if driver.loaded else "none loaded"
        docker = "none" if engine is None else engine.version + ("" if engine.running else ", not running")
        disk = facts.disks.get(hosts[name].models_dir)
        free = f"{disk.free_gib:g} of {disk.size_gib:g} GiB" if disk else "unknown"
        system = f"{facts.os.id} {facts.os.version} {facts.arch}"
        yield (name, system, facts.kernel.running, loaded, docker, ", ".join(facts.steps) or "no", free)


def _gpu_rows(asked: Mapping[str, Facts]) -> Iterable[Sequence[str]]:
    for name, facts in asked.items():
        for gpu in facts.gpus:
            unread = any(problem.startswith(f"GPU {gpu.pci_address}") for problem in facts.problems)
            shared = "the system's" if gpu.uuid and not unread else "?"
            memory = f"{gpu.memory_mib} MiB" if gpu.memory_mib else shared
            yield (
                *(name, gpu.pci_address or "no PCI", memory, gpu.compute_capability or "?", gpu.mig or "-"),
                *(gpu.uuid or "no driver has named it", gpu.name or gpu.pci_id),
            )


def _notes(host: Host, facts: Facts) -> Iterable[str]:
    for why in facts.pending.values():
        yield f"waiting: {why}"
    if facts.driver.smi_error:
        yield f"nvidia-smi says: {facts.driver.smi_error}"
    for problem in facts.problems:
        yield f"could not be read: {problem}"
    if any(problem.startswith("sudo ") for problem in facts.problems):
        user = host.connection.user if isinstance(host.connection, SshConnection) else ""
        yield f"let {user} use sudo there: echo '{user} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{user} (as root)"
    if facts.time_synchronised is False:
        yield "its clock is not synchronised"


def _lines_to_paste(stack: str, hosts: Mapping[str, Host], asked: Mapping[str, Facts]) -> list[str]:
    """`gpus:` of each host that has more GPUs than the file names."""
    lines: list[str] = []
    for name, facts in asked.items():
        seen = [gpu for gpu in facts.gpus if gpu.uuid and gpu.uuid.startswith("GPU-")]
        if all(gpu.uuid in hosts[name].gpus for gpu in seen):
            continue
        lines += [f"  {name}:", "    gpus:"]
        lines += [f"      - {gpu.uuid}  # {gpu.name}, {gpu.pci_address or 'on no PCI bus'}" for gpu in seen]
    if not lines:
        return []
    head = f"stack_configs/{stack}.yaml doesn't name all GPUs. Write under `hosts:` those that models may use:"
    return [head, "", *lines]


def chosen(stack: str, only: str | None, hosts: Mapping[str, Host]) -> dict[str, Host]:
    """The hosts that were asked for. Raises SystemExit where there are none."""
    if not hosts:
        raise SystemExit(f"`{stack}` has no hosts over SSH: there is nobody to ask")
    if only and only not in hosts:
        raise SystemExit(f"`{stack}` has no host {only} over SSH; it has {', '.join(hosts)}")
    return {name: host for name, host in hosts.items() if only in (None, name)}


def run(stack: str, only: str | None, root: Path) -> int:
    """The command; its exit status."""
    try:
        hosts = chosen(stack, only, ssh_hosts(stack, root))
    except SpecError as error:
        print(error, file=sys.stderr)
        return 1
    answers = ask_all(hosts)
    asked = {name: facts for name, facts in answers.items() if isinstance(facts, Facts)}
    if asked:
        for facts in asked.values():
            facts_files.write(stack, facts, root)
        print(show(stack, hosts, asked))
        print(f"\nWritten to {facts_files.FOLDER}/{stack}/: {', '.join(asked)}. Check it in.")
    failed = [why for why in answers.values() if isinstance(why, str)]
    if failed:
        print("\n".join(["Could not be asked, and keep the facts they have:", *failed]), file=sys.stderr)
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.facts", description=__doc__)
    parser.add_argument("--stack", default="prod")
    parser.add_argument("--host", help="only this one")
    args = parser.parse_args()
    return run(args.stack, args.host, ROOT)


if __name__ == "__main__":
    sys.exit(main())
