"""Hosts as nodes of the mesh: their names there, what they publish, and the settings of the steps `join` and `mesh`.

A host is reached at its own address until it has joined, by `join` alone, and by its name in the mesh from then on.
"""

import shlex
from dataclasses import dataclass

from planning.names import FRONT_PORT
from planning.placement import gateway_host, mesh_name
from stack_configs.schema.network import MESHED_PORT
from stack_configs.schema.stack import StackSpec

TAILSCALE = "https://controlplane.tailscale.com"
"""Tailscale's own control server, as `tailscale debug prefs` names it."""
RESOLVER = "100.100.100.100"
"""Where a node answers for names of the mesh, also to the containers on it.
Source: https://tailscale.com/docs/reference/quad100"""


def control_server(spec: StackSpec) -> str:
    """The address that nodes log in at. Raises ValueError where there is no mesh."""
    if spec.file.network.mesh is None:
        raise ValueError(f"{spec.stack} has no mesh")
    return spec.file.network.mesh.login_server or TAILSCALE


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a host's node publishes into the mesh."""

    what: str
    port: int
    """In the mesh."""
    to: int
    """On the host's loopback."""
    states_client: bool = False
    """Whether the client's address goes before each connection, by PROXY protocol 2."""

    @property
    def word(self) -> str:
        """As scripts/mesh.sh reads it: `9090`, or `8080:8302:2`."""
        if self.states_client:
            return f"{self.port}:{self.to}:2"
        return str(self.port) if self.port == self.to else f"{self.port}:{self.to}"


def published(host: str, spec: StackSpec) -> tuple[Published, ...]:
    """All that the host's node publishes, in the order in which tailscaled has it: of the ports as text."""

    def same(what: str, port: int) -> Published:
        return Published(what=what, port=port, to=port)

    see = spec.file.observability
    if host != gateway_host(spec):
        found = [same("engines and exporters", FRONT_PORT)]
    else:
        api = Published(what="API", port=spec.file.gateway.port, to=MESHED_PORT, states_client=True)
        found = [api, same("Prometheus", see.prometheus.port), same("Alertmanager", see.alertmanager.port)]
        found += [same("Grafana", see.grafana.port)] if see.grafana else []
    return tuple(sorted(found, key=lambda one: str(one.port)))


def join_words(host: str, spec: StackSpec) -> tuple[str, ...]:
    """The arguments of `join`: what makes a host join anew when it changes."""
    return (control_server(spec), mesh_name(host, spec))


def mesh_settings(host: str, spec: StackSpec) -> dict[str, str]:
    """Of the step `mesh`."""
    assert spec.file.network.mesh
    return {
        "NAME": host,
        "SSH": "true" if spec.file.network.mesh.ssh else "false",
        "PORTS": shlex.join(one.word for one in published(host, spec)),
    }


def mesh_summary(host: str, spec: StackSpec) -> str:
    """What a preview shows of the step `mesh`."""
    assert spec.host_versions
    pin = spec.host_versions.tailscale
    ports = ", ".join(f"{one.what} ({one.port})" for one in published(host, spec))
    return f"Tailscale {pin.version if pin else '?'}, held; publishes {ports}"


__all__ = [
    "RESOLVER",
    "control_server",
    "join_words",
    "mesh_name",
    "mesh_settings",
    "mesh_summary",
    "published",
]
