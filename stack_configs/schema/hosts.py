"""Machines that run containers."""

from ipaddress import IPv4Address
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from stack_configs.schema.base import Frozen, GpuUuid, Port
from stack_configs.schema.versions import CudaVersion, RepositoryName

DriverBranch = Annotated[str, StringConstraints(pattern=r"^\d{3}$")]
"""The first number of a driver's version: `580`."""

AbsolutePath = Annotated[str, StringConstraints(pattern=r"^(/[A-Za-z0-9._-]+)+$")]
"""A folder on a host, without spaces."""

IpAddress = Annotated[str, AfterValidator(lambda text: str(IPv4Address(text)))]
"""An IPv4 address: Docker hides who calls where it publishes a port on an IPv6 address."""

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

TimeOfDay = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
"""`HH:MM`, UTC."""


class LocalConnection(Frozen):
    """The machine that runs Pulumi."""

    kind: Literal["local"] = "local"
    """`local`: containers run in this machine's Docker."""


class SshServer(Frozen):
    """An SSH server whose key is known beforehand."""

    address: str
    """DNS or mesh name, or an IP address."""
    user: str
    """The user to log in as, with a key that your SSH agent holds; on a host, one who may `sudo` without a password."""
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    """Port of the SSH server."""
    host_key: str
    """Its public key, as `ssh-keyscan` prints it after the name: `ssh-ed25519 AAAA…`."""


class SshConnection(SshServer):
    """A host reached over SSH."""

    kind: Literal["ssh"]
    """`ssh`: containers run on the host at `address`."""
    jump: SshServer | None = None
    """A server to go through, where the host can't be reached directly."""


class RebootWindow(Frozen):
    """When a host may be rebooted by `pulumi up`."""

    days: Annotated[tuple[Day, ...], Field(min_length=1)]
    """Days on which the window opens."""
    opens: TimeOfDay
    """UTC."""
    closes: TimeOfDay
    """UTC; earlier than `opens` means on the next day."""


class Driver(Frozen):
    """NVIDIA's driver, installed and pinned as the version set has it."""

    branch: DriverBranch
    """The branch; its exact version is in the version set."""
    modules: Literal["open", "proprietary"] = "open"
    """Kernel modules: `open` from Turing on, a must from Blackwell on; `proprietary` for Maxwell, Pascal and Volta."""
    packages: Literal["nvidia", "distribution"] = "nvidia"
    """Whose packages: NVIDIA's repository (or a mirror of it, see `mirrors`), or the distribution's own."""
    fabric_manager: bool = False
    """For NVSwitch systems: NVIDIA's fabric manager in the identical version."""


class Mirror(Frozen):
    """A copy of an apt repository, for hosts that don't reach the original."""

    url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")]
    """In place of the repository's own; `{os}`, `{codename}` and `{arch}` are filled in."""
    key_url: Annotated[str, StringConstraints(pattern=r"^https?://\S+$")] | None = None
    """Where its signing key is, if it is not at the original's place."""
    key_fingerprint: Annotated[str, StringConstraints(pattern=r"^[0-9A-F]{40}$")] | None = None
    """If the mirror signs by itself: the full fingerprint of its key."""


class Uplink(Frozen):
    """One way to the internet."""

    interface: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,14}$")]
    """The network interface, which has its address already: `eth1`."""
    gateway: IpAddress
    """The router on it."""
    probes: Annotated[tuple[IpAddress, ...], Field(min_length=1)]
    """Addresses beyond the router; the uplink counts as dead when none of them answers a ping."""


class Host(Frozen):
    """A machine that runs containers; with `gpus`, a GPU host.

    `driver`, `engine` and what follows them say what a host over SSH is made of; on this machine they don't apply.
    """

    connection: Annotated[LocalConnection | SshConnection, Field(discriminator="kind")]
    """How the host is reached."""
    gpus: tuple[GpuUuid, ...] = ()
    """The NVIDIA GPUs that models may use; `make facts` prints them. In dev, `make up` finds them."""
    uplinks: tuple[Uplink, ...] = ()
    """Two or more ways to the internet, the preferred first: the default route leaves one that is dead."""
    lan_address: IpAddress | None = None
    """Its IPv4 address in a network that you trust with prompts: in a stack of several hosts the gateway's host, and no
    other, reaches the engines there by plain HTTP. In a mesh there is none."""
    driver: Driver | None = None
    """Left out, whatever driver the host has stays as it is."""
    cuda_toolkit: CudaVersion | None = None
    """A CUDA toolkit on the host itself, such as `12.9`. Engines carry their own; few hosts need it."""
    engine: Literal["docker", "distribution"] = "docker"
    """Whose Docker: docker.com's packages, or the distribution's own."""
    data_root: AbsolutePath = "/var/lib/docker"
    """Where Docker keeps images and containers."""
    models_dir: AbsolutePath = "/var/lib/inference-stack/models"
    """Where weights are kept."""
    models_free_gib: Annotated[int, Field(ge=0)] = 50
    """GiB that must be free there when the host is prepared."""
    reboot: Literal["manual", "allowed"] | RebootWindow = "manual"
    """Whether `pulumi up` may reboot the host for a new driver: never, whenever needed, or within a window."""
    reboot_within_s: Annotated[int, Field(ge=10)] = 900
    """How long a reboot may take before `pulumi up` says that the host did not come back. Servers with much memory test
    it for minutes before they boot."""
    mirrors: dict[RepositoryName, Mirror] = {}
    """Copies of the version set's apt repositories."""
    when_removed: Literal["keep", "purge"] = "keep"
    """What happens to driver and Docker when the host leaves this file; our holds, pins and units go in any case."""


__all__ = [
    "Driver",
    "Host",
    "LocalConnection",
    "Mirror",
    "Port",
    "RebootWindow",
    "SshConnection",
    "SshServer",
    "Uplink",
]
