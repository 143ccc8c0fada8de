"""`make exposure STACK=prod FROM=ops@203.0.113.9`: who listens on the stack's hosts, and what of it answers outside.

Asks every host over SSH who listens, and scans its addresses from the vantage point FROM, another machine over SSH or
`here`, which is no node of the mesh. What the stack's file doesn't allow is told. It changes nothing anywhere. Ends
with 0: nothing but what the file allows; 1: there is more; 2: a host or the vantage point could not be asked, or not
wholly.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from planning.network.exposure import Finding, Seen, Target, findings, findings_here, targets
from planning.network.listeners import SCRIPT, BrokenListError, Inside, read_listeners
from stack_configs.load import ROOT
from stack_configs.problems import SpecError
from stack_configs.schema.reached import reached_by
from stack_configs.schema.stack import StackSpec
from tools.ssh import SshError, run_script
from tools.stack import load_stack

SCAN = Path(__file__).with_name("exposure_scan.py")
HERE = "here"
DESTINATION = re.compile(r"(ssh://)?([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9\[][A-Za-z0-9_.:\]-]*")
AT_ONCE = 16
"""Hosts asked side by side."""
ASK_WITHIN_S = 90
"""For one host."""
SCAN_WITHIN_S, FOR_EACH_S = 120, 90
"""For the vantage point: for all, and for each target more. An address that drops everything takes 41 s."""

HIDING = {"ssh": ("ip: ", "ss: ", "docker: "), "local": ("docker: ",)}
"""Beginnings of problems behind which something may be open, by the kind of the host's connection."""

SKIPPED = {
    "unknown": "{vantage} doesn't know the name {target}",
    "no route": "{address}: there is no IPv{version} route to it from {vantage}",
    "itself": "{address} is an address of {vantage} itself",
    "mesh": "{address} is reached from {vantage} over a mesh, and a vantage point is outside of it",
    "elsewhere": "{address} is private, and {vantage} is not in its network: another machine may have it there",
}


