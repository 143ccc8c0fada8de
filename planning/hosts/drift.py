"""What a host's facts say is otherwise than the spec, and which steps must be repaired. Pure.

A step runs again by itself only when its script or settings change. So what changed on the host is repaired by a
counter among the step's inputs, which rises only where the host has noted exactly what the plan has: anything else is a
change that the next `up` makes by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

from planning.hosts.installed import driver_pin
from planning.hosts.packages import DRIVER_FAMILY
from planning.hosts.plan import STEPS, HostPlan, StepName
from planning.hosts.steps import needs_toolkit, plan_host
from planning.hosts.wanted import REMOVED, docker_settings, is_build, moves, not_held, wanted
from stack_configs.schema.facts import Facts
from stack_configs.schema.hosts import Host
from stack_configs.schema.stack import StackSpec

KERNELS = ("linux-image-*", "linux-headers-*")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is otherwise than the spec has it."""

    step: StepName
    """The step that makes it right."""
    says: str
    by_step: bool = True
    """False: the step, run again, would not change it: a person must, or the next `up` does anyway."""


def differences(name: str, spec: StackSpec, facts: Facts, before: Facts | None = None) -> tuple[Difference, ...]:
    """What is otherwise on a host over SSH, by its `facts` of now. `before`: those that were kept last.

    What could not be read (`facts.problems`) is not compared. Raises ValueError without the version set's `hosts:`.
    """
    host, plan = spec.file.hosts[name], plan_host(name, spec)
    found = [
        *(() if _unread(facts, "/var/lib/inference-stack/steps") else _notes(plan, facts, before)),
        *(() if _unread(facts, "dpkg", "apt-mark") else _packages(host, spec, facts)),
        *(() if _unread(facts, "/sys/module", "/proc/driver", "dkms") else _driver(host, spec, facts)),
        *(() if _unread(facts, "Docker:", "docker", "nvidia-ctk", "/etc/cdi") else _engine(host, spec, facts)),
        *(() if _unread(facts, "sudo", "tailscale") else _mesh(plan, facts)),
        *(() if _unread(facts, "sudo", "nft") else _firewall(plan, facts)),
        *_noted("fenced-", "engine", facts),
        *_noted("uplink-", "uplinks", facts),
    ]
    return tuple(sorted(found, key=lambda difference: STEPS.index(difference.step)))


def repairs(name: str, spec: StackSpec, facts: Facts, before: Facts | None = None) -> dict[StepName, int]:
    """Step → its counter, raised by one, for the steps that only a raised counter runs again."""
    wrong = {difference.step for difference in differences(name, spec, facts, before) if difference.by_step}
    return {
        step.name: step.repair + 1
        for step in plan_host(name, spec).steps
        if step.name in wrong and _last_note(step.name, facts, before) == step.digest
    }


def _unread(facts: Facts, *beginnings: str) -> bool:
    return any(problem.startswith(beginnings) for problem in facts.problems)


def _last_note(step: StepName, facts: Facts, before: Facts | None) -> str | None:
    """What the host has noted; where its note is gone, what it had noted when it was asked before."""
    return facts.steps.get(step) or (before.steps.get(step) if before else None)


def _notes(plan: HostPlan, facts: Facts, before: Facts | None) -> Iterator[Difference]:
    for step in plan.steps:
        noted, last = facts.steps.get(step.name), _last_note(step.name, facts, before)
        if noted is None and last is not None:
            yield Difference(step=step.name, says="the host's note that it was applied is gone")
        elif noted is None:
            yield Difference(step=step.name, says="was never applied: the next `up` does it", by_step=False)
        elif noted != step.digest:
            says = "isn't applied as the spec has it by now: the next `up` does it"
            yield Difference(step=step.name, says=says, by_step=False)


def _packages(host: Host, spec: StackSpec, facts: Facts) -> Iterator[Difference]:
    assert spec.host_versions
    for of in wanted(host, spec.host_versions, facts, mesh=spec.file.network.mesh is not None):
        for move in moves(of, facts):
            have = f"is {move.have}" if move.have else "is not installed"
            wants = "none" if move.to == REMOVED else move.to
            yield Difference(step=of.step, says=f"{move.package} {have}, the spec has {wants}")
        if loose := not_held(of, facts):
            yield Difference(step=of.step, says=f"no longer held: {', '.join(loose)}")
    for package, found in facts.packages.items():
        if found.status not in ("installed", "config-files", "not-installed"):
            # A module that can't be built leaves these so: `driver` knows what to do, `base` would build it once more.
            of_driver = host.driver and any(fnmatch(package, pattern) for pattern in (*DRIVER_FAMILY, *KERNELS))
            yield Difference(step="driver" if of_driver else "base", says=f"{package} is {found.status}")


