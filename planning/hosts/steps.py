"""From the spec to a host's steps: each script with the settings that it gets."""

import json
import shlex
from functools import cache
from pathlib import Path

from planning.hosts import packages
from planning.hosts.packages import PackageSet
from planning.hosts.plan import FIREWALL_REVERTS_S, SSH_REOPENS_S, STEPS, HostPlan, Step, StepName
from planning.network import firewall, uplinks
from planning.network.mesh import join_words, mesh_settings, mesh_summary
from planning.network.policy import tags
from stack_configs.schema.hosts import Host, RebootWindow, SshConnection
from stack_configs.schema.reached import reached_by
from stack_configs.schema.stack import StackSpec
from stack_configs.schema.versions import HostVersions, RepositoryName

SCRIPTS = Path(__file__).parent / "scripts"

TIMEOUTS_S: dict[StepName, int] = {
    "join": 1200,
    "base": 1200,
    "driver": 3600,
    "reboot": 900,
    "engine": 1800,
    "mesh": 900,
    "uplinks": 900,
    "firewall": 900,
    "confirm": 60,
}
"""Waiting ten minutes for apt's lock is in each but `confirm`, which installs nothing; a DKMS build took 250 s on 4
cores, and a driver may need three."""
APT_LOCK_S = 600

PARTS: dict[StepName, tuple[str, ...]] = {
    "join": ("repositories", "tailscale", "ruleset"),
    "base": ("repositories",),
    "mesh": ("tailscale",),
    "firewall": ("ruleset",),
    "confirm": ("ruleset",),
}
"""What some steps share besides."""

FINISHES: dict[StepName, StepName] = {"engine": "reboot", "confirm": "firewall", "mesh": "join"}
"""Step → the one whose work it finishes: what `reboot` stops, `engine` starts; what `firewall` tries, `confirm` keeps;
what a node publishes goes when it joins anew. It runs whenever that one does."""

NO_KEY = {
    "tailscale": "`up` takes one from Tailscale, and was not given its OAuth client",
    "headscale": "`up` takes one from the headscale, and was not given its API key",
}

PROGRAMS: dict[StepName, tuple[str, str]] = {"engine": ("FENCE", "fence"), "uplinks": ("WATCH", "uplinks_watch")}
"""Programs that a step puts on the host: the variable that it gets the text by, and the script."""

SERVING_LABEL = "inference-stack.component=serving"
"""Of model containers: components.naming puts it on."""


def plan_host(name: str, spec: StackSpec) -> HostPlan:
    """The steps of one host over SSH. A host without a driver of ours has no `driver` and `reboot`.

    Raises KeyError for a driver or CUDA toolkit that the version set doesn't have: the gate refuses those beforehand.
    """
    host, versions = spec.file.hosts[name], spec.host_versions
    if not isinstance(host.connection, SshConnection):
        raise ValueError(f"{name} is this machine: it is not prepared over SSH")
    if versions is None:
        raise ValueError(f"{name} needs the version set's `hosts:` part")
    repairs, mesh = spec.repairs.get(name, {}), spec.file.network.mesh
    settings: dict[StepName, dict[str, str] | None] = {
        "base": _base(host, versions, mesh=mesh is not None),
        "driver": _driver(host, versions) if host.driver or host.cuda_toolkit else None,
        "reboot": _reboot(host, versions) if host.driver else None,
        "engine": _engine(host, versions),
        "uplinks": uplinks.settings(host),
        "firewall": _firewall(name, spec),
        "confirm": _firewall(name, spec),
    }
    if mesh:
        tailscale = _tailscale(versions)
        settings["join"] = {
            **_repository("tailscale", host, versions),
            **tailscale,
            "WHEN_REMOVED": host.when_removed,
            "NO_KEY": NO_KEY[mesh.control],
        }
        settings["mesh"] = {**tailscale, **mesh_settings(name, spec)}
    summaries: dict[StepName, str] = {
        "base": _base_summary(host, mesh=mesh is not None),
        "driver": _driver_summary(host, versions),
        "reboot": _reboot_summary(host),
        "engine": _engine_summary(host, versions),
        "uplinks": uplinks.summary(host),
        "firewall": _firewall_summary(name, spec),
        "confirm": "over a new connection; without it the rules end by themselves",
    }
    if mesh:
        summaries["join"] = f"{' as '.join(join_words(name, spec))}"
        summaries["mesh"] = mesh_summary(name, spec)
    steps: list[Step] = []
    for step in STEPS:
        given = settings.get(step)
        if given is not None:
            before = next((one for one in steps if one.name == FINISHES.get(step)), None)
            if before:
                given = {**given, "AFTER": before.digest}
            steps.append(
                Step(
                    name=step,
                    summary=summaries[step],
                    script=script(step),
                    settings={"APT_LOCK_S": str(APT_LOCK_S), **given},
                    timeout_s=TIMEOUTS_S[step],
                    repair=repairs.get(step, 0),
                    # A stack that leaves its mesh can't dial a host there any more: `join` takes back all of it.
                    undone=step != "mesh",
                    once=join_words(name, spec) if step == "join" else (),
                )
            )
    return HostPlan(
        name=name,
        connection=reached_by(name, host, spec.file.network),
        steps=tuple(steps),
        bootstrap=host.connection if mesh else None,
        tags=tags(name, spec) if mesh else (),
        reboot_within_s=host.reboot_within_s,
    )


