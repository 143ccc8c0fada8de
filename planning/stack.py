"""From the spec to the whole plan."""

from dataclasses import replace

from planning.gateway.plan import plan_gateway
from planning.hosts.steps import plan_host
from planning.network.cloudflare import plan_ingress
from planning.network.policy import plan_policy
from planning.observability.plan import plan_observability
from planning.placement import gateway_host
from planning.plans import StackPlan
from planning.serving.order import turns
from planning.serving.plan import plan_model
from stack_configs.schema.hosts import SshConnection
from stack_configs.schema.stack import StackSpec


def plan_stack(spec: StackSpec) -> StackPlan:
    """Everything that will run for `spec`. Pure: the same spec gives the same plan on every machine."""
    hosts = tuple(
        plan_host(name, spec) for name, host in spec.file.hosts.items() if isinstance(host.connection, SshConnection)
    )
    return StackPlan(
        stack=spec.stack,
        hosts=hosts,
        models_dirs={host.name: spec.file.hosts[host.name].models_dir for host in hosts},
        waiting=spec.waiting,
        models=tuple(replace(plan_model(name, spec), after=after) for name, after in turns(spec).items()),
        gateway=None if gateway_host(spec) in spec.waiting else plan_gateway(spec),
        observability=plan_observability(spec),
        ingress=plan_ingress(spec),
        policy=plan_policy(spec),
    )
