"""`nginx -t` of the real nginx on every kind of nginx.conf that a spec can make."""

from dataclasses import replace
from typing import Any

import pytest

from planning.containers import ContainerPlan
from planning.gateway.front import plan_fronts
from planning.gateway.nginx import plan_nginx
from planning.network.cloudflare import outside
from tests.contract.gateway import gateway_spec
from tests.docker_run import Sandbox, docker, inspect, need_image
from tests.golden.specs import ingress, spec, stack_file
from tests.unit.network.mesh import mesh


@pytest.mark.parametrize(
    "gateway",
    [{}, {"max_body_mib": 1, "request_timeout_s": 10}, {"max_body_mib": 1024, "request_timeout_s": 86400}],
    ids=["default", "smallest", "largest"],
)
def test_nginx_accepts_it(gateway: dict[str, Any]) -> None:
    check(plan_nginx(gateway_spec(nginx=need_image("nginx"), **gateway)))


@pytest.mark.parametrize("gpus", [True, False], ids=["with GPUs", "without"])
def test_it_accepts_the_front_of_another_host(gpus: bool) -> None:
    stack = spec("prod", stack_file("prod")) if gpus else spec("prod", stack_file("prod"), "dcgm-exporter")
    (front,) = plan_fronts(stack)
    assert ("location = /dcgm/metrics" in front.files["nginx.conf"]) == gpus
    check(replace(front, image=need_image("nginx")))


@pytest.mark.parametrize("way_in", [{}, {"ingress": ingress()}], ids=["the mesh alone", "with a tunnel too"])
def test_it_accepts_the_listener_for_the_mesh(way_in: dict[str, Any]) -> None:
    stack = spec("prod", {**stack_file("prod"), "network": {"mesh": mesh(allow_from=["100.64.0.0/24"]), **way_in}})
    nginx = plan_nginx(stack, outside(stack))
    socket = {"/var/tmp": "size=1m,mode=1777"}
    check(
        replace(
            nginx, image=need_image("nginx"), mounts=(), tmpfs={**nginx.tmpfs, **socket}, networks=("inner", "edge")
        )
    )


def check(plan: ContainerPlan) -> None:
    sandbox = Sandbox("nginx-test")
    try:
        test = replace(plan, command=("-t", *plan.command), ports=(), health=None, job=True)
        name = sandbox.run(test)
        assert inspect(name)["State"]["ExitCode"] == 0, docker("logs", name)
        assert "[warn]" not in docker("logs", name)
    finally:
        sandbox.close()
