"""A tailnet's policy and names at Tailscale. The only module that imports pulumi_tailscale, which takes a second."""

import pulumi_tailscale as tailscale
from pulumi import Resource, ResourceOptions

from planning.network.plan import PolicyPlan


def own_tailnet(plan: PolicyPlan, opts: ResourceOptions) -> list[Resource]:
    """What one stack makes for the whole tailnet: its policy, and MagicDNS, by which nodes find each other.

    A policy that is not Tailscale's first one is replaced only once its owner said so: the plugin refuses otherwise.
    The OAuth client is the plugin's own setting, `tailscale:oauthClientId` and `tailscale:oauthClientSecret`. Leaving
    the spec leaves both as they are: without MagicDNS, no stack's nodes would find each other.
    """
    policy = tailscale.Acl(
        "tailnet-policy",
        acl=plan.text,
        overwrite_existing_content=plan.taken_over is not None,
        reset_acl_on_destroy=False,
        opts=opts,
    )
    kept = ResourceOptions.merge(opts, ResourceOptions(retain_on_delete=True))
    names = tailscale.DnsPreferences("tailnet-names", magic_dns=True, opts=kept)
    return [policy, names]
