"""A Cloudflare tunnel: what is made at Cloudflare, and the connector beside nginx.

The connector has a network of its own, from which it can dial out; of the stack it reaches nginx alone. So even who
changes the tunnel's rules at Cloudflare finds no engine and no page of the monitoring behind it.
"""

from planning.containers import FILES_DIR, ContainerPlan, Health, VolumeMount
from planning.gateway.outside import SOCKET, Outside
from planning.names import CONNECTOR_METRICS_PORT, CONNECTOR_SERVICE, OUTSIDE_VOLUME
from planning.network.plan import Application, IngressPlan, Rule
from planning.placement import gateway_host
from stack_configs.schema.network import Ingress
from stack_configs.schema.stack import StackSpec

CLIENT_ADDRESS = "CF-Connecting-IP"
"""Set by Cloudflare's edge, over whatever a client sent.
Source: https://developers.cloudflare.com/fundamentals/reference/http-headers/#cf-connecting-ip"""

TOKEN_FILE = "token"
SOCKET_DIR = "/run/outside"
"""In the connector."""
GRACE_S = 30
"""How long running requests may go on after SIGTERM; cloudflared's own default of --grace-period."""


def outside(spec: StackSpec) -> Outside | None:
    """What nginx lets in from the spec's tunnel; None without one."""
    ingress = spec.file.network.ingress
    return Outside(hostnames=tuple(ingress.hostnames.items()), client_address=CLIENT_ADDRESS) if ingress else None


def plan_ingress(spec: StackSpec) -> IngressPlan | None:
    """The spec's tunnel; None without one, and while the gateway's host waits."""
    ingress = spec.file.network.ingress
    if ingress is None or gateway_host(spec) in spec.waiting:
        return None
    applications = _applications(ingress)
    behind_access = {application.hostname for application in applications}
    return IngressPlan(
        tunnel=f"inference-{spec.stack}",
        account_id=ingress.account_id,
        zone_id=ingress.zone.id,
        team=ingress.team,
        rules=tuple(
            Rule(hostname=name, service=f"unix:{SOCKET_DIR}/{SOCKET}", access=name in behind_access)
            for name in ingress.hostnames
        ),
        otherwise="http_status:404",
        applications=applications,
        service_tokens=tuple(dict.fromkeys(name for a in applications for name in a.service_tokens)),
        connector=_connector(spec),
    )


def _applications(ingress: Ingress) -> tuple[Application, ...]:
    return tuple(
        Application(
            hostname=name,
            session=host.access.session,
            emails=host.access.emails,
            email_domains=host.access.email_domains,
            groups=host.access.groups,
            service_tokens=host.access.service_tokens,
        )
        for name, host in ingress.hostnames.items()
        if host.access is not None
    )


def _connector(spec: StackSpec) -> ContainerPlan:
    """cloudflared. It keeps four connections to two of Cloudflare's data centres by itself.

    Flags, variables and paths are those of its source (cloudflare/cloudflared: cmd/cloudflared/tunnel, metrics and its
    Dockerfile; 2026-08). No test of ours has run it: its image is at a registry only.
    """
    image = spec.images["cloudflared"]
    return ContainerPlan(
        service=CONNECTOR_SERVICE,
        host=gateway_host(spec),
        component="network",
        image=image.ref,
        # The image's own user.
        user="65532:65532",
        command=("tunnel", "run"),
        env={
            "TUNNEL_TOKEN_FILE": f"{FILES_DIR}/{TOKEN_FILE}",
            "TUNNEL_METRICS": f"0.0.0.0:{CONNECTOR_METRICS_PORT}",
            "TUNNEL_GRACE_PERIOD": f"{GRACE_S}s",
        },
        secret_files=(TOKEN_FILE,),
        mounts=(VolumeMount(source=OUTSIDE_VOLUME, target=SOCKET_DIR),),
        networks=("tunnel",),
        memory_mib=256,
        # Fails while no connection to Cloudflare stands. The image has no shell and no wget.
        health=Health(
            command=("cloudflared", "tunnel", "--metrics", f"127.0.0.1:{CONNECTOR_METRICS_PORT}", "ready"),
        ),
        stop_grace_s=GRACE_S + 5,
        starts_in_s=image.starts_in_s,
    )
