"""`make up` of a stack on hosts over SSH says beforehand what reboots and restarts, and on a terminal asks."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.setup import over_ssh, paths, state
from tools.setup.progress import Step

PREVIEW = "Preview of `prod`: 1 to update, 9 unchanged\n\nHost studio-1: driver, reboot run.\n  reboot    yes: …"
SAME = "Nothing would change in `prod`: 10 resources are as they should be.\nHost studio-1: not touched."


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the steps that `up` runs, none of which does anything."""
    ran: list[str] = []
    answers: dict[str, Any] = {
        "Preview": PREVIEW,
        "Stack and keys": {"gateway_host": "studio-1", "plugins": []},
        "pulumi up": [],
        "Outputs": {"key": "", "url": None, "models": []},
    }

    def run_step(name: str, _step: Callable[[Step], Any]) -> Any:
        ran.append(name)
        return answers.get(name)

    monkeypatch.setattr(over_ssh, "run_step", run_step)
    monkeypatch.setattr(over_ssh, "run_steps", lambda _steps: {"Pulumi": None})
    monkeypatch.setattr(state, "prepare", lambda _found: None)
    monkeypatch.setattr(state, "environment", dict)
    return ran


@pytest.mark.parametrize(
    ("stdin", "goes_on"),
    [(Terminal("yes\n"), True), (Terminal("\n"), False), (Terminal("no\n"), False), (io.StringIO(), True)],
    ids=["yes", "nothing", "no", "no terminal"],
)
def test_what_will_happen_is_shown_before_it_happens(
    steps: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stdin: io.StringIO,
    goes_on: bool,
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)
    over_ssh.up("prod")
    assert ("pulumi up" in steps) == goes_on
    assert "Preview" in steps
    said = capsys.readouterr().out
    assert PREVIEW in said
    assert ("Nothing was changed on the hosts." in said) == (not goes_on)


@pytest.mark.parametrize("preview", [SAME, ""], ids=["nothing changes", "there is no preview"])
def test_nobody_is_asked_about_nothing(monkeypatch: pytest.MonkeyPatch, preview: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("no\n"))
    assert over_ssh.agreed(preview)


@pytest.mark.parametrize("in_mesh", [True, False])
def test_nodes_of_hosts_that_left_go_once_all_else_is_done(
    steps: list[str], monkeypatch: pytest.MonkeyPatch, in_mesh: bool
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr(over_ssh, "is_in_mesh", lambda _stack: in_mesh)
    over_ssh.up("prod")
    assert ("Mesh nodes" in steps) == in_mesh
    assert steps.index("pulumi up") < steps.index("Mesh nodes") if in_mesh else True


@pytest.mark.parametrize(
    ("status", "said", "told"),
    [
        (0, "removed studio-9, studio-8\n", "removed studio-9, studio-8"),
        (0, "\n", "none to remove"),
        (2, "nodes that left are still in the mesh: there is no API key\n", "nodes that left are still in the mesh"),
    ],
)
def test_a_control_plane_that_cannot_be_asked_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, said: str, told: str
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\nprintf '{said}'\nexit {status}\n")
    python.chmod(0o755)
    monkeypatch.setattr(paths, "VENV", tmp_path)
    step = Step("Mesh nodes", tmp_path / "log")
    try:
        over_ssh.forget_nodes("prod", step, dict(os.environ))
    finally:
        step.close()
    assert step.note
    assert told in step.note


@pytest.mark.parametrize(
    ("text", "in_mesh"),
    [
        pytest.param("network:\n  mesh:\n    control: tailscale\n", True, id="in lines"),
        pytest.param("network: {mesh: {control: tailscale}}\n", True, id="in one line"),
        pytest.param('"network": {"mesh": {"control": "tailscale"}}\n', True, id="as JSON"),
        pytest.param("network:\n  # mesh: later\n  firewall: {}\n", False, id="in a comment"),
    ],
)
def test_a_stack_in_a_mesh_is_known_by_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, in_mesh: bool
) -> None:
    (tmp_path / "stack_configs").mkdir()
    (tmp_path / "stack_configs" / "prod.yaml").write_text(text)
    monkeypatch.setattr(paths, "REPO", tmp_path)
    assert over_ssh.is_in_mesh("prod") is in_mesh
