"""Where Go keeps what it fetched and compiled, and that it does not stay."""

import fcntl
from pathlib import Path

import pytest

from tools.setup import golang, paths


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INFERENCE_STACK_CACHE", str(tmp_path))
    monkeypatch.delenv("GOCACHE", raising=False)
    monkeypatch.delenv("GOMODCACHE", raising=False)
    folder = paths.cache()
    sources = folder / "go" / "mod" / "example.org"
    sources.mkdir(parents=True)
    sources.chmod(0o555)  # as Go leaves them
    return folder


def test_sources_and_compiled_packages_are_in_our_cache(cache: Path) -> None:
    env = golang.environment()
    assert env["GOMODCACHE"] == str(cache / "go" / "mod")
    assert env["GOCACHE"] == str(cache / "go" / "build")


def test_another_place_in_the_environment_wins(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMODCACHE", "/srv/go")
    assert golang.environment()["GOMODCACHE"] == "/srv/go"
    assert golang.environment()["GOCACHE"] == str(cache / "go" / "build")


def test_they_are_removed_once_all_is_built(cache: Path) -> None:
    golang.forget()
    assert not (cache / "go").exists()


def test_they_stay_while_another_build_needs_them(cache: Path) -> None:
    with (cache / "go.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        golang.forget()
    assert (cache / "go" / "mod").exists()
