"""Who may listen on a host, and who may answer whom from outside, by the spec; what is otherwise is a finding. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Literal

from planning.gateway.front import plan_fronts
from planning.network.firewall import MESH_INTERFACE, WIREGUARD_PORT, Opening, openings
from planning.network.listeners import Inside, Ip, Listener, Protocol
from stack_configs.schema.hosts import SshConnection
from stack_configs.schema.stack import StackSpec

DHCP_CLIENT = (68, 546)
"""UDP, of IPv4 and IPv6."""
MESH_DAEMON = "tailscaled"
UDP_PORTS = (53, 123, 161, 500, 1900, 3478, 4500, 5353, WIREGUARD_PORT, 51820)
"""Asked from outside on every host: DNS, time, SNMP, IPsec, SSDP, STUN, mDNS, Tailscale, WireGuard."""

Answer = Literal["open", "refused", "silent"]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An address of a host as it looks from the vantage point: every TCP port, and the UDP ports that were asked."""

    address: Ip
    source: Ip
    """The vantage point's own, on the way there."""
    tcp_open: tuple[int, ...]
    tcp_refused: int
    """Ports of which the host said that nobody listens."""
    tcp_silent: int
    """Ports that gave no answer."""
    udp: Mapping[int, Answer]

    @property
    def translated(self) -> bool:
        """Whether the host sees another source: who has a private address himself reaches a public one through NAT."""
        return self.address.is_global and not self.source.is_global

    def open(self, protocol: Protocol) -> tuple[int, ...]:
        return self.tcp_open if protocol == "tcp" else tuple(p for p, said in self.udp.items() if said == "open")


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is scanned of a host."""

    target: str
    """An address, or a name that the vantage point knows."""
    network: str | None
    """Only from within this network: elsewhere a private address is another machine's."""
    udp: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What the spec doesn't allow."""

    protocol: Protocol
    port: int
    says: str
    """In one line: what, and what to do."""


def targets(host: str, spec: StackSpec, inside: Inside | None) -> tuple[Target, ...]:
    """What the vantage point scans: the address in the stack's file, and all that the host has past the mesh."""
    connection = _connection(host, spec)
    heard = {of.port for of in inside.listeners if of.protocol == "udp" and not _on_loopback(of)} if inside else set()
    udp = tuple(sorted({*UDP_PORTS, *heard}))
    found = [] if connection.jump else [Target(target=connection.address, network=None, udp=udp)]
    for ip in inside.outward() if inside else ():
        if str(ip) != connection.address:
            network = None if ip.is_global or inside is None else inside.networks[ip]
            found.append(Target(target=str(ip), network=network, udp=udp))
    return tuple(found)


def findings(
    host: str, spec: StackSpec, inside: Inside | None, seen: Sequence[Seen], vantage: str
) -> tuple[Finding, ...]:
    """Of a host over SSH. `inside`: None where it could not be asked. `vantage`: the vantage point's name."""
    undeclared = [of for of in inside.listeners if not _declared(of, host, spec, inside)] if inside else []
    found = [_undeclared(group, spec, seen, vantage) for group in _grouped(undeclared)]
    protocols: tuple[Protocol, ...] = ("tcp", "udp")
    for protocol in protocols:
        for port in sorted({port for one in seen for port in one.open(protocol)}):
            told = [of for of in undeclared if (of.protocol, of.port) == (protocol, port)]
            at = [
                one for one in seen if port in one.open(protocol) and not any(_covers(of, one.address) for of in told)
            ]
            wrong = [one.address for one in at if not _may_answer(protocol, port, one, host, spec, inside)]
            if wrong:
                says = _answers(protocol, port, wrong, inside, spec, vantage)
                found.append(Finding(protocol=protocol, port=port, says=says))
    return tuple(sorted(found, key=lambda one: (one.protocol, one.port)))


def findings_here(spec: StackSpec, inside: Inside) -> tuple[Finding, ...]:
    """Of a `local` host: only what the stack's own containers publish, since all else is its user's."""
    own = [of for of in inside.listeners if of.stack == spec.stack and not _on_loopback(of)]
    return tuple(_undeclared(group, spec, (), "") for group in _grouped(own))


def _declared(listener: Listener, host: str, spec: StackSpec, inside: Inside) -> bool:
    protocol, port, address = listener.protocol, listener.port, listener.address
    ssh = inside.ssh_port or _connection(host, spec).port
    if _on_loopback(listener) or (protocol, port) == ("tcp", ssh):
        return True
    if protocol == "udp" and port in DHCP_CLIENT:
        return True
    if listener.process == MESH_DAEMON and spec.file.network.mesh:
        # What it publishes is judged by the mesh's policy. For UDP it opens ports of its own choice as well.
        return protocol == "udp" or (address is not None and inside.addresses.get(address) == MESH_INTERFACE)
    if (protocol, str(address), port) in _fronts(host, spec):
        return True
    return any((of.protocol, of.port) == (protocol, port) for of in _openings(host, spec) if of.to is None)


