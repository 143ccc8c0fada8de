"""The one way a container is run: hardening, limits, logs, restarts, labels, config files.

The only module that imports pulumi_docker. A `ContainerPlan` is decided already; this makes it exist.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pulumi
import pulumi_docker as docker
from pulumi import Input, Output, Resource, ResourceOptions

from components.naming import JOB_LABEL, STARTS_IN_LABEL, Names
from components.replacement import way_back
from planning.containers import FILES_DIR, ContainerPlan, Network

LOG_LINES_ON_FAILURE = 15


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where containers of one host run: its Docker, names, networks and shared volumes."""

    names: Names
    networks: Mapping[Network, Input[str]]
    volumes: Mapping[str, Input[str]]
    """Name inside the stack → Docker's name."""
    provider: docker.Provider | None = None
    """The host's Docker; None: this machine's."""
    shell: tuple[str, ...] = ()
    """What runs a command on the host: `ssh … --`; empty on this machine."""
    hooks: pulumi.ResourceHookBinding | None = None
    """For all that is made on the host."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A container that was asked for."""

    container: docker.Container
    ready: Input[Resource]
    """For `depends_on`: the container once it is healthy; a job once it has ended with 0."""


def make_provider(host: str, ssh_config: Path, opts: ResourceOptions) -> docker.Provider:
    """Docker of a host over SSH, by its name in `ssh_config`. What uses it waits for what `opts` depends on."""
    return docker.Provider(f"{host}-docker", host=f"ssh://{host}", ssh_opts=["-F", str(ssh_config)], opts=opts)


def make_networks(
    names: Names, opts: ResourceOptions, *, host: str = "", tunnel: bool = False
) -> dict[Network, Output[str]]:
    """The stack's networks on a host (see planning.containers.Network). `host` is empty on this machine."""

    def network(name: Network, internal: bool) -> Output[str]:
        made = docker.Network(
            _on(host, f"{name}-network"),
            name=names.docker(name),
            driver="bridge",
            internal=internal,
            labels=[
                docker.NetworkLabelArgs(label=key, value=value)
                for key, value in names.labels("stack", f"{name}-network").items()
            ],
            opts=opts,
        )
        return made.name

    wanted: tuple[Network, ...] = ("inner", "edge", "tunnel") if tunnel else ("inner", "edge")
    return {name: network(name, internal=name == "inner") for name in wanted}


def make_volume(
    names: Names, name: str, component: str, opts: ResourceOptions, *, host: str = "", folder: str | None = None
) -> Output[str]:
    """A named volume of the stack on a host. `folder`: the place on the host that it is, instead of Docker's own."""
    # Docker takes an existing volume of that name, wherever it lies: another folder is another name.
    place = f"-{hashlib.sha256(folder.encode()).hexdigest()[:8]}" if folder else ""
    return docker.Volume(
        _on(host, f"{name}-volume"),
        name=f"{names.docker(name)}{place}",
        driver="local",
        driver_opts={"type": "none", "o": "bind", "device": folder} if folder else None,
        labels=_volume_labels(names, component, name),
        opts=opts,
    ).name


