"""The mesh's policy: who may open connections to whom, by the tags of the nodes."""

from planning.placement import gateway_host
from stack_configs.schema.stack import StackSpec


def tags(host: str, spec: StackSpec) -> tuple[str, ...]:
    """The tags of a host's node in the mesh: which stack it is of, and whether it is the gateway's."""
    return (f"tag:inference-{spec.stack}-{'gateway' if host == gateway_host(spec) else 'host'}",)
