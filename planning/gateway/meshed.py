"""nginx's server for requests over the mesh: what the node of the gateway's host hands over, and nothing else.

The node connects from the host's loopback to the port that Docker publishes there. Whether docker-proxy or address
translation hands it on, nginx sees the host's own address in Docker's network: the container's default gateway. Before
each connection the node states the client's address in the mesh (PROXY protocol, version 2). Containers reach the port
too and could state any address; so only the host is believed, whose address nginx learns at its start.
"""

from dataclasses import dataclass

from planning.containers import FILES_DIR
from stack_configs.schema.network import MESHED_PORT
from stack_configs.schema.stack import StackSpec

HOST_FILE = "/tmp/host.conf"
CERTIFICATE, KEY, CLIENT_CA = "mesh.crt", "mesh.key", "mesh-clients.crt"
"""Files in nginx's container."""

TRUST_HOST = f"""\
while read -r _ to by _; do
    [ "$to" != 00000000 ] || {{
        high=${{by#????}} low=${{by%????}}
        printf 'set_real_ip_from %d.%d.%d.%d;\\n' "0x${{high#??}}" "0x${{high%??}}" "0x${{low#??}}" "0x${{low%??}}"
    }}
done </proc/net/route >{HOST_FILE}"""
"""Shell. Default gateways stand in /proc/net/route as little-endian hex: 010012AC is 172.18.0.1."""


@dataclass(frozen=True, kw_only=True)
class Meshed:
    """What nginx has to know of the mesh."""

    allow_from: tuple[str, ...]
    """Networks; empty is all."""
    certificate: str | None
    """PEM, with its chain; None: plain HTTP."""
    client_ca: str | None
    """PEM of those who certify clients."""

    @property
    def files(self) -> dict[str, str]:
        """Certificates in the container, by name."""
        given = {CERTIFICATE: self.certificate, CLIENT_CA: self.client_ca}
        return {name: text for name, text in given.items() if text}


def meshed(spec: StackSpec) -> Meshed | None:
    """None where the stack has no mesh."""
    mesh, found = spec.file.network.mesh, spec.mesh_certificates
    if mesh is None:
        return None
    return Meshed(
        allow_from=mesh.allow_from,
        certificate=found.certificate if found else None,
        client_ca=found.client_ca if found else None,
    )


def meshed_conf(mesh: Meshed, api: str) -> str:
    """The server. `api`: all of the API's own server but its listener; `mesh` is a log format by then."""
    allowed = [f"allow {addresses};" for addresses in mesh.allow_from]
    rules = [*(_TLS if mesh.certificate else ()), *allowed, *(["deny all;"] if allowed else [])]
    return f"""\
    server {{
        listen {MESHED_PORT}{" ssl" if mesh.certificate else ""} proxy_protocol;
        access_log /dev/stdout mesh;
        real_ip_header proxy_protocol;
        include {HOST_FILE};
{"".join(f"        {rule}{chr(10)}" for rule in rules)}{api}
    }}
"""


_TLS = (
    f"ssl_certificate {FILES_DIR}/{CERTIFICATE};",
    f"ssl_certificate_key {FILES_DIR}/{KEY};",
    "ssl_protocols TLSv1.2 TLSv1.3;",
    f"ssl_client_certificate {FILES_DIR}/{CLIENT_CA};",
    "ssl_verify_client on;",
)
