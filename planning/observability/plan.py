"""The containers that watch a stack: Prometheus, Alertmanager, exporters, Grafana."""

from planning.containers import FILES_DIR, ContainerPlan, Health, PublishedPort, VolumeMount
from planning.names import (
    ALERTMANAGER_PORT,
    DCGM_EXPORTER_PORT,
    GRAFANA_PORT,
    NODE_EXPORTER_PORT,
    PROMETHEUS_PORT,
    uid_of,
)
from planning.network.mesh import RESOLVER
from planning.observability.alertmanager import alertmanager_yml
from planning.observability.dcgm import counters_csv
from planning.observability.rules import rules_yml
from planning.observability.targets import RULES_FILE, gpus, prometheus_yml, watches_gpus
from planning.placement import gateway_host, named_on, ready_hosts
from planning.plans import ObservabilityPlan
from stack_configs.schema.stack import StackSpec

NOBODY = "65534:65534"
"""User of the official Prometheus and Alertmanager images, who owns their data folders.

The limit of processes counts by user: these two share it, 10 threads each on 4 cores.
"""


def plan_observability(spec: StackSpec) -> ObservabilityPlan:
    """Everything that watches the stack.

    DCGM exporter runs only where there is an NVIDIA GPU, Grafana only where its image can be had and the
    spec asks for it.
    """
    here = gateway_host(spec) in ready_hosts(spec)
    containers = [_prometheus(spec), _alertmanager(spec)] if here else []
    for host in ready_hosts(spec):
        containers.append(_node_exporter(host, spec))
        if watches_gpus(spec, host):
            containers.append(_dcgm_exporter(host, spec))
    if here and spec.file.observability.grafana is not None and "grafana" in spec.images:
        containers.append(_grafana(spec, spec.file.observability.grafana.port))
    return ObservabilityPlan(containers=tuple(containers))


def _prometheus(spec: StackSpec) -> ContainerPlan:
    settings = spec.file.observability.prometheus
    image = spec.images["prometheus"]
    return ContainerPlan(
        service="prometheus",
        host=gateway_host(spec),
        component="observability",
        image=image.ref,
        user=NOBODY,
        command=(
            f"--config.file={FILES_DIR}/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
            # 3.x prefers this in the configuration file, where 2.42 does not know it.
            f"--storage.tsdb.retention.time={settings.retention_days}d",
            f"--web.external-url=http://127.0.0.1:{settings.port}/",
        ),
        resolver=RESOLVER if spec.file.network.mesh else None,
        files={"prometheus.yml": prometheus_yml(spec), RULES_FILE: rules_yml(spec)},
        mounts=(VolumeMount(source="prometheus", target="/prometheus", read_only=False),),
        networks=("inner", "edge"),
        ports=(PublishedPort(container=PROMETHEUS_PORT, host=settings.port),),
        # 38 MiB seen in the first minute (2.42, scraping every second); the rest is for days of data.
        memory_mib=512,
        health=_wget(f"http://127.0.0.1:{PROMETHEUS_PORT}/-/ready"),
        # Its block files are written on SIGTERM.
        stop_grace_s=30,
        starts_in_s=image.starts_in_s,
    )


def _alertmanager(spec: StackSpec) -> ContainerPlan:
    settings = spec.file.observability.alertmanager
    image = spec.images["alertmanager"]
    return ContainerPlan(
        service="alertmanager",
        host=gateway_host(spec),
        component="observability",
        image=image.ref,
        user=NOBODY,
        command=(
            f"--config.file={FILES_DIR}/alertmanager.yml",
            "--storage.path=/alertmanager",
            # One instance: nothing to gossip with, so no port for it either.
            "--cluster.listen-address=",
            f"--web.external-url=http://127.0.0.1:{settings.port}/",
        ),
        files={"alertmanager.yml": alertmanager_yml(settings)},
        mounts=(VolumeMount(source="alertmanager", target="/alertmanager", read_only=False),),
        networks=("inner", "edge"),
        ports=(PublishedPort(container=ALERTMANAGER_PORT, host=settings.port),),
        memory_mib=128,  # 24 MiB seen (0.25)
        health=_wget(f"http://127.0.0.1:{ALERTMANAGER_PORT}/-/ready"),
        starts_in_s=image.starts_in_s,
    )


