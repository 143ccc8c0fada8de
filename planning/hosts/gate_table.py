"""What goes with what: GPU generations, drivers, CUDA, operating systems, Docker. Data, each cell with its evidence.

`docs/reference/compatibility.md` is written from here (`make docs`), and `planning/hosts/gate.py` refuses by it.
"""

from dataclasses import dataclass
from typing import Literal

from stack_configs.schema.versions import Distribution

Modules = Literal["open", "proprietary"]

KERNEL_MODULES = "https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/kernel-modules.html"
MINOR_VERSIONS = "https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html"
CUDA_FEATURES = "https://docs.nvidia.com/cuda/cuda-features-archive/index.html"
SUPPORTED_OS = "https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/610/introduction.html"
OPEN_MODULES = "https://github.com/NVIDIA/open-gpu-kernel-modules/blob/595.45.04/README.md"
VLLM = "https://github.com/vllm-project/vllm/blob"
FABRIC_MANAGER = "https://docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Why a cell says what it says."""

    kind: Literal["run", "read"]
    """`run`: somebody of this project saw it. `read`: `where` says so."""
    where: str
    """An address, or what was run."""


def read(where: str) -> Evidence:
    return Evidence(kind="read", where=where)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One GPU architecture."""

    name: str
    devices: tuple[tuple[int, int], ...]
    """PCI device ids from, to (inclusive); vendor 10de."""
    compute: tuple[str, ...]
    """Compute capabilities."""
    modules: tuple[Modules, ...]
    """Kernel modules that drive it."""
    first_branch: int | None = None
    """Oldest driver branch; None: older than any that an engine's CUDA needs."""
    last_branch: int | None = None
    """Newest driver branch; None: still supported."""
    first_cuda: tuple[int, int] | None = None
    """Oldest CUDA whose compiler and libraries know it; None: older than any engine's."""
    evidence: tuple[Evidence, ...]


_IDS = read("https://pci-ids.ucw.cz/read/PC/10de")
_OPEN = read(OPEN_MODULES)
_MODULES = read(KERNEL_MODULES)
_OLD = (
    _MODULES,
    read("https://wiki.nixos.org/wiki/NVIDIA#Legacy_branches"),
    _IDS,
)
_CURRENT = (_MODULES, read(CUDA_FEATURES), _OPEN, _IDS)
_OPEN_ONLY = read("https://developer.nvidia.com/blog/nvidia-transitions-fully-towards-open-source-gpu-kernel-modules/")

GENERATIONS: tuple[Generation, ...] = (
    Generation(
        name="Maxwell",
        devices=((0x1340, 0x143F), (0x1600, 0x16FF), (0x1740, 0x17FF)),
        compute=("5.0", "5.2", "5.3"),
        modules=("proprietary",),
        last_branch=580,
        evidence=_OLD,
    ),
    Generation(
        name="Pascal",
        devices=((0x15F0, 0x15FF), (0x1720, 0x172F), (0x1B00, 0x1D7F)),
        compute=("6.0", "6.1", "6.2"),
        modules=("proprietary",),
        last_branch=580,
        evidence=_OLD,
    ),
    Generation(
        name="Volta",
        devices=((0x1D80, 0x1DFF),),
        compute=("7.0", "7.2"),
        modules=("proprietary",),
        last_branch=580,
        evidence=_OLD,
    ),
    Generation(
        name="Turing",
        devices=((0x1E00, 0x1FFF), (0x2180, 0x21FF)),
        compute=("7.5",),
        modules=("open", "proprietary"),
        evidence=_CURRENT,
    ),
    Generation(
        name="Ampere",
        devices=((0x2080, 0x20FF), (0x2200, 0x22FF), (0x2400, 0x25FF)),
        compute=("8.0", "8.6", "8.7"),
        modules=("open", "proprietary"),
        evidence=_CURRENT,
    ),
    Generation(
        name="Ada",
        devices=((0x2680, 0x28FF),),
        compute=("8.9",),
        modules=("open", "proprietary"),
        evidence=_CURRENT,
    ),
    Generation(
        name="Hopper",
        devices=((0x2300, 0x233F),),
        compute=("9.0",),
        modules=("open", "proprietary"),
        evidence=_CURRENT,
    ),
    Generation(
        name="Grace Hopper",
        devices=((0x2340, 0x234F),),
        compute=(),
        modules=("open",),
        evidence=(_OPEN_ONLY, _OPEN),
    ),
    Generation(
        name="Blackwell",
        devices=((0x2900, 0x297F), (0x2B00, 0x2FFF), (0x3180, 0x31FF)),
        compute=("10.0", "10.3", "12.0", "12.1"),
        modules=("open",),
        first_branch=570,
        first_cuda=(12, 8),
        evidence=(
            _OPEN_ONLY,
            read("https://docs.nvidia.com/cuda/blackwell-compatibility-guide"),
            read("https://github.com/NVIDIA/cloud-native-docs/pull/184"),
            _OPEN,
        ),
    ),
)
"""The device ids agree with pci.ids of 2023-04-11 and, from Turing on, with the open modules' list at 595.45.04.

Kepler and older are absent: branch 470, the last that drives Kepler, runs no CUDA of any engine's image.
"""


