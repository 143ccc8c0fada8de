"""Load the spec, decide everything, then build it."""

import pulumi

from components.stack import InferenceStack, InferenceStackArgs
from planning.stack import plan_stack
from stack_configs.load import SpecError, spec_from_pulumi, unsupported


def main() -> None:
    try:
        spec = spec_from_pulumi()
        if problems := unsupported(spec):
            raise SpecError(problems)
    except SpecError as error:
        # RunError is shown as it is, without a traceback: the message is for whoever edits the YAML.
        raise pulumi.RunError(str(error)) from error
    for warning in spec.warnings:
        pulumi.log.warn(warning)
    stack = InferenceStack(spec.stack, InferenceStackArgs(plan=plan_stack(spec)))
    pulumi.export("url", stack.url)
    pulumi.export("models", stack.models)
    pulumi.export("monitoring", stack.monitoring)
    pulumi.export("weights", spec.weights)


main()