def _may_answer(protocol: Protocol, port: int, seen: Seen, host: str, spec: StackSpec, inside: Inside | None) -> bool:
    """Whether the vantage point may get an answer."""
    if spec.file.network.firewall is None:
        there = _at(protocol, port, seen.address, inside)
        declared = bool(there) and inside is not None and all(_declared(of, host, spec, inside) for of in there)
        return (
            declared
            or (protocol == "tcp" and port in _ssh_ports(host, spec))
            or (protocol, str(seen.address), port) in _fronts(host, spec)
        )
    return any(
        (of.protocol, of.port) == (protocol, port)
        and of.to in (None, str(seen.address))
        and (of.sources is None or seen.translated or _within(seen.source, of.sources))
        for of in _openings(host, spec)
    )


def _within(source: Ip, networks: Iterable[str]) -> bool:
    return any(source in ip_network(network) for network in networks)


def _ssh_ports(host: str, spec: StackSpec) -> set[int]:
    """Of SSH servers of the spec at the host's address: behind a router, which hands ports on, there are several."""
    every = [of.connection for of in spec.file.hosts.values() if isinstance(of.connection, SshConnection)]
    return {of.port for of in every if of.address == _connection(host, spec).address}


def _connection(host: str, spec: StackSpec) -> SshConnection:
    connection = spec.file.hosts[host].connection
    assert isinstance(connection, SshConnection)
    return connection


def _fronts(host: str, spec: StackSpec) -> set[tuple[Protocol, str, int]]:
    """What the stack itself publishes past loopback."""
    ports = (port for front in plan_fronts(spec) if front.host == host for port in front.ports)
    return {("tcp", port.address, port.host) for port in ports if port.address != "127.0.0.1"}


def _openings(host: str, spec: StackSpec) -> tuple[Opening, ...]:
    return openings(host, spec) if spec.file.network.firewall else ()


def _on_loopback(listener: Listener) -> bool:
    return listener.interface == "lo" or (listener.address is not None and listener.address.is_loopback)


def _covers(listener: Listener, address: Ip) -> bool:
    own = listener.address
    return own is None or own == address or (own.is_unspecified and own.version == address.version)


def _at(protocol: Protocol, port: int, address: Ip, inside: Inside | None) -> list[Listener]:
    """Who listens there."""
    every = inside.listeners if inside else ()
    return [of for of in every if (of.protocol, of.port) == (protocol, port) and _covers(of, address)]


def _grouped(listeners: Iterable[Listener]) -> Iterator[list[Listener]]:
    """The same program's listeners on one port."""
    groups: dict[tuple[str, ...], list[Listener]] = {}
    for of in listeners:
        key = (of.protocol, str(of.port), of.process, of.unit, of.container)
        groups.setdefault(key, []).append(of)
    yield from groups.values()


def _undeclared(group: Sequence[Listener], spec: StackSpec, seen: Sequence[Seen], vantage: str) -> Finding:
    one = group[0]
    where = " and ".join(dict.fromkeys(_place(of) for of in group))
    reached = _reached(group, seen, vantage)
    if one.container and one.stack == spec.stack:
        says = f"{_who(one)} is published on {where}, which the plan has on loopback"
        remedy = f"`make up STACK={spec.stack}` makes it anew"
    elif one.container:
        says = f"{_who(one)} is published on {where}, and nobody declared it"
        remedy = "publish it on 127.0.0.1, stop it, or declare the port under network.firewall.allow"
    else:
        says = f"{_who(one)} listens on {where}, and nobody declared it"
        remedy = "stop it, bind it to loopback, or declare the port under network.firewall.allow"
    return Finding(protocol=one.protocol, port=one.port, says=f"{says}{reached}; {remedy}")


def _reached(group: Sequence[Listener], seen: Sequence[Seen], vantage: str) -> str:
    """How the vantage point found it."""
    protocol, port = group[0].protocol, group[0].port
    at = [one for one in seen if any(_covers(of, one.address) for of in group)]
    if opened := [str(one.address) for one in at if port in one.open(protocol)]:
        return f"; it answers {vantage} at {' and '.join(opened)}"
    if at and protocol == "tcp":
        return f"; {vantage} doesn't reach it"
    if at:
        return f"; it gave {vantage} no answer, which for UDP proves nothing"
    return ""


def _answers(
    protocol: Protocol, port: int, at: Sequence[Ip], inside: Inside | None, spec: StackSpec, vantage: str
) -> str:
    """Nobody undeclared listens, and yet somebody answers."""
    answers = f"answers {vantage} at {' and '.join(map(str, at))}"
    if there := [of for address in at for of in _at(protocol, port, address, inside)]:
        return (
            f"{_who(there[0])} {answers}, which network.firewall doesn't let in; `make up STACK={spec.stack}` applies "
            "it, or the vantage point belongs to the `sources` of an entry"
        )
    if inside is None:
        return f"somebody {answers}, which the spec doesn't allow; see who, once the host can be asked"
    return (
        f"somebody {answers}, and nothing on the host listens there: something before it does, such as a router that "
        "hands the port on"
    )


def _who(listener: Listener) -> str:
    if listener.container:
        return f"container {listener.container}"
    if not listener.process:
        return "the kernel, or a program whose name can't be read,"
    return f"{listener.process} ({listener.unit})" if listener.unit else listener.process


def _place(listener: Listener) -> str:
    address = listener.address
    if address is None:
        where = "every address"
    elif address.is_unspecified:
        where = f"every IPv{address.version} address"
    else:
        where = str(address)
    return f"{where} of {listener.interface}" if listener.interface else where


__all__ = ["UDP_PORTS", "Answer", "Finding", "Seen", "Target", "findings", "findings_here", "targets"]
