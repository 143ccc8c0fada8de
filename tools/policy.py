"""`make policy STACK=prod`: who may talk to whom in the stack's mesh, and whether its control plane has it so.

Prints the picture by the spec, then compares it with the policy in force: the whole, where the stack owns it, and else
the stack's own part. Changes nothing. Ends with 0: as the spec has it; 1: it differs; 2: it could not be compared.
TAKE_OVER=yes lets the next `up` of the owner replace a policy that it did not write, as it is now and no other.
REMOVE=yes removes nodes of the stack from the mesh whose hosts have left the spec.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from components.network.control import Control, ControlError
from components.network.headscale import Headscale
from planning.network.compare import beyond, difference, lacking, read
from planning.network.picture import table
from planning.network.policy import Policy, is_ours, mistagged, policy, present, rules, stale_nodes, tags, text
from stack_configs.load import ROOT
from stack_configs.problems import SpecError
from stack_configs.schema.stack import StackSpec
from tools.mesh_control import control_of, digest, may_replace, remove_stale
from tools.stack import NAMESPACE, load_stack


def run(stack: str, root: Path = ROOT, *, take_over: bool = False, remove: bool = False) -> int:
    """The command; its exit status."""
    try:
        spec = load_stack(stack, root)
    except SpecError as error:
        print(error, file=sys.stderr)
        return 2
    mesh = spec.file.network.mesh
    if mesh is None:
        print(
            f"{stack} has no mesh: `network.mesh` in stack_configs/{stack}.yaml makes it part of one", file=sys.stderr
        )
        return 2
    print("\n".join(["Who may reach what, by the spec; everything else is dropped:", *indented(table(rules(spec)))]))
    try:
        control = control_of(stack, mesh, root)
        return compared(spec, control, root, take_over=take_over, remove=remove)
    except ControlError as error:
        print(f"Not compared: {error}", file=sys.stderr)
        return 2


def compared(spec: StackSpec, control: Control, root: Path, *, take_over: bool, remove: bool) -> int:
    """Everything that needs the control plane's answer. Raises ControlError."""
    found = control.policy()
    try:
        in_force = None if found is None else read(found)
    except ValueError as error:
        raise ControlError(f"the policy in force can't be read: {error}") from error
    mesh = spec.file.network.mesh
    owner = mesh is not None and mesh.policy == "owned"
    lines = differing(spec, in_force, owner=owner)
    print("\n".join(lines) if lines else "The policy in force is as the spec has it.")
    failed = tested(spec, control) if owner else []
    print("\n".join(failed), end="\n" if failed else "")
    if lines and owner:
        print(next_step(spec, found, root, take_over=take_over))
    status = 1 if lines or failed else 0
    return max(status, stale(spec, control, remove=remove))


def differing(spec: StackSpec, in_force: Policy | None, *, owner: bool) -> list[str]:
    """What is otherwise in the policy in force, for people."""
    if owner:
        if in_force is None:
            return ["There is no policy in force: every node reaches every other."]
        lines = difference(policy(spec), in_force)
        return ["The policy in force differs:", *indented(lines)] if lines else []
    dropped, open_ = lacking(spec, in_force or {}), beyond(spec, in_force or {})
    return [
        *(["The policy in force drops what this stack needs:", *indented(dropped)] if dropped else []),
        *(["The policy in force lets through more than this stack needs:", *indented(open_)] if open_ else []),
    ]


def tested(spec: StackSpec, control: Control) -> list[str]:
    """Have the control plane run the policy's tests; what is wrong. Prints how many hold."""
    wanted = policy(spec)
    people_and_nodes = {test["src"] for test in wanted["tests"]}
    unknown: set[str] = set()
    if isinstance(control, Headscale):
        wanted = policy(spec, present(control.nodes()))
        unknown = {name for name in people_and_nodes if "@" in name} - control.users()
    told = [f"{name} is no user of the headscale: what is granted to it, nobody has" for name in sorted(unknown)]
    try:
        control.check_policy(text(wanted, spec.stack))
    except ControlError as error:
        return [*told, f"The spec's policy is not taken: {error}"]
    tests = wanted.get("tests", [])
    count = sum(len(test.get(word, ())) for test in tests for word in ("accept", "deny"))
    untested = sorted(people_and_nodes - unknown - {test["src"] for test in tests})
    left = f"; without a node yet, and so untested: {', '.join(untested)}" if untested else ""
    print(f"Its tests hold: {count} connections, each let through or dropped{left}.")
    return told


def next_step(spec: StackSpec, found: str | None, root: Path, *, take_over: bool) -> str:
    """What brings the spec's policy in force."""
    mesh = spec.file.network.mesh
    # Tailscale's plugin sees an edit only where it looks for one.
    up = "`pulumi up --refresh`" if mesh and mesh.control == "tailscale" else "`pulumi up`"
    if found is None or is_ours(found, spec.stack):
        return "`pulumi up` writes the spec's."
    if may_replace(spec, found):
        return f"{up} writes the spec's, as you said."
    if not take_over:
        return (
            f"The stack {spec.stack} did not write what is in force, or it was edited since: `up` won't replace it. "
            f"`make policy STACK={spec.stack} TAKE_OVER=yes` lets it."
        )
    value = f"{NAMESPACE}taken-over-policy"
    argv = ["pulumi", "config", "set", value, digest(found), "--stack", spec.stack, "--non-interactive"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ControlError(f"the word can't be noted: {done.stderr.strip()}")
    return f"The next {up} replaces it: {value} in Pulumi.{spec.stack}.yaml names what is in force now."


def stale(spec: StackSpec, control: Control, *, remove: bool) -> int:
    """Tell of nodes whose hosts have left the spec, or remove them, and of nodes with others' tags; the exit status."""
    gone = remove_stale(spec, control) if remove else stale_nodes(spec, control.nodes())
    others = mistagged(spec, control.nodes())
    for node in others:
        have, wanted = ", ".join(node.tags), ", ".join(tags(node.name, spec))
        print(f"{node.name} has the tag {have} since before the gateway moved: the next `make up` sets {wanted}")
    for node in gone:
        what = "was removed from the mesh" if remove else "is in the mesh yet, with this stack's tags: REMOVE=yes"
        print(f"{node.name} is no host of {spec.stack}: it {what}")
    return 1 if others or (gone and not remove) else 0


def indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.policy", description=__doc__)
    parser.add_argument("--stack", default="prod")
    parser.add_argument("--take-over", action="store_true", help="let the next `up` replace another's policy")
    parser.add_argument("--remove", action="store_true", help="remove nodes whose hosts have left the spec")
    args = parser.parse_args()
    return run(args.stack, take_over=args.take_over, remove=args.remove)


if __name__ == "__main__":
    sys.exit(main())
