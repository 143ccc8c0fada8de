"""The compatibility gate: what must not be tried on a host, told before anything is touched. Pure.

`gate_problems` refuses, `gate_warnings` only tells. What the spec alone decides is decided without facts; the rest
needs a host's facts, and those not older than FACTS_MAX_AGE. Rules about GPUs are in gate_cards.py, data in
gate_table.py.
"""

from collections.abc import Iterator
from datetime import datetime

from planning.hosts import gate_table as table
from planning.hosts.checked import Checked, Found, branches, cuda_floor, system_name
from planning.hosts.gate_cards import CARD_REFUSALS, CARD_WARNINGS
from planning.hosts.installed import FACTS_MAX_AGE, distribution, docker_pin, driver_pin, fresh, numbers, upstream
from planning.hosts.steps import repositories
from stack_configs.schema.stack import StackSpec

SECURE_BOOT_DOC = "docs/reference/compatibility.md#secure-boot"


def gate_problems(spec: StackSpec, now: datetime) -> tuple[Found, ...]:
    """Everything that must not be tried, in the order of the hosts; what is wrong for several hosts is told once."""
    found = [found for checked in _hosts(spec, now) for rule in _REFUSALS for found in rule(checked)]
    return tuple(dict.fromkeys(found))


def gate_warnings(spec: StackSpec, now: datetime) -> tuple[Found, ...]:
    """What is allowed, and should be known before."""
    told = [found for checked in _hosts(spec, now) for rule in _WARNINGS for found in rule(checked)]
    for name, facts in spec.facts.items():
        if now - facts.read_at > FACTS_MAX_AGE:
            told.append(
                (
                    ("hosts", name),
                    f"has facts of {facts.read_at:%Y-%m-%d}, more than {FACTS_MAX_AGE.days} days old: "
                    "what needs them was not checked",
                    f"`make facts STACK={spec.stack} HOST={name}`",
                )
            )
    return tuple(told)


def _hosts(spec: StackSpec, now: datetime) -> Iterator[Checked]:
    for name, host in spec.file.hosts.items():
        if host.connection.kind == "ssh":
            yield Checked(name=name, host=host, spec=spec, facts=fresh(spec, name, now))


def _pins(c: Checked) -> Iterator[Found]:
    """All that the host asks for is in the version set."""
    versions, driver = c.spec.host_versions, c.host.driver
    if versions is None:
        yield (
            ("versions",),
            f"{c.spec.file.versions} says nothing of hosts, which hosts over SSH are prepared from",
            "take a version set with a part `hosts:`",
        )
        return
    mesh = c.spec.file.network.mesh is not None
    if mesh and versions.tailscale is None:
        yield (
            ("versions",),
            f"{c.spec.file.versions} has no version of Tailscale, which hosts in a mesh run",
            "take a version set with `hosts.tailscale`",
        )
    if absent := [name for name in repositories(c.host, mesh=mesh) if name not in versions.repositories]:
        yield (
            ("versions",),
            f"{c.spec.file.versions} has no apt repository {' and no '.join(absent)}",
            "take a version set that has, or write the repository into it",
        )
    if driver and driver.branch not in versions.drivers:
        yield (
            (*c.at, "driver", "branch"),
            f"{driver.branch} is not in the version set {c.spec.file.versions}",
            branches(c),
        )
    toolkit = c.host.cuda_toolkit
    if toolkit and toolkit not in versions.cuda_toolkits:
        known = " or ".join(f'`"{one}"`' for one in sorted(versions.cuda_toolkits, reverse=True))
        yield (
            (*c.at, "cuda_toolkit"),
            f"{toolkit} is not in the version set {c.spec.file.versions}",
            f"write {known}" if known else "leave it out: engines carry their own CUDA",
        )


def _modules_of_branch(c: Checked) -> Iterator[Found]:
    driver, floor = c.host.driver, table.OPEN_FLOOR.version[0]
    if driver and driver.modules == "open" and int(driver.branch) < floor:
        yield (
            (*c.at, "driver", "modules"),
            f"branch {driver.branch} has no open modules: they begin with {floor}",
            f"{branches(c)}, or `modules: proprietary` for cards older than Turing",
        )


def _cuda_of_branch(c: Checked) -> Iterator[Found]:
    """The driver must run the CUDA of engines, and of the host's own toolkit."""
    branch = int(c.host.driver.branch) if c.host.driver else c.loaded_branch
    for whose, cuda in {"vLLM's image": c.cuda, "`cuda_toolkit`": c.toolkit_cuda}.items():
        floor = cuda_floor(cuda)
        if branch is None or cuda is None or floor is None or branch >= floor:
            continue
        needs = f"{whose}, which has CUDA {'.'.join(map(str, cuda))}: that needs {floor} or newer"
        if c.host.driver:
            yield ((*c.at, "driver", "branch"), f"{branch} is too old for {needs}", branches(c))
        else:
            yield (c.at, f"has driver {branch} loaded, too old for {needs}", branches(c))


def _docker(c: Checked) -> Iterator[Found]:
    """GPUs reach containers as CDI devices."""
    version, floor = docker_pin(c.host, c.spec, c.facts), table.DOCKER_FLOOR
    if not c.is_gpu_host or version is None or numbers(version) >= floor.version:
        return
    theirs = c.host.engine == "distribution" and c.facts
    yield (
        (*c.at, "engine"),
        f"is Docker {upstream(version)}{f' of {system_name(theirs)}' if theirs else ''}, which takes no CDI devices: "
        f"no container could use a GPU; {floor} is the first that does",
        "write `engine: docker`" if theirs else f"take a version set with Docker {floor} or newer",
    )


