"""On which host each part of a stack runs, and how parts on different hosts reach each other.

Gateway and monitoring run on one host. What other hosts run is reached through a front of theirs
(planning.gateway.front): its address is all that the gateway knows of them, so a change of it restarts no engine.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from planning.names import FRONT_PORT, VLLM_PORT, replica_service
from stack_configs.schema.models import Replica
from stack_configs.schema.stack import StackSpec


@dataclass(frozen=True, kw_only=True)
class PlacedReplica:
    """One engine process, and where it runs."""

    model: str
    service: str
    host: str
    replica: Replica


def gateway_host(spec: StackSpec) -> str:
    """Where gateway and monitoring run: the host that is named, or the only one."""
    return spec.file.gateway.host or next(iter(spec.file.hosts))


def placed(spec: StackSpec) -> Iterator[PlacedReplica]:
    """Every replica of every model that is served, in the file's order."""
    for name, model in spec.file.models.items():
        for index, replica in enumerate(model.replicas):
            if replica.host not in spec.waiting:
                yield PlacedReplica(
                    model=name, service=replica_service(name, index), host=replica.host, replica=replica
                )


def served(spec: StackSpec) -> tuple[str, ...]:
    """Models with at least one replica on a host that is ready."""
    return tuple(dict.fromkeys(replica.model for replica in placed(spec)))


def ready_hosts(spec: StackSpec) -> tuple[str, ...]:
    """Hosts that can run containers, the gateway's first."""
    first = gateway_host(spec)
    return tuple(name for name in (first, *(n for n in spec.file.hosts if n != first)) if name not in spec.waiting)


def named_on(service: str, host: str, spec: StackSpec) -> str:
    """The name of a service that several hosts have: its own on the gateway's host, else with the host's behind it."""
    return service if host == gateway_host(spec) else f"{service}-{host}"


def engine_url(replica: PlacedReplica, spec: StackSpec) -> str:
    """Base URL of a replica's OpenAI API, as the gateway's containers reach it."""
    if replica.host == gateway_host(spec):
        return f"http://{replica.service}:{VLLM_PORT}/v1"
    return f"http://{front_address(replica.host, spec)}/{replica.service}/v1"


def front_address(host: str, spec: StackSpec) -> str:
    """Address and port of a host's front, as the gateway's containers reach it."""
    return f"{mesh_name(host, spec) if spec.file.network.mesh else spec.file.hosts[host].lan_address}:{FRONT_PORT}"


def mesh_name(host: str, spec: StackSpec) -> str:
    """A host's full name in the mesh. Raises ValueError where there is none."""
    if spec.file.network.mesh is None:
        raise ValueError(f"{spec.stack} has no mesh")
    return f"{host}.{spec.file.network.mesh.domain}"
