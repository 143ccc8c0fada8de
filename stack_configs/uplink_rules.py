"""Rules of a host's ways to the internet. Pure; `(path, what is wrong, what to write)` like those of
stack_configs.rules.

One probe for several uplinks is fine: each is asked by its own.
"""

from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from stack_configs.problems import Path
from stack_configs.schema.hosts import Host, Uplink

Found = tuple[Path, str, str]

MOST = 8
"""So many tables the host's program has."""


def uplink_problems(hosts: Mapping[str, Host]) -> Iterator[Found]:
    """What could not fail over, or would be taken for dead or alive wrongly."""
    for name, host in hosts.items():
        if not host.uplinks:
            continue
        at: Path = ("hosts", name, "uplinks")
        if host.connection.kind == "local":
            yield (at, "is of this machine, whose routes are its owner's", "leave it out, or reach the host over SSH")
            continue
        if len(host.uplinks) == 1:
            yield (at, "names one: there is nothing to fail over to", "name two or more, or leave it out")
        if len(host.uplinks) > MOST:
            yield (at, f"names {len(host.uplinks)}", f"name {MOST} at most")
        owners: dict[str, int] = {}
        for index, uplink in enumerate(host.uplinks):
            yield from _twice((*at, index, "interface"), uplink.interface, owners, index)
            yield from _twice((*at, index, "gateway"), uplink.gateway, owners, index)
            yield from _probes((*at, index, "probes"), uplink)


def _twice(at: Path, value: str, owners: dict[str, int], index: int) -> Iterator[Found]:
    first = owners.setdefault(value, index)
    if first != index:
        yield (at, f"{value} is that of uplinks[{first}] already: both would die at once", "name another uplink's")


def _probes(at: Path, uplink: Uplink) -> Iterator[Found]:
    if set(uplink.probes) == {uplink.gateway}:
        says = "is the gateway alone, which answers while everything beyond it is dead"
        yield (at, says, "name addresses beyond it, best two of different owners: `[1.1.1.1, 9.9.9.9]`")
        return
    if len(set(uplink.probes)) < len(uplink.probes):
        yield (at, "names an address twice", "name each once")
    for probe in dict.fromkeys(uplink.probes):
        address = ip_address(probe)
        if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
            yield (at, f"{probe} is not beyond any router", "name addresses beyond the gateway")


__all__ = ["uplink_problems"]