@dataclass(frozen=True, kw_only=True)
class CudaFloor:
    """The oldest driver branch that runs programs of one CUDA major version ("minor-version compatibility")."""

    cuda: int
    branch: int
    evidence: Evidence


CUDA_FLOORS: tuple[CudaFloor, ...] = (
    CudaFloor(cuda=11, branch=450, evidence=read(MINOR_VERSIONS)),
    CudaFloor(cuda=12, branch=525, evidence=read(MINOR_VERSIONS)),
    CudaFloor(cuda=13, branch=580, evidence=read(MINOR_VERSIONS)),
)


@dataclass(frozen=True, kw_only=True)
class EngineFloor:
    """The oldest compute capability that vLLM's images with one CUDA major version have code for."""

    cuda: int
    compute: tuple[int, int]
    evidence: Evidence


ENGINE_FLOORS: tuple[EngineFloor, ...] = (
    EngineFloor(
        cuda=12,
        compute=(7, 0),
        evidence=read(
            f"{VLLM}/0baaf0eaef91351b3916e51f200ea96fe8566f99/docs/getting_started/installation/gpu/cuda.inc.md"
        ),
    ),
    EngineFloor(
        cuda=13,
        compute=(7, 5),
        evidence=read(f"{VLLM}/01e4fce07423dafcc832600ba05159fb28dc1126/docker/versions.json"),
    ),
)


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The first version of a program that can do what hosts need."""

    program: str
    version: tuple[int, ...]
    can: str
    evidence: tuple[Evidence, ...]

    def __str__(self) -> str:
        return ".".join(map(str, self.version))


OPEN_FLOOR = Floor(program="NVIDIA's driver", version=(515,), can="has open kernel modules", evidence=(_MODULES,))
DOCKER_FLOOR = Floor(
    program="Docker",
    version=(25, 0),
    can="takes CDI devices, with `features.cdi` in daemon.json, which we write (28.2 does by itself)",
    evidence=(
        read("https://docs.docker.com/engine/release-notes/25.0/"),
        read("https://docs.docker.com/engine/release-notes/28/"),
        Evidence(
            kind="run", where="Docker 26.1.5 with features.cdi starts a container with a CDI device named by its UUID"
        ),
    ),
)
TOOLKIT_FLOOR = Floor(
    program="NVIDIA container toolkit",
    version=(1, 18),
    can="has nvidia-cdi-refresh, which writes CDI files at boot and on driver changes",
    evidence=(read("https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/cdi-support.html"),),
)
FLOORS = (OPEN_FLOOR, DOCKER_FLOOR, TOOLKIT_FLOOR)


@dataclass(frozen=True, kw_only=True)
class SupportedOs:
    """An operating system that hosts may run."""

    distribution: Distribution
    name: str
    nvidia_arches: tuple[str, ...]
    """Architectures (`uname -m`) for which NVIDIA's repository has drivers."""
    evidence: tuple[Evidence, ...]


