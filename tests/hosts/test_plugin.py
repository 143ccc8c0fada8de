"""What this project relies on in Pulumi's command plugin: held for the double, and for the real one if it is there."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pulumi_command as command
import pytest
from pulumi import ResourceOptions, automation

from tests.hosts.engine import Project, plain
from tests.hosts.host import Host, bare_host

SECRET = "hunter2-and-more"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with bare_host("plugin") as made:
        yield made


def program(inputs: dict[str, Any]) -> None:
    command.remote.Command("step", **inputs)


def connection(host: Host, **more: Any) -> dict[str, Any]:
    quick = {"dial_error_limit": 1, "per_dial_timeout": 2}
    return {"host": host.address, "user": "ops", "host_key": host.host_key, **quick, **more}


@pytest.fixture
def project(host: Host, tmp_path: Path) -> Callable[..., Project]:
    def make(**inputs: Any) -> Project:
        return Project(tmp_path, program, {"connection": connection(host), **inputs})

    return make


def failure(run: Callable[[], Any]) -> str:
    with pytest.raises(automation.CommandError) as caught:
        run()
    return str(caught.value)


def test_the_same_inputs_run_nothing_and_changed_ones_run_the_create_command_again(
    host: Host, project: Callable[..., Project]
) -> None:
    mine = project(create="bash -s apply first", delete="bash -s undo", stdin="echo $1 >> ~/ran")
    host.inside("rm -f ~ops/ran")
    assert mine.preview()["step"] is not None
    assert host.inside("cat ~ops/ran 2>/dev/null || true") == "", "a preview never dials"
    mine.up()
    assert mine.preview() == {}
    assert mine.up() == {"same": 2}
    assert host.inside("cat ~ops/ran") == "apply"

    mine.inputs["create"] = "bash -s apply second"
    assert mine.preview() == {"step": ["create"]}
    mine.inputs["stdin"] = "echo $1 $2 >> ~/ran"
    assert mine.preview() == {"step": ["create", "stdin"]}
    mine.up()
    assert host.inside("cat ~ops/ran").splitlines() == ["apply", "apply second"]

    mine.destroy()
    assert host.inside("cat ~ops/ran").splitlines()[-1] == "undo", "deleting has the standard input of the last run"


def test_connection_and_standard_input_are_secrets_in_state_and_output_is_none(
    host: Host, project: Callable[..., Project]
) -> None:
    mine = project(create="bash", stdin=f"read -r x <<< {SECRET}; echo told ${{#x}}")
    mine.up()
    kept = mine.state()["step"]
    assert SECRET not in plain(kept)
    assert host.address not in plain(kept)
    assert kept["outputs"]["stdout"] == f"told {len(SECRET)}"


def test_a_failing_command_shows_itself_and_its_output_but_not_its_input(project: Callable[..., Project]) -> None:
    mine = project(create="bash -s words", stdin=f"x={SECRET}; echo on-stdout; echo on-stderr >&2; exit 3")
    told = failure(mine.up)
    for part in ("Process exited with status 3", "bash -s words", "on-stdout", "on-stderr"):
        assert part in told
    assert SECRET not in told
    assert "step" not in mine.state(), "a failed create is tried again"

    mine.inputs["stdin"] = "echo fine"
    mine.up()
    mine.inputs["stdin"] = "exit 4"
    failure(mine.up)
    assert mine.preview() == {"step": ["stdin"]}, "so is a failed update"


def test_lines_are_shown_while_the_command_runs(project: Callable[..., Project]) -> None:
    assert "installed 580.105.08" in project(create="echo installed 580.105.08").output_of_up()


def test_another_host_key_is_refused(host: Host, project: Callable[..., Project]) -> None:
    other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqz8K1h1p4cS4S8bV0m9r2nq3jv5m8m4t0Q0yq1Yc0M"
    mine = project(connection=connection(host, host_key=other), create="touch ~/reached")
    told = failure(mine.up)
    assert "handshake failed" in told
    assert "after 1 failed attempts" in told
    assert host.inside("ls ~ops") == "" or "reached" not in host.inside("ls ~ops")


def test_a_host_that_is_down_is_given_up_after_the_dials_that_were_allowed(
    host: Host, project: Callable[..., Project]
) -> None:
    mine = project(create="true", delete="true")
    mine.up()
    host.power_off()
    try:
        assert "after 1 failed attempts: dial tcp" in failure(mine.destroy), "deleting dials the address in the state"
    finally:
        host.power_on()
    mine.destroy()


def test_a_refresh_finds_nothing(host: Host, project: Callable[..., Project]) -> None:
    mine = project(create="touch ~/there")
    mine.up()
    host.inside("rm ~ops/there")
    assert mine.refresh() == {"same": 2}
    assert mine.preview() == {}


def test_a_jump_is_gone_through(host: Host, project: Callable[..., Project]) -> None:
    mine = project(connection={**connection(host), "host": "127.0.0.1", "proxy": connection(host)}, create="hostname")
    mine.up()
    assert mine.state()["step"]["outputs"]["stdout"] == host.name


def test_steps_of_a_host_run_in_order_and_are_undone_in_reverse(host: Host, tmp_path: Path) -> None:
    def steps(inputs: dict[str, Any]) -> None:
        previous: list[command.remote.Command] = []
        for name in ("one", "two"):
            arguments = {"create": f"echo {name} >> ~/order", "delete": f"echo -{name} >> ~/order", **inputs}
            previous = [command.remote.Command(name, **arguments, opts=ResourceOptions(depends_on=previous))]

    mine = Project(tmp_path, steps, {"connection": connection(host)})
    mine.up()
    mine.destroy()
    assert host.inside("cat ~ops/order").split() == ["one", "two", "-two", "-one"]
