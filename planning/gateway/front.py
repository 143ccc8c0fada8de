"""A host's front: the one way from the gateway's host to the engines and exporters of another host.

It listens on the host's address in the local network, where it answers the gateway's host alone, and on loopback, from
where a mesh can publish it. Engines and exporters themselves publish nothing.
"""

from planning.containers import ContainerPlan, PublishedPort
from planning.gateway.nginx import nginx_container
from planning.gateway.nginx_conf import ALIVE_PORT, BEGINNING
from planning.names import DCGM_EXPORTER_PORT, FRONT_PORT, NODE_EXPORTER_PORT, VLLM_PORT
from planning.observability.targets import watches_gpus
from planning.placement import gateway_host, named_on, ready_hosts
from stack_configs.schema.stack import StackSpec

LOOPBACK_PORT = FRONT_PORT + 1
"""Inside the container: requests that come by the host's loopback."""

ENGINES = "[a-z][a-z0-9-]*-[0-9]+"
"""Replicas by their service names: any, so that a new model needs no other front."""
PATHS = ("v1/chat/completions", "v1/completions", "v1/embeddings", "v1/models", "health", "metrics")
"""What the gateway and Prometheus ask an engine for; an engine has more, and none of it is let through."""


NOBODY = "192.0.2.1"
"""An address for documentation, from which nothing comes: for a gateway's host without an address."""


def plan_fronts(spec: StackSpec) -> tuple[ContainerPlan, ...]:
    """One front for every host but the gateway's."""
    return tuple(_front(host, spec) for host in ready_hosts(spec) if host != gateway_host(spec))


def _front(host: str, spec: StackSpec) -> ContainerPlan:
    address = spec.file.hosts[host].lan_address
    ports = [PublishedPort(container=LOOPBACK_PORT, host=FRONT_PORT)]
    if address:
        ports.append(PublishedPort(container=FRONT_PORT, host=FRONT_PORT, address=address))
    return nginx_container(named_on("front", host, spec), host, front_conf(host, spec), tuple(ports), spec)


def front_conf(host: str, spec: StackSpec) -> str:
    """nginx.conf of the host's front."""
    gateway = spec.file.hosts[gateway_host(spec)].lan_address
    read_timeout = spec.file.gateway.request_timeout_s + 5
    routes = [_exporter("node", f"{named_on('node-exporter', host, spec)}:{NODE_EXPORTER_PORT}")]
    if watches_gpus(spec, host):
        routes.append(_exporter("dcgm", f"{named_on('dcgm-exporter', host, spec)}:{DCGM_EXPORTER_PORT}"))
    return f"""\
{BEGINNING}    access_log off;  # the gateway logs every request
    server_tokens off;
    merge_slashes off;

    # Engines are replaced under their names: ask Docker's DNS anew, each second at most.
    resolver 127.0.0.11 valid=1s ipv6=off;
    resolver_timeout 3s;

    # By the local network only the gateway's host is answered.
    geo $from {{
        default 0;
        {gateway or NOBODY} 1;
    }}
    map $server_port:$from $welcome {{
        default 0;
        "{FRONT_PORT}:1" 1;
        ~^{LOOPBACK_PORT}: 1;
    }}

    server {{
        listen 127.0.0.1:{ALIVE_PORT};
        return 200;
    }}

    server {{
        listen {FRONT_PORT};
        listen {LOOPBACK_PORT};
        client_max_body_size {spec.file.gateway.max_body_mib}m;
        client_body_buffer_size 1m;
        send_timeout {read_timeout}s;

        if ($welcome = 0) {{ return 403; }}

        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_buffering off;
        proxy_connect_timeout 2s;
        proxy_read_timeout {read_timeout}s;

        # An engine that has just gone isn't one that takes too long: LiteLLM asks another replica after 502 alone.
        error_page 504 = @late;
        location @late {{
            if ($upstream_connect_time = "-") {{ return 502; }}
            return 504;
        }}

        location ~ "^/(?<engine>{ENGINES})/(?<path>{"|".join(PATHS)})$" {{
            proxy_pass http://$engine:{VLLM_PORT}/$path;
        }}
{chr(10).join(routes)}
        location / {{
            return 404;
        }}
    }}
}}
"""


def _exporter(path: str, target: str) -> str:
    return f"""\
        location = /{path}/metrics {{
            set ${path} {target};
            proxy_pass http://${path}/metrics;
        }}"""
