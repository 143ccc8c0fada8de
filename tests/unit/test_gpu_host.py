"""A host's steps as resources."""

import re
from dataclasses import replace
from typing import Any

import pytest

from components.hosts.gpu_host import GpuHost, GpuHostArgs
from components.remote import once
from planning.hosts import steps
from planning.hosts.plan import HostPlan, Step
from stack_configs.schema.hosts import SshConnection, SshServer
from tests.unit.built import Made, built, is_secret, of_type

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE"
HOST = SshConnection(kind="ssh", address="studio-1.mesh.example", user="ops", host_key=KEY)
COMMAND = "command:remote:Command"


def step(name: Any, **settings: str) -> Step:
    return Step(name=name, summary=f"{name}'s summary", script="exit 0\n", settings=settings, timeout_s=600)


def made(connection: SshConnection = HOST, *of: Step) -> list[Made]:
    plan = HostPlan(name="studio-1", connection=connection, steps=of or (step("base"), step("driver"), step("engine")))

    def program() -> None:
        GpuHost("studio-1", GpuHostArgs(plan=plan, reach=lambda *_: None))

    return of_type(built(program), COMMAND)


def test_each_step_is_a_resource_after_the_one_before() -> None:
    base, driver, engine = made()
    assert [one.name for one in (base, driver, engine)] == ["studio-1-base", "studio-1-driver", "studio-1-engine"]
    assert base.urn in driver.request.dependencies
    assert driver.urn in engine.request.dependencies


def test_the_script_travels_by_standard_input_and_its_summary_in_the_command() -> None:
    wanted = step("driver", VERSION="580.105.08")
    (driver,) = made(HOST, wanted)
    assert driver.inputs["stdin"] == steps.text(wanted)
    assert re.fullmatch(r"sudo -n timeout .* bash -s apply .*summary.*", driver.inputs["create"])
    assert driver.inputs["delete"].endswith("bash -s undo")
    assert driver.inputs["addPreviousOutputInEnv"] is False
    assert not {"triggers", "update", "environment"} & driver.inputs.keys(), "triggers would undo what was just applied"


def test_the_connection_is_a_secret_with_a_pinned_key_and_an_end_to_dialling() -> None:
    (base,) = made(HOST, step("base"))
    assert is_secret(base.inputs["connection"])
    connection = base.inputs["connection"]["value"]
    assert (connection["host"], connection["user"], connection["hostKey"]) == (HOST.address, "ops", KEY)
    assert connection["dialErrorLimit"] <= 3
    assert connection["perDialTimeout"] <= 10
    assert "agentSocketPath" not in connection, "another clone has another socket"


def test_a_jump_is_pinned_too() -> None:
    jump = SshServer(address="door.example", user="me", port=2222, host_key=KEY)
    (base,) = made(HOST.model_copy(update={"jump": jump}), step("base"))
    proxy = base.inputs["connection"]["value"]["proxy"]
    assert (proxy["host"], proxy["port"], proxy["user"], proxy["hostKey"]) == ("door.example", 2222, "me", KEY)


def test_a_step_may_take_its_time_and_no_more() -> None:
    (base,) = made(HOST, step("base"))
    assert 600 < int(base.request.customTimeouts.create.rstrip("s")) < 900


@pytest.mark.parametrize(("policy", "patient"), [("manual", False), ("allowed", True), ("window", True)])
def test_the_step_after_a_reboot_waits_for_the_host(policy: str, patient: bool) -> None:
    plan = HostPlan(name="a", connection=HOST, steps=(step("reboot", POLICY=policy), step("engine")))
    assert plan.may_reboot is patient
    reboot, engine = made(HOST, *plan.steps)
    assert list(reboot.request.hooks.before_create) == ["studio-1-reboot-reached"]
    assert list(engine.request.hooks.before_update) == ["studio-1-engine-reached"]


def test_a_host_is_asked_before_its_first_step_and_after_a_reboot() -> None:
    plan, asked = HostPlan(name="a", connection=HOST, steps=()), list[bool]()
    reach = once(lambda _plan, rebooting: asked.append(rebooting))
    for rebooting in (False, False, False, True):
        reach(plan, rebooting)
    assert asked == [False, True]


def test_a_host_that_did_not_answer_is_asked_again() -> None:
    plan = HostPlan(name="a", connection=HOST, steps=())

    def silent(_plan: HostPlan, _rebooting: bool) -> None:
        raise TimeoutError

    reach = once(silent)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            reach(plan, False)


def in_mesh(*of: Step) -> list[Made]:
    named = HOST.model_copy(update={"address": "studio-1.mesh.example"})
    own = HOST.model_copy(update={"address": "203.0.113.7"})
    plan = HostPlan(name="studio-1", connection=named, bootstrap=own, steps=of)

    def program() -> None:
        GpuHost("studio-1", GpuHostArgs(plan=plan, reach=lambda *_: None))

    return of_type(built(program), COMMAND)


def test_joining_alone_dials_the_hosts_own_address() -> None:
    join, base, mesh = in_mesh(step("join"), step("base"), step("mesh"))
    dialled = [one.inputs["connection"]["value"]["host"] for one in (join, base, mesh)]
    assert dialled == ["203.0.113.7", "studio-1.mesh.example", "studio-1.mesh.example"]


def test_a_host_joins_once_whatever_becomes_of_the_script_and_the_address() -> None:
    once_only = replace(step("join"), once=("https://control.example", "studio-1.mesh.example"), repair=2)
    (join,) = in_mesh(once_only)
    assert set(join.request.ignoreChanges) == {"connection", "delete", "stdin"}
    assert join.inputs["create"].endswith(f"https://control.example studio-1.mesh.example {once_only.digest}")
    assert once_only.digest == replace(once_only, script="another").digest
    assert once_only.digest != replace(once_only, repair=3).digest


def test_what_another_step_takes_back_is_not_undone() -> None:
    (mesh,) = in_mesh(replace(step("mesh"), undone=False))
    assert "delete" not in mesh.inputs
