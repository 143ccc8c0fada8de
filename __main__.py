"""Load the spec, decide everything, then build it."""

import gc
from datetime import UTC, datetime

import pulumi

from components.stack import InferenceStack, InferenceStackArgs
from planning.hosts.gate import gate_problems, gate_warnings
from planning.hosts.ready import with_waiting
from planning.network.limits import ingress_warnings
from planning.serving.ledger.rules import ledger_problems, ledger_warnings
from planning.stack import plan_stack
from stack_configs.load import SpecError, located, mesh_key, mesh_secrets, spec_from_pulumi
from tools.invite import invitation
from tools.mesh_control import control_by, writer
from tools.reach import reach


def main() -> None:
    gc.freeze()  # what is imported stays: walking it at every collection took 40 ms of a preview's 580 in Python
    try:
        spec, now = with_waiting(spec_from_pulumi()), datetime.now(UTC)
        refused = (*gate_problems(spec, now), *ledger_problems(spec))
        if problems := located(spec.stack, refused):
            raise SpecError(problems)
    except SpecError as error:
        # RunError is shown as it is, without a traceback: the message is for whoever edits the YAML.
        raise pulumi.RunError(str(error)) from error
    told = (*gate_warnings(spec, now), *ledger_warnings(spec), *ingress_warnings(spec))
    for warning in (*spec.warnings, *located(spec.stack, told)):
        pulumi.log.warn(str(warning))
    control = control_by(spec, mesh_secrets())
    arguments = InferenceStackArgs(
        plan=plan_stack(spec),
        reach=reach,
        invite=invitation(control),
        write_policy=writer(spec, control),
        mesh_key=mesh_key(),
    )
    stack = InferenceStack(spec.stack, arguments)
    pulumi.export("url", stack.url)
    pulumi.export("models", stack.models)
    if spec.waiting:
        pulumi.export("waiting", spec.waiting)
    pulumi.export("monitoring", stack.monitoring)
    pulumi.export("weights", spec.weights)
    if stack.outside:
        pulumi.export("outside", stack.outside)
        pulumi.export("service_tokens", stack.service_tokens)


main()
