"""How the stack is reached from outside, if at all."""

from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from stack_configs.schema.base import Frozen, Name

LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = rf"^({LABEL}\.)+{LABEL}$"

CloudflareId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""An account or a zone as Cloudflare's dashboard shows it under "API": 32 hex digits."""

Email = Annotated[str, StringConstraints(pattern=r"^[^\s@]+@[^\s@]+\.[^\s@]+$")]

AccessGroup = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
"""The UUID of an Access group, which its page in Cloudflare's dashboard shows."""

Domain = Annotated[str, StringConstraints(pattern=DOMAIN)]
"""A full DNS name in lower case, without a dot at its end."""

Addresses = Annotated[str, AfterValidator(lambda text: str(ip_network(text)))]
"""An IP address or network, of either version: `203.0.113.0/24`."""

Guard = Literal["keys", "access"]


class Access(Frozen):
    """Who passes Cloudflare Access on the way to a hostname; each entry lets somebody in."""

    emails: tuple[Email, ...] = ()
    """People by their e-mail addresses."""
    email_domains: tuple[Domain, ...] = ()
    """Everybody with an address in these domains."""
    groups: tuple[AccessGroup, ...] = ()
    """Access groups that exist at Cloudflare, by UUID."""
    service_tokens: tuple[Name, ...] = ()
    """Machines: a service token of each name is made, valid for a year."""
    session: Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,3}[mh]$")] = "24h"
    """How long a login lasts: minutes or hours."""


class Hostname(Frozen):
    """One name that the internet can ask."""

    to: Literal["api", "grafana"]
    """What it leads to: the OpenAI-compatible API, or Grafana's pages."""
    guards: tuple[Guard, ...] = ()
    """What stands before it: `keys` (the gateway's API keys), `access` (Cloudflare Access). The API always asks for
    keys; pages that a browser opens must be behind Access."""
    access: Access | None = None
    """Who passes Access; for the guard `access`."""
    allow_from: tuple[Addresses, ...] = ()
    """Only clients with these addresses are let through, by nginx; empty lets all through."""


class Zone(Frozen):
    """The DNS zone that hostnames are in."""

    name: Domain
    """Its domain: `example.org`."""
    id: CloudflareId
    """Its zone ID, on the domain's overview page."""


class Ingress(Frozen):
    """A tunnel from a provider's edge to nginx. The gateway's host dials out; no port is opened."""

    provider: Literal["cloudflare"]
    """Whose tunnel it is."""
    account_id: CloudflareId
    """Cloudflare's account ID."""
    zone: Zone
    """Where DNS records are made."""
    team: Annotated[str, StringConstraints(pattern=f"^{LABEL}$")]
    """The Zero Trust team name: `example`, of example.cloudflareaccess.com."""
    hostnames: Annotated[dict[Domain, Hostname], Field(min_length=1)]
    """Full names in the zone; what has no name here can't be reached from outside."""


Member = Annotated[str, StringConstraints(pattern=r"^(group:[a-z0-9-]+|[^\s@:]+@([^\s@:]+\.[^\s@:]+)?)$")]
"""Who meets hosts on the mesh: `kim@example.org`, or a user of headscale's own, `kim@`. No groups."""

MESHED_PORT = 8302
"""On the loopback of the gateway's host, where its node hands over what asks the API over the mesh."""

PemPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*$")]
"""A file in the repository, from its root: `stack_configs/certificates/gateway.pem`."""

HttpsUrl = Annotated[str, StringConstraints(pattern=r"^https://[^\s/@]+$")]


class MeshTls(Frozen):
    """Certificates on both sides of the API in the mesh. The key is a secret in Pulumi's config: `meshTlsKey`."""

    certificate: PemPath
    """Of `<gateway's host>.<domain>`, with its chain, in PEM."""
    client_ca: PemPath
    """Who certifies clients, in PEM: whoever has no certificate of theirs is refused."""


class MeshCertificates(Frozen):
    """What stands in the files of MeshTls."""

    certificate: str
    """PEM."""
    client_ca: str
    """PEM."""


class Mesh(Frozen):
    """A private network of WireGuard tunnels in which hosts, gateway and people meet."""

    control: Literal["tailscale", "headscale"]
    """Who lets nodes in and says where they are: Tailscale, or a headscale of your own."""
    login_server: HttpsUrl | None = None
    """The headscale's address."""
    domain: Domain
    """What names of nodes end in: `tail1234.ts.net`, or headscale's `dns.base_domain`. A host is `<host>.<domain>`."""
    operators: Annotated[tuple[Member, ...], Field(min_length=1)]
    """Who may log in to hosts and open dashboards."""
    users: tuple[Member, ...] = ()
    """Who else may ask the API over the mesh, with a key of the gateway."""
    policy: Literal["checked", "owned"] = "checked"
    """Who writes the mesh's policy, which is one for all its nodes: `owned` is this stack, and one stack alone;
    `checked` only compares."""
    ssh: bool = False
    """Whether nodes take Tailscale's own SSH besides sshd."""
    allow_from: tuple[Addresses, ...] = ()
    """Only nodes with these addresses in the mesh may ask the API over it; empty is all that its policy lets in."""
    tls: MeshTls | None = None
    """Certificates on top of WireGuard, for the API; without it, it is plain HTTP inside WireGuard's tunnels."""


class Allowed(Frozen):
    """One way in that the hosts' firewalls leave open."""

    port: Annotated[int, Field(ge=1, le=65535)]
    """On the host."""
    protocol: Literal["tcp", "udp"] = "tcp"
    """Of the port."""
    sources: Annotated[tuple[Addresses, ...], Field(min_length=1)]
    """Networks that may use it."""
    hosts: tuple[Name, ...] = ()
    """Only on these hosts; empty is on all."""


class Firewall(Frozen):
    """A firewall on each host over SSH: what isn't named here and isn't the stack's own is dropped, also for Docker."""

    allow: tuple[Allowed, ...] = ()
    """What else may come in. Where there is no mesh, SSH must be among it."""


class Network(Frozen):
    """What the stack has besides the hosts' own networks. Nothing by default: everything listens on loopback."""

    mesh: Mesh | None = None
    """The network that hosts and people meet in; without it, hosts are reached by their own addresses."""
    firewall: Firewall | None = None
    """What hosts let in; without it, their own firewalls stay as they are."""
    ingress: Ingress | None = None
    """The way in from the internet; without it, there is none."""
