"""What facts say is installed, beside what the spec pins. Pure."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from fnmatch import fnmatch
from typing import get_args

from planning.hosts.packages import DRIVER_FAMILY
from stack_configs.schema.facts import Facts, Os, Package
from stack_configs.schema.hosts import Host
from stack_configs.schema.stack import StackSpec
from stack_configs.schema.versions import Distribution, PackagePin

FACTS_MAX_AGE = timedelta(days=30)
"""Older facts are not believed: a host is patched about monthly. What needs the spec alone is checked all the same."""

_DRIVER_VERSION = re.compile(r"\d{3}\.\d{2,3}(\.\d{2})?")
_NOT_DRIVER = re.compile(r"container|toolkit|docker|modprobe|settings|persistenced|xconfig")
"""Of NVIDIA's, and versioned by themselves in some distributions."""


def upstream(version: str) -> str:
    """The program's version inside a package's: `5:28.5.1-1~debian.12~bookworm` is 28.5.1."""
    return re.split(r"[-+~]", version.partition(":")[2] or version, maxsplit=1)[0]


def numbers(version: str) -> tuple[int, ...]:
    """For comparisons: 580.105.08 is (580, 105, 8)."""
    return tuple(int(part) for part in re.findall(r"\d+", upstream(version)))


def branch_of(version: str) -> int:
    return numbers(version)[0]


def distribution(os: Os) -> Distribution | None:
    """The version set's name for an operating system; None: not supported."""
    return next((name for name in get_args(Distribution) if name == f"{os.id}-{os.version}"), None)


def fresh(spec: StackSpec, name: str, now: datetime) -> Facts | None:
    """A host's facts, unless they are too old to be believed."""
    facts = spec.facts.get(name)
    return facts if facts and now - facts.read_at <= FACTS_MAX_AGE else None


def pinned(pin: PackagePin, theirs: bool, facts: Facts | None) -> str | None:
    """The version that a host gets; `theirs`: from its distribution, which only facts can name. None: not known."""
    if not theirs:
        return pin.version
    system = distribution(facts.os) if facts else None
    return pin.distributions.get(system) if system else None


def driver_pin(host: Host, spec: StackSpec, facts: Facts | None) -> str | None:
    """The exact driver that the spec wants on a host; None: none, or not known."""
    pins = spec.host_versions.drivers if spec.host_versions else {}
    if host.driver is None or host.driver.branch not in pins:
        return None
    return pinned(pins[host.driver.branch], host.driver.packages == "distribution", facts)


def docker_pin(host: Host, spec: StackSpec, facts: Facts | None) -> str | None:
    if spec.host_versions is None:
        return None
    return pinned(spec.host_versions.docker, host.engine == "distribution", facts)


def driver_packages(facts: Facts) -> Mapping[str, Package]:
    """The installed packages that carry the driver's version: all but the independent ones of NVIDIA's."""
    return {
        name: package
        for name, package in facts.packages.items()
        if any(fnmatch(name, pattern) for pattern in DRIVER_FAMILY)
        and not _NOT_DRIVER.search(name)
        and _DRIVER_VERSION.fullmatch(upstream(package.version))
        and package.status != "config-files"
    }


def installed(facts: Facts, package: str) -> str | None:
    """One package's upstream version."""
    found = facts.packages.get(package)
    return upstream(found.version) if found and found.status != "config-files" else None
