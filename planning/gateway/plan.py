"""The gateway's containers: nginx in front of LiteLLM, and on every other host the way to its engines."""

from planning.gateway.front import plan_fronts
from planning.gateway.litellm import plan_litellm
from planning.gateway.nginx import plan_nginx
from planning.network.cloudflare import outside
from planning.plans import GatewayPlan
from stack_configs.schema.stack import StackSpec


def plan_gateway(spec: StackSpec) -> GatewayPlan:
    return GatewayPlan(fronts=plan_fronts(spec), litellm=plan_litellm(spec), nginx=plan_nginx(spec, outside(spec)))
