"""How ssh reaches the hosts of a stack: one configuration for Docker's traffic and for commands of ours.

A host is called by its name in the spec, so neither Docker's address of it nor anything in Pulumi's state changes with
the address that it is reached by. Nothing of ~/.ssh/config and ~/.ssh/known_hosts counts.
"""

from collections.abc import Iterable
from pathlib import PurePath

from planning.hosts.plan import HostPlan
from stack_configs.schema.hosts import SshServer

CONNECT_S = 10
"""For TCP, and for the SSH handshake: ssh's ConnectTimeout holds for a server that accepts and stays silent too."""
SILENCE_S = 15
"""How long an established connection may be silent before it counts as cut."""
KEEP_S = 600
"""How long a connection stays open for the next command, of this run or another: each one of Docker's client is one."""


def ssh_files(hosts: Iterable[HostPlan], folder: PurePath) -> dict[str, str]:
    """File name → text of what lies in `folder`: ssh's configuration, and the hosts' pinned keys.

    `folder` may be relative to where ssh is started. It also holds the sockets of open connections.
    """
    config, known = "", ""
    for host in hosts:
        connection = host.connection
        extra = {"ControlMaster": "auto", "ControlPath": folder / "%C", "ControlPersist": KEEP_S}
        known += f"{host.name} {connection.host_key}\n"
        if connection.jump:
            jump = f"jump-to-{host.name}"
            extra["ProxyCommand"] = f"ssh -F {folder / 'config'} -W [%h]:%p {jump}"
            known += f"{jump} {connection.jump.host_key}\n"
            config += section(jump, connection.jump, str(folder / "known_hosts"))
        config += section(host.name, connection, str(folder / "known_hosts"), **extra)
    return {"config": config, "known_hosts": known}


def section(alias: str, server: SshServer, known: str, **extra: object) -> str:
    """The lines for one server. `known`: the file of pinned keys, where the server's is under `alias`."""
    settings = {
        "HostName": server.address,
        "Port": server.port,
        "User": server.user,
        "HostKeyAlias": alias,
        "UserKnownHostsFile": known,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "BatchMode": "yes",
        "PreferredAuthentications": "publickey",
        "ConnectTimeout": CONNECT_S,
        "ServerAliveInterval": SILENCE_S // 3,
        "ServerAliveCountMax": 3,
        "LogLevel": "ERROR",
        **extra,
    }
    return f"Host {alias}\n" + "".join(f"  {key} {value}\n" for key, value in settings.items())


__all__ = ["section", "ssh_files"]
