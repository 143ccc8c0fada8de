"""Pulumi as an operator runs it: `python -m tests.network.as_operator FOLDER up|preview|destroy`, the spec on standard
input as JSON, and the control plane's API key. Prints what happened as JSON."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from components.network.headscale import Headscale
from components.stack import InferenceStack, InferenceStackArgs
from planning.stack import plan_stack
from stack_configs.schema.stack import StackSpec
from tests.hosts.engine import Project
from tools.invite import invitation
from tools.mesh_control import remove_stale, writer
from tools.reach import reach


def program(inputs: dict[str, Any]) -> None:
    spec: StackSpec = inputs["spec"]
    control = Headscale(_server(spec), inputs["api_key"]) if spec.file.network.mesh else None
    arguments = InferenceStackArgs(
        plan=plan_stack(spec), reach=reach, invite=invitation(control), write_policy=writer(spec, control)
    )
    InferenceStack("test", arguments)


def _server(spec: StackSpec) -> str:
    mesh = spec.file.network.mesh
    assert mesh
    assert mesh.login_server
    return mesh.login_server


def main() -> None:
    folder, what = Path(sys.argv[1]), sys.argv[2]
    given = json.load(sys.stdin)
    os.chdir(folder)  # where Pulumi starts programs and plugins
    project = Project(folder, program, env=dict(os.environ))
    project.inputs = {"spec": StackSpec.model_validate(given["spec"]), "api_key": given["api_key"]}
    match what:
        case "up":
            print(json.dumps(project.up()))
        case "preview":
            print(json.dumps(project.preview()))
        case "destroy":
            project.destroy()
            spec: StackSpec = project.inputs["spec"]
            control = Headscale(_server(spec), given["api_key"])
            print(json.dumps([node.name for node in remove_stale(spec, control, every=True)]))


if __name__ == "__main__":
    main()