@cache
def script(step: StepName) -> str:
    """What every step shares, and the step's own part, whose last line runs it."""
    shared = "\n".join((SCRIPTS / f"{part}.sh").read_text() for part in ("lib", "apt", *PARTS.get(step, ()), step))
    if step not in PROGRAMS:
        return shared
    variable, program = PROGRAMS[step]
    return f"{variable}={shlex.quote((SCRIPTS / f'{program}.sh').read_text())}\n{shared}"


def text(step: Step) -> str:
    """All that the host's `bash -s` reads: settings as variables, then the script."""
    settings = {**step.settings, "STEP": step.name, "DIGEST": step.digest}
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in sorted(settings.items())) + step.script


def needs_toolkit(host: Host) -> bool:
    """Whether containers of this host get GPUs."""
    return bool(host.gpus or host.driver)


def _base(host: Host, versions: HostVersions, *, mesh: bool) -> dict[str, str]:
    wanted = repositories(host, mesh=mesh)
    settings = {
        "SUPPORTED": _words(packages.shell_name(os) for os in packages.DISTRIBUTIONS),
        "REPOSITORIES": _words(packages.shell_name(name) for name in wanted),
        "DEBIAN_NON_FREE": "yes" if host.driver and host.driver.packages == "distribution" else "",
        "MODELS_DIR": host.models_dir,
        "MODELS_FREE_GIB": str(host.models_free_gib),
    }
    for name in wanted:
        settings |= _repository(name, host, versions)
    return settings


def repositories(host: Host, *, mesh: bool) -> tuple[RepositoryName, ...]:
    """What the host installs from besides its own distribution."""
    found: list[RepositoryName] = []
    if (host.driver and host.driver.packages == "nvidia") or host.cuda_toolkit:
        found.append("nvidia-driver")
    if needs_toolkit(host):
        found.append("nvidia-container-toolkit")
    if host.engine == "docker":
        found.append("docker")
    if mesh:
        found.append("tailscale")
    return tuple(found)


def _repository(name: RepositoryName, host: Host, versions: HostVersions) -> dict[str, str]:
    of, mirror = versions.repositories[name], host.mirrors.get(name)
    settings = {
        "URL": mirror.url if mirror else of.url,
        "SUITE": of.suite,
        "COMPONENTS": _words(of.components),
        "KEY_URL": of.key_url,
        "KEY": of.key_fingerprint,
    }
    for os, key in of.distributions.items():
        settings[f"KEY_URL_{packages.shell_name(os)}"] = key.key_url
        settings[f"KEY_{packages.shell_name(os)}"] = key.key_fingerprint
    if mirror and mirror.key_url:
        settings = {key: value for key, value in settings.items() if not key.startswith("KEY_URL")}
        settings["KEY_URL"] = mirror.key_url
    if mirror and mirror.key_fingerprint:
        settings = {key: value for key, value in settings.items() if key.startswith("KEY_URL") or "KEY" not in key}
        settings["KEY"] = mirror.key_fingerprint
    return {f"REPO_{packages.shell_name(name)}_{key}": value for key, value in settings.items()}


def _tailscale(versions: HostVersions) -> dict[str, str]:
    if versions.tailscale is None:
        raise KeyError("tailscale")
    return {"TAILSCALE_VERSION": versions.tailscale.version}


def _base_summary(host: Host, *, mesh: bool) -> str:
    found = ", ".join(repositories(host, mesh=mesh)) or "no repositories of others"
    return f"{found}; security updates, time; {host.models_free_gib} GiB for models"


def _driver(host: Host, versions: HostVersions) -> dict[str, str]:
    settings = {"FAMILY": _words(packages.DRIVER_FAMILY), "WHEN_REMOVED": host.when_removed, "WANTED": ""}
    if host.driver:
        pin = versions.drivers[host.driver.branch]
        sets = {os: packages.driver_packages(host.driver, pin, os) for os in packages.DISTRIBUTIONS}
        settings |= {
            "WANTED": "yes",
            "SOURCE": host.driver.packages,
            "MODULES": host.driver.modules,
            "FABRIC": "yes" if host.driver.fabric_manager else "",
            **_sets("", packages.by_distribution(sets)),
        }
    if host.cuda_toolkit:
        cuda = packages.cuda_packages(host.cuda_toolkit, versions.cuda_toolkits[host.cuda_toolkit])
        settings |= {**_sets("CUDA_", {"": cuda}), "CUDA_PARTS": cuda.parts}
    return settings


