"""`make preview`: of a stack that is there, and of one that is yet to be made."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tools.setup import (
    choices,
    docker,
    engine,
    images,
    over_ssh,
    paths,
    preflight,
    preview,
    progress,
    recover,
    state,
    venv,
)
from tools.setup.progress import SetupError, Step

STACK = "demo"


@dataclass
class Clone:
    """A clone in which `make up` has never run, and what a preview in it does."""

    path: Path
    stacks: list[str] = field(default_factory=list)
    """Of the backend."""
    ran: list[tuple[Path, tuple[str, ...], Mapping[str, str]]] = field(default_factory=list)
    """Commands: where, which, with which environment."""
    there: dict[str, str] = field(default_factory=dict)
    """File → content, of the folder in which the last command ran."""
    status: int = 0
    interrupted: bool = False

    def preview(self) -> int:
        return preview.preview(STACK)

    def run(self, argv: list[str], *, cwd: Path, env: Mapping[str, str], check: bool) -> Any:
        assert not check
        self.ran.append((cwd, tuple(argv[1:]), dict(env)))
        files = [file for file in cwd.rglob("*") if file.is_file() and ".venv" not in file.parts]
        self.there = {str(file.relative_to(cwd)): file.read_text() for file in files}
        (cwd / f"Pulumi.{STACK}.yaml").write_text("config: {of: the preview}\n")
        (cwd / "new").touch()
        if self.interrupted:
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(argv, self.status)

    def files(self) -> dict[str, str]:
        """All but logs, and the folder in which plugins are looked for."""
        kept = (paths.LOGS, state.OWN_HOME / "plugins", paths.TIMINGS)
        every = [path for path in self.path.rglob("*") if not any(path.is_relative_to(one) for one in kept)]
        return {str(path): path.read_text() if path.is_file() else "" for path in every if path != state.OWN_HOME}


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clone:
    path = tmp_path / "inference-stack"
    for name, text in {
        "Pulumi.yaml": "name: inference-stack\n",
        f"Pulumi.{STACK}.yaml": "config: {}\n",
        "stack_configs/demo.yaml": "hosts: {}\n",
        "images/nginx/.hidden": "counts",
        "images/nginx/docs/page": "counts",
        "tests/test_x.py": "",
        ".git/config": "",
        ".state/logs/old.log": "old",
    }.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    shutil.copy(paths.REPO / "activate", path)
    own = path / ".state"
    for name, value in {"REPO": path, "STATE": own, "LOGS": own / "logs", "VENV": path / ".venv"}.items():
        monkeypatch.setattr(paths, name, value)
    (path / ".venv").mkdir()
    monkeypatch.setattr(paths, "TIMINGS", own / "timings.json")
    monkeypatch.setattr(state, "PASSPHRASE", own / "passphrase")
    monkeypatch.setattr(state, "OWN_HOME", own / "pulumi")
    for name in [name for name in os.environ if name.startswith("PULUMI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    made = Clone(path)
    found = engine.Engine(tmp_path / "bin", tmp_path / "plugin", engine.DOWNLOADED)
    monkeypatch.setattr(venv, "ensure", lambda _step: None)
    monkeypatch.setattr(engine, "ensure", lambda _step: found)
    monkeypatch.setattr(state, "prepare", lambda _found: own.joinpath("prepared").touch())
    monkeypatch.setattr(state, "has_stack", lambda stack, _step, _env: stack in made.stacks)
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda argv, **how: (made.run if "-m" in argv else run)(argv, **how))
    return made


def test_a_stack_that_is_there_is_previewed_as_it_is(clone: Clone) -> None:
    clone.stacks = [STACK]
    (paths.STATE / "backend").mkdir()
    clone.status = 3
    assert clone.preview() == 3
    ((at, command, env),) = clone.ran
    assert (at, command) == (clone.path, ("-m", "tools.report", "--stack", STACK))
    assert env["PULUMI_BACKEND_URL"] == f"file://{clone.path}/.state/backend"
    assert (paths.STATE / "prepared").exists()


@pytest.mark.parametrize("others", [None, ["dev"]], ids=["no stack at all", "another stack"])
def test_before_the_first_up_a_copy_is_asked_and_nothing_of_it_stays(clone: Clone, others: list[str] | None) -> None:
    if others:
        clone.stacks = others
        (paths.STATE / "backend").mkdir()
    before = clone.files()
    clone.status = 2
    assert clone.preview() == 2
    assert clone.files() == before
    ((at, command, env),) = clone.ran
    assert command == ("-m", "tools.setup", "preview", "--stack", STACK, "--in-copy")
    assert at.is_relative_to(paths.STATE)
    assert env["PULUMI_BACKEND_URL"] == f"file://{at}/.state/backend"
    assert env["PULUMI_HOME"] == f"{at}/.state/pulumi"


def test_the_copy_has_all_that_decides_and_neither_history_nor_state(clone: Clone) -> None:
    (paths.STATE / "Pulumi.dev.yaml").write_text("config: {chosen: before}\n")
    (paths.STATE / "backend").mkdir()
    (paths.STATE / "backend" / "secret").touch()
    clone.preview()
    ((at, _, _),) = clone.ran
    assert clone.there == {
        "activate": (clone.path / "activate").read_text(),
        "Pulumi.yaml": "name: inference-stack\n",
        f"Pulumi.{STACK}.yaml": "config: {}\n",
        "stack_configs/demo.yaml": "hosts: {}\n",
        "images/nginx/.hidden": "counts",
        "images/nginx/docs/page": "counts",
        ".state/Pulumi.dev.yaml": "config: {chosen: before}\n",
    }
    assert at.name == clone.path.name


def test_secrets_that_are_in_the_configuration_already_can_be_read(clone: Clone) -> None:
    state.PASSPHRASE.write_text("open sesame\n")
    clone.preview()
    assert clone.there[".state/passphrase"] == "open sesame\n"
    assert state.PASSPHRASE.read_text() == "open sesame\n"


def test_it_works_after_activate_too_whose_passphrase_is_not_there_yet(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE_FILE", str(state.PASSPHRASE))
    clone.preview()
    assert "PULUMI_CONFIG_PASSPHRASE_FILE" not in clone.ran[0][2]


def test_a_backend_of_the_users_own_is_asked_for_the_stack_and_not_written_to(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "s3://states")
    clone.preview()
    ((at, _, env),) = clone.ran
    assert env["PULUMI_BACKEND_URL"] == f"file://{at}/.state/backend"
    assert "PULUMI_HOME" not in env, "plugins come to lie where `up` would put them"
    clone.stacks = [STACK]
    clone.preview()
    assert (clone.ran[1][0], clone.ran[1][2]["PULUMI_BACKEND_URL"]) == (clone.path, "s3://states")


def test_an_interrupted_preview_leaves_nothing(clone: Clone) -> None:
    before = clone.files()
    clone.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        clone.preview()
    assert clone.files() == before


def test_what_a_killed_preview_left_goes_and_another_that_runs_is_left_alone(clone: Clone) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, living = (paths.STATE / f"preview-{pid}-x" for pid in (ended.pid, os.getppid()))
    for folder in (dead, living):
        folder.mkdir()
    clone.preview()
    assert (dead.exists(), living.exists()) == (False, True)


@dataclass
class Decided:
    """What the steps in the copy find, and in which order they ran."""

    ran: list[str] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)
    """Steps of `up`'s that fail here."""
    machine: docker.Machine = field(default_factory=lambda: docker.Machine(answers=True))
    status: int = 0

    def step(self, name: str, result: Any = None) -> Any:
        def run(*words: Any, **_: Any) -> Any:
            self.ran.append(name)
            step = next((word for word in words if isinstance(word, Step)), None)
            if name in self.refuse:
                assert step
                raise step.fail(f"{name} is wrong", f"mend {name}")
            return result

        return run


