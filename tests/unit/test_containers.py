"""What `run_container` makes of a plan."""

from dataclasses import replace

import pulumi
import pytest

from components.containers import Runtime, make_networks, make_volume, run_container
from components.naming import Names
from planning.containers import ContainerPlan, Health, PublishedPort, VolumeMount
from tests.unit.built import Made, built, fails_with, of_type

CONTAINER = "docker:index/container:Container"
VOLUME = "docker:index/volume:Volume"
NETWORK = "docker:index/network:Network"

PLAN = ContainerPlan(
    service="web",
    host="local",
    component="gateway",
    image="example/web:1",
    user="101:101",
    command=("serve",),
    files={"web.conf": "listen 8080;"},
    mounts=(VolumeMount(source="models", target="/models"),),
    tmpfs={"/tmp": "size=16m"},
    networks=("inner", "edge"),
    aliases=("www",),
    ports=(PublishedPort(container=8080, host=18080),),
    memory_mib=64,
    health=Health(command=("true",), start_period_s=90),
)
JOB = replace(PLAN, service="fetch", job=True, health=None, ports=(), files={})


def run(*plans: ContainerPlan, exit_code: int = 0) -> list[Made]:
    def program() -> None:
        names = Names("dev")
        opts = pulumi.ResourceOptions()
        runtime = Runtime(
            names=names,
            networks=make_networks(names, opts),
            volumes={"models": make_volume(names, "models", "serving", opts)},
        )
        previous: list[pulumi.Input[pulumi.Resource]] = []
        for plan in plans:
            running = run_container(plan, runtime, pulumi.ResourceOptions(depends_on=previous))
            previous = [running.ready]

    return built(program, exit_code=exit_code)


def container(made: list[Made], name: str) -> Made:
    return next(m for m in of_type(made, CONTAINER) if m.name == name)


def test_a_container_is_hardened_unless_its_plan_says_otherwise() -> None:
    inputs = container(run(PLAN), "web").inputs
    assert inputs["readOnly"] is True
    assert inputs["capabilities"] == {"drops": ["ALL"]} or inputs["capabilities"]["adds"] == []
    assert inputs["securityOpts"] == ["no-new-privileges:true"]
    assert inputs["privileged"] is False
    assert inputs["user"] == "101:101"
    assert inputs["memory"] == inputs["memorySwap"] == 64
    assert {"name": "nproc", "soft": 256, "hard": 256} in inputs["ulimits"]
    assert inputs["logOpts"] == {"max-size": "10m", "max-file": "3"}
    assert "pidMode" not in inputs


def test_ports_are_published_on_loopback() -> None:
    assert container(run(PLAN), "web").inputs["ports"] == [
        {"internal": 8080, "external": 18080, "ip": "127.0.0.1", "protocol": "tcp"}
    ]


def test_settings_of_the_kernel_hold_for_the_container_alone() -> None:
    plan = replace(PLAN, sysctls={"net.ipv4.tcp_retries2": "5"})
    assert container(run(plan), "web").inputs["sysctls"] == {"net.ipv4.tcp_retries2": "5"}
    assert "sysctls" not in container(run(PLAN), "web").inputs


def test_exceptions_are_the_only_way_out_of_hardening() -> None:
    plan = replace(PLAN, exceptions={"writable": "a reason", "host-pid": "a reason"}, capabilities=("CHOWN",))
    inputs = container(run(plan), "web").inputs
    assert inputs["readOnly"] is False
    assert inputs["pidMode"] == "host"
    assert inputs["capabilities"] == {"adds": ["CAP_CHOWN"], "drops": ["ALL"]}


def test_everything_carries_the_stacks_name_and_labels() -> None:
    made = run(PLAN)
    for m in [m for m in made if m.type in (CONTAINER, VOLUME, NETWORK)]:
        assert m.inputs["name"].startswith("inference-dev-")
        labels = {label["label"]: label["value"] for label in m.inputs["labels"]}
        assert labels["inference-stack.stack"] == "dev"
        assert labels["inference-stack.component"]
        assert labels["inference-stack.service"]


