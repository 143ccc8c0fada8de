"""`make drift STACK=prod`: ask hosts what they are, and tell what is otherwise than the spec.

What a step can repair is repaired by the next `pulumi up`: the step's counter in the stack's Pulumi config is raised
for it, once. Made for cron. Ends with 0: all is as the spec has it; 1: something isn't; 2: a host could not be asked or
read, or a counter not be raised.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from planning.hosts.drift import Difference, differences, repairs
from planning.hosts.gate import gate_problems
from planning.hosts.plan import StepName
from planning.hosts.steps import plan_host
from stack_configs.load import ROOT, located
from stack_configs.problems import SpecError
from stack_configs.schema.facts import Facts
from stack_configs.schema.reached import over_ssh
from tools.facts import ask_all, chosen
from tools.invite import is_out, rejoins
from tools.stack import NAMESPACE, load_stack

LOST = Difference(step="join", says="is no node of the mesh any more: it joins again")
"""Such a host has no name in the mesh, so that nothing else of it can be asked."""

Counters = Mapping[str, Mapping[StepName, int]]
"""Host → step → its raised counter."""


def run(stack: str, only: str | None, root: Path, *, raise_counters: bool = True) -> int:
    """The command; its exit status."""
    try:
        spec = load_stack(stack, root)
        # By the spec alone: what it asks for must be in the version set before anything can be compared with it.
        if refused := gate_problems(spec.model_copy(update={"facts": {}}), datetime.now(UTC)):
            raise SpecError(located(stack, refused, root))
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    hosts = chosen(stack, only, over_ssh(spec.file.hosts, spec.file.network))
    answers = ask_all(hosts)
    asked = {name: facts for name, facts in answers.items() if isinstance(facts, Facts)}
    before = spec.facts
    found = {name: differences(name, spec, facts, before.get(name)) for name, facts in asked.items()}
    out = tuple(name for name, answer in answers.items() if isinstance(answer, str) and is_out(plan_host(name, spec)))
    found |= dict.fromkeys(out, (LOST,))
    raised = {name: steps for name, facts in asked.items() if (steps := repairs(name, spec, facts, before.get(name)))}
    raised |= {name: {"join": counter} for name in out if (counter := rejoins(plan_host(name, spec)))}
    print("\n".join(told(found)))
    unread = [f"{name}: could not be read: {why}" for name, facts in asked.items() for why in facts.problems]
    failed = [why for name, why in answers.items() if isinstance(why, str) and name not in out]
    if failed or unread:
        print("\n".join(["Not compared:", *failed, *unread]), file=sys.stderr)
    if raised and raise_counters and not set_counters(stack, raised, root):
        return 2
    return 1 if any(found.values()) else 2 if failed or unread else 0


def told(found: Mapping[str, Sequence[Difference]]) -> list[str]:
    """By host, a line for each difference."""
    lines = []
    for name, of in found.items():
        counted = f"{len(of)} difference{'s' if len(of) > 1 else ''}" if of else "as the spec has it"
        lines += [f"{name}: {counted}", *(f"  {difference.step:<6}  {difference.says}" for difference in of)]
    return lines


def arguments(stack: str, counters: Counters) -> list[str]:
    """Of `pulumi`, to set the counters."""
    values = [f"{NAMESPACE}repairs.{host}.{step}={n}" for host, steps in counters.items() for step, n in steps.items()]
    plain = [word for value in values for word in ("--plaintext", value)]
    return ["config", "set-all", "--non-interactive", "--stack", stack, "--path", *plain]


def set_counters(stack: str, counters: Counters, root: Path) -> bool:
    """Write the counters into the stack's Pulumi config, and say so. False: it can't be done, and why was said."""
    what = ", ".join(f"{host} {step}" for host, steps in counters.items() for step in steps)
    argv = ["pulumi", *arguments(stack, counters)]
    if shutil.which("pulumi") is None:
        print(f"To have the next `up` repair {what}, there is no pulumi here; `. ./activate`, then:", file=sys.stderr)
        print(" ".join(argv), file=sys.stderr)
        return False
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip()
        print(f"The next `up` won't repair {what}: its counters can't be set: {reason}", file=sys.stderr)
        return False
    print(f"The next `pulumi up` repairs {what}: counters in Pulumi.{stack}.yaml were raised. Check it in.")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.drift", description=__doc__)
    parser.add_argument("--stack", default="prod")
    parser.add_argument("--host", help="only this one")
    parser.add_argument("--only-tell", action="store_true", help="raise no counter")
    args = parser.parse_args()
    return run(args.stack, args.host, ROOT, raise_counters=not args.only_tell)


if __name__ == "__main__":
    sys.exit(main())
