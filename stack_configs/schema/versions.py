"""The version set: versions tested together."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from stack_configs.schema.base import Digest, Frozen

ImageName = Literal[
    "vllm-cpu",
    "vllm-cuda",
    "litellm",
    "nginx",
    "prometheus",
    "alertmanager",
    "node-exporter",
    "dcgm-exporter",
    "grafana",
    "cloudflared",
]

CudaVersion = Annotated[str, StringConstraints(pattern=r"^\d{2}\.\d{1,2}$")]
"""`13.0`, in quotes."""


class BuiltImage(Frozen):
    """The stand-in for machines that reach no image registry, built from `images/<recipe>/`."""

    recipe: str
    version: str
    """Of the program inside it."""


class ImagePin(Frozen):
    """One image: where registries have it and, where we can build one, what we build instead."""

    repository: str
    tag: str
    digest: Digest | None = None
    """None: nobody could verify it. Dev warns and runs it; prod refuses it until `tools/lock` resolved it."""
    source: str
    """Where tag and digest were seen."""
    built: BuiltImage | None = None
    cuda: CudaVersion | None = None
    """The CUDA inside it, which a host's driver must be able to run; None: none inside."""
    starts_in_s: Annotated[int, Field(ge=0)] = 1
    """Seconds from start to healthy, measured with the built image on 4 cores. For the preview report."""


RepositoryName = Literal["nvidia-driver", "nvidia-container-toolkit", "docker", "tailscale"]
"""An apt repository that hosts install from."""

Distribution = Literal["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04"]
"""Operating systems of hosts: `ID-VERSION_ID` of /etc/os-release."""


class SigningKey(Frozen):
    """The key that signs an apt repository."""

    key_url: str
    key_fingerprint: Annotated[str, StringConstraints(pattern=r"^[0-9A-F]{40}$")]


class Repository(SigningKey):
    """An apt repository, trusted by the fingerprint of its signing key."""

    url: str
    """`{os}` (debian12, ubuntu2404), `{id}` (debian), `{codename}`, `{arch}` (x86_64, sbsa) and `{debarch}`
    (amd64, arm64) are filled in."""
    suite: str
    """`/` for a flat repository; `{codename}` is filled in."""
    components: tuple[str, ...] = ()
    distributions: dict[Distribution, SigningKey] = {}
    """Distributions whose part is signed by another key."""
    source: str
    """Where url and fingerprint were seen."""


class PackagePin(Frozen):
    """One upstream version, and what distributions ship in its place."""

    version: str
    """Upstream's, as in its own repository: `580.105.08`. Any packaging revision of it is the same to us."""
    distributions: dict[Distribution, str] = {}
    """The same of a distribution's own packages."""
    source: str
    """Where the versions were seen."""


class HostVersions(Frozen):
    """What GPU hosts are made of."""

    repositories: dict[RepositoryName, Repository]
    drivers: dict[str, PackagePin]
    """Branch → exact version."""
    docker: PackagePin
    containerd: PackagePin
    """containerd.io, which docker.com's Docker runs containers by."""
    container_toolkit: PackagePin
    tailscale: PackagePin | None = None
    """Needed by stacks with a mesh."""
    cuda_toolkits: dict[str, PackagePin] = {}
    """`12.9` → exact version."""


class VersionSet(Frozen):
    """`stack_configs/versions/YYYY.MM.yaml`."""

    images: dict[ImageName, ImagePin]
    hosts: HostVersions | None = None
    """Needed by stacks with hosts over SSH."""
