"""A whole stack, as `stack_configs/<stack>.yaml` describes it, and what `load` makes of it."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from stack_configs.schema.base import Frozen, GpuUuid, Name
from stack_configs.schema.facts import Facts
from stack_configs.schema.gateway import Gateway
from stack_configs.schema.hosts import Host
from stack_configs.schema.model_lock import ModelLock
from stack_configs.schema.models import Model
from stack_configs.schema.network import MeshCertificates, Network
from stack_configs.schema.observability import Observability
from stack_configs.schema.versions import HostVersions, ImageName

HubAddress = Annotated[str, StringConstraints(pattern=r"^https?://[^\s@]*[^\s@/]$")]
"""A web address without a user, and without a slash at its end."""


class StackFile(Frozen):
    """The YAML file that people edit."""

    versions: Annotated[str, StringConstraints(pattern=r"^\d{4}\.\d{2}$")]
    """The version set: a file under stack_configs/versions/."""
    hosts: Annotated[dict[Name, Host], Field(min_length=1)]
    """Machines by name."""
    models: Annotated[dict[Name, Model], Field(min_length=1)]
    """Models by the name that clients ask for."""
    hub: HubAddress | None = None
    """A mirror of the Hugging Face hub, by its address, to fetch weights from; without it, the hub itself."""
    gateway: Gateway
    """The one address for all models, and who may use it."""
    observability: Observability = Observability()
    """Metrics, dashboards and alerts."""
    network: Network = Network()
    """How the outside world reaches the stack."""


class Image(Frozen):
    """An image as containers name it."""

    ref: str
    """`repository:tag@digest`, or the local tag of a built image."""
    starts_in_s: int
    cuda: str | None = None
    """The CUDA inside it."""


class Neighbour(Frozen):
    """Another stack in the same mesh: the parts of its file that the mesh's policy is made of."""

    hosts: dict[Name, Host]
    gateway: Gateway
    observability: Observability = Observability()
    network: Network


class StackSpec(Frozen):
    """Everything that decides what runs: the file, the version set's images, and this machine's choices."""

    stack: Name
    """Pulumi's stack name: `dev`, `prod`."""
    file: StackFile
    images: dict[ImageName, Image]
    """Resolved images; one that can't be had the chosen way (Grafana, when built) is absent."""
    weights: Literal["hub", "random"] = "hub"
    """`random`: tiny models with random weights stand in, whose answers are gibberish by design."""
    local_gpus: tuple[GpuUuid, ...] = ()
    """GPUs of this machine that Docker can use, found by `make up`.

    Models on a `local` host that name no `gpus` use the first.
    """
    key_hashes: dict[Name, str]
    """SHA-256 (hex) of each API key under `gateway.keys`."""
    host_versions: HostVersions | None = None
    """The version set's part for hosts."""
    facts: dict[Name, Facts] = {}
    """What hosts said, by host; never an input of a resource, but for the cards in what Prometheus' rules promise."""
    locks: dict[Name, ModelLock] = {}
    """What is locked of models, by the name that clients ask for; a model without a lock is missing here."""
    repairs: dict[Name, dict[str, int]] = {}
    """Host → step → how often drift was repaired; Pulumi config `repairs`, raised by `make drift`."""
    waiting: dict[Name, str] = {}
    """Hosts that can't run models yet → why."""
    neighbours: dict[Name, Neighbour] = {}
    """Other stacks whose files name the same mesh."""
    taken_over_policy: str | None = None
    """SHA-256 of a mesh's policy that this stack did not write and may replace: `make policy TAKE_OVER=yes`."""
    mesh_certificates: MeshCertificates | None = None
    """What stands in the files that `network.mesh.tls` names."""
    warnings: tuple[str, ...] = ()