def run_container(
    plan: ContainerPlan, runtime: Runtime, opts: ResourceOptions, secrets: Mapping[str, Output[str]] | None = None
) -> Running:
    """Run `plan` and wait until it is healthy; a job, until it has ended.

    `opts` carries parent and dependencies; `secrets` the texts of the plan's secret files. A change of anything but
    limits and restart policy replaces the container: the old one goes first, since name and ports are the same; one
    that `comes_back` is only put aside.
    """
    names = runtime.names
    if runtime.provider:
        opts = ResourceOptions.merge(opts, ResourceOptions(provider=runtime.provider, hooks=runtime.hooks))
    mounts = [_mount(runtime, m.source, m.target, m.read_only) for m in plan.mounts]
    depends: list[Resource] = []
    if plan.files or plan.secret_files:
        volume, carrier = _config_files(plan, secrets or {}, runtime, opts)
        mounts.append(docker.ContainerMountArgs(type="volume", source=volume, target=FILES_DIR, read_only=True))
        depends.append(carrier)
    labels = {**names.labels(plan.component, plan.service), STARTS_IN_LABEL: str(plan.starts_in_s)}
    if plan.job:
        labels[JOB_LABEL] = "true"
    container = docker.Container(
        plan.service,
        name=names.docker(plan.service),
        image=plan.image,
        entrypoints=list(plan.entrypoint) or None,
        command=list(plan.command) or None,
        envs=[f"{key}={value}" for key, value in sorted(plan.env.items())],
        user=plan.user,
        labels=_container_labels(labels),
        # What it may do.
        read_only="writable" not in plan.exceptions,
        capabilities=docker.ContainerCapabilitiesArgs(
            drops=["ALL"], adds=[f"CAP_{name}" for name in plan.capabilities]
        ),
        security_opts=["no-new-privileges:true"],
        pid_mode="host" if "host-pid" in plan.exceptions else None,
        privileged=False,
        # What it may use. Memory and swap are one limit: a swapping engine is slower than a restarted one.
        memory=plan.memory_mib,
        memory_swap=plan.memory_mib,
        shm_size=plan.shm_mib,
        ulimits=[
            docker.ContainerUlimitArgs(name="nproc", soft=plan.max_processes, hard=plan.max_processes),
            docker.ContainerUlimitArgs(name="core", soft=0, hard=0),
        ],
        device_requests=[
            docker.ContainerDeviceRequestArgs(driver="cdi", device_ids=[f"nvidia.com/gpu={uuid}" for uuid in plan.gpus])
        ]
        if plan.gpus
        else None,
        mounts=mounts,
        tmpfs=dict(plan.tmpfs) or None,
        # Who reaches it.
        network_mode="bridge",
        networks_advanced=[
            docker.ContainerNetworksAdvancedArgs(
                name=runtime.networks[name],
                aliases=[plan.service, *plan.aliases] if name == "inner" else [plan.service],
            )
            for name in plan.networks
        ],
        ports=[
            docker.ContainerPortArgs(internal=p.container, external=p.host, ip=p.address, protocol="tcp")
            for p in plan.ports
        ]
        or None,
        dns=[plan.resolver] if plan.resolver else None,
        sysctls=dict(plan.sysctls) or None,
        # How it lives.
        restart="no" if plan.job else "unless-stopped",
        must_run=not plan.job,
        attach=plan.job,
        logs=plan.job,
        wait=plan.health is not None,
        wait_timeout=plan.ready_within_s,
        healthcheck=_healthcheck(plan),
        init=False,
        stop_signal=plan.stop_signal,
        stop_timeout=plan.stop_grace_s,
        destroy_grace_seconds=plan.stop_grace_s,
        log_driver="json-file",
        log_opts={"max-size": "10m", "max-file": "3"},
        opts=ResourceOptions.merge(
            opts,
            ResourceOptions(
                depends_on=depends,
                delete_before_replace=not plan.comes_back,
                hooks=way_back(plan, names.docker(plan.service), runtime.shell) if plan.comes_back else None,
                # The provider calls a changed mount an update, and then changes nothing.
                replace_on_changes=["healthcheck", "mounts"],
                custom_timeouts=pulumi.CustomTimeouts(create=f"{plan.ready_within_s + 120}s"),
            ),
        ),
    )
    return Running(container=container, ready=_finished(container) if plan.job else container)


def _on(host: str, name: str) -> str:
    """Pulumi's name of what every host has."""
    return f"{host}-{name}" if host else name