def _driver(host: Host, spec: StackSpec, facts: Facts) -> Iterator[Difference]:
    version, driver = driver_pin(host, spec, facts), facts.driver
    if host.driver is None or version is None:
        return
    person = "it needs a reboot, which is yours to do"
    if driver.loaded is None or not is_build(version, driver.loaded):
        loaded = f"the driver {driver.loaded} is loaded" if driver.loaded else "no driver is loaded"
        manual = host.reboot == "manual"
        says = f"{loaded}, the spec has {version}{f'; {person}' if manual else ''}"
        yield Difference(step="reboot", says=says, by_step=not manual)
    elif driver.modules and driver.modules != host.driver.modules:
        says = f"the {driver.modules} kernel modules are loaded, the spec has the {host.driver.modules} ones; {person}"
        yield Difference(step="reboot", says=says, by_step=False)
    if driver.nouveau:
        says = f"the kernel's own driver nouveau is loaded and keeps NVIDIA's out; {person}"
        yield Difference(step="reboot", says=says, by_step=False)
    if why := facts.pending.get("kernel"):
        yield Difference(step="driver", says=why, by_step=False)
    boots = facts.kernel.boots
    built = [state for key, state in driver.dkms.items() if boots and _is_module(key, boots, version)]
    if boots and driver.dkms and "installed" not in built:
        yield Difference(step="driver", says=f"kernel {boots} boots next, and no module {version} is built for it")


def _is_module(key: str, kernel: str, version: str) -> bool:
    """Whether a line of `dkms status`, such as `nvidia/580.105.08 6.1.0-50-amd64`, is of this driver and kernel."""
    module, _, of = key.partition(" ")
    return of == kernel and is_build(version, module.partition("/")[2])


def _mesh(plan: HostPlan, facts: Facts) -> Iterator[Difference]:
    applied = any(step.name == "mesh" and facts.steps.get(step.name) == step.digest for step in plan.steps)
    if applied and facts.mesh != facts.mesh_noted:
        yield Difference(step="mesh", says="the node's settings, or what it publishes, are others than were set")


def _firewall(plan: HostPlan, facts: Facts) -> Iterator[Difference]:
    """Only where the plan's rules were confirmed: others are the next `up`'s business."""
    confirmed = any(step.name == "confirm" and facts.steps.get(step.name) == step.digest for step in plan.steps)
    if confirmed and facts.firewall != facts.firewall_confirmed:
        says = "other rules are loaded than were confirmed" if facts.firewall else "the firewall's rules aren't loaded"
        yield Difference(step="firewall", says=says)


def _noted(what: str, step: StepName, facts: Facts) -> Iterator[Difference]:
    """What a program of ours on the host has noted: replicas that it stopped, since Docker would only have started them
    again in vain; uplinks that are dead."""
    for name, why in facts.pending.items():
        if name.startswith(what):
            yield Difference(step=step, says=why, by_step=False)


def _engine(host: Host, spec: StackSpec, facts: Facts) -> Iterator[Difference]:
    engine, version = facts.engine, driver_pin(host, spec, facts)
    if engine is None:
        return  # that its packages are missing is told
    if not engine.running:
        yield Difference(step="engine", says="Docker doesn't run")
        return
    if engine.data_root and engine.data_root != host.data_root:
        yield Difference(step="engine", says=f"Docker keeps its data in {engine.data_root}, not in {host.data_root}")
    if engine.settings != docker_settings(host):
        yield Difference(step="engine", says="/etc/docker/daemon.json is not the spec's")
    if not engine.live_restore:
        yield Difference(step="engine", says="Docker's live-restore is off: its restart would stop containers")
    if not needs_toolkit(host):
        return
    if not engine.cdi:
        yield Difference(step="engine", says="Docker takes no CDI devices")
    if facts.driver.loaded is None or (version and not is_build(version, facts.driver.loaded)):
        return  # until the reboot containers are shown no GPU
    for uuid in host.gpus:
        if f"nvidia.com/gpu={uuid}" not in facts.cdi_devices:
            yield Difference(step="engine", says=f"containers can't be given {uuid}: no CDI file names it")
    if why := facts.pending.get("gpus"):
        yield Difference(step="engine", says=f"waited for a driver, which is loaded by now: {why}")


__all__ = ["Difference", "differences", "repairs"]
