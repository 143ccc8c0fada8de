"""What `up` would do to a host, by its last facts: what moves, what reboots, what restarts, which models feel it.

Pure. Which steps run is Pulumi's to say; facts say only what the host is like before. Facts that are too old are not
used, so that nobody relies on a guess.
"""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta
from typing import Literal

from planning.hosts.installed import FACTS_MAX_AGE, driver_pin, fresh
from planning.hosts.plan import STEPS, StepName
from planning.hosts.steps import needs_toolkit, plan_host
from planning.hosts.wanted import docker_settings, is_build, moves, not_held, wanted
from planning.names import replica_service
from stack_configs.schema.facts import Facts
from stack_configs.schema.hosts import Host, RebootWindow
from stack_configs.schema.stack import StackSpec

Reboots = Literal["no", "maybe", "yes"]

AS_SPECIFIED: tuple[StepName, ...] = ("join", "mesh", "uplinks", "firewall")
"""Steps whose outcome facts say nothing of: it is told as the spec has it."""


def outlook(name: str, spec: StackSpec, runs: Collection[StepName], now: datetime) -> list[str]:
    """Lines on one host over SSH, in whose preview the steps `runs` are to be applied."""
    facts = spec.facts.get(name)
    lines = [f"Host {name}: {_steps(runs)}. {_age(facts, now)}"]
    if runs:
        known = fresh(spec, name, now)
        told = _known(name, spec, known, runs) if known else _unknown(name, spec, runs, facts)
        lines += [f"  {what:<8}  {text}" for what, text in told]
    if why := spec.waiting.get(name):
        lines.append(f"  waits     {why}")
    return lines


def reboots(name: str, spec: StackSpec, runs: Collection[StepName], now: datetime) -> Reboots:
    """Whether the host reboots when `runs` are applied; `maybe`: facts don't tell, or the time of `up` decides."""
    host, facts = spec.file.hosts[name], fresh(spec, name, now)
    if "reboot" not in runs or host.reboot == "manual":
        return "no"
    return _reboot(host, spec, facts, runs)[0] if facts else "maybe"


def _steps(runs: Collection[StepName]) -> str:
    steps = [step for step in STEPS if step in runs]
    return f"{', '.join(steps)} {'runs' if len(steps) == 1 else 'run'}" if steps else "not touched"


def _age(facts: Facts | None, now: datetime) -> str:
    if facts is None:
        return "It has no facts."
    return f"Its facts are {_ago(now - facts.read_at)} old ({facts.read_at:%Y-%m-%d %H:%M} UTC)."


def _ago(age: timedelta) -> str:
    """In the largest unit of which there are two or more."""
    for unit, seconds in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if age.total_seconds() >= 2 * seconds:
            return f"{int(age.total_seconds() / seconds)} {unit}"
    return "less than 2 minutes"


def _unknown(name: str, spec: StackSpec, runs: Collection[StepName], facts: Facts | None) -> Iterator[tuple[str, str]]:
    """What the steps bring about, without a word on what there is."""
    plan = plan_host(name, spec)
    for step in plan.steps:
        if step.name in runs:
            yield step.name, step.summary
    again = f"`make facts STACK={spec.stack} HOST={name}`"
    old = f"facts more than {FACTS_MAX_AGE.days} days old are not believed" if facts else "it was never asked"
    yield "unknown", f"what moves, reboots and restarts: {old}; {again}"


def _known(name: str, spec: StackSpec, facts: Facts, runs: Collection[StepName]) -> Iterator[tuple[str, str]]:
    assert spec.host_versions
    host = spec.file.hosts[name]
    for step in plan_host(name, spec).steps:
        if step.name in runs and step.name in AS_SPECIFIED:
            yield step.name, step.summary
    sets = [
        of for of in wanted(host, spec.host_versions, facts, mesh=spec.file.network.mesh is not None) if of.step in runs
    ]
    moving = [str(move) for of in sets for move in moves(of, facts)]
    yield from zip(["packages", *[""] * len(moving)], moving or ["none moves"], strict=False)
    if unheld := [package for of in sets for package in not_held(of, facts)]:
        yield "holds", f"{', '.join(unheld)} held"
    will, why = _reboot(host, spec, facts, runs)
    yield "reboot", why
    yield "Docker", _docker(host, spec, facts, runs)
    yield "models", _models(name, spec, facts, will, runs)


def _reboot(host: Host, spec: StackSpec, facts: Facts, runs: Collection[StepName]) -> tuple[Reboots, str]:
    """Whether it reboots, and why or why not."""
    version, loaded = driver_pin(host, spec, facts), facts.driver.loaded
    if "reboot" not in runs or version is None:
        return "no", "no"
    if loaded and is_build(version, loaded):
        return "no", f"no: the driver {loaded} is loaded already"
    running, boots = facts.kernel.running, facts.kernel.boots or facts.kernel.running
    if loaded is None and not facts.driver.nouveau and boots == running:
        why = f"no driver is loaded, so {version} should be loaded without one"
        return ("no", f"no: {why}") if host.reboot == "manual" else ("maybe", f"only if it must: {why}")
    why = f"{loaded or ('nouveau' if facts.driver.nouveau else 'no driver')} is loaded, {version} will be installed"
    if loaded is None and boots != running:
        why += f" for kernel {boots}, and {running} runs"
    if isinstance(host.reboot, RebootWindow):
        window = f"{', '.join(host.reboot.days)} {host.reboot.opens} to {host.reboot.closes} UTC"
        return "maybe", f"if `up` runs within {window}, else it is only noted: {why}"
    if host.reboot == "allowed":
        return "yes", f"yes: {why}"
    return "no", f"no, it is only noted (`reboot: manual`): {why}"


def _docker(host: Host, spec: StackSpec, facts: Facts, runs: Collection[StepName]) -> str:
    assert spec.host_versions
    engine = facts.engine
    if "engine" not in runs:
        return "no restart"
    if engine is None:
        return "starts: it is installed anew"
    sets = [
        of
        for of in wanted(host, spec.host_versions, facts, mesh=spec.file.network.mesh is not None)
        if of.what == "Docker"
    ]
    moving = [str(move) for of in sets for move in moves(of, facts)]
    # Whatever the file has now: the script starts Docker anew where it isn't the one that Docker was started with.
    settings_differ = {engine.settings, engine.settings_in_force} != {docker_settings(host)}
    reasons = moving[:1] or (["its settings"] if settings_differ else [])
    if engine.running and not reasons:
        return "no restart"
    if not engine.running:
        return "starts: it doesn't run"
    return f"restarts ({reasons[0]}); containers go on running (live-restore)"


def _models(name: str, spec: StackSpec, facts: Facts, will: Reboots, runs: Collection[StepName]) -> str:
    here = [
        replica_service(model, index)
        for model, of in spec.file.models.items()
        for index, replica in enumerate(of.replicas)
        if replica.host == name
    ]
    running = [
        service for service in here if f"{spec.stack}/{service}" in (facts.engine.containers if facts.engine else ())
    ]
    if not running:
        return "none runs there"
    if will != "no":
        return f"{', '.join(running)}: drained and stopped for the reboot, started after it"
    host = spec.file.hosts[name]
    version, loaded = driver_pin(host, spec, facts), facts.driver.loaded
    if "driver" in runs and version and loaded and not is_build(version, loaded) and needs_toolkit(host):
        return f"{', '.join(running)}: go on; one that restarts before the reboot finds no GPU"
    return f"{', '.join(running)}: not touched"


__all__ = ["Reboots", "outlook", "reboots"]
