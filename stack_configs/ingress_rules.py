"""Rules of the way in from outside. Pure; `(path, what is wrong, what to write)` like those of stack_configs.rules."""

from collections.abc import Iterator

from stack_configs.problems import Path
from stack_configs.schema.network import Hostname, Ingress
from stack_configs.schema.observability import Observability

Found = tuple[Path, str, str]


def ingress_problems(ingress: Ingress, observability: Observability) -> Iterator[Found]:
    """What would leave something open, or could not be reached."""
    zone = ingress.zone.name
    for name, host in ingress.hostnames.items():
        at = ("network", "ingress", "hostnames", name)
        if name != zone and not name.endswith(f".{zone}"):
            yield (at, f"is outside the zone {zone}: no DNS record can be made for it", f"write `NAME.{zone}`")
        yield from _guards(at, host)
        if host.to == "grafana" and observability.grafana is None:
            yield ((*at, "to"), "leads to Grafana, which this stack leaves out", "add `observability.grafana: {}`")


def _guards(at: Path, host: Hostname) -> Iterator[Found]:
    proper = "[keys]` or `[keys, access]" if host.to == "api" else "[access]"
    if not host.guards:
        says = "has no guard: the whole internet could ask it"
        yield ((*at, "guards"), says, f"write `guards: {proper}`")
    elif host.to == "api" and "keys" not in host.guards:
        yield ((*at, "guards"), "leaves out keys, which the API always asks for", f"write `guards: {proper}`")
    elif host.to == "grafana" and "access" not in host.guards:
        says = "leaves Grafana without Access: it knows no keys, and shows everything to whoever opens it"
        yield ((*at, "guards"), says, f"write `guards: {proper}`")
    elif host.to == "grafana" and "keys" in host.guards:
        yield ((*at, "guards"), "names keys, which Grafana doesn't know", f"write `guards: {proper}`")
    access = host.access
    if access is None:
        if "access" in host.guards:
            says = "is missing, and the guard `access` needs it: nobody could pass"
            yield ((*at, "access"), says, "name `emails`, `email_domains`, `groups` or `service_tokens` below it")
        return
    if "access" not in host.guards:
        yield ((*at, "access"), "names people that no guard asks about", "add `access` to `guards`, or leave it out")
    if not (access.emails or access.email_domains or access.groups or access.service_tokens):
        yield ((*at, "access"), "names nobody", "name `emails`, `email_domains`, `groups` or `service_tokens`")
