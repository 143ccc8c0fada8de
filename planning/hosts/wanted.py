"""Which packages a host should have, and which of those that it has must move. Pure; no network, so by names alone.

The scripts decide on the host, where apt knows every package; this is what facts let know beforehand.
"""

import fnmatch
import hashlib
import re
from dataclasses import dataclass

from planning.hosts import packages
from planning.hosts.installed import branch_of, distribution, driver_packages, upstream
from planning.hosts.packages import PackageSet
from planning.hosts.plan import StepName
from planning.hosts.steps import daemon_json, needs_toolkit
from stack_configs.schema.facts import Facts
from stack_configs.schema.hosts import Host
from stack_configs.schema.versions import HostVersions


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Packages that are installed, moved and held together."""

    step: StepName
    what: str
    """`the driver`, `Docker`."""
    set: PackageSet


REMOVED = "removed"


@dataclass(frozen=True, kw_only=True)
class Move:
    """A package that is not in the wanted version."""

    package: str
    have: str | None
    """None: not installed."""
    to: str
    """Upstream's version; `the newest` where none is pinned; REMOVED."""

    def __str__(self) -> str:
        return f"{self.package} {self.have or 'not installed'} → {self.to}"


def wanted(host: Host, versions: HostVersions, facts: Facts, *, mesh: bool) -> tuple[Wanted, ...]:
    """By step, in the order in which they are installed. What has no package for the host's system is left out."""
    os = distribution(facts.os)
    if os is None:
        return ()
    found: list[tuple[StepName, str, PackageSet | None]] = []
    if host.driver and (pin := versions.drivers.get(host.driver.branch)):
        found.append(("driver", "the driver", packages.driver_packages(host.driver, pin, os)))
    if host.cuda_toolkit and (pin := versions.cuda_toolkits.get(host.cuda_toolkit)):
        found.append(("driver", "the CUDA toolkit", packages.cuda_packages(host.cuda_toolkit, pin)))
    found.append(("engine", "Docker", packages.docker_packages(host.engine, versions, os)))
    if needs_toolkit(host):
        found.append(("engine", "the container toolkit", packages.toolkit_packages(versions.container_toolkit)))
    if mesh and versions.tailscale:
        found.append(("mesh", "Tailscale", PackageSet(version=versions.tailscale.version, names=("tailscale",))))
    return tuple(Wanted(step=step, what=what, set=of) for step, what, of in found if of)


def moves(of: Wanted, facts: Facts) -> tuple[Move, ...]:
    """What must be installed, or brought to another version."""
    found = []
    for name in (*of.set.first, *_members(of, facts)):
        have = _installed(name, facts)
        if have is None or not is_build(have, of.set.version):
            to = REMOVED if have and _is_of_another(name, have, of) else of.set.version
            found.append(Move(package=name, have=have, to=to))
    for name, version in of.set.loose:
        have = _installed(name, facts)
        if have is None or (version and not is_build(have, version)):
            found.append(Move(package=name, have=have, to=version or "the newest"))
    for name in of.set.not_beside:
        if have := _installed(name, facts):
            found.append(Move(package=name, have=have, to=REMOVED))
    return tuple(found)


def not_held(of: Wanted, facts: Facts) -> tuple[str, ...]:
    """Installed packages whose hold is gone."""
    names = [*of.set.first, *_members(of, facts), *(name for name, _ in of.set.loose)]
    if of.set.parts:
        names += [name for name in fnmatch.filter(sorted(facts.packages), of.set.parts) if name not in names]
    return tuple(name for name in names if (found := facts.packages.get(name)) and not found.held)


def is_build(full: str, version: str) -> bool:
    """Whether a package's version is a build of upstream's: 5:29.8.2-1~debian.12~bookworm of 29.8.2."""
    return re.fullmatch(rf"(\d+:)?{re.escape(version)}([-+~].*)?", full) is not None


def _is_of_another(name: str, have: str, of: Wanted) -> bool:
    """Whether the name carries another branch or version, so that no package of the wanted version has it."""
    if name in (*of.set.first, *of.set.names):
        return False
    branch = branch_of(have)
    return name.endswith(f"-{upstream(have)}") or (
        branch != branch_of(of.set.version) and re.search(rf"-{branch}(-|$)", name) is not None
    )


def docker_settings(host: Host) -> str:
    """Names the wanted /etc/docker/daemon.json as facts name the one that is there."""
    return hashlib.sha256(f"{daemon_json(host)}\n".encode()).hexdigest()[:12]


def _members(of: Wanted, facts: Facts) -> tuple[str, ...]:
    """The set's own names, and what else is installed that carries the driver's version."""
    others = driver_packages(facts) if of.what == "the driver" else ()
    not_other = {*of.set.first, *of.set.names, *(name for name, _ in of.set.loose), *of.set.not_beside}
    return (*of.set.names, *sorted(name for name in others if name not in not_other))


def _installed(name: str, facts: Facts) -> str | None:
    found = facts.packages.get(name)
    return found.version if found and found.status not in ("config-files", "not-installed") else None


__all__ = ["REMOVED", "Move", "Wanted", "docker_settings", "is_build", "moves", "not_held", "wanted"]
