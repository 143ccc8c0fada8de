"""`make forget STACK=prod HOST=name`: let Pulumi forget a host that is dead, and everything that ran on it.

Taking a host out of the stack's file undoes what was done to it, at its old address: a host that never answers again
keeps `pulumi up` failing there. This removes that host's resources from the stack's state and nothing else; it connects
to no host and changes none. If the host comes back after all, it is as it was left, with our holds and pins.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from components.ssh import FOLDER

HOST_TYPE = "inference-stack:hosts:GpuHost"
PROVIDER_TYPE = "pulumi:providers:docker"


def of_host(resources: Sequence[dict[str, Any]], host: str) -> list[dict[str, Any]]:
    """The resources of a host in a state, its steps and all in its Docker, each before those that it needs."""
    mine: set[str] = set()
    # A state has everything after what it needs.
    for row in resources:
        urn, kind, name = row["urn"], row["type"], row["urn"].rsplit("::", 1)[1]
        provider = row.get("provider", "").rsplit("::", 1)[0]
        if (
            (kind == HOST_TYPE and name == host)
            or (kind == PROVIDER_TYPE and name == f"{host}-docker")
            or provider in mine
            or row.get("parent") in mine
        ):
            mine.add(urn)
    return [row for row in reversed(resources) if row["urn"] in mine]


def needed_by_others(resources: Sequence[dict[str, Any]], going: Sequence[dict[str, Any]]) -> list[str]:
    """Resources that stay and need one that goes: the state would be broken."""
    urns = {row["urn"] for row in going}
    return [
        row["urn"].rsplit("::", 1)[1]
        for row in resources
        if row["urn"] not in urns and urns & {*row.get("dependencies", ()), row.get("parent", "")}
    ]


def without(state: dict[str, Any], going: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """An exported state without these resources, and without what was under way with them."""
    urns, deployment = {row["urn"] for row in going}, state["deployment"]
    left = [row for row in deployment.get("resources", []) if row["urn"] not in urns]
    pending = [row for row in deployment.get("pending_operations") or [] if row["resource"]["urn"] not in urns]
    return {**state, "deployment": {**deployment, "resources": left, "pending_operations": pending}}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.forget", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--stack", required=True)
    parser.add_argument("--host", required=True, help="its name in the stack's file")
    args = parser.parse_args()
    exported = _pulumi("stack", "export", "--stack", args.stack)
    if exported.returncode:
        print(exported.stderr.strip(), file=sys.stderr)
        return 1
    state = json.loads(exported.stdout)
    resources = state["deployment"].get("resources", [])
    going = of_host(resources, args.host)
    if not going:
        known = sorted(row["urn"].rsplit("::", 1)[1] for row in resources if row["type"] == HOST_TYPE)
        print(
            f"{args.stack}'s state has no host {args.host}; it has {', '.join(known) or 'none over SSH'}",
            file=sys.stderr,
        )
        return 1
    if others := needed_by_others(resources, going):
        print(
            f"{', '.join(others)} still need {args.host}: take what runs there out of stack_configs/{args.stack}.yaml, "
            "run `pulumi up` so far as it gets, and try again",
            file=sys.stderr,
        )
        return 1
    print(f"{args.stack} forgets {args.host}, and what ran there, without touching it:")
    print("\n".join(f"  {row['type']:<32}  {row['urn'].rsplit('::', 1)[1]}" for row in going))
    print("Type `yes` to go on: ", end="", flush=True)
    if sys.stdin.readline().strip() != "yes":
        print("\nNothing was changed.")
        return 1
    # Whole, for `pulumi state delete` knows no row by its URN where a replacement that was cut off left two.
    done = _pulumi("stack", "import", "--stack", args.stack, stdin=json.dumps(without(state, going)))
    if done.returncode:
        print(done.stderr.strip(), file=sys.stderr)
        return 1
    shutil.rmtree(FOLDER / args.stack / "hosts" / args.host, ignore_errors=True)
    print(
        f"Forgotten. If {args.host} is still in stack_configs/{args.stack}.yaml, the next `pulumi up` prepares it anew."
    )
    return 0


def _pulumi(*args: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    argv = ["pulumi", *args, "--non-interactive"]
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
