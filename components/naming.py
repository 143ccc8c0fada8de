"""What Docker objects of a stack are called, and the labels by which they are known again."""

from collections.abc import Mapping
from dataclasses import dataclass

STACK_LABEL = "inference-stack.stack"
COMPONENT_LABEL = "inference-stack.component"
SERVICE_LABEL = "inference-stack.service"
JOB_LABEL = "inference-stack.job"
STARTS_IN_LABEL = "inference-stack.starts-in-s"
"""Seconds from start to healthy: the preview report adds them up."""


@dataclass(frozen=True)
class Names:
    """Names of one stack's Docker objects; two stacks on one machine never share one."""

    stack: str

    def docker(self, name: str) -> str:
        """Docker's name of a service's container, or of a volume or network of the stack."""
        return f"inference-{self.stack}-{name}"

    def labels(self, component: str, service: str) -> Mapping[str, str]:
        """What says that a Docker object is ours, and which one."""
        return {STACK_LABEL: self.stack, COMPONENT_LABEL: component, SERVICE_LABEL: service}
