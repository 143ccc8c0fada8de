"""From the spec to the whole plan."""

from planning.gateway.plan import plan_gateway
from planning.observability.plan import plan_observability
from planning.plans import StackPlan
from planning.serving.plan import plan_model
from stack_configs.schema.stack import StackSpec


def plan_stack(spec: StackSpec) -> StackPlan:
    """Everything that will run for `spec`. Pure: the same spec gives the same plan on every machine."""
    return StackPlan(
        stack=spec.stack,
        models=tuple(plan_model(name, spec) for name in spec.file.models),
        gateway=plan_gateway(spec),
        observability=plan_observability(spec),
    )