@pytest.fixture
def decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Decided]:
    found = Decided()
    monkeypatch.setattr(paths, "REPO", tmp_path)
    monkeypatch.setattr(paths, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(paths, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(paths, "TIMINGS", tmp_path / "timings.json")
    wanted: dict[str, Any] = {"plugins": ["cloudflare"], "ports": {}, "versions": "2026.11", "images": None}
    for module, name, result in (
        (engine, "ensure", None),
        (engine, "ensure_plugin", None),
        (state, "prepare", None),
        (state, "environment", {"PULUMI_HOME": str(tmp_path)}),
        (state, "describe", wanted),
        (state, "ensure_stack", None),
        (preflight, "check_machine", None),
        (preflight, "check_ports", None),
        (over_ssh, "check_agent", None),
        (choices, "image_way", images.Decision("built", "asked for")),
        (choices, "make", None),
        (choices, "make_keys", ["key me"]),
        (recover, "recover", None),
        (images, "version_set", None),
        (images, "absent", ["vllm", "nginx"]),
    ):
        monkeypatch.setattr(module, name, found.step(name, result))
    monkeypatch.setattr(docker, "look", lambda: (found.machine, None))
    monkeypatch.setattr(preview, "_report", lambda _stack: found.step("report")() or found.status)
    monkeypatch.setattr(over_ssh, "is_over_ssh", lambda stack: stack == "prod")
    # Whatever takes long, or changes the machine.
    for module, name in ((docker, "ensure"), (images, "ensure"), (images, "build")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a preview makes nothing"))
    yield found
    progress._timings.clear()


def test_of_a_local_stack_ups_own_steps_decide(decided: Decided, capsys: pytest.CaptureFixture[str]) -> None:
    assert preview.in_copy("dev") == 0
    assert [name for name in decided.ran if name not in ("environment", "ensure", "version_set")] == [
        "prepare",
        "describe",
        "ensure_stack",
        "ensure_plugin",
        "check_machine",
        "image_way",
        "absent",
        "check_ports",
        "make",
        "recover",
        "report",
    ]
    said = capsys.readouterr().out
    assert "built, asked for; `make up` builds vllm, nginx first" in said
    assert "There is no stack `dev` here yet: this is what `make up` would make. Nothing of it is kept.\n" in said
    assert "elsewhere" not in said


def test_a_stack_that_was_made_in_another_clone_is_told_of(
    decided: Decided, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "Pulumi.prod.yaml").write_text("encryptionsalt: v1:x\n")
    assert preview.in_copy("prod") == 0
    assert decided.ran[-1] == "report"
    assert "But Pulumi.prod.yaml is of a stack that was made before, elsewhere" in capsys.readouterr().out


def test_of_hosts_over_ssh_too(decided: Decided, capsys: pytest.CaptureFixture[str]) -> None:
    assert preview.in_copy("prod") == 0
    assert [name for name in decided.ran if name not in ("environment", "ensure")] == [
        "prepare",
        "describe",
        "ensure_stack",
        "ensure_plugin",
        "ensure_plugin",
        "check_agent",
        "make_keys",
        "report",
    ]
    said = capsys.readouterr().out
    assert "to be made: key me" in said
    assert "this is what `make up STACK=prod` would make" in said


@pytest.mark.parametrize(
    ("stack", "step"), [("dev", "check_machine"), ("dev", "check_ports"), ("dev", "recover"), ("prod", "check_agent")]
)
def test_what_up_would_stop_at_is_told_and_hides_nothing(
    decided: Decided, capsys: pytest.CaptureFixture[str], stack: str, step: str
) -> None:
    decided.refuse = {step}
    assert preview.in_copy(stack) == 0
    assert decided.ran[-1] == "report"
    _, told, after = capsys.readouterr().out.rpartition("Before that, ")
    assert told
    assert "would stop. " in after
    assert f"{step} is wrong" in after
    assert f"What to do: mend {step}" in after


@pytest.mark.parametrize(
    ("machine", "told", "stops"),
    [
        (docker.Machine(answers=False, root=True, apt=True), "`make up` installs it", False),
        (docker.Machine(answers=False, root=True, installed=True), "`make up` starts it", False),
        (docker.Machine(answers=False, denied=True, installed=True), "this user may not use it", True),
    ],
)
def test_without_docker_a_preview_neither_gets_it_nor_asks_it(
    decided: Decided, capsys: pytest.CaptureFixture[str], machine: docker.Machine, told: str, stops: bool
) -> None:
    decided.machine = machine
    assert preview.in_copy("dev") == 0
    assert not {"absent", "recover"} & set(decided.ran)
    said = capsys.readouterr().out
    assert told in said
    assert "`make up` builds all first" in said
    assert ("Before that, `make up` would stop. Docker: " in said) == stops


def test_a_refusal_says_when_settings_can_be_made(decided: Decided, capsys: pytest.CaptureFixture[str]) -> None:
    decided.status = 1
    assert preview.in_copy("prod") == 1
    said = capsys.readouterr().out
    assert said.endswith(
        "`make up STACK=prod` would stop there too. It makes the stack first: from then on `pulumi config set` works.\n"
    )


def test_a_part_that_cannot_be_had_ends_it(decided: Decided) -> None:
    decided.refuse = {"describe"}
    with pytest.raises(SetupError, match="describe is wrong"):
        preview.in_copy("dev")
    assert "report" not in decided.ran


@pytest.mark.parametrize("way", ["registry", "built"])
def test_images_that_up_would_get_are_those_that_are_not_there(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = images.version_set()
    asked: list[str] = []

    def exists(reference: str) -> bool:
        asked.append(reference)
        return "nginx" not in reference

    monkeypatch.setattr(images, "_exists", exists)
    assert images.absent(way, versions) == ["nginx"]
    assert not any("cuda" in reference for reference in asked)
    assert any("@sha256:" in reference for reference in asked) == (way == "registry")


def test_without_docker_gpus_and_ports_are_judged_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho GPU-1\necho GPU-2\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choices.usable_gpus() == (
        [],
        " (2 left out: no Docker is here yet to say whether it hands them out by CDI)",
    )
    step = Step("Ports", tmp_path / "log")
    try:
        preflight.check_ports(STACK, {}, step)
    finally:
        step.close()