def test_files_reach_the_container_through_a_volume_named_after_them() -> None:
    made = run(PLAN)
    volume = next(m for m in of_type(made, VOLUME) if m.name == "web-files")
    carrier = container(made, "web-files-carrier").inputs
    assert carrier["start"] is False
    assert carrier["mustRun"] is False
    assert carrier["uploads"] == [{"file": "/config/web.conf", "content": "listen 8080;", "permissions": "0444"}]
    mounts = container(made, "web").inputs["mounts"]
    assert {
        "type": "volume",
        "source": volume.inputs["name"],
        "target": "/config",
        "readOnly": True,
    } in mounts
    changed = run(replace(PLAN, files={"web.conf": "listen 9090;"}))
    assert next(m for m in of_type(changed, VOLUME) if m.name == "web-files").inputs["name"] != volume.inputs["name"]


def test_a_container_that_comes_back_has_no_files() -> None:
    """Pulumi deletes the dependents of what it deletes first: the container that is to come back would be gone."""
    with pytest.raises(ValueError, match="web is to come back, so it can't have files"):
        replace(PLAN, comes_back=True)
    request = container(run(replace(PLAN, comes_back=True, files={})), "web").request
    assert request.deleteBeforeReplaceDefined
    assert not request.deleteBeforeReplace


def test_no_files_no_volume_and_no_carrier() -> None:
    made = run(replace(PLAN, files={}))
    assert [m.name for m in of_type(made, CONTAINER)] == ["web"]
    assert [m.name for m in of_type(made, VOLUME)] == ["models-volume"]


def test_inner_has_no_way_out() -> None:
    made = run(PLAN)
    assert {m.name: m.inputs["internal"] for m in of_type(made, NETWORK, at_least=2)} == {
        "inner-network": True,
        "edge-network": False,
    }
    aliases = {n["name"]: n["aliases"] for n in container(made, "web").inputs["networksAdvanced"]}
    assert aliases == {"inference-dev-inner": ["web", "www"], "inference-dev-edge": ["web"]}


def test_gpus_are_cdi_devices_by_uuid() -> None:
    uuid = "GPU-00000000-0000-0000-0000-000000000001"
    inputs = container(run(replace(PLAN, gpus=(uuid,))), "web").inputs
    assert inputs["deviceRequests"] == [{"driver": "cdi", "deviceIds": [f"nvidia.com/gpu={uuid}"]}]


def test_a_replacement_deletes_first_since_name_and_ports_are_fixed() -> None:
    request = container(run(PLAN), "web").request
    assert request.deleteBeforeReplace
    assert list(request.replaceOnChanges) == ["healthcheck", "mounts"]
    assert request.customTimeouts.create == f"{PLAN.ready_within_s + 120}s"


def test_durations_are_written_as_docker_reads_them_back() -> None:
    health = container(run(PLAN), "web").inputs["healthcheck"]
    assert (health["interval"], health["startPeriod"]) == ("5s", "1m30s")


def test_a_job_is_run_once_to_its_end() -> None:
    inputs = container(run(JOB), "fetch").inputs
    assert (inputs["attach"], inputs["mustRun"], inputs["restart"], inputs["wait"]) == (
        True,
        False,
        "no",
        False,
    )


def test_what_waits_for_a_job_waits_for_its_exit_code() -> None:
    made = run(JOB, PLAN)
    web = container(made, "web")
    assert container(made, "fetch").urn in web.request.dependencies


def test_a_failed_job_stops_what_waits_for_it_and_shows_its_last_lines() -> None:
    with fails_with(r"job fetch ended with exit code 3:\nthe last line"):
        run(JOB, PLAN, exit_code=3)


def test_two_plans_never_share_a_name() -> None:
    urns = [m.urn for m in run(PLAN, JOB)]
    assert len(urns) == len(set(urns))


@pytest.mark.parametrize(("seconds", "text"), [(5, "5s"), (60, "1m0s"), (3725, "1h2m5s")])
def test_duration(seconds: int, text: str) -> None:
    health = Health(command=("true",), interval_s=seconds)
    assert container(run(replace(PLAN, health=health)), "web").inputs["healthcheck"]["interval"] == text
