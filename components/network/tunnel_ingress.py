"""A Cloudflare tunnel to nginx. The only module that imports pulumi_cloudflare, which takes four seconds."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi_cloudflare as cloudflare
from pulumi import ComponentResource, Input, Output, Resource, ResourceOptions

from components.containers import Runtime, run_container
from planning.network.plan import Application, IngressPlan, Rule

AUTOMATIC_TTL = 1
"""Cloudflare's word for a proxied record's time to live.
Source: https://developers.cloudflare.com/api/resources/dns/subresources/records/methods/create/"""
TOKEN_LASTS = "8760h"
"""Of a service token: a year, which is also Cloudflare's default."""

TunnelConfig = cloudflare.ZeroTrustTunnelCloudflaredConfigConfigArgs
TunnelRule = cloudflare.ZeroTrustTunnelCloudflaredConfigConfigIngressArgs
OriginRequest = cloudflare.ZeroTrustTunnelCloudflaredConfigConfigIngressOriginRequestArgs
OriginAccess = cloudflare.ZeroTrustTunnelCloudflaredConfigConfigIngressOriginRequestAccessArgs
Include = cloudflare.ZeroTrustAccessPolicyIncludeArgs


@dataclass(frozen=True, kw_only=True)
class TunnelIngressArgs:
    plan: IngressPlan
    runtimes: Mapping[str, Runtime]
    """By host."""
    gateway: Input[Resource]
    """nginx, once it is ready."""


class TunnelIngress(ComponentResource):
    """The tunnel, its rules, Access before it, the connector, and DNS records last: a name resolves once it is guarded.

    Cloudflare's API token comes from Pulumi's config `cloudflare:apiToken`, a secret, or from CLOUDFLARE_API_TOKEN.
    """

    urls: dict[str, str]
    """Hostname → its address."""
    service_tokens: Mapping[str, Mapping[str, Output[str]]]
    """Name → the two headers that a machine sends, and when they expire."""

    def __init__(self, name: str, args: TunnelIngressArgs, opts: ResourceOptions | None = None) -> None:
        super().__init__("inference-stack:network:TunnelIngress", name, None, opts)
        plan, child = args.plan, ResourceOptions(parent=self)
        tunnel = cloudflare.ZeroTrustTunnelCloudflared(
            "tunnel", account_id=plan.account_id, name=plan.tunnel, config_src="cloudflare", opts=child
        )
        tokens = {
            token: cloudflare.ZeroTrustAccessServiceToken(
                f"{token}-token",
                account_id=plan.account_id,
                name=f"{plan.tunnel}-{token}",
                duration=TOKEN_LASTS,
                opts=child,
            )
            for token in plan.service_tokens
        }
        applications = {a.hostname: _application(a, plan, tokens, child) for a in plan.applications}
        rules = [_rule(rule, plan.team, applications) for rule in plan.rules]
        config = cloudflare.ZeroTrustTunnelCloudflaredConfig(
            "tunnel-config",
            account_id=plan.account_id,
            tunnel_id=tunnel.id,
            config=TunnelConfig(ingresses=[*rules, TunnelRule(service=plan.otherwise)]),
            opts=child,
        )
        token = cloudflare.get_zero_trust_tunnel_cloudflared_token_output(
            account_id=plan.account_id, tunnel_id=tunnel.id
        )
        connector = run_container(
            plan.connector,
            args.runtimes[plan.connector.host],
            ResourceOptions(parent=self, depends_on=[config, args.gateway]),
            secrets=dict.fromkeys(plan.connector.secret_files, token.token),
        )
        for rule in plan.rules:
            cloudflare.DnsRecord(
                f"{rule.hostname}-record",
                zone_id=plan.zone_id,
                name=rule.hostname,
                type="CNAME",
                content=Output.concat(tunnel.id, ".cfargotunnel.com"),
                proxied=True,
                ttl=AUTOMATIC_TTL,
                comment=f"the tunnel {plan.tunnel}",
                opts=ResourceOptions(parent=self, depends_on=[config, connector.ready]),
            )
        self.urls = {rule.hostname: f"https://{rule.hostname}" for rule in plan.rules}
        self.service_tokens = {
            name: {
                "CF-Access-Client-Id": made.client_id,
                "CF-Access-Client-Secret": Output.secret(made.client_secret),
                "expires": made.expires_at,
            }
            for name, made in tokens.items()
        }
        self.register_outputs({"urls": self.urls, "service_tokens": self.service_tokens})


def _rule(
    rule: Rule, team: str, applications: Mapping[str, cloudflare.ZeroTrustAccessApplication]
) -> cloudflare.ZeroTrustTunnelCloudflaredConfigConfigIngressArgs:
    """With Access, the connector itself refuses what Access has not signed for this application."""
    if not rule.access:
        return TunnelRule(hostname=rule.hostname, service=rule.service)
    # Here and not on the whole config, where cloudflared overlooks it: it asks the rule's own (ingress/ingress.go).
    access = OriginAccess(required=True, team_name=team, aud_tags=[applications[rule.hostname].aud])
    return TunnelRule(hostname=rule.hostname, service=rule.service, origin_request=OriginRequest(access=access))


def _application(
    plan: Application,
    ingress: IngressPlan,
    tokens: Mapping[str, cloudflare.ZeroTrustAccessServiceToken],
    opts: ResourceOptions,
) -> cloudflare.ZeroTrustAccessApplication:
    people = [
        *(Include(email=cloudflare.ZeroTrustAccessPolicyIncludeEmailArgs(email=email)) for email in plan.emails),
        *(
            Include(email_domain=cloudflare.ZeroTrustAccessPolicyIncludeEmailDomainArgs(domain=domain))
            for domain in plan.email_domains
        ),
        *(Include(group=cloudflare.ZeroTrustAccessPolicyIncludeGroupArgs(id=group)) for group in plan.groups),
    ]
    machines = [
        Include(service_token=cloudflare.ZeroTrustAccessPolicyIncludeServiceTokenArgs(token_id=tokens[name].id))
        for name in plan.service_tokens
    ]
    policies = [
        cloudflare.ZeroTrustAccessPolicy(
            f"{plan.hostname}-{who}",
            account_id=ingress.account_id,
            name=f"{plan.hostname} {who}",
            decision=decision,
            includes=includes,
            opts=opts,
        )
        for who, decision, includes in (("machines", "non_identity", machines), ("people", "allow", people))
        if includes
    ]
    return cloudflare.ZeroTrustAccessApplication(
        f"{plan.hostname}-access",
        account_id=ingress.account_id,
        type="self_hosted",
        name=plan.hostname,
        domain=plan.hostname,
        session_duration=plan.session,
        # A machine with a bad token gets 401, not the login page.
        service_auth401_redirect=bool(machines),
        policies=[
            cloudflare.ZeroTrustAccessApplicationPolicyArgs(id=policy.id, precedence=place)
            for place, policy in enumerate(policies, start=1)
        ],
        opts=opts,
    )
