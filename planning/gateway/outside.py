"""nginx's servers for requests from outside: what a tunnel hands over, and nothing else.

They listen on a Unix socket in a volume that only nginx and the tunnel's connector have. So no address needs to be
trusted: whoever can connect is the connector, and the client's address that it states in a header holds. On every other
listener that header is what any client could write, and nobody looks at it.
"""

from dataclasses import dataclass

from planning.names import CONNECTOR_METRICS_PORT, CONNECTOR_SERVICE, GRAFANA_PORT, OUTSIDE_METRICS_PORT
from stack_configs.schema.network import Hostname

SOCKET_DIR = "/var/tmp"
"""In nginx. The image has it with mode 1777, which an empty volume takes over: nginx is not root."""
SOCKET = "outside.sock"


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What nginx has to know of a way in. Nothing here belongs to one provider."""

    hostnames: tuple[tuple[str, Hostname], ...]
    client_address: str
    """The header in which the connector states the client's address."""


def outside_conf(outside: Outside, api: str) -> str:
    """The servers. `api`: all of the API's own server but its listener; `outside` is a log format by then."""
    servers = [_server(name, host, api) for name, host in outside.hostnames]
    return f"""\
    real_ip_header {outside.client_address};
    set_real_ip_from unix:;

    map $http_upgrade $upgrade {{
        default upgrade;
        "" "";
    }}

    server {{
        listen unix:{SOCKET_DIR}/{SOCKET} default_server;
        access_log /dev/stdout outside;
        return 404;
    }}

{chr(10).join(servers)}
    server {{
        listen {OUTSIDE_METRICS_PORT};
        access_log off;
        set $connector {CONNECTOR_SERVICE};
        location = /metrics {{
            proxy_pass http://$connector:{CONNECTOR_METRICS_PORT};
        }}
        location / {{
            return 404;
        }}
    }}
"""


def _server(name: str, host: Hostname, api: str) -> str:
    allowed = [f"allow {addresses};" for addresses in host.allow_from]
    rules = "\n".join(f"        {rule}" for rule in (*allowed, "deny all;")) + "\n" if allowed else ""
    return f"""\
    server {{
        listen unix:{SOCKET_DIR}/{SOCKET};
        server_name {name};
        access_log /dev/stdout outside;
{rules}{api if host.to == "api" else _GRAFANA}
    }}
"""


_GRAFANA = f"""\
        set $grafana grafana;
        location / {{
            proxy_pass http://$grafana:{GRAFANA_PORT};
            proxy_http_version 1.1;
            # Grafana compares it with what the browser says it is on.
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $upgrade;
        }}"""
