"""The gateway's containers: nginx in front of LiteLLM."""

from planning.gateway.litellm import plan_litellm
from planning.gateway.nginx import plan_nginx
from planning.plans import GatewayPlan
from stack_configs.schema.stack import StackSpec


def plan_gateway(spec: StackSpec) -> GatewayPlan:
    return GatewayPlan(litellm=plan_litellm(spec), nginx=plan_nginx(spec))
