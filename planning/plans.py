"""What a stack consists of once everything is decided."""

from dataclasses import dataclass

from planning.containers import ContainerPlan


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """One model: the job that puts its weights into the volume, and its engine processes."""

    name: str
    fetch: ContainerPlan
    replicas: tuple[ContainerPlan, ...]


@dataclass(frozen=True, kw_only=True)
class GatewayPlan:
    litellm: tuple[ContainerPlan, ...]
    nginx: ContainerPlan


@dataclass(frozen=True, kw_only=True)
class ObservabilityPlan:
    containers: tuple[ContainerPlan, ...]


@dataclass(frozen=True, kw_only=True)
class StackPlan:
    stack: str
    models: tuple[ModelPlan, ...]
    gateway: GatewayPlan
    observability: ObservabilityPlan

    @property
    def containers(self) -> tuple[ContainerPlan, ...]:
        """Every container of the stack."""
        models = [c for model in self.models for c in (model.fetch, *model.replicas)]
        return (*models, *self.gateway.litellm, self.gateway.nginx, *self.observability.containers)
