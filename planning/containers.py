"""The container as a decided thing: what `components.containers.run_container` runs, and nothing of how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

FILES_DIR = "/config"
"""Where `ContainerPlan.files` appear inside every container, read-only."""

Network = Literal["inner", "edge", "tunnel"]
"""`inner` has no way out (engines, scrapes); `edge` has one, and is needed to publish a port. `tunnel` has one too, and
only a tunnel's connector and nginx: it is there where something is on it."""

Exception_ = Literal["root", "writable", "capabilities", "host-pid", "host-files"]
"""Departures from hardening; each needs a reason."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """Docker's health check, run inside the container."""

    command: tuple[str, ...]
    """Without a shell."""
    interval_s: int = 5
    timeout_s: int = 5
    start_period_s: int = 60
    """Failures in this time after the start don't count."""
    retries: int = 3


@dataclass(frozen=True, kw_only=True)
class PublishedPort:
    """A port on its host: on loopback, or on one other address."""

    container: int
    host: int
    address: str = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class VolumeMount:
    """A named volume of the stack, or a folder of the host's."""

    source: str
    """The volume's name inside the stack (`models`), or an absolute path."""
    target: str
    read_only: bool = True


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """One container, fully decided. Hardened by default: what departs from that is in `exceptions`."""

    service: str
    """Name inside the stack, and DNS name on its networks: `nginx`, `chat-0`."""
    host: str
    """The host of the spec that runs it."""
    component: Literal["serving", "gateway", "observability", "network"]
    image: str
    user: str
    """`uid:gid`. RLIMIT_NPROC counts by uid, so services that matter have one of their own."""
    entrypoint: tuple[str, ...] = ()
    """Empty: the image's own."""
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """Never a secret: `docker inspect` shows it."""
    files: Mapping[str, str] = field(default_factory=dict)
    """File name → text, readable under FILES_DIR. Changing one replaces the container."""
    secret_files: tuple[str, ...] = ()
    """More files there, whose text is known to Pulumi alone, and encrypted in its state."""
    mounts: tuple[VolumeMount, ...] = ()
    tmpfs: Mapping[str, str] = field(default_factory=dict)
    """Path → mount options (`size=64m,mode=1777`): the only places that can be written besides volumes."""
    networks: tuple[Network, ...] = ("inner",)
    aliases: tuple[str, ...] = ()
    """More DNS names on `inner`; containers that share one are found together."""
    ports: tuple[PublishedPort, ...] = ()
    resolver: str | None = None
    """The name server that knows names beyond the stack's networks; None: the host's own."""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    """Settings of the kernel's for the container's own network: `net.ipv4.…` → value."""
    memory_mib: int
    shm_mib: int = 64
    max_processes: int = 256
    """Processes and threads of the container's uid."""
    health: Health | None = None
    """None only for jobs."""
    ready_within_s: int = 120
    """`pulumi up` fails when the container isn't healthy by then; for a job, when it hasn't ended."""
    stop_grace_s: int = 10
    stop_signal: str = "SIGTERM"
    gpus: tuple[str, ...] = ()
    """UUIDs, handed in as CDI devices."""
    comes_back: bool = False
    """When a new version of it can't start, the one before is started again. It has no `files`: Pulumi would delete
    their old volume, and with it the container, before it makes the new one."""
    job: bool = False
    """Runs once to its end, and must end with 0."""
    capabilities: tuple[str, ...] = ()
    exceptions: Mapping[Exception_, str] = field(default_factory=dict)
    """Departure → its reason."""
    starts_in_s: int = 1
    """Seconds from start to healthy, for the preview report."""

    def __post_init__(self) -> None:
        if self.comes_back and (self.files or self.secret_files):
            raise ValueError(f"{self.service} is to come back, so it can't have files")
