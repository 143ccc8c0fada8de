"""What is done about Docker on each kind of machine, and what a user is told to do."""

import http.server
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.setup import docker, paths
from tools.setup.docker import Machine, decide
from tools.setup.progress import SetupError, run_step

CASES = [
    (Machine(answers=True), "use", "", ""),
    (Machine(answers=True, remote=True), "use", "", ""),
    (Machine(answers=False, installed=True, root=True, systemd=True), "start", "", ""),
    (Machine(answers=False, installed=True, root=True), "start", "", ""),
    (Machine(answers=False, root=True, apt=True), "install", "", ""),
    (
        Machine(answers=False, remote=True, installed=True, root=True),
        "refuse",
        "DOCKER_HOST names does not answer",
        "unset DOCKER_HOST",
    ),
    (
        Machine(answers=False, denied=True, installed=True),
        "refuse",
        "this user may not use it",
        "sudo usermod -aG docker $USER",
    ),
    (
        Machine(answers=False, hangs=True, installed=True, root=True, systemd=True),
        "refuse",
        "no answer within 5 s",
        "journalctl -u docker",
    ),
    (
        Machine(answers=False, installed=True, systemd=True),
        "refuse",
        "installed but does not run",
        "sudo systemctl start docker",
    ),
    (Machine(answers=False, installed=True), "refuse", "installed but does not run", "sudo dockerd"),
    (
        Machine(answers=False, apt=True),
        "refuse",
        "this user can't install it",
        "sudo apt-get install docker.io iptables",
    ),
    (Machine(answers=False, root=True), "refuse", "there is no Docker", "install Docker Engine"),
    (Machine(answers=False), "refuse", "there is no Docker", "install Docker Engine"),
]


@pytest.mark.parametrize(("machine", "do", "reason", "remedy"), CASES)
def test_each_machine_gets_its_decision(machine: Machine, do: str, reason: str, remedy: str) -> None:
    decision = decide(machine)
    assert decision.do == do
    assert reason in decision.reason
    assert remedy in decision.remedy
    assert bool(decision.reason) == bool(decision.remedy) == (do == "refuse")


REAL_START = docker._start


@pytest.fixture(autouse=True)
def own_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(paths, "TIMINGS", tmp_path / "timings.json")
    monkeypatch.setattr(docker, "_install", lambda *_: pytest.fail("installed Docker"))
    monkeypatch.setattr(docker, "_start", lambda *_: pytest.fail("started Docker"))


@pytest.fixture
def socket_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = str(tmp_path / "d.sock")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    return path


@pytest.fixture
def answering(socket_path: str) -> Iterator[None]:
    class Docker(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"Version": "99.1.0", "ApiVersion": "1.99"}')

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return ""

    with socketserver.ThreadingUnixStreamServer(socket_path, Docker) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        yield
        server.shutdown()


@pytest.mark.usefixtures("answering")
def test_docker_host_is_what_is_asked() -> None:
    info = run_step("Docker", docker.ensure)
    assert (info.version, info.api, info.way) == ("99.1.0", "1.99", "answers")


def test_a_silent_socket_is_told_within_the_bound(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "ANSWER_S", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(socket_path)
        listener.listen()
        with pytest.raises(SetupError, match="gives no answer"):
            run_step("Docker", docker.ensure)


def test_a_remote_docker_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(SetupError, match="DOCKER_HOST"):
        run_step("Docker", docker.ensure)


@pytest.mark.usefixtures("socket_path")
def test_a_dockerd_that_ends_is_told_with_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "_start", REAL_START)
    monkeypatch.setattr(docker, "ENDED_S", 0.1)
    monkeypatch.setattr(docker, "DAEMON_LOG", tmp_path / "dockerd.log")
    monkeypatch.setattr(docker, "look", lambda: (Machine(answers=False, installed=True, root=True), None))
    dockerd = tmp_path / "bin" / "dockerd"
    dockerd.parent.mkdir()
    dockerd.write_text("#!/bin/sh\necho iptables: operation not permitted >&2\nexit 1\n")
    dockerd.chmod(0o755)
    monkeypatch.setenv("PATH", f"{dockerd.parent}:/usr/bin:/bin")
    with pytest.raises(SetupError) as error:
        run_step("Docker", docker.ensure)
    assert "iptables: operation not permitted" in error.value.reason
    assert str(tmp_path / "dockerd.log") in error.value.remedy
