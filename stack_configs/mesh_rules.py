"""Rules of a mesh and its policy. Pure; `(path, what is wrong, what to write)` like those of stack_configs.rules."""

from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_network

from stack_configs import neighbours
from stack_configs.problems import Path
from stack_configs.schema.hosts import Host, SshConnection
from stack_configs.schema.network import Mesh

Found = tuple[Path, str, str]

AT = ("network", "mesh")
MESH_NETWORKS = (ip_network("100.64.0.0/10"), ip_network("fd7a:115c:a1e0::/48"))
"""https://tailscale.com/docs/concepts/tailscale-ip-addresses; headscale's `prefixes`."""


def mesh_problems(mesh: Mesh, hosts: Mapping[str, Host]) -> Iterator[Found]:
    """What is wrong with a stack's mesh by itself."""
    if mesh.control == "headscale" and mesh.login_server is None:
        says = "is missing: nodes must know which headscale to ask"
        yield ((*AT, "login_server"), says, "write the `server_url` of its config.yaml: `https://…`")
    if mesh.control == "tailscale" and mesh.login_server is not None:
        says = "is for a headscale; nodes of Tailscale know its address"
        yield ((*AT, "login_server"), says, "leave it out, or write `control: headscale`")
    for role, members in (("operators", mesh.operators), ("users", mesh.users)):
        for index, member in enumerate(members):
            yield from _member((*AT, role, index), member, mesh)
    for index, addresses in enumerate(mesh.allow_from):
        asked = ip_network(addresses)
        if not any(asked.version == of.version and asked.subnet_of(of) for of in MESH_NETWORKS):  # type: ignore[arg-type]
            says = f"{addresses} is outside the mesh: no node has such an address, so nobody could ask"
            write = f"write addresses within {' or '.join(map(str, MESH_NETWORKS))}, as `tailscale status` shows them"
            yield ((*AT, "allow_from", index), says, write)
    if hosts and all(host.connection.kind == "local" for host in hosts.values()):
        says = "has no host to join it: this machine is prepared by nobody"
        yield (AT, says, "give it a `kind: ssh` connection, or leave `mesh` out")
    for name, host in hosts.items():
        if host.lan_address:
            says = "would have the host's front listen in that network too, where nothing of a stack in a mesh asks it"
            yield (("hosts", name, "lan_address"), says, "leave it out")
        if not isinstance(host.connection, SshConnection):
            continue
        at = ("hosts", name, "connection")
        servers: list[tuple[Path, str]] = [((*at, "address"), host.connection.address)]
        if host.connection.jump:
            servers.append(((*at, "jump", "address"), host.connection.jump.address))
        for path, address in servers:
            if _inside(address, mesh):
                says = f"{address} is inside the mesh, and a host joins it by this address: nothing would answer yet"
                yield (path, says, "write the host's name or address without the mesh")


def _member(at: Path, member: str, mesh: Mesh) -> Iterator[Found]:
    if member.startswith("group:"):
        says = f"{member} would be a group that nobody defines: the policy is made of the stacks' files alone"
        yield (at, says, "name the people in it")
    elif mesh.control == "tailscale" and member.endswith("@"):
        yield (
            at,
            f"{member} is a user of a headscale; Tailscale's are whole addresses",
            f"write `{member}example.org`",
        )


def _inside(address: str, mesh: Mesh) -> bool:
    try:
        ip = ip_address(address)
    except ValueError:
        return address.lower().rstrip(".").endswith(f".{mesh.domain}")
    return any(ip in network for network in MESH_NETWORKS if network.version == ip.version)


def neighbour_problems(mesh: Mesh, hosts: Mapping[str, Host], found: neighbours.Found) -> Iterator[Found]:
    """What is wrong between stacks of one mesh."""
    for stack, other in found.related.items():
        file = f"stack_configs/{stack}.yaml"
        if other.control != mesh.control or other.login_server != mesh.login_server:
            at, here, there = ("login_server", mesh.login_server, other.login_server)
            if other.control != mesh.control:
                at, here, there = ("control", mesh.control, other.control)
            says = f"is {here} here and {there} in {file}, and both have the domain {mesh.domain}"
            yield ((*AT, at), says, "write the same control plane in both, or the domain of each one's own mesh")
        else:
            says = f"is {mesh.domain} here and {other.domain} in {file}, and a headscale has one"
            yield ((*AT, "domain"), says, "write the `dns.base_domain` of its config.yaml in both")
    for stack, neighbour in found.neighbours.items():
        file = f"stack_configs/{stack}.yaml"
        theirs = neighbour.network.mesh
        if mesh.policy == "owned" and theirs and theirs.policy == "owned":
            says = f"is owned by {file} too: each would replace what the other wrote"
            yield ((*AT, "policy"), says, "write `policy: checked` in one of them")
        for name in hosts:
            if name in neighbour.hosts:
                says = f"is a host of {file} too: both would be {name}.{mesh.domain}"
                yield (("hosts", name), says, "give it another name")
    if mesh.policy == "owned":
        for stack, why in found.unread.items():
            says = f"can't be composed: stack_configs/{stack}.yaml may have a part in it, and can't be read: {why}"
            yield ((*AT, "policy"), says, "mend that file: without it, its hosts would be cut off")
