"""nginx: the only door. Which paths there are, sizes, times, request ids, the access log."""

from dataclasses import replace

from planning.containers import FILES_DIR, ContainerPlan, Health, PublishedPort, VolumeMount
from planning.gateway.meshed import KEY, TRUST_HOST, meshed
from planning.gateway.nginx_conf import ALIVE_PORT, SHUTDOWN_S, nginx_conf
from planning.gateway.outside import SOCKET, SOCKET_DIR, Outside
from planning.names import NGINX_PORT, OUTSIDE_VOLUME
from planning.placement import gateway_host
from stack_configs.schema.network import MESHED_PORT
from stack_configs.schema.stack import StackSpec

USER = "101:101"
"""The official unprivileged image's user; its entrypoint and folders expect it."""


def plan_nginx(spec: StackSpec, outside: Outside | None = None) -> ContainerPlan:
    mesh = meshed(spec)
    conf = nginx_conf(spec.file.gateway, outside, mesh)
    port = PublishedPort(container=NGINX_PORT, host=spec.file.gateway.port)
    plan = nginx_container("nginx", gateway_host(spec), conf, (port,), spec)
    first = []
    if outside:
        # A killed nginx leaves its socket behind, and would not start while it is there.
        first.append('rm -f "$0"')
        plan = replace(
            plan,
            mounts=(VolumeMount(source=OUTSIDE_VOLUME, target=SOCKET_DIR, read_only=False),),
            networks=(*plan.networks, "tunnel"),
        )
    if mesh:
        first.append(TRUST_HOST)
        plan = replace(
            plan,
            ports=(*plan.ports, PublishedPort(container=MESHED_PORT, host=MESHED_PORT)),
            files={**plan.files, **mesh.files},
            secret_files=(KEY,) if mesh.certificate else (),
        )
    if not first:
        return plan
    named = f"{SOCKET_DIR}/{SOCKET}" if outside else "nginx"
    return replace(plan, entrypoint=("sh", "-c", " && ".join((*first, 'exec nginx "$@"')), named))


def nginx_container(
    service: str, host: str, conf: str, ports: tuple[PublishedPort, ...], spec: StackSpec
) -> ContainerPlan:
    """How any nginx of ours is run. `conf` begins with nginx_conf.BEGINNING and answers on ALIVE_PORT."""
    image = spec.images["nginx"]
    # Bodies over 1 MiB wait on the tmpfs until they are complete (nginx_conf). Four of the largest may do so at once,
    # and what is on the tmpfs counts as the container's memory. nginx itself was seen at 8 MiB and 3 processes.
    tmpfs_mib = 16 + 4 * spec.file.gateway.max_body_mib
    return ContainerPlan(
        service=service,
        host=host,
        component="gateway",
        image=image.ref,
        user=USER,
        entrypoint=("nginx",),  # the image's own script edits /etc/nginx, which is read-only here
        command=("-e", "stderr", "-c", f"{FILES_DIR}/nginx.conf"),
        files={"nginx.conf": conf},
        tmpfs={"/tmp": f"size={tmpfs_mib}m,mode=1777"},
        networks=("inner", "edge"),
        ports=ports,
        memory_mib=64 + tmpfs_mib,
        max_processes=32,
        # busybox in the official image, GNU in the built one: -q -O -T mean the same to both.
        health=Health(command=("wget", "-q", "-T", "3", "-O", "/dev/null", f"http://127.0.0.1:{ALIVE_PORT}/")),
        ready_within_s=60,
        stop_grace_s=SHUTDOWN_S + 5,
        stop_signal="SIGQUIT",
        starts_in_s=image.starts_in_s,
    )
