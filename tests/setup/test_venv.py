"""The Python environment is made from the locks, and left alone when it holds them."""

import re
import tomllib
from pathlib import Path

import pytest

from tools.setup import paths, venv
from tools.setup.progress import SetupError, Step, run_step


@pytest.fixture(autouse=True)
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty place for .venv; commands are noted instead of run, but `python -m venv` has its effect."""
    monkeypatch.setattr(paths, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(paths, "TIMINGS", tmp_path / "timings.json")
    monkeypatch.setattr(paths, "VENV", tmp_path / "venv")
    lines: list[str] = []

    def run(_: Step, argv: list[object], **__: object) -> str:
        lines.append(" ".join(str(word) for word in argv))
        (paths.VENV / "bin").mkdir(parents=True, exist_ok=True)
        (paths.VENV / "bin" / "python").touch()
        return ""

    monkeypatch.setattr(Step, "run", run)
    return lines


def ensure(*, dev: bool = False) -> None:
    run_step("Python packages", lambda step: venv.ensure(step, dev=dev))


def test_the_second_run_runs_nothing(commands: list[str]) -> None:
    ensure()
    assert [line for line in commands if "--require-hashes" in line and line.endswith("/requirements.txt")]
    commands.clear()
    ensure()
    assert commands == []


def test_a_development_environment_serves_for_running_but_not_the_other_way(commands: list[str]) -> None:
    ensure(dev=True)
    commands.clear()
    ensure()
    assert commands == []
    paths.VENV.joinpath("bin/python").unlink()  # as after `make clean`
    ensure()
    commands.clear()
    ensure(dev=True)
    assert commands[-1].endswith("/requirements-dev.txt")


def test_a_changed_lock_is_installed(commands: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure()
    commands.clear()
    changed = tmp_path / "requirements.txt"
    changed.write_text(venv.LOCKS["run"].read_text() + "# more\n")
    monkeypatch.setitem(venv.LOCKS, "run", changed)
    ensure()
    assert commands[-1].endswith(str(changed))


def test_an_old_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venv, "PYTHON_AT_LEAST", (9, 0))
    with pytest.raises(SetupError, match=r"3\.11 or newer is needed"):
        ensure()


def test_a_python_without_ensurepip_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(venv.importlib.util, "find_spec", lambda _: None)  # type: ignore[attr-defined]
    with pytest.raises(SetupError) as error:
        ensure()
    assert "apt-get install python3-venv" in error.value.remedy


@pytest.mark.parametrize("kind", ["run", "dev"])
def test_locks_have_every_hash_and_no_index(kind: str) -> None:
    text = re.sub(r" *#.*\n", "", venv.LOCKS[kind].read_text())
    assert "index-url" not in text
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 5
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_locks_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((paths.REPO / "pyproject.toml").read_text())
    for kind, asked in (
        ("run", project["project"]["dependencies"]),
        ("dev", project["project"]["dependencies"] + project["dependency-groups"]["dev"]),
    ):
        locked = set(re.findall(r"^([a-z0-9._-]+)==", venv.LOCKS[kind].read_text(), re.MULTILINE))
        names = {re.match(r"[A-Za-z0-9_-]+", line)[0].lower() for line in asked}  # type: ignore[index]
        assert names <= locked
