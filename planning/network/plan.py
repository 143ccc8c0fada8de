"""What a way in from outside, and a mesh's policy, consist of once they are decided."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from planning.containers import ContainerPlan


@dataclass(frozen=True, kw_only=True)
class Application:
    """An Access application: who passes on the way to one hostname."""

    hostname: str
    session: str
    emails: tuple[str, ...]
    email_domains: tuple[str, ...]
    groups: tuple[str, ...]
    service_tokens: tuple[str, ...]
    """Names of the stack's service tokens."""

    @property
    def people(self) -> bool:
        """Whether anybody may log in, besides machines."""
        return bool(self.emails or self.email_domains or self.groups)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule of the tunnel: a hostname, and whether requests for it must carry what Access signed."""

    hostname: str
    service: str
    access: bool


@dataclass(frozen=True, kw_only=True)
class IngressPlan:
    """A Cloudflare tunnel, all that is made for it there, and the connector here."""

    tunnel: str
    """Its name in Cloudflare's dashboard."""
    account_id: str
    zone_id: str
    team: str
    rules: tuple[Rule, ...]
    otherwise: str
    """The service of all other hostnames; it is the last rule."""
    applications: tuple[Application, ...]
    service_tokens: tuple[str, ...]
    connector: ContainerPlan


@dataclass(frozen=True, kw_only=True)
class PolicyPlan:
    """The policy that this stack writes for a whole mesh."""

    control: Literal["tailscale", "headscale"]
    where: str
    """Which mesh: the headscale's address, or the tailnet's domain. Another one gets the policy anew."""
    policy: Mapping[str, Any]
    """With all its tests."""
    text: str
    """The same, as it is written."""
    taken_over: str | None
    """SHA-256 of another's policy that may be replaced; None: none may."""
