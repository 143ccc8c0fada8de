"""What `pulumi up` does with a tailnet's policy, on the real Pulumi. Tailscale's plugin is a double that records."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pulumi import ResourceOptions, automation

from components.network.mesh_policy import MeshPolicy, MeshPolicyArgs
from components.network.tailscale import Tailscale
from planning.network.policy import plan_policy
from stack_configs.schema.stack import StackSpec
from tests.hosts.engine import Project
from tests.network.plugin import install, recorded
from tests.unit.network.mesh import prod
from tools.mesh_control import digest, writer


def tailnet(taken_over: str | None = None, **over: Any) -> StackSpec:
    of = {"control": "tailscale", "login_server": None, "domain": "tail1234.ts.net", "operators": ["kim@example.org"]}
    return prod(**{**of, "users": [], **over}).model_copy(update={"taken_over_policy": taken_over})


def written(folder: Path) -> list[str]:
    """Each policy that the plugin has sent."""
    return [one["inputs"]["acl"] for one in recorded(folder) if "acl" in one["inputs"]]


class Known(Tailscale):
    """The tailnet whose policy a test knows."""

    def policy(self) -> str:
        return Path(self.api).read_text()


def test_an_edit_is_kept_until_somebody_says_so_and_names_outlive_the_stack(tmp_path: Path) -> None:
    in_force = tmp_path / "in-force"

    def program(inputs: dict[str, Any]) -> None:
        spec, plan = inputs["spec"], plan_policy(inputs["spec"])
        assert plan
        write = writer(spec, Known("client-1", "of-nobody", str(in_force)))
        MeshPolicy("mesh", MeshPolicyArgs(plan=plan, write=write), ResourceOptions())

    project = Project(tmp_path, program)
    install(tmp_path / "home", tmp_path, "tailscale")

    @contextmanager
    def refused() -> Iterator[None]:
        before = written(tmp_path)
        with pytest.raises(automation.CommandError, match="Tailscale has a policy that the stack prod did not write"):
            yield
        assert written(tmp_path) == before

    theirs = '{"tagOwners": {"tag:inference": []}}'
    in_force.write_text(f"{theirs} // and more")
    project.inputs = {"spec": tailnet(digest(theirs))}
    with refused():
        project.up()
    in_force.write_text(theirs)
    project.up()

    in_force.write_text(written(tmp_path)[-1])
    project.inputs = {"spec": tailnet(digest(theirs), users=["ann@example.org"])}
    project.up()
    assert "ann@example.org" in written(tmp_path)[-1]

    edited = written(tmp_path)[-1].replace("tcp:22", "*")
    in_force.write_text(edited)
    project.inputs = {"spec": tailnet(digest(theirs))}
    with refused():
        project.up()
    project.inputs = {"spec": tailnet(digest(edited))}
    project.up()
    assert "ann@example.org" not in written(tmp_path)[-1]

    project.destroy()
    gone = [one["name"] for one in recorded(tmp_path) if one["operation"] == "delete"]
    assert gone == ["tailnet-policy"], "whose plugin leaves it in force; MagicDNS it would turn off"
