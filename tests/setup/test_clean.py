"""`make clean`: what it removes, what it leaves, and when it refuses. The cache is the test's own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.setup import down, paths, recover, state
from tools.setup.progress import SetupError

USED, UNUSED = "inference-stack/nginx:1", "inference-stack/vllm:1"
DOCKER = f"""#!/bin/sh
echo "$*" >> "$(dirname "$0")/asked"
case "$1 $2" in
"ps --all") echo {USED}; echo someone/else:1 ;;
"image ls") echo {USED}; echo {UNUSED}; echo "<none>:<none>" ;;
esac
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with a file of the user's beside our cache, whose `docker` notes what it is asked, here."""
    monkeypatch.setenv("INFERENCE_STACK_CACHE", str(tmp_path / "disk"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("STATE", "LOGS", "TIMINGS", "VENV"):
        monkeypatch.setattr(paths, name, tmp_path / "clone" / name.lower())
    monkeypatch.setattr(recover, "resources", lambda _: False)
    monkeypatch.setattr(state, "environment", dict)
    monkeypatch.setattr(state, "is_local_backend", lambda _: True)
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    assert paths.cache().is_relative_to(tmp_path)
    (paths.cache() / "engine").mkdir(parents=True)
    (paths.cache() / "engine/by-go").touch(0o444)
    (paths.cache() / "engine").chmod(0o555)
    (tmp_path / "disk/photos").touch()
    paths.VENV.mkdir(parents=True)
    paths.STATE.mkdir()
    (paths.STATE / "passphrase").touch()
    yield tmp_path / "asked"
    if paths.cache().exists():
        (paths.cache() / "engine").chmod(0o755)


def test_cache_venv_and_unused_images_go_and_all_else_stays(asked: Path) -> None:
    down.clean("dev")
    assert not paths.cache().exists()
    assert not paths.VENV.exists()
    assert (paths.cache().parent / "photos").exists()
    assert (paths.STATE / "passphrase").exists()
    removed = [line for line in asked.read_text().splitlines() if " rm " in line]
    assert removed == ["volume rm inference-dev-models", f"image rm {UNUSED}"]


@pytest.mark.usefixtures("asked")
def test_an_environment_that_is_only_linked_stays(tmp_path: Path) -> None:
    shutil.move(paths.VENV, tmp_path / "shared")
    paths.VENV.symlink_to(tmp_path / "shared")
    down.clean("dev")
    assert (tmp_path / "shared").exists()


@pytest.mark.usefixtures("asked")
def test_nothing_goes_where_docker_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(SetupError, match="Docker does not answer: nothing was removed"):
        down.clean("dev")
    assert paths.cache().exists()
    assert paths.VENV.exists()


@pytest.mark.usefixtures("asked")
def test_a_cache_in_use_is_told_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_use(_: Path) -> None:
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(shutil, "rmtree", in_use)
    with pytest.raises(SetupError, match="can't be removed: Directory not empty") as told:
        down.clean("dev")
    assert "wait for its end" in told.value.remedy


def test_down_without_a_stack_says_so_and_removes_nothing(
    asked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(state, "ready", dict)
    down.down("dev")
    assert capsys.readouterr().out == "There is no stack dev here: nothing to remove.\n"
    assert not asked.exists()
