"""From what a host answered to scripts/listeners.sh to who listens on it, and at which addresses. Pure."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface
from pathlib import Path
from typing import Any, Literal

from planning.network.firewall import MESH_INTERFACE

SCRIPT = Path(__file__).parents[1] / "hosts" / "scripts" / "listeners.sh"
MARKER = "inference-stack listeners 1"

Ip = IPv4Address | IPv6Address
Protocol = Literal["tcp", "udp"]

PROXY = "docker-proxy"
"""Docker's own listener for a published port; there is none where its `userland-proxy` is off."""
OF_DOCKER = re.compile(r"docker0|docker_gwbridge|br-[0-9a-f]{12}|veth.*")
"""Interfaces that lead to containers of the host alone."""
SOCKET = re.compile(r"(tcp|udp)\s+\S+\s+\d+\s+\d+\s+(\S+):(\d+)\s+\S+\s*(.*)")
PROCESS = re.compile(r'\("([^"]*)",pid=(\d+)')


class BrokenListError(Exception):
    """The host's answer has no beginning or no end."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A port that somebody takes packets on."""

    protocol: Protocol
    address: Ip | None
    """None: every address of the host, IPv4 and IPv6. `0.0.0.0` and `::` are every one of their version."""
    port: int
    interface: str = ""
    """The only one, if it is bound to one."""
    process: str = ""
    """Empty: no program's, as of the kernel, or nobody may know."""
    unit: str = ""
    """systemd's."""
    container: str = ""
    """Docker publishes the port for it."""
    stack: str = ""
    """The stack that the container is of."""


@dataclass(frozen=True, kw_only=True)
class Inside:
    """A host as seen from inside."""

    addresses: dict[Ip, str]
    """Every address → its interface."""
    networks: dict[Ip, str]
    """Every address → the network that it is in."""
    listeners: tuple[Listener, ...]
    ssh_port: int | None = None
    """On which the host took the connection that asked."""
    problems: tuple[str, ...] = ()
    """What could not be read."""

    def outward(self) -> tuple[Ip, ...]:
        """Addresses that others may reach past the mesh: not loopback, Docker's networks, a link's own."""
        return tuple(
            ip
            for ip, interface in self.addresses.items()
            if not (ip.is_loopback or ip.is_link_local or interface == MESH_INTERFACE or OF_DOCKER.fullmatch(interface))
        )


def read_listeners(text: str) -> Inside:
    """Raises BrokenListError."""
    _, marked, rest = text.partition(f"{MARKER}\n")
    rows = [row.partition("\t") for row in rest.splitlines()]
    if not marked or ("end", "", "") not in rows:
        raise BrokenListError("its answer is cut off; run it again")

    def of(kind: str) -> list[str]:
        return [value for found, _, value in rows if found == kind]

    problems = of("problem")
    addresses, networks = _addresses(of("address"), problems)
    units = {pid: unit for pid, unit in (row.split(None, 1) for row in of("unit")) if unit.strip() != "-"}
    listeners = [*_sockets(of("socket"), units, problems)]
    if of("docker"):
        published = [*_published(of("container"), problems)]
        told = {(one.protocol, one.port) for one in published}
        # A proxy of another Docker, whose containers this one doesn't know, is a listener like any other.
        listeners = [one for one in listeners if one.process != PROXY or (one.protocol, one.port) not in told]
        listeners += published
    ssh = next(iter(of("ssh")), "").split()
    return Inside(
        addresses=addresses,
        networks=networks,
        listeners=tuple(dict.fromkeys(listeners)),
        ssh_port=int(ssh[3]) if len(ssh) == 4 else None,
        problems=tuple(problems),
    )


def _addresses(lines: Sequence[str], problems: list[str]) -> tuple[dict[Ip, str], dict[Ip, str]]:
    try:
        interfaces = json.loads("".join(lines) or "[]")
    except ValueError:
        problems.append("ip: its answer can't be read")
        interfaces = []
    addresses: dict[Ip, str] = {}
    networks: dict[Ip, str] = {}
    for interface in interfaces:
        for row in interface.get("addr_info", ()):
            if "local" in row:
                ip = ip_address(row["local"])
                addresses[ip] = interface["ifname"]
                networks[ip] = str(ip_interface(f"{ip}/{row['prefixlen']}").network)
    return addresses, networks


def _sockets(lines: Sequence[str], units: dict[str, str], problems: list[str]) -> Iterator[Listener]:
    for line in lines:
        match = SOCKET.match(line)
        if match is None:
            problems.append(f"ss: this line can't be read: {line[:100]}")
            continue
        protocol, where, port, users = match.groups()
        text, _, interface = where.replace("[", "").replace("]", "").partition("%")
        process = PROCESS.search(users)
        yield Listener(
            protocol="tcp" if protocol == "tcp" else "udp",
            address=None if text == "*" else ip_address(text),
            port=int(port),
            interface=interface,
            process=process[1] if process else "",
            unit=units.get(process[2], "").strip() if process else "",
        )


def _published(lines: Sequence[str], problems: list[str]) -> Iterator[Listener]:
    for line in lines:
        try:
            container: dict[str, Any] = json.loads(line)
        except ValueError:
            problems.append(f"docker: this line can't be read: {line[:100]}")
            continue
        for target, bindings in (container.get("ports") or {}).items():
            for binding in bindings or ():
                yield Listener(
                    protocol="udp" if target.endswith("/udp") else "tcp",
                    address=ip_address(binding["HostIp"]) if binding["HostIp"] else None,
                    port=int(binding["HostPort"]),
                    container=container["name"].lstrip("/"),
                    stack=container.get("stack") or "",
                )


__all__ = ["SCRIPT", "BrokenListError", "Inside", "Ip", "Listener", "Protocol", "read_listeners"]
