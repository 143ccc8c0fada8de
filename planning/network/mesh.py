"""Hosts as nodes of the mesh: their names there, what they publish, and the settings of the steps `join` and `mesh`.

A host is reached at its own address until it has joined, by `join` alone, and by its name in the mesh from then on.
"""

import shlex
from collections.abc import Mapping

from planning.names import FRONT_PORT
from planning.placement import gateway_host, mesh_name
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


def published(host: str, spec: StackSpec) -> Mapping[int, str]:
    """Ports on the host's loopback that its node publishes into the mesh → what listens there."""
    if host != gateway_host(spec):
        return {FRONT_PORT: "engines and exporters"}
    see = spec.file.observability
    found = {spec.file.gateway.port: "API", see.prometheus.port: "Prometheus", see.alertmanager.port: "Alertmanager"}
    if see.grafana:
        found[see.grafana.port] = "Grafana"
    return found


def join_words(host: str, spec: StackSpec) -> tuple[str, ...]:
    """The arguments of `join`: what makes a host join anew when it changes."""
    return (control_server(spec), mesh_name(host, spec))


def mesh_settings(host: str, spec: StackSpec) -> dict[str, str]:
    """Of the step `mesh`."""
    assert spec.file.network.mesh
    return {
        "NAME": host,
        "SSH": "true" if spec.file.network.mesh.ssh else "false",
        "PORTS": shlex.join(str(port) for port in sorted(published(host, spec))),
    }


def mesh_summary(host: str, spec: StackSpec) -> str:
    """What a preview shows of the step `mesh`."""
    assert spec.host_versions
    pin = spec.host_versions.tailscale
    ports = ", ".join(f"{what} ({port})" for port, what in sorted(published(host, spec).items()))
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
