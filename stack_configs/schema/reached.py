"""How hosts over SSH are reached: at their own addresses or, where there is a mesh, by their names in it."""

from collections.abc import Mapping

from stack_configs.schema.hosts import Host, SshConnection
from stack_configs.schema.network import Network


def reached_by(name: str, host: Host, network: Network) -> SshConnection:
    """How everything but joining the mesh logs in to a host. Raises ValueError for this machine."""
    if not isinstance(host.connection, SshConnection):
        raise ValueError(f"{name} is this machine: it is not reached over SSH")
    if network.mesh is None:
        return host.connection
    return host.connection.model_copy(update={"address": f"{name}.{network.mesh.domain}", "jump": None})


def over_ssh(hosts: Mapping[str, Host], network: Network) -> dict[str, Host]:
    """The hosts over SSH, each with the connection that it is reached by."""
    return {
        name: host.model_copy(update={"connection": reached_by(name, host, network)})
        for name, host in hosts.items()
        if host.connection.kind == "ssh"
    }
