"""`make logs`: how the services are, and one's last lines, whoever reads them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.setup import paths

DOCKER = """#!/bin/sh
case "$1 $*" in
"ps "*) printf 'service        STATUS     PORTS\\nchat-0         Up (healthy)\\nchat-0-files   Created\\n' ;;
"logs "*chat-0) echo said on stdout; echo said on stderr >&2 ;;
*) echo 'Error: No such container' >&2; exit 1 ;;
esac
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A machine whose `docker` knows one service."""
    (tmp_path / "docker").write_text(DOCKER)
    (tmp_path / "docker").chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}


def logs(env: dict[str, str], *service: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.setup", "logs", *service]
    return subprocess.run(
        command, cwd=paths.REPO, env=env, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )


def test_services_are_listed_without_the_carriers_of_their_files(env: dict[str, str]) -> None:
    said = logs(env).stdout
    assert "chat-0         Up (healthy)" in said
    assert "chat-0-files" not in said
    assert "make logs SERVICE=name" in said


def test_both_of_a_services_streams_are_shown(env: dict[str, str]) -> None:
    assert logs(env, "chat-0").stdout == "said on stdout\nsaid on stderr\n"


def test_an_unknown_service_is_named(env: dict[str, str]) -> None:
    done = logs(env, "chat-9")
    assert done.returncode == 1
    assert "there is no service chat-9 in dev" in done.stderr


def test_a_docker_that_fails_is_not_an_empty_list(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n")
    done = logs(env)
    assert done.returncode == 1
    assert "Docker does not answer" in done.stderr


@pytest.mark.parametrize("service", [(), ("chat-0",)])
def test_a_reader_that_has_gone_is_no_error(env: dict[str, str], service: tuple[str, ...]) -> None:
    """`make logs | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = logs(env, *service, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
