"""`. ./activate`: Pulumi's settings for this clone, and the user's own where there are any."""

import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
SHELLS = [["bash", "-eu", "-c"], ["sh", "-eu", "-c"], ["zsh", "-eu", "-c"]]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    shutil.copy(REPO / "activate", tmp_path)
    (tmp_path / ".state").mkdir()
    (tmp_path / ".state/engine-bin").write_text("/opt/engine/bin\n")
    return tmp_path


def after(clone: Path, shell: list[str], line: str = ". ./activate", **mine: str) -> dict[str, str]:
    if not shutil.which(shell[0]):
        pytest.skip(f"no {shell[0]} on this machine")
    env = {"PATH": "/usr/bin:/bin", "HOME": str(clone / "home"), **mine}
    done = subprocess.run([*shell, f"{line} && env -0"], cwd=clone, env=env, capture_output=True, text=True, check=True)
    return dict(item.split("=", 1) for item in done.stdout.split("\0") if item)


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
def test_sets_this_clones_backend_passphrase_and_path(clone: Path, shell: list[str]) -> None:
    env = after(clone, shell)
    assert env["PULUMI_BACKEND_URL"] == f"file://{clone}/.state/backend"
    assert env["PULUMI_HOME"] == f"{clone}/.state/pulumi"
    assert env["PULUMI_CONFIG_PASSPHRASE_FILE"] == f"{clone}/.state/passphrase"
    assert env["PATH"] == f"{clone}/.venv/bin:/opt/engine/bin:/usr/bin:/bin"


def test_can_be_sourced_from_elsewhere_in_bash(clone: Path) -> None:
    env = after(clone, ["bash", "-eu", "-c"], line=f"cd / && . {clone}/activate")
    assert env["PULUMI_BACKEND_URL"] == f"file://{clone}/.state/backend"


def test_twice_is_as_once(clone: Path) -> None:
    once = after(clone, SHELLS[0])
    twice = after(clone, SHELLS[0], line=". ./activate && . ./activate")
    pulumi = {k: v for k, v in once.items() if k.startswith("PULUMI_")}
    assert pulumi == {k: v for k, v in twice.items() if k.startswith("PULUMI_")}


@pytest.mark.parametrize(
    ("mine", "unset"),
    [
        ({"PULUMI_BACKEND_URL": "s3://states"}, "PULUMI_HOME"),
        ({"PULUMI_ACCESS_TOKEN": "pul-1"}, "PULUMI_BACKEND_URL"),
        ({"PULUMI_CONFIG_PASSPHRASE": "mine"}, "PULUMI_CONFIG_PASSPHRASE_FILE"),
        ({"PULUMI_CONFIG_PASSPHRASE": ""}, "PULUMI_CONFIG_PASSPHRASE_FILE"),
        ({"PULUMI_CONFIG_PASSPHRASE_FILE": "/mine"}, "PULUMI_CONFIG_PASSPHRASE"),
    ],
)
def test_the_users_own_settings_win(clone: Path, mine: dict[str, str], unset: str) -> None:
    env = after(clone, SHELLS[0], **mine)
    assert {key: env[key] for key in mine} == mine
    assert unset not in env


def test_the_users_own_pulumi_home_wins(clone: Path) -> None:
    assert after(clone, SHELLS[0], PULUMI_HOME="/mine")["PULUMI_HOME"] == "/mine"


def test_an_existing_login_wins(clone: Path) -> None:
    home = clone / "home/.pulumi"
    home.mkdir(parents=True)
    (home / "credentials.json").write_text('{\n  "current": "https://api.example.org"\n}')
    assert "PULUMI_BACKEND_URL" not in after(clone, SHELLS[0])


def test_before_make_up_it_says_so(clone: Path) -> None:
    (clone / ".state/engine-bin").unlink()
    done = subprocess.run(["sh", "-c", ". ./activate"], cwd=clone, capture_output=True, text=True, check=True)
    assert "run `make up` first" in done.stderr
