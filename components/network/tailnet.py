"""A tailnet's policy and names at Tailscale. The only module that imports pulumi_tailscale, which takes a second."""

import pulumi_tailscale as tailscale
from pulumi import Resource, ResourceHook, ResourceHookBinding, ResourceOptions

from planning.network.plan import PolicyPlan


def own_tailnet(plan: PolicyPlan, before: ResourceHook, opts: ResourceOptions) -> list[Resource]:
    """What one stack makes for the whole tailnet: its policy, and MagicDNS, by which nodes find each other.

    A policy that is not Tailscale's first one is replaced only once its owner said so: the plugin refuses otherwise,
    and from then on `before`, which raises where somebody has edited it.
    The OAuth client is the plugin's own setting, `tailscale:oauthClientId` and `tailscale:oauthClientSecret`. Leaving
    the spec leaves both as they are: without MagicDNS, no stack's nodes would find each other.
    """
    taken_over = plan.taken_over is not None
    hooks = ResourceHookBinding(before_create=[before] if taken_over else None, before_update=[before])
    policy = tailscale.Acl(
        "tailnet-policy",
        acl=plan.text,
        overwrite_existing_content=taken_over,
        reset_acl_on_destroy=False,
        opts=ResourceOptions.merge(opts, ResourceOptions(hooks=hooks)),
    )
    kept = ResourceOptions.merge(opts, ResourceOptions(retain_on_delete=True))
    names = tailscale.DnsPreferences("tailnet-names", magic_dns=True, opts=kept)
    return [policy, names]
