"""What users of a tunnel meet that the stack itself does not set: shown by each preview."""

from collections.abc import Iterator

from stack_configs.schema.stack import StackSpec

SILENT_S = 100
"""An answer of which no byte has come for so long ends with error 524, unless an Enterprise zone says otherwise.
Source: https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/error-524/"""
BODY_MB = {"Free and Pro": 100, "Business": 200, "Enterprise": 500}
"""Largest body of a request by Cloudflare's plan, in megabytes.
Source: https://developers.cloudflare.com/workers/platform/limits/#request-limits"""

Found = tuple[tuple[str | int, ...], str, str]


def ingress_warnings(spec: StackSpec) -> Iterator[Found]:
    """`(path, what users meet, what to do)`; nothing for a stack without an ingress."""
    ingress = spec.file.network.ingress
    if ingress is None:
        return
    at = ("network", "ingress")
    gateway = spec.file.gateway
    if gateway.request_timeout_s > SILENT_S:
        yield (
            at,
            f"an answer of which no byte has come for {SILENT_S} s ends at Cloudflare's edge with error 524, "
            f"although the gateway waits {gateway.request_timeout_s} s",
            "stream long answers (`stream: true`), or ask over the hosts' own network",
        )
    body_mb = gateway.max_body_mib * 2**20 / 1e6
    if short := [f"{mb} MB on {plan}" for plan, mb in BODY_MB.items() if body_mb > mb]:
        yield (
            at,
            f"the gateway takes bodies of {gateway.max_body_mib} MiB, Cloudflare's edge only {', '.join(short)}",
            "send larger ones over the hosts' own network, or lower `gateway.max_body_mib`",
        )
    for name in ingress.hostnames:
        labels = name.removesuffix(ingress.zone.name).rstrip(".")
        if "." in labels:
            yield (
                (*at, "hostnames", name),
                f"is not covered by the certificate that zones have by themselves, which is for *.{ingress.zone.name}",
                f"write `{labels.replace('.', '-')}.{ingress.zone.name}`, or order an advanced certificate for it",
            )
