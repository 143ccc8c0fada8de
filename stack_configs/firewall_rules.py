"""Rules of the hosts' firewalls. Pure; `(path, what is wrong, what to write)` like those of stack_configs.rules."""

from collections.abc import Iterator, Mapping, Set
from ipaddress import ip_network

from stack_configs.problems import Path
from stack_configs.schema.hosts import Host, SshConnection
from stack_configs.schema.network import Allowed, Network

Found = tuple[Path, str, str]

AT: Path = ("network", "firewall")
EXAMPLE = "{port: 22, sources: [192.168.40.0/24]}"


def firewall_problems(network: Network, hosts: Mapping[str, Host], broken: Set[Path]) -> Iterator[Found]:
    """What would lock everybody out, or isn't what somebody meant. `broken`: parts of the file that can't be read."""
    if network.firewall is None:
        return
    unread = {str(path[1]) for path in broken if path[0] == "hosts" and len(path) > 1}
    reached = {name: host.connection for name, host in hosts.items() if isinstance(host.connection, SshConnection)}
    if hosts and not reached and not unread:
        says = "has no host to be on: this machine's own firewall is its owner's"
        yield (AT, says, "leave `firewall` out, or give hosts a `kind: ssh` connection")
        return
    seen: dict[tuple[str, str, int, str], int] = {}
    for index, allowed in enumerate(network.firewall.allow):
        at: Path = (*AT, "allow", index)
        yield from _hosts(at, allowed, set(hosts) | unread, reached)
        yield from _twice(at, index, allowed, reached, seen)
        if any(_is_ssh(allowed, name, connection) for name, connection in reached.items()) and _everywhere(allowed):
            says = "lets the whole internet try to log in to hosts over SSH"
            yield ((*at, "sources"), says, "name the networks that you log in from, or use a mesh")
    if network.mesh:
        return
    shut = [
        name
        for name, connection in reached.items()
        if not any(_is_ssh(allowed, name, connection) for allowed in network.firewall.allow)
    ]
    if shut:
        ports = ", ".join(sorted({str(reached[name].port) for name in shut}))
        says = f"leaves out SSH (port {ports}) of {', '.join(shut)}, and there is no mesh: nobody could log in any more"
        yield ((*AT, "allow"), says, f"add the networks that you log in from, such as `{EXAMPLE}`")


def _hosts(at: Path, allowed: Allowed, known: Set[str], reached: Mapping[str, SshConnection]) -> Iterator[Found]:
    for number, name in enumerate(allowed.hosts):
        if name not in known:
            yield ((*at, "hosts", number), f"there is no host {name}", f"write one of: {', '.join(reached) or 'none'}")


def _twice(
    at: Path,
    index: int,
    allowed: Allowed,
    reached: Mapping[str, SshConnection],
    seen: dict[tuple[str, str, int, str], int],
) -> Iterator[Found]:
    """Nothing else happens, but the next reader takes one of two lines away and thinks that the port is shut."""
    before = set()
    for name in allowed.hosts or reached:
        for source in allowed.sources:
            key = (name, allowed.protocol, allowed.port, source)
            before.add(seen.get(key))
            seen.setdefault(key, index)
    first = min((number for number in before if number is not None and number != index), default=None)
    if first is not None:
        says = f"lets in again what allow[{first}] lets in: {allowed.protocol} {allowed.port}, from the same network"
        yield (at, says, "keep one")


def _is_ssh(allowed: Allowed, name: str, connection: SshConnection) -> bool:
    """Whether it lets SSH into the host."""
    there = not allowed.hosts or name in allowed.hosts
    return there and (allowed.protocol, allowed.port) == ("tcp", connection.port)


def _everywhere(allowed: Allowed) -> bool:
    return any(ip_network(source).prefixlen == 0 for source in allowed.sources)


__all__ = ["firewall_problems"]