_OS = read(SUPPORTED_OS)
_RUN_DEBIAN = Evidence(
    kind="run", where="systemd in containers, with Debian's own driver packages; NVIDIA's repository stood in for"
)

SYSTEMS: tuple[SupportedOs, ...] = (
    SupportedOs(distribution="debian-12", name="Debian 12", nvidia_arches=("x86_64",), evidence=(_OS, _RUN_DEBIAN)),
    SupportedOs(distribution="debian-13", name="Debian 13", nvidia_arches=("x86_64",), evidence=(_OS,)),
    SupportedOs(distribution="ubuntu-22.04", name="Ubuntu 22.04", nvidia_arches=("x86_64", "aarch64"), evidence=(_OS,)),
    SupportedOs(distribution="ubuntu-24.04", name="Ubuntu 24.04", nvidia_arches=("x86_64", "aarch64"), evidence=(_OS,)),
)


@dataclass(frozen=True, kw_only=True)
class KernelBuild:
    """Whether a driver's modules build for a kernel."""

    driver: str
    modules: Modules
    kernel: str
    """Beginning of `uname -r`."""
    builds: bool
    evidence: Evidence


_BUILT = "DKMS on Debian 12 with that kernel's headers"

KERNELS: tuple[KernelBuild, ...] = (
    KernelBuild(
        driver="535.261.03",
        modules="open",
        kernel="6.1.0-50-",
        builds=True,
        evidence=Evidence(kind="run", where=f"{_BUILT}: 250 s"),
    ),
    KernelBuild(
        driver="535.261.03",
        modules="open",
        kernel="6.1.0-56-",
        builds=False,
        evidence=Evidence(kind="run", where=f"{_BUILT}: compile error at pci_resize_resource"),
    ),
    KernelBuild(
        driver="535.309.01",
        modules="proprietary",
        kernel="6.1.0-56-",
        builds=True,
        evidence=Evidence(kind="run", where=_BUILT),
    ),
)
"""What is not listed is tried on the host: the driver's step builds the modules before anything depends on them."""

NVSWITCH_DEVICES: dict[int, str] = {
    0x20B0: "A100-SXM4-40GB",
    0x20B2: "A100-SXM4-80GB",
    0x20BD: "A800-SXM4-40GB",
    0x20F3: "A800-SXM4-80GB",
    0x2324: "H800",
    0x2329: "H20",
    0x232C: "H20-3e",
    0x2330: "H100-SXM5-80GB",
    0x2335: "H200-SXM",
    0x2901: "B200",
    0x3182: "B300-SXM6",
}
"""GPUs that sit on HGX boards. Read: OPEN_MODULES, and pci.ids for those of 2020 to 2023."""
NVSWITCH_FROM = 8
"""HGX boards of so many GPUs have NVSwitches, the smaller ones of four have not (A100, H100). Read: FABRIC_MANAGER."""
NVSWITCH_EVIDENCE: tuple[Evidence, ...] = (
    read(FABRIC_MANAGER),
    read("https://github.com/NVIDIA/gpu-operator/issues/544"),
    read("https://github.com/NVIDIA/gpu-operator/issues/610"),
)


@dataclass(frozen=True, kw_only=True)
class DeviceFloor:
    """A device that came later than its generation."""

    device: int
    name: str
    driver: str
    """The first version that drives it."""
    evidence: Evidence


DEVICE_FLOORS: tuple[DeviceFloor, ...] = (
    DeviceFloor(
        device=0x2901,
        name="B200",
        driver="570.133.20",
        evidence=read("https://github.com/NVIDIA/cloud-native-docs/pull/184"),
    ),
)