def _node_exporter(host: str, spec: StackSpec) -> ContainerPlan:
    """Figures of the host: CPU, memory, file systems, disks, load.

    It has its own network namespace, so the host's network interfaces are not among them: with the host's
    namespace it would listen on every address of the host. File systems mounted after its start are not seen.
    """
    image = spec.images["node-exporter"]
    uid = uid_of("node-exporter")
    return ContainerPlan(
        service=named_on("node-exporter", host, spec),
        host=host,
        component="observability",
        image=image.ref,
        user=f"{uid}:{uid}",
        command=(
            "--path.rootfs=/host",
            "--path.procfs=/host/proc",
            "--path.sysfs=/host/sys",
            "--collector.disable-defaults",
            "--collector.cpu",
            "--collector.meminfo",
            "--collector.filesystem",
            "--collector.filesystem.mount-points-exclude=^/(dev|proc|run|sys|var/lib/docker/.+|var/lib/containers/.+)($|/)",
            "--collector.diskstats",
            "--collector.loadavg",
        ),
        mounts=(VolumeMount(source="/", target="/host"),),
        memory_mib=64,  # 10 MiB seen (1.5)
        health=_wget(f"http://127.0.0.1:{NODE_EXPORTER_PORT}/"),
        exceptions={
            "host-files": "how full the host's file systems are can only be asked where they are mounted; "
            "read-only, without capabilities, as a uid that owns nothing on the host"
        },
        starts_in_s=image.starts_in_s,
    )


def _dcgm_exporter(host: str, spec: StackSpec) -> ContainerPlan:
    """Figures of the NVIDIA GPUs, without profiling fields: those need root and CAP_SYS_ADMIN.

    Written after the image's Dockerfile (NVIDIA/dcgm-exporter, docker/Dockerfile, 2026-05); no test of ours has run it.
    """
    image = spec.images["dcgm-exporter"]
    # The image has bash and none of wget, curl: the check speaks HTTP by bash's own /dev/tcp.
    check = (
        f"exec 3<>/dev/tcp/127.0.0.1/{DCGM_EXPORTER_PORT} && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 "
        "&& read -r line <&3 && [[ $line == *' 200 '* ]]"
    )
    return ContainerPlan(
        service=named_on("dcgm-exporter", host, spec),
        host=host,
        component="observability",
        image=image.ref,
        # The image's own user without root's rights.
        user="1000:1000",
        # Not the image's script, which as root writes the linker's cache and sets capabilities.
        entrypoint=("/usr/bin/dcgm-exporter",),
        command=("-f", f"{FILES_DIR}/counters.csv", "-a", f":{DCGM_EXPORTER_PORT}"),
        files={"counters.csv": counters_csv()},
        tmpfs={"/tmp": "size=16m,mode=1777"},
        memory_mib=512,
        health=Health(command=("/usr/bin/bash", "-c", check)),
        gpus=gpus(spec, host),
        starts_in_s=image.starts_in_s,
    )


def _grafana(spec: StackSpec, port: int) -> ContainerPlan:
    """Dashboards for whoever reaches this machine's loopback: viewers without a login, and no administrator.

    So there is no password to keep. Dashboards change in this repository, not in the browser.
    No test of ours has run it: its image is at a registry only.
    """
    # Its SDK is imported only where there is a Grafana.
    from planning.observability.grafana import ENVIRONMENT, files

    image = spec.images["grafana"]
    ingress = spec.file.network.ingress
    outside = [name for name, host in ingress.hostnames.items() if host.to == "grafana"] if ingress else []
    # Links in its pages begin so; it answers on loopback all the same.
    url = f"https://{outside[0]}/" if outside else f"http://127.0.0.1:{port}/"
    return ContainerPlan(
        service="grafana",
        host=gateway_host(spec),
        component="observability",
        image=image.ref,
        # The image's own user, who owns its data folder.
        user="472:0",
        env={**ENVIRONMENT, "GF_SERVER_ROOT_URL": url},
        files=files(spec),
        mounts=(VolumeMount(source="grafana", target="/var/lib/grafana", read_only=False),),
        tmpfs={"/tmp": "size=64m,mode=1777"},
        networks=("inner", "edge"),
        ports=(PublishedPort(container=GRAFANA_PORT, host=port),),
        memory_mib=512,
        health=_wget(f"http://127.0.0.1:{GRAFANA_PORT}/api/health"),
        starts_in_s=image.starts_in_s,
    )


def _wget(url: str) -> Health:
    """Official images bring busybox's wget, built ones GNU's: both know these options."""
    return Health(command=("wget", "-q", "-T", "3", "-O", "/dev/null", url))
