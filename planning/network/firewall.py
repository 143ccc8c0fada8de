"""What hosts let in: the rules of each host's own nftables table. Pure.

One table `inet inference_stack`, for IPv4 and IPv6, beside whatever tables Docker, Tailscale and the host itself have:
a drop in any of them is final. Connections to containers' published ports never meet an input chain, since Docker
translates their addresses first and forwards them; the forward chain judges those by the port that was asked for.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Literal

from planning.names import FRONT_PORT
from planning.placement import gateway_host
from stack_configs.schema.hosts import SshConnection
from stack_configs.schema.stack import StackSpec

MESH_INTERFACE = "tailscale0"
WIREGUARD_PORT = 41641
"""UDP, of tailscaled: where other nodes come in directly. https://tailscale.com/kb/1082/firewall-ports"""
DNS_PORT = 53

DOCKER_BRIDGES = ("docker0", "br-*")
"""Docker's interfaces: of its default network, and of all others, which it names by the network's ID."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """New connections that a host takes from outside, whether a process listens or a container's published port."""

    port: int
    protocol: Literal["tcp", "udp"] = "tcp"
    sources: tuple[str, ...] | None
    """Networks; None is anywhere."""
    to: str | None = None
    """Only to this address of the host."""
    why: str
    """For people: `SSH`, `WireGuard`."""


def openings(name: str, spec: StackSpec) -> tuple[Opening, ...]:
    """All that the host's firewall leaves open besides the mesh, whose own policy judges what comes over it.

    Raises ValueError where the stack has no firewall, or the host is no host over SSH.
    """
    network, hosts = spec.file.network, spec.file.hosts
    host = hosts[name]
    if network.firewall is None or not isinstance(host.connection, SshConnection):
        raise ValueError(f"{name} has no firewall of this stack's")
    found = []
    if network.mesh:
        found.append(Opening(port=WIREGUARD_PORT, protocol="udp", sources=None, why="WireGuard"))
    elif name != gateway_host(spec) and host.lan_address and (gateway := hosts[gateway_host(spec)].lan_address):
        found.append(Opening(port=FRONT_PORT, sources=(gateway,), to=host.lan_address, why="the gateway"))
    for allowed in network.firewall.allow:
        if not allowed.hosts or name in allowed.hosts:
            ssh = (allowed.protocol, allowed.port) == ("tcp", host.connection.port)
            why = "SSH" if ssh else f"{allowed.protocol} {allowed.port}"
            found.append(
                Opening(port=allowed.port, protocol=allowed.protocol, sources=allowed.sources, to=None, why=why)
            )
    return tuple(found)


def summary(name: str, spec: StackSpec) -> str:
    """What a preview shows: `SSH from 192.168.40.0/24; mesh; else nothing`."""
    parts = [f"{of.why} from {', '.join(of.sources)}" for of in openings(name, spec) if of.sources]
    if spec.file.network.mesh:
        parts.append("mesh")
    return "; ".join([*parts, "else nothing"])


def ruleset(name: str, spec: StackSpec) -> str:
    """What `nft -f` reads: it replaces the table as a whole, in one transaction."""
    mesh = spec.file.network.mesh is not None
    allowed = [rule for opening in openings(name, spec) for rule in _accepts(opening)]
    return f"""\
# Written by inference-stack.
table inet inference_stack
delete table inet inference_stack
table inet inference_stack {{
{_chain("input", "type filter hook input priority filter; policy drop;", _input(mesh))}
{_chain("forward", "type filter hook forward priority filter; policy accept;", _forward(mesh))}
{_chain("allowed", "", allowed)}}}
"""


def _input(mesh: bool) -> Iterator[str]:
    yield 'iifname "lo" accept'
    yield "ct state established,related accept"
    # What IP itself needs: https://www.rfc-editor.org/rfc/rfc4890 section 4.4
    yield "icmp type { echo-request, destination-unreachable, time-exceeded, parameter-problem } accept"
    yield (
        "icmpv6 type { echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem, "
        "nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query, mld-listener-report, "
        "mld2-listener-report } accept"
    )
    # Answers of DHCP servers come from other addresses than were asked.
    yield "udp sport 67 udp dport 68 accept"
    yield "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept"
    if mesh:
        yield f'iifname "{MESH_INTERFACE}" accept'
    # Containers may ask a DNS server of the host's, which is theirs where resolv.conf names it.
    for bridge in DOCKER_BRIDGES:
        yield f'iifname "{bridge}" meta l4proto {{ tcp, udp }} th dport {DNS_PORT} accept'
    yield "jump allowed"
    yield 'counter comment "dropped"'


def _forward(mesh: bool) -> Iterator[str]:
    """Into containers; what else the host forwards is none of ours."""
    yield "ct state established,related accept"
    for inside in (*DOCKER_BRIDGES, *([MESH_INTERFACE] if mesh else [])):
        yield f'iifname "{inside}" accept'
    yield "ct status dnat jump allowed"
    yield 'ct status dnat counter drop comment "published, not allowed"'
    # Neighbours on the same wire could route to containers past what these publish.
    for bridge in DOCKER_BRIDGES:
        yield f'oifname "{bridge}" counter drop comment "not published"'


def _accepts(opening: Opening) -> Iterator[str]:
    """Rules that hold before and after Docker's translation: `ct original` is what the client asked for."""
    parts = [f"ct original ip daddr {opening.to}"] if opening.to else []
    parts += [f"meta l4proto {opening.protocol}", f"ct original proto-dst {opening.port}", "accept"]
    for source in _matches(opening.sources):
        yield " ".join([*source, *parts])


def _matches(sources: Sequence[str] | None) -> Iterator[list[str]]:
    """One match for each version of IP."""
    if sources is None:
        yield []
        return
    networks = [ip_network(source) for source in sources]
    v4 = collapse_addresses(network for network in networks if isinstance(network, IPv4Network))
    v6 = collapse_addresses(network for network in networks if isinstance(network, IPv6Network))
    yield from _match("ip", "ipv4", list(v4))
    yield from _match("ip6", "ipv6", list(v6))


def _match(key: str, protocol: str, networks: Sequence[IPv4Network | IPv6Network]) -> Iterator[list[str]]:
    if any(network.prefixlen == 0 for network in networks):
        yield [f"meta nfproto {protocol}"]
    elif networks:
        yield [f"{key} saddr {{ {', '.join(map(str, networks))} }}"]


def _chain(name: str, hook: str, rules: Iterable[str]) -> str:
    return "".join([f"  chain {name} {{\n", *(f"    {line}\n" for line in (hook, *rules) if line), "  }\n"])


__all__ = ["Opening", "openings", "ruleset", "summary"]