def _toolkit(c: Checked) -> Iterator[Found]:
    pin, floor = c.spec.host_versions.container_toolkit if c.spec.host_versions else None, table.TOOLKIT_FLOOR
    if c.is_gpu_host and pin and numbers(pin.version) < floor.version:
        yield (
            ("versions",),
            f"has container toolkit {pin.version}, which doesn't keep CDI files current: after a driver update "
            f"containers would miss its files; {floor} is the first that does",
            f"take a version set with {floor} or newer",
        )


def _operating_system(c: Checked) -> Iterator[Found]:
    if c.facts is None or "unknown" in (c.facts.os.id, c.facts.os.version):
        return  # what could not be read is told as a warning
    known = {row.distribution: row for row in table.SYSTEMS}
    row = known.get(name) if (name := distribution(c.facts.os)) else None
    if row is None:
        yield (
            c.at,
            f"runs {c.facts.os.name}, which isn't supported",
            f"install one of {', '.join(system.name for system in table.SYSTEMS)}",
        )
        return
    if c.facts.arch not in ("x86_64", "aarch64", ""):
        yield (c.at, f"is a machine of architecture {c.facts.arch}", "x86_64 or aarch64 are supported")
        return
    driver = c.host.driver
    if driver and driver.packages == "nvidia" and c.facts.arch not in ("", *row.nvidia_arches):
        there = [system.name for system in table.SYSTEMS if c.facts.arch in system.nvidia_arches]
        yield (
            (*c.at, "driver", "packages"),
            f"NVIDIA has no drivers for {row.name} on {c.facts.arch}",
            f"install {' or '.join(there)}; or leave `driver` out, and the machine's own driver stays as it is",
        )
    yield from _distributions_packages(c, row)


def _distributions_packages(c: Checked, row: table.SupportedOs) -> Iterator[Found]:
    """What is to come from the distribution is in the version set for that distribution."""
    versions, driver = c.spec.host_versions, c.host.driver
    if versions is None:
        return
    pin = versions.drivers.get(driver.branch) if driver and driver.packages == "distribution" else None
    if pin and row.distribution not in pin.distributions:
        yield (
            (*c.at, "driver", "packages"),
            f"the version set knows no driver {pin.version.partition('.')[0]} of {row.name}'s own",
            f"write `packages: nvidia`, or add `{row.distribution}` to that branch's `distributions`",
        )
    if driver and driver.packages == "distribution" and driver.fabric_manager and c.facts and c.facts.os.id == "debian":
        yield (
            (*c.at, "driver", "packages"),
            "Debian has no fabric manager, and `fabric_manager` is on",
            "write `packages: nvidia`",
        )
    if c.host.engine == "distribution" and row.distribution not in versions.docker.distributions:
        yield (
            (*c.at, "engine"),
            f"the version set knows no Docker of {row.name}'s own",
            f"write `engine: docker`, or add `{row.distribution}` to Docker's `distributions`",
        )


def _secure_boot(c: Checked) -> Iterator[Found]:
    if c.facts is None or c.host.driver is None or c.facts.secure_boot != "on":
        return
    key = c.facts.signing_key
    if key == "enrolled" or (key is None and c.facts.driver.loaded):
        return
    whether = "the firmware doesn't trust" if key else "nobody could ask whether the firmware trusts"
    ask = "" if key else "`sudo apt-get install mokutil` there; "
    yield (
        (*c.at, "driver"),
        f"Secure Boot is on, and {whether} the key that DKMS signs modules with: "
        "the driver would be built and never load",
        f"{ask}enrol the key ({SECURE_BOOT_DOC}), or switch Secure Boot off in the firmware; {c.look_again}",
    )


def _kernel(c: Checked) -> Iterator[Found]:
    driver, wanted = c.host.driver, driver_pin(c.host, c.spec, c.facts)
    boots = c.facts.kernel.boots if c.facts else None
    if driver is None or wanted is None or boots is None:
        return
    for row in table.KERNELS:
        same = (row.driver, row.modules) == (upstream(wanted), driver.modules) and boots.startswith(row.kernel)
        if same and not row.builds:
            other = [r for r in table.KERNELS if r.builds and boots.startswith(r.kernel)]
            instead = [f"{r.driver} with `modules: {r.modules}`" for r in other]
            yield (
                (*c.at, "driver"),
                f"{row.driver} ({row.modules}) doesn't build for kernel {boots}, which boots next",
                f"take a version set with {' or '.join(instead)}; or boot an older kernel"
                if instead
                else "boot an older kernel",
            )


_REFUSALS = (
    _pins,
    _modules_of_branch,
    _cuda_of_branch,
    _docker,
    _toolkit,
    _operating_system,
    _secure_boot,
    _kernel,
    *CARD_REFUSALS,
)


def _unread(c: Checked) -> Iterator[Found]:
    for problem in c.facts.problems if c.facts else ():
        yield (c.at, f"could not be read in full: {problem}", f"look there, {c.look_again}")
    if c.facts and c.facts.driver.smi_error and c.facts.driver.loaded:
        yield (c.at, f"nvidia-smi says: {c.facts.driver.smi_error}", f"a reboot usually helps, {c.look_again}")


def _interrupted(c: Checked) -> Iterator[Found]:
    whole = ("installed", "config-files", "not-installed")
    packages = c.facts.packages.items() if c.facts else ()
    if waiting := [name for name, package in packages if package.status not in whole]:
        yield (
            c.at,
            f"has packages that dpkg didn't finish: {', '.join(waiting)}",
            "the next `pulumi up` finishes them first, or says what a person must do",
        )


_WARNINGS = (_unread, _interrupted, *CARD_WARNINGS)