class VantageError(Exception):
    """Nothing was scanned. The text is one line: what is wrong, what to do."""


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What the vantage point told of a host."""

    seen: tuple[Seen, ...] = ()
    skipped: tuple[str, ...] = ()
    """What was not scanned, and why."""


def run(stack: str, vantage: str | None, root: Path) -> int:
    """The command; its exit status."""
    try:
        spec = load_stack(stack, root)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    hosts = spec.file.hosts
    with ThreadPoolExecutor(min(AT_ONCE, len(hosts))) as pool:
        answers = dict(zip(hosts, pool.map(lambda name: _ask(name, spec), hosts), strict=True))
    failed = [answer for answer in answers.values() if isinstance(answer, str)]
    inside = {name: answer if isinstance(answer, Inside) else None for name, answer in answers.items()}
    distant = [name for name, host in hosts.items() if host.connection.kind == "ssh"]
    hidden = {name: _hidden(name, spec, of) for name, of in inside.items()}
    failed += [line for lines in hidden.values() for line in lines]
    outside: Mapping[str, Outside] = {}
    if vantage and distant:
        try:
            outside = scan(vantage, {name: targets(name, spec, inside[name]) for name in distant})
        except VantageError as error:
            failed.append(str(error))
    name_of_it = "this machine" if vantage == HERE else vantage or ""
    found: dict[str, tuple[Finding, ...]] = {}
    for name in hosts:
        of, seen = inside[name], outside.get(name, Outside()).seen
        if name in distant:
            found[name] = findings(name, spec, of, seen, name_of_it)
        else:
            found[name] = findings_here(spec, of) if of else ()
    whole = {name for name, of in inside.items() if of and not hidden[name]}
    print("\n".join(_told(inside, whole, outside, found)))
    if unseen := [*_unseen(spec, inside, outside, name_of_it)]:
        print("\n".join(["This doesn't show:", *(f"  {line}" for line in unseen)]))
    if failed:
        print("\n".join(["Could not be asked:", *failed]), file=sys.stderr)
    print(_summary(stack, whole, outside, found, name_of_it))
    return 1 if any(found.values()) else 2 if failed else 0


def _ask(name: str, spec: StackSpec) -> Inside | str:
    """Who listens on a host, or why it could not be asked."""
    host, script = spec.file.hosts[name], SCRIPT.read_text()
    try:
        if host.connection.kind == "local":
            done = subprocess.run(["bash", "-s"], input=script, capture_output=True, text=True, check=False)
            return read_listeners(done.stdout)
        connection = reached_by(name, host, spec.file.network)
        return read_listeners(run_script(name, connection, script, limit_s=ASK_WITHIN_S).out)
    except SshError as error:
        return str(error)
    except BrokenListError as error:
        return f"{name}: {error}"


def _hidden(name: str, spec: StackSpec, inside: Inside | None) -> list[str]:
    """Questions without an answer, as of a host without `ss`: what was heard otherwise is not all."""
    hiding = HIDING[spec.file.hosts[name].connection.kind]
    return [f"{name}: {line}" for line in (inside.problems if inside else ()) if line.startswith(hiding)]


def scan(vantage: str, wanted: Mapping[str, Sequence[Target]]) -> dict[str, Outside]:
    """Each host as the vantage point sees it. Raises VantageError."""
    every = [target for of in wanted.values() for target in of]
    print(f"Scanning {_counted(len(every), 'address')} from {_called(vantage)}; up to a minute each.", file=sys.stderr)
    rows = _run_scan(vantage, [{"target": of.target, "network": of.network, "udp": of.udp} for of in every])
    found = {}
    for name, of in wanted.items():
        mine = [row for row in rows if row["target"] in {target.target for target in of}]
        scanned = {row["address"]: _seen(row) for row in mine if "skipped" not in row}
        left_out = [row for row in mine if "skipped" in row and row["address"] not in scanned]
        skipped = dict.fromkeys(_skipped(row, _called(vantage)) for row in left_out)
        found[name] = Outside(seen=tuple(scanned.values()), skipped=tuple(skipped))
    return found


def _run_scan(vantage: str, job: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    who = _called(vantage)
    argv = [sys.executable, "-"] if vantage == HERE else _over_ssh(vantage)
    text = f"{SCAN.read_text()}\nmain({json.dumps(job)!r})\n"
    limit_s = SCAN_WITHIN_S + FOR_EACH_S * len(job)
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired:
        raise VantageError(f"{who} was not done with the scan within {limit_s} s; try another vantage point") from None
    reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1].strip()
    if done.returncode == 255 and vantage != HERE:
        raise VantageError(f"the vantage point {who} can't be reached: {reason}; does `ssh {vantage} true` work?")
    if done.returncode == 127:
        raise VantageError(f"the vantage point {who} has no python3, which runs the scan there: install it")
    if done.returncode:
        raise VantageError(f"the scan failed at the vantage point {who}: {reason}; it needs Python 3.8 or newer")
    try:
        # A shell's greeting may stand before it.
        rows: list[dict[str, Any]] = json.loads((done.stdout.strip().splitlines() or [""])[-1])
    except ValueError:
        raise VantageError(f"{who} ran no scan; does `ssh {vantage} python3 --version` work?") from None
    return rows


def _over_ssh(vantage: str) -> list[str]:
    """The vantage point is the user's own machine: his configuration and known hosts say how to reach it."""
    ssh = shutil.which("ssh")
    if ssh is None:
        raise VantageError("there is no ssh program here; install openssh-client")
    if not DESTINATION.fullmatch(vantage):
        raise VantageError(f"{vantage!r} is no vantage point: write FROM=user@address, or FROM={HERE}")
    return [ssh, "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", vantage, "exec python3 -"]


def _seen(row: Mapping[str, Any]) -> Seen:
    return Seen(
        address=ip_address(row["address"]),
        source=ip_address(row["source"]),
        tcp_open=tuple(row["tcp_open"]),
        tcp_refused=row["tcp_refused"],
        tcp_silent=row["tcp_silent"],
        udp={int(port): answer for port, answer in row["udp"].items()},
    )


def _skipped(row: Mapping[str, str], vantage: str) -> str:
    version = 6 if ":" in row["address"] else 4
    told = SKIPPED[row["skipped"]]
    return told.format(vantage=vantage, target=row["target"], address=row["address"], version=version)


