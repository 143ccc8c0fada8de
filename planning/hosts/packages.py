"""What hosts install, by vendor and distribution: package names, the families that move together, their versions.

Names of NVIDIA's repository up to 580 end in the branch; from 590 on they don't, and a package that pins the version
comes first (NVIDIA Driver Installation Guide, "Version locking", r590).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from stack_configs.schema.hosts import Driver
from stack_configs.schema.versions import Distribution, HostVersions, PackagePin

DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)

DRIVER_FAMILY = (
    "*nvidia*",
    "cuda-drivers*",
    "libcuda1",
    "libcudadebugger1",
    "libnvcuvid1",
    "libnvoptix1",
    "libxnvctrl0",
)
"""Patterns of all packages that carry a driver's version. Those that match and have versions of their own, such as the
container toolkit, are untouched: a pin names a version, and they have none of that name."""

DOCKER_FAMILY = ("docker-ce*", "docker.io", "docker-cli", "containerd.io", "containerd", "runc")
TOOLKIT_FAMILY = ("nvidia-container-toolkit*", "libnvidia-container*")

UNSUFFIXED_SINCE = 590
"""The first branch whose packages in NVIDIA's repository don't carry its number."""
FABRIC_UNSUFFIXED_SINCE = 580
"""The same for the fabric manager: nvidia-fabricmanager=580.95.05-1 and later were seen; 575 ends in the branch."""


@dataclass(frozen=True, kw_only=True)
class PackageSet:
    """What is installed for one purpose on one distribution."""

    version: str
    """Upstream's; the packages' versions are this with any revision."""
    first: tuple[str, ...] = ()
    """Installed before the others, since apt decides about those by it."""
    names: tuple[str, ...]
    loose: tuple[tuple[str, str], ...] = ()
    """Belong to them and have versions of their own: name and version; without one the newest that there is, and held
    from then on."""
    parts: str = ""
    """Pattern of what they bring with versions of its own: the newest at the first installation, held from then on."""
    not_beside: tuple[str, ...] = ()
    """Removed where they are found: a distribution lets both kinds of modules be installed, and one would be loaded."""


def driver_packages(driver: Driver, pin: PackagePin, os: Distribution) -> PackageSet | None:
    """NVIDIA's driver, modules built by DKMS. None where `pin` names no version of this distribution's own packages."""
    if driver.packages == "distribution":
        if os not in pin.distributions:
            return None
        version = pin.distributions[os]
        return _debian_driver(driver, version) if os.startswith("debian") else _ubuntu_driver(driver, version)
    number = int(driver.branch)
    suffix = f"-{driver.branch}" if number < UNSUFFIXED_SINCE else ""
    names = [f"nvidia-open{suffix}" if driver.modules == "open" else f"cuda-drivers{suffix}"]
    if driver.fabric_manager:
        names.append("nvidia-fabricmanager" if number >= FABRIC_UNSUFFIXED_SINCE else f"nvidia-fabricmanager{suffix}")
    first = (f"nvidia-driver-pinning-{pin.version}",) if number >= UNSUFFIXED_SINCE else ()
    return PackageSet(version=pin.version, first=first, names=tuple(names), not_beside=_other_modules(driver))


def _other_modules(driver: Driver) -> tuple[str, ...]:
    open_ = ("nvidia-open-kernel-dkms", "nvidia-kernel-open-dkms")  # Debian's name, and NVIDIA's
    return ("nvidia-kernel-dkms",) if driver.modules == "open" else open_


def _debian_driver(driver: Driver, version: str) -> PackageSet:
    """Without the desktop's parts, which `nvidia-driver` would bring. Debian has no fabric manager: apt will say so."""
    modules = "nvidia-open-kernel-dkms" if driver.modules == "open" else "nvidia-kernel-dkms"
    fabric = ("nvidia-fabricmanager",) if driver.fabric_manager else ()
    return PackageSet(
        version=version,
        names=(modules, "libcuda1", "libnvidia-ml1", "nvidia-smi", *fabric),
        loose=(("nvidia-persistenced", ""), ("nvidia-modprobe", "")),
        not_beside=_other_modules(driver),
    )


def _ubuntu_driver(driver: Driver, version: str) -> PackageSet:
    """Ubuntu's server flavour without a desktop; `nvidia-compute-utils` has the persistence daemon."""
    branch = f"{driver.branch}-server"
    kind = "-open" if driver.modules == "open" else ""
    fabric = (f"nvidia-fabricmanager-{driver.branch}",) if driver.fabric_manager else ()
    headless = f"nvidia-headless-{branch}{kind}"
    names = (headless, f"nvidia-utils-{branch}", f"nvidia-compute-utils-{branch}", *fabric)
    return PackageSet(version=version, names=names)


def docker_packages(
    source: Literal["docker", "distribution"], versions: HostVersions, os: Distribution
) -> PackageSet | None:
    """Docker. None where the version set names no version of this distribution's own packages."""
    pin = versions.docker
    if source == "docker":
        containerd = ("containerd.io", versions.containerd.version)
        return PackageSet(version=pin.version, names=("docker-ce", "docker-ce-cli"), loose=(containerd,))
    if os not in pin.distributions:
        return None
    # Debian 13 split the client off. (Ubuntu's docker.io has it.)
    names = ("docker.io", "docker-cli") if os == "debian-13" else ("docker.io",)
    return PackageSet(version=pin.distributions[os], names=names)


def toolkit_packages(pin: PackagePin) -> PackageSet:
    """NVIDIA's container toolkit; no distribution here has its own."""
    names = (
        "nvidia-container-toolkit",
        "nvidia-container-toolkit-base",
        "libnvidia-container-tools",
        "libnvidia-container1",
    )
    return PackageSet(version=pin.version, names=names)


def cuda_packages(toolkit: str, pin: PackagePin) -> PackageSet:
    """A CUDA toolkit without a driver: `12.9` is the package cuda-toolkit-12-9, and all its parts end in -12-9."""
    number = toolkit.replace(".", "-")
    return PackageSet(version=pin.version, names=(f"cuda-toolkit-{number}",), parts=f"*-{number}")


def by_distribution(sets: Mapping[Distribution, PackageSet | None]) -> dict[str, PackageSet]:
    """The sets by the suffix of their shell variables: one without suffix where all distributions have the same.

    What a host runs is known to itself alone, so a script is given every distribution's set and takes its own.
    """
    found = {os: packages for os, packages in sets.items() if packages is not None}
    distinct = set(found.values())
    if len(found) == len(sets) and len(distinct) == 1:
        return {"": distinct.pop()}
    return {f"_{shell_name(os)}": packages for os, packages in found.items()}


def shell_name(name: str) -> str:
    """`ubuntu-24.04` as a part of a shell variable's name: `ubuntu_24_04`."""
    return name.replace("-", "_").replace(".", "_")