def _config_files(
    plan: ContainerPlan, secrets: Mapping[str, Output[str]], runtime: Runtime, opts: ResourceOptions
) -> tuple[Output[str], docker.Container]:
    """The plan's files in a volume of their own, whose name changes with them.

    Docker refuses to copy files into a container whose root is read-only, so a second container of the
    same image, never started, takes the uploads. Returns the volume's name and that container.
    """
    names = runtime.names
    texts: dict[str, Input[str]] = {**plan.files}
    for file in plan.secret_files:
        text: Output[str] = Output.secret(secrets[file])
        texts[file] = text
    service = f"{plan.service}-files"
    name: Input[str] = f"{names.docker(service)}-{_digest(plan.files)}"
    if plan.secret_files:
        # A new secret is a new volume too. Eight digits of a long secret's hash tell nothing of it.
        digest = Output.all(**texts).apply(_digest)
        name = Output.unsecret(Output.concat(names.docker(service), "-", digest))
    volume = docker.Volume(
        service,
        name=name,
        driver="local",
        labels=_volume_labels(names, plan.component, service),
        opts=opts,
    )
    carrier = docker.Container(
        f"{service}-carrier",
        name=names.docker(service),
        image=plan.image,
        # Never run; without a command Docker refuses images that have none.
        command=["true"],
        labels=_container_labels({**names.labels(plan.component, service)}),
        network_mode="none",
        start=False,
        must_run=False,
        init=False,
        log_driver="json-file",
        mounts=[docker.ContainerMountArgs(type="volume", source=volume.name, target=FILES_DIR)],
        uploads=[
            docker.ContainerUploadArgs(file=f"{FILES_DIR}/{name}", content=text, permissions="0444")
            for name, text in sorted(texts.items())
        ],
        opts=ResourceOptions.merge(
            opts,
            # The plugin tells back what it was given, and need not say that some of it is secret.
            ResourceOptions(delete_before_replace=True, additional_secret_outputs=["uploads"] if secrets else None),
        ),
    )
    return volume.name, carrier


def _digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()[:8]


def _mount(runtime: Runtime, source: str, target: str, read_only: bool) -> docker.ContainerMountArgs:
    if source.startswith("/"):
        return docker.ContainerMountArgs(type="bind", source=source, target=target, read_only=read_only)
    return docker.ContainerMountArgs(type="volume", source=runtime.volumes[source], target=target, read_only=read_only)


def _healthcheck(plan: ContainerPlan) -> docker.ContainerHealthcheckArgs | None:
    if plan.health is None:
        return None
    return docker.ContainerHealthcheckArgs(
        tests=["CMD", *plan.health.command],
        interval=_duration(plan.health.interval_s),
        timeout=_duration(plan.health.timeout_s),
        start_period=_duration(plan.health.start_period_s),
        retries=plan.health.retries,
    )


def _duration(seconds: int) -> str:
    """As Go prints a duration, so that what Docker answers is what we wrote: 90 → `1m30s`."""
    hours, rest = divmod(seconds, 3600)
    minutes, secs = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{secs}s"
    return f"{minutes}m{secs}s" if minutes else f"{secs}s"


def _finished(job: docker.Container) -> Output[Resource]:
    def check(values: Sequence[object]) -> Resource:
        exit_code, logs = values
        if exit_code not in (0, None):
            last = "\n".join(str(logs or "").strip().splitlines()[-LOG_LINES_ON_FAILURE:])
            raise pulumi.RunError(f"job {job._name} ended with exit code {exit_code}:\n{last}")
        return job

    return Output.all(job.exit_code, job.container_logs).apply(check)


def _container_labels(labels: Mapping[str, str]) -> list[docker.ContainerLabelArgs]:
    return [docker.ContainerLabelArgs(label=key, value=value) for key, value in sorted(labels.items())]


def _volume_labels(names: Names, component: str, service: str) -> list[docker.VolumeLabelArgs]:
    labels = names.labels(component, service)
    return [docker.VolumeLabelArgs(label=key, value=value) for key, value in sorted(labels.items())]
