"""What the operating system refuses, told in a user's words instead of a traceback."""

import errno
import os
import sys

import pytest

from tools.setup import __main__, paths


@pytest.fixture
def said(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints in which the operating system refused something: errno and file are the parameter."""
    number, file = request.param

    def refused(_stack: str) -> None:
        raise OSError(number, os.strerror(number), file)

    monkeypatch.setattr(__main__, "up", refused)
    monkeypatch.setattr(sys, "argv", ["setup", "up"])
    assert __main__.main() == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("said", [(errno.ENOSPC, None)], indirect=True)
def test_a_full_disk(said: str) -> None:
    assert "No space left on device" in said
    assert "free space on the disk that is full" in said


@pytest.mark.parametrize("said", [(errno.EACCES, str(paths.STATE / "passphrase"))], indirect=True)
def test_a_file_of_another_user(said: str) -> None:
    assert f"{paths.STATE / 'passphrase'}: Permission denied" in said
    assert f"`sudo chown -R $USER {paths.STATE}`" in said


@pytest.mark.parametrize("said", [(errno.EROFS, str(paths.cache() / "engine"))], indirect=True)
def test_the_folder_that_must_be_writable_is_the_one_that_was_meant(said: str) -> None:
    assert f"chown -R $USER {paths.cache()}`" in said


@pytest.mark.parametrize("said", [(errno.ENOENT, "docker")], indirect=True)
def test_no_docker_command(said: str) -> None:
    assert "the command `docker` is not on PATH" in said
    assert "`make parts` gets it" in said


def test_what_we_know_nothing_about_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_stack: str) -> None:
        raise OSError(errno.EIO, "Input/output error", "/x")

    monkeypatch.setattr(__main__, "up", broken)
    monkeypatch.setattr(sys, "argv", ["setup", "up"])
    with pytest.raises(OSError, match="Input/output error"):
        __main__.main()
