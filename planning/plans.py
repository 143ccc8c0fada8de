"""What a stack consists of once everything is decided."""

from collections.abc import Mapping
from dataclasses import dataclass

from planning.containers import ContainerPlan
from planning.hosts.plan import HostPlan
from planning.network.plan import IngressPlan, PolicyPlan


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """One model: the jobs that come first, and its engine processes."""

    name: str
    fetches: tuple[ContainerPlan, ...]
    """They bring its weights to each host."""
    checks: tuple[ContainerPlan, ...] = ()
    """They have its free-form arguments read by each host's image."""
    replicas: tuple[ContainerPlan, ...]
    after: str | None = None
    """The model whose replicas must be ready before these are touched; both are in one chain of fallbacks."""


@dataclass(frozen=True, kw_only=True)
class GatewayPlan:
    fronts: tuple[ContainerPlan, ...]
    """On every other host: the gateway's way to the engines there."""
    litellm: tuple[ContainerPlan, ...]
    nginx: ContainerPlan


@dataclass(frozen=True, kw_only=True)
class ObservabilityPlan:
    containers: tuple[ContainerPlan, ...]


@dataclass(frozen=True, kw_only=True)
class StackPlan:
    stack: str
    hosts: tuple[HostPlan, ...]
    """Hosts over SSH; this machine is none of them."""
    models_dirs: Mapping[str, str]
    """Host over SSH → its folder of weights, which is the volume `models` there."""
    waiting: Mapping[str, str]
    """Hosts that run nothing yet → why."""
    models: tuple[ModelPlan, ...]
    """In the order of their turns: none comes before the one that it is `after`."""
    gateway: GatewayPlan | None
    """None while its host waits."""
    observability: ObservabilityPlan
    ingress: IngressPlan | None = None
    """None: nothing comes in from outside."""
    policy: PolicyPlan | None = None
    """Of the mesh; None: there is none, or others write it."""

    @property
    def containers(self) -> tuple[ContainerPlan, ...]:
        """Every container of the stack."""
        models = [c for model in self.models for c in (*model.fetches, *model.checks, *model.replicas)]
        there = self.gateway
        gateway = (*there.fronts, *there.litellm, there.nginx) if there else ()
        connector = (self.ingress.connector,) if self.ingress else ()
        return (*models, *gateway, *self.observability.containers, *connector)