def _driver_summary(host: Host, versions: HostVersions) -> str:
    parts = []
    if host.driver:
        pin = versions.drivers[host.driver.branch]
        own = host.driver.packages == "distribution"
        found = sorted(set(pin.distributions.values())) if own else [pin.version]
        parts.append(
            f"{' or '.join(found) or 'none'} {host.driver.modules}{', of the distribution' if own else ''}, held"
        )
        if host.driver.fabric_manager:
            parts.append("fabric manager")
    if host.cuda_toolkit:
        parts.append(f"CUDA toolkit {versions.cuda_toolkits[host.cuda_toolkit].version}")
    return "; ".join(parts)


def _reboot(host: Host, versions: HostVersions) -> dict[str, str]:
    assert host.driver
    pin = versions.drivers[host.driver.branch]
    sets = {os: packages.driver_packages(host.driver, pin, os) for os in packages.DISTRIBUTIONS}
    found = packages.by_distribution(sets)
    settings = {f"VERSION{suffix}": of.version for suffix, of in found.items()}
    settings |= {"POLICY": "window" if isinstance(host.reboot, RebootWindow) else host.reboot}
    settings |= {"SERVING_LABEL": SERVING_LABEL, "REOPENS_S": str(SSH_REOPENS_S)}
    if isinstance(host.reboot, RebootWindow):
        settings |= {
            "WINDOW_DAYS": _words(host.reboot.days),
            "WINDOW_OPENS": host.reboot.opens,
            "WINDOW_CLOSES": host.reboot.closes,
        }
    return settings


def _reboot_summary(host: Host) -> str:
    if isinstance(host.reboot, RebootWindow):
        days = ", ".join(host.reboot.days)
        return f"for another module only, {days} {host.reboot.opens} to {host.reboot.closes} UTC"
    return "for another module only" if host.reboot == "allowed" else "never, only noted"


def _engine(host: Host, versions: HostVersions) -> dict[str, str]:
    assert isinstance(host.connection, SshConnection)
    sets = {os: packages.docker_packages(host.engine, versions, os) for os in packages.DISTRIBUTIONS}
    settings = {
        **_sets("DOCKER_", packages.by_distribution(sets)),
        "DOCKER_FAMILY": _words(packages.DOCKER_FAMILY),
        "TOOLKIT_FAMILY": _words(packages.TOOLKIT_FAMILY),
        "DATA_ROOT": host.data_root,
        "DAEMON_JSON": daemon_json(host),
        "LOGIN": host.connection.user,
        "GPUS": _words(host.gpus),
        "WHEN_REMOVED": host.when_removed,
        "WANT_TOOLKIT": "yes" if needs_toolkit(host) else "",
    }
    if needs_toolkit(host):
        settings |= _sets("TOOLKIT_", {"": packages.toolkit_packages(versions.container_toolkit)})
    if host.driver:
        reboot = _reboot(host, versions)
        settings |= {f"DRIVER_{key}": value for key, value in reboot.items() if key.startswith("VERSION")}
    return settings


def daemon_json(host: Host) -> str:
    """/etc/docker/daemon.json. `live-restore` keeps containers when Docker restarts; the log limits are for others'."""
    settings: dict[str, object] = {
        "data-root": host.data_root,
        "live-restore": True,
        "log-driver": "json-file",
        "log-opts": {"max-file": "3", "max-size": "10m"},
    }
    if needs_toolkit(host):
        settings["features"] = {"cdi": True}
    return json.dumps(settings, indent=2, sort_keys=True)


def _engine_summary(host: Host, versions: HostVersions) -> str:
    own = host.engine == "distribution"
    found = sorted(set(versions.docker.distributions.values())) if own else [versions.docker.version]
    docker = f"Docker {' or '.join(found) or 'none'}{' of the distribution' if own else ''}"
    toolkit = f", container toolkit {versions.container_toolkit.version}, CDI" if needs_toolkit(host) else ""
    return f"{docker}{toolkit}, live-restore, log rotation"


def _firewall(name: str, spec: StackSpec) -> dict[str, str] | None:
    if spec.file.network.firewall is None:
        return None
    return {"RULES": firewall.ruleset(name, spec).strip(), "REVERT_S": str(FIREWALL_REVERTS_S)}


def _firewall_summary(name: str, spec: StackSpec) -> str:
    return firewall.summary(name, spec) if spec.file.network.firewall else ""


def _sets(prefix: str, sets: dict[str, PackageSet]) -> dict[str, str]:
    settings = {}
    for suffix, of in sets.items():
        settings[f"{prefix}VERSION{suffix}"] = of.version
        settings[f"{prefix}PACKAGES{suffix}"] = _words(of.names)
        settings[f"{prefix}LOOSE{suffix}"] = _words(
            f"{name}={version}" if version else name for name, version in of.loose
        )
        settings[f"{prefix}FIRST{suffix}"] = _words(of.first)
        settings[f"{prefix}NOT_BESIDE{suffix}"] = _words(of.not_beside)
    return settings


def _words(values: object) -> str:
    assert hasattr(values, "__iter__")
    return " ".join(str(value) for value in values)
