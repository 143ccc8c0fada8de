"""`python -m tools.nodes`, which `make up` and `make down` end with: what it removes from the mesh, and says."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from components.network.control import ControlError
from planning.network.policy import Node, tag, tags
from tests.unit.network.mesh import prod
from tools import nodes

SPEC = prod()


@dataclass
class Control:
    """A control plane that has these machines."""

    machines: list[Node] = field(default_factory=list)

    def nodes(self) -> tuple[Node, ...]:
        return tuple(self.machines)

    def delete_node(self, node: str) -> None:
        self.machines = [one for one in self.machines if one.id != node]

    def set_tags(self, node: str, tags: Sequence[str]) -> None:
        self.machines = [replace(one, tags=tuple(tags)) if one.id == node else one for one in self.machines]


def node(name: str, *tags: str) -> Node:
    return Node(id=name, name=name, tags=tags, owners=())


@pytest.mark.parametrize("every", [False, True])
def test_only_the_stacks_own_nodes_are_removed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], every: bool
) -> None:
    own = tag(SPEC.stack, gateway=False)
    living = [node(name, *tags(name, SPEC)) for name in SPEC.file.hosts]
    control = Control([*living, node("gone-1", own), node("another-1", "tag:inference-other-host"), node("laptop")])
    monkeypatch.setattr(nodes, "load_stack", lambda _stack, _root: SPEC)
    monkeypatch.setattr(nodes, "control_of", lambda *_: control)
    monkeypatch.setattr(sys, "argv", ["nodes", "--stack", SPEC.stack, *(["--all"] if every else [])])
    assert nodes.main() == 0
    removed = [*(SPEC.file.hosts if every else []), "gone-1"]
    assert capsys.readouterr().out.strip() == f"removed {', '.join(removed)}"
    assert {one.name for one in control.machines} == {"another-1", "laptop", *(() if every else SPEC.file.hosts)}


def test_where_the_gateway_has_moved_the_nodes_tags_follow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have joined with the tags of then, by which the policy would drop all that reaches the gateway now."""
    before = {name: tags(name, SPEC) for name in SPEC.file.hosts}
    others = [node("studio-1-1", *before["studio-1"]), node("another-1", "tag:inference-other-host"), node("laptop")]
    control = Control([*(node(name, *had) for name, had in before.items()), *others])
    to = SPEC.file.gateway.model_copy(update={"host": "studio-2"})
    moved = SPEC.model_copy(update={"file": SPEC.file.model_copy(update={"gateway": to})})
    monkeypatch.setattr(nodes, "load_stack", lambda _stack, _root: moved)
    monkeypatch.setattr(nodes, "control_of", lambda *_: control)
    monkeypatch.setattr(sys, "argv", ["nodes", "--stack", SPEC.stack])
    assert nodes.main() == 0
    assert capsys.readouterr().out.strip() == "removed studio-1-1; set the tags of studio-1, studio-2"
    assert {one.name: one.tags for one in control.machines} == {
        "studio-1": before["studio-2"],
        "studio-2": before["studio-1"],
        **{one.name: one.tags for one in others[1:]},
    }
    assert nodes.main() == 0
    assert capsys.readouterr().out.strip() == ""


def test_without_a_secret_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def no_key(*_: object) -> Control:
        raise ControlError("there is no API key")

    monkeypatch.setattr(nodes, "load_stack", lambda _stack, _root: SPEC)
    monkeypatch.setattr(nodes, "control_of", no_key)
    monkeypatch.setattr(sys, "argv", ["nodes", "--stack", SPEC.stack])
    assert nodes.main() == 2
    assert "still in the mesh: there is no API key" in capsys.readouterr().err
