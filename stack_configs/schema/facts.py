"""What a host says of itself: `stack_configs/facts/<stack>/<host>.json`, written by `make facts`.

Facts feed the gate, the ledger, drift and previews; never a resource's inputs, so that a second `up` is empty. The one
exception is which cards the GPUs are: Prometheus' rules hold what the ledger promises on them. Facts hold no secret:
what is written here is checked in and read by everybody who reviews a change.
"""

from datetime import datetime
from typing import Literal

from stack_configs.schema.base import Frozen


class Os(Frozen):
    id: str
    """`debian`, `ubuntu`; ID of /etc/os-release."""
    version: str
    """`12`, `24.04`; VERSION_ID."""
    codename: str
    """`bookworm`; VERSION_CODENAME."""
    name: str
    """PRETTY_NAME."""


class Kernel(Frozen):
    running: str
    """`uname -r`."""
    boots: str | None
    """What the next boot takes (the newest installed); None where no kernel package is, as in a container."""
    headers: tuple[str, ...]
    """Kernel versions whose headers are installed."""


class Gpu(Frozen):
    """A GPU as the PCI bus knows it and, once a driver runs, as the driver knows it."""

    pci_address: str
    """`0000:41:00.0`."""
    pci_id: str
    """Vendor and device, lower-case hex: `10de:2684`."""
    uuid: str | None = None
    """None until a driver runs, or when the driver has lost the card."""
    name: str | None = None
    """The driver's name for it: `NVIDIA GeForce RTX 4090`."""
    memory_mib: int | None = None
    """Total memory as the driver reports it; None where it says [N/A], as on unified-memory machines."""
    compute_capability: str | None = None
    """`8.9`."""
    mig: Literal["on", "off"] | None = None
    """None where the card has no MIG."""


class DriverFacts(Frozen):
    """NVIDIA's driver, by what is loaded and what is installed: they differ until a reboot."""

    loaded: str | None
    """/sys/module/nvidia/version; None when no module is loaded."""
    modules: Literal["open", "proprietary"] | None
    """Kind of the loaded module."""
    dkms: dict[str, str]
    """`module/version kernel` → state (`installed`, `built`, `added`, …), as `dkms status` prints them."""
    nouveau: bool = False
    """Whether the kernel's own driver is loaded, which keeps NVIDIA's out."""
    smi_error: str | None = None
    """What nvidia-smi says when it can't answer."""


class Package(Frozen):
    version: str
    held: bool
    status: str
    """dpkg's, such as `installed`, `half-configured`, `half-installed`."""


class Engine(Frozen):
    """The container engine."""

    kind: Literal["docker"]
    version: str
    running: bool
    data_root: str | None
    cdi: bool
    """Whether it takes CDI devices."""
    live_restore: bool
    settings: str | None = None
    """First 12 hex digits of the SHA-256 of /etc/docker/daemon.json; None: there is none."""
    settings_in_force: str | None = None
    """The same of the settings that Docker was last started with, as the step `engine` noted it."""
    containers: dict[str, str]
    """Running containers that carry our labels: `stack/service` → image."""


class Disk(Frozen):
    mount: str
    size_gib: float
    free_gib: float


class Facts(Frozen):
    """One host at one time."""

    host: str
    read_at: datetime
    """UTC."""
    os: Os
    arch: str
    """`x86_64`, `aarch64`."""
    kernel: Kernel
    secure_boot: Literal["on", "off", "unknown"]
    signing_key: Literal["enrolled", "absent"] | None = None
    """Whether the firmware trusts the key that DKMS signs modules with (`mokutil --test-key /var/lib/dkms/mok.pub`).

    None where nobody could ask.
    """
    boot_id: str
    virtual: str | None
    """What systemd-detect-virt says, such as `kvm`, `docker`; None on bare metal."""
    gpus: tuple[Gpu, ...]
    nvswitches: int = 0
    """How many NVSwitches are on the PCI bus: with any, NVIDIA's fabric manager is needed."""
    driver: DriverFacts
    packages: dict[str, Package]
    """Those of the pinned families that are installed or held: NVIDIA's, Docker's, CUDA's, kernels, DKMS."""
    engine: Engine | None
    """None: none installed."""
    cdi_devices: tuple[str, ...]
    """`nvidia.com/gpu=GPU-…`, as the CDI files name them."""
    mesh: str | None = None
    """First 12 hex digits of the SHA-256 of the node's settings and of what it publishes; None: it is no node."""
    mesh_noted: str | None = None
    """The same as the step `mesh` left it."""
    firewall: str | None = None
    """First 12 hex digits of the SHA-256 of our firewall's table as it is loaded; None: there is none."""
    firewall_confirmed: str | None = None
    """The same of the rules that were confirmed last, as the step `confirm` noted it."""
    memory_mib: int | None = None
    """The system's memory, which a GPU of unified memory shares; None where nobody could ask."""
    disks: dict[str, Disk]
    """By the path that was asked for: the root, Docker's data root, the models' folder."""
    steps: dict[str, str]
    """Step → digest of what was last applied, as the step's script noted it on the host; see planning.hosts.plan."""
    pending: dict[str, str] = {}
    """What waits for a person or a reboot: `reboot` → why, as a step's script noted it."""
    time_synchronised: bool | None = None
    """Whether systemd says so; None where nobody could ask."""
    problems: tuple[str, ...] = ()
    """What could not be read, one line each. Nothing that is named here counts as absent."""