def _told(
    inside: Mapping[str, Inside | None],
    whole: Set[str],
    outside: Mapping[str, Outside],
    found: Mapping[str, Sequence[Finding]],
) -> Iterator[str]:
    """By host: its addresses as they were seen, and a line for each finding."""
    for name, of in found.items():
        asked = "not wholly asked from inside" if inside[name] else "not asked from inside"
        fine = "nothing but what the file allows" if name in whole else asked
        yield f"{name}: {_counted(len(of), 'finding') if of else fine}"
        for seen in outside.get(name, Outside()).seen:
            yield f"  {seen.address}: {_ports(seen)}"
        yield from (f"  {one.protocol} {one.port}: {one.says}" for one in of)


def _ports(seen: Seen) -> str:
    """`TCP 22 open, 65534 refused; UDP 9 refused, silent 41641`."""
    opened = " ".join(map(str, seen.tcp_open))
    tcp = [f"{opened} open" if opened else "none open"]
    tcp += [f"{count} {what}" for count, what in ((seen.tcp_refused, "refused"), (seen.tcp_silent, "silent")) if count]
    udp = []
    for answer in ("open", "silent"):
        if ports := [str(port) for port, said in seen.udp.items() if said == answer]:
            udp.append(f"{' '.join(ports)} {answer}")
    if refused := sum(said == "refused" for said in seen.udp.values()):
        udp.append(f"{refused} refused")
    return f"TCP {', '.join(tcp)}; {'UDP ' + ', '.join(udp) if udp else 'no UDP asked'}"


def _unseen(
    spec: StackSpec, inside: Mapping[str, Inside | None], outside: Mapping[str, Outside], vantage: str
) -> Iterator[str]:
    """What was not looked at, or can't be told from what was seen."""
    for name, host in spec.file.hosts.items():
        of, out = inside[name], outside.get(name, Outside())
        if host.connection.kind == "local":
            yield (
                f"{name}: only ports that the stack's containers publish were looked at; what else listens on this "
                "machine is its user's, and a scan from outside is for hosts over SSH"
            )
        elif not vantage:
            yield f"{name}: what answers outside; name a vantage point: FROM=user@address, or FROM={HERE}"
        elif not out.seen and not out.skipped:
            yield f"{name}: what answers outside"
        for line in (*(of.problems if of else ()), *out.skipped):
            yield f"{name}: {line}"
        for seen in out.seen:
            if not seen.tcp_open and not seen.tcp_refused:
                yield (
                    f"{name}: {seen.address} gave {vantage} no answer at all: all is dropped before it, or there is "
                    "no way to it"
                )
        if silent := {port for seen in out.seen for port, said in seen.udp.items() if said == "silent"}:
            ports = " ".join(map(str, sorted(silent)))
            yield f"{name}: whether UDP {ports} is open: who gives no answer may still listen"
        if any(seen.translated for seen in out.seen):
            yield f"{name}: the `sources` it lets in: it sees {vantage} by another address, so all `sources` counted"


def _summary(
    stack: str,
    whole: Set[str],
    outside: Mapping[str, Outside],
    found: Mapping[str, Sequence[Finding]],
    vantage: str,
) -> str:
    seen = [one for of in outside.values() for one in of.seen]
    asked = f"{_counted(len(whole), 'host')} from inside"
    tcp, udp = 65535 * len(seen), sum(len(one.udp) for one in seen)
    scanned = f", {_counted(len(seen), 'address')}, {tcp} TCP ports and {udp} UDP ports from {vantage}" if seen else ""
    total = sum(len(of) for of in found.values())
    told = _counted(total, "finding") if total else f"nothing but what stack_configs/{stack}.yaml allows"
    return f"{asked}{scanned}: {told}"


def _counted(count: int, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"{count} {what if count == 1 else plural}"


def _called(vantage: str) -> str:
    return "this machine" if vantage == HERE else vantage


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.exposure", description=__doc__)
    parser.add_argument("--stack", default="prod")
    parser.add_argument("--from", dest="vantage", help="user@address of the vantage point, or `here`")
    args = parser.parse_args()
    return run(args.stack, args.vantage, ROOT)


if __name__ == "__main__":
    sys.exit(main())
