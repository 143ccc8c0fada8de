"""What the hooks of a replacement do to Docker, told from the commands they run."""

import asyncio
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components import replacement
from components.replacement import Docker, Kept, NotReleasedError
from planning.containers import ContainerPlan

NAME = "inference-dev-chat-0"
GPU = "GPU-3f0c6f0e-6b1f-4c39-9d0e-0a4f1c2b7d11"
PLAN = ContainerPlan(
    service="chat-0",
    host="local",
    component="serving",
    image="example/vllm:1",
    user="1:1",
    memory_mib=64,
    comes_back=True,
)
OLD = Kept("0123456789abcdef", NAME)

Ran = list[str]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Commands that were run; `docker top` answers process 41, everything else nothing."""
    commands: Ran = []

    def run(shell: tuple[str, ...], argv: list[str], quiet: bool) -> str:  # noqa: ARG001
        commands.append(" ".join(argv))
        return "PID\n41" if argv[1] == "top" else ""

    monkeypatch.setattr(replacement, "_run", run)
    return commands


def answer(monkeypatch: pytest.MonkeyPatch, apps: Callable[[Docker], list[tuple[str, str, str, str]]]) -> None:
    monkeypatch.setattr(replacement, "_compute_apps", apps)
    monkeypatch.setattr(replacement, "RELEASE_S", 0)


def test_the_old_container_is_stopped_and_kept_under_another_name(ran: Ran) -> None:
    replacement._put_aside(Docker(), PLAN, OLD)
    assert ran == [f"docker stop {OLD.ident}", f"docker rename {OLD.ident} {NAME}-previous-01234567"]


@pytest.mark.parametrize(
    ("ready", "waits"),
    [([], 0), ([100.0], 9.0), ([50.0], 0), ([95.0, 100.0], 9.0)],
    ids=["nothing was replaced", "one a second ago", "one long ago", "the last counts"],
)
def test_nobody_is_stopped_while_the_gateway_may_leave_out_the_one_before(
    monkeypatch: pytest.MonkeyPatch, ready: list[float], waits: float
) -> None:
    monkeypatch.setattr(replacement, "_ready_at", ready)
    assert replacement._left_out_for_s(101.0) == waits


def test_only_what_was_replaced_makes_the_next_one_wait_and_it_waits_before_its_stop(
    ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(seconds: float) -> None:
        ran.append("waits" if seconds else "goes on")

    monkeypatch.setattr(replacement, "_ready_at", [])
    monkeypatch.setattr(asyncio, "sleep", sleep)
    for name in ("ResourceHook", "ErrorHook"):  # the real ones ask for a Pulumi that runs
        monkeypatch.setattr(replacement, name, lambda _name, callback: callback)
    monkeypatch.setattr(replacement, "ResourceHookBinding", SimpleNamespace)

    def up(found: Kept | None) -> Ran:
        ran.clear()
        monkeypatch.setattr(replacement, "_current", lambda _docker, _name: found)
        hooks: Any = replacement.way_back(PLAN, NAME)
        for hook in (*hooks.before_create, *hooks.after_create):
            asyncio.run(hook(None))
        return [command.removesuffix(f" {OLD.ident}") for command in ran[:2]]

    assert up(None) == []
    assert up(OLD) == ["goes on", "docker stop"]
    assert up(OLD) == ["waits", "docker stop"]


def test_with_the_memory_back_the_new_one_may_start(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [(GPU, "99", "another model", "900"), ("GPU-of-another-model", "41", "x", "1")]
    answer(monkeypatch, lambda _docker: others)
    replacement._put_aside(Docker(), replace(PLAN, gpus=(GPU,)), OLD)
    assert ran[-1] == f"docker rename {OLD.ident} {NAME}-previous-01234567"


def test_memory_that_is_not_given_back_names_its_holder_and_undoes_everything(
    ran: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, lambda _docker: [(GPU, "41", "VLLM::EngineCore", "20000")])
    with pytest.raises(NotReleasedError, match=r"process 41 \(VLLM::EngineCore\) holds 20000 MiB of GPU-3f0c6f0e"):
        replacement._put_aside(Docker(), replace(PLAN, gpus=(GPU,)), OLD)
    assert ran[-2:] == [f"docker rename {OLD.ident} {NAME}", f"docker start {OLD.ident}"]


def test_nvidia_smis_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\necho '{GPU}, 41, /usr/bin/python3, 20000'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert replacement._compute_apps(Docker()) == [(GPU, "41", "/usr/bin/python3", "20000")]


def test_a_command_that_fails_is_told_unless_an_empty_answer_will_do(tmp_path: Path) -> None:
    missing = ["ls", str(tmp_path / "missing")]
    assert replacement._run((), missing, quiet=True) == ""
    with pytest.raises(RuntimeError, match="No such file"):
        replacement._run((), missing, quiet=False)


def test_a_host_over_ssh_is_told_to_undo_it_before_anything_is_stopped(ran: Ran) -> None:
    far = Docker(("ssh", "studio-1"))
    plan = replace(PLAN, stop_grace_s=50, ready_within_s=900)
    replacement._put_aside(far, plan, OLD)
    cancel, arm, stop, _rename = ran
    assert cancel == f"sudo -n systemctl stop {NAME}-way-back.timer"
    assert f"--unit={NAME}-way-back --on-active=1070s " in arm
    assert arm.endswith(f" sh {NAME} {OLD.ident}")
    assert stop == f"docker stop {OLD.ident}"


def test_a_container_that_is_brought_back_needs_the_hosts_own_way_back_no_more(ran: Ran) -> None:
    replacement._bring_back(Docker(("ssh", "studio-1")), OLD)
    assert ran[-1] == f"sudo -n systemctl stop {NAME}-way-back.timer"
    replacement._bring_back(Docker(), OLD)
    assert ran[-1] == f"docker start {OLD.ident}"


@pytest.mark.parametrize(
    ("now", "does"),
    [
        pytest.param("", ["rename", "start"], id="the new one never came"),
        pytest.param("ffff starting", ["rm", "rename", "start"], id="it is not ready"),
        pytest.param("ffff healthy", [], id="it serves"),
        pytest.param(f"{OLD.ident} ", ["start"], id="the old one has its name already"),
    ],
)
def test_what_the_host_does_by_itself(tmp_path: Path, now: str, does: list[str]) -> None:
    log, docker = tmp_path / "log", tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\n[ "$1" = container ] && {{ echo "{now}"; exit; }}\necho "$*" >>{log}\n')
    docker.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", replacement.BRING_BACK, "sh", NAME, OLD.ident], env={"PATH": path}, check=True)
    ran = log.read_text().splitlines() if log.exists() else []
    assert [line.split()[0] for line in ran] == does
    assert not does or ran[-1] == f"start {OLD.ident}"


def test_on_another_host_the_command_is_one_word_for_its_shell(tmp_path: Path) -> None:
    told = replacement._run(("sh", "-c"), ["printf", "%s|", "two words", "$HOME", str(tmp_path)], quiet=False)
    assert told == f"two words|$HOME|{tmp_path}|"


def test_a_host_that_can_not_be_reached_is_no_empty_answer() -> None:
    with pytest.raises(RuntimeError, match="ended with 255"):
        replacement._run(("sh", "-c"), ["exit", "255"], quiet=True)
    assert replacement._run(("sh", "-c"), ["exit", "1"], quiet=True) == ""
