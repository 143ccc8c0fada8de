"""Takes nodes out of a stack's mesh whose hosts have left the spec, and gives the others their tags where the gateway
has moved; with --all, takes out every node of the stack.

    python -m tools.nodes --stack prod

`make up` and `make down` run it at their end: a host that leaves logs out, and its entry stays with the control plane,
which would keep its name from a host that comes after it. Ends with 2 where the control plane was not asked.
"""

import argparse
import sys

from components.network.control import ControlError
from stack_configs.load import ROOT
from stack_configs.problems import SpecError
from tools.mesh_control import control_of, remove_stale, retag
from tools.stack import load_stack


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.nodes", description=__doc__)
    parser.add_argument("--stack", required=True)
    parser.add_argument("--all", action="store_true", help="the stack is gone, with all its hosts")
    args = parser.parse_args()
    try:
        spec = load_stack(args.stack, ROOT)
        mesh = spec.file.network.mesh
        if mesh is None:
            return 0
        control = control_of(args.stack, mesh, ROOT)
        gone = remove_stale(spec, control, every=args.all)
        done = [f"removed {', '.join(node.name for node in gone)}"] if gone else []
        if not args.all and (others := retag(spec, control)):
            done.append(f"set the tags of {', '.join(node.name for node in others)}")
    except (SpecError, ControlError) as error:
        print(f"nodes that left are still in the mesh: {error}", file=sys.stderr)
        return 2
    print("; ".join(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
