"""A stack with an ingress on Pulumi's mocks: what would be sent to Cloudflare."""

from functools import cache

from components.stack import InferenceStack, InferenceStackArgs
from planning.stack import plan_stack
from stack_configs.schema.stack import StackSpec
from tests.golden.specs import all_specs
from tests.unit.built import Made, built

TOKEN = "eyJhIjoiMDEyMyIsInQiOiI0NTY3IiwicyI6Ijg5YWIifQ=="
AUD = "737646a56ab1df6ec9bddc7e5ca84eaf3b0768850f3ffb5d74f1534911fe3893"
TUNNEL = "cloudflare:index/zeroTrustTunnelCloudflared:ZeroTrustTunnelCloudflared"
CONFIG = "cloudflare:index/zeroTrustTunnelCloudflaredConfig:ZeroTrustTunnelCloudflaredConfig"
RECORD = "cloudflare:index/dnsRecord:DnsRecord"
APPLICATION = "cloudflare:index/zeroTrustAccessApplication:ZeroTrustAccessApplication"
POLICY = "cloudflare:index/zeroTrustAccessPolicy:ZeroTrustAccessPolicy"
SERVICE_TOKEN = "cloudflare:index/zeroTrustAccessServiceToken:ZeroTrustAccessServiceToken"
GET_TOKEN = "cloudflare:index/getZeroTrustTunnelCloudflaredToken:getZeroTrustTunnelCloudflaredToken"


def with_ingress() -> StackSpec:
    return next(spec for spec in all_specs() if spec.stack == "with-ingress")


@cache
def made() -> tuple[Made, ...]:
    """Everything that the stack consists of."""

    def program() -> None:
        InferenceStack("with-ingress", InferenceStackArgs(plan=plan_stack(with_ingress())))

    secrets = {"clientId": "id.access", "clientSecret": "s3cret", "expiresAt": "2027-11-21T00:00:00Z"}
    known = {GET_TOKEN: {"token": TOKEN}, APPLICATION: {"aud": AUD}, SERVICE_TOKEN: secrets}
    return tuple(built(program, stack="with-ingress", known=known))


def of(token: str) -> dict[str, Made]:
    """All of a kind, by name."""
    found = {m.name: m for m in made() if m.type == token}
    assert found, f"nothing of type {token}"
    return found
