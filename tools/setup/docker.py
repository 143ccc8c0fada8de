"""Docker: used when its API answers, else started or installed where we may, else the command to type."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tools.setup.progress import Step

SOCKET = "/var/run/docker.sock"
ANSWER_S = 5
START_S = 60
ENDED_S = 10
"""What is left of START_S once the dockerd that we started has ended."""
PACKAGES = ("docker.io", "iptables", "ca-certificates")
DAEMON_LOG = Path("/var/log/dockerd-inference-stack.log")


@dataclass(frozen=True)
class DockerInfo:
    """A Docker that answers."""

    version: str
    """Engine version, such as 20.10.24."""
    api: str
    """API version, such as 1.41."""
    way: str
    """How it was got: `answers`, `started`, `installed and started`."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What decides how Docker can be had."""

    answers: bool
    """The API answered."""
    denied: bool = False
    """The socket is there, and this user may not use it."""
    hangs: bool = False
    """Somebody accepts on the socket and stays silent."""
    remote: bool = False
    """DOCKER_HOST names another machine."""
    installed: bool = False
    root: bool = False
    apt: bool = False
    systemd: bool = False


@dataclass(frozen=True)
class Decision:
    do: Literal["use", "start", "install", "refuse"]
    reason: str = ""
    remedy: str = ""


def decide(machine: Machine) -> Decision:
    """What to do about Docker on this machine."""
    start = "sudo systemctl start docker" if machine.systemd else "sudo dockerd &"
    if machine.answers:
        return Decision("use")
    if machine.remote:
        return Decision(
            "refuse",
            "the Docker that DOCKER_HOST names does not answer",
            "start it there, or `unset DOCKER_HOST` to use this machine's",
        )
    if machine.denied:
        return Decision(
            "refuse",
            "Docker is there, but this user may not use it",
            "`sudo usermod -aG docker $USER`, then log in again",
        )
    if machine.hangs:
        return Decision(
            "refuse",
            f"Docker accepts connections but gives no answer within {ANSWER_S} s",
            "look at its log (`journalctl -u docker`), and restart it when no container needs it",
        )
    if machine.installed:
        if machine.root:
            return Decision("start")
        return Decision("refuse", "Docker is installed but does not run", f"`{start}`")
    if machine.root and machine.apt:
        return Decision("install")
    return Decision(
        "refuse",
        "there is no Docker, and this user can't install it" if machine.apt else "there is no Docker",
        "`sudo apt-get install docker.io iptables`, then `sudo usermod -aG docker $USER` and log in again"
        if machine.apt
        else "install Docker Engine as its documentation says for this system, and run again",
    )


def ensure(step: Step) -> DockerInfo:
    """Return the Docker at DOCKER_HOST (or the local socket), starting or installing it if need be."""
    machine, info = look()
    decision = decide(machine)
    if decision.do == "refuse":
        raise step.fail(decision.reason, decision.remedy)
    way = "answers"
    if decision.do == "install":
        _install(step)
        way = "installed and started"
    if decision.do in ("install", "start"):
        info = _start(step, machine)
        way = way if decision.do == "install" else "started"
    assert info is not None
    step.note = f"Docker {info.version} {way}"
    return DockerInfo(info.version, info.api, way)


def look() -> tuple[Machine, DockerInfo | None]:
    """What there is, and the Docker that answered."""
    host = os.environ.get("DOCKER_HOST", "")
    info, trouble = _ask(host)
    return (
        Machine(
            answers=info is not None,
            denied=trouble == "denied",
            hangs=trouble == "hangs",
            remote=bool(host) and not host.startswith("unix://"),
            installed=shutil.which("dockerd") is not None,
            root=os.geteuid() == 0,
            apt=shutil.which("apt-get") is not None,
            systemd=Path("/run/systemd/system").is_dir(),
        ),
        info,
    )


def _ask(host: str) -> tuple[DockerInfo | None, str]:
    """The API's version; by the docker command where the way isn't a local socket."""
    if host and not host.startswith("unix://"):
        return _ask_by_command()
    path = host.removeprefix("unix://") or SOCKET
    connection = http.client.HTTPConnection("localhost", timeout=ANSWER_S)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(ANSWER_S)
    try:
        sock.connect(path)
        connection.sock = sock
        connection.request("GET", "/version")
        said = json.loads(connection.getresponse().read())
    except PermissionError:
        return None, "denied"
    except TimeoutError:
        return None, "hangs"
    except (OSError, http.client.HTTPException, ValueError):
        return None, "absent"
    finally:
        sock.close()
    return DockerInfo(said["Version"], said["ApiVersion"], "answers"), ""


def _ask_by_command() -> tuple[DockerInfo | None, str]:
    form = "{{.Server.Version}} {{.Server.APIVersion}}"
    try:
        done = subprocess.run(
            ["docker", "version", "--format", form],
            capture_output=True,
            text=True,
            timeout=4 * ANSWER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, "absent"
    version, _, api = done.stdout.strip().partition(" ")
    return (DockerInfo(version, api, "answers"), "") if done.returncode == 0 else (None, "absent")


def _install(step: Step) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    remedy = "`apt-get install docker.io iptables` by hand shows more; then run again"
    step.say("apt-get update")
    step.run(["apt-get", "update", "-q"], remedy=remedy, env=env)
    step.say("apt-get install docker.io iptables")
    step.run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES], remedy=remedy, env=env)


def _start(step: Step, machine: Machine) -> DockerInfo:
    step.say("starting Docker")
    daemon: subprocess.Popen[bytes] | None = None
    if machine.systemd:
        step.run(["systemctl", "start", "docker"], remedy="`journalctl -u docker` says why it can't")
    else:
        with DAEMON_LOG.open("wb") as log:
            # A session of its own: it must outlive this command and a Ctrl-C.
            daemon = subprocess.Popen(
                ["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        info, _ = _ask(os.environ.get("DOCKER_HOST", ""))
        if info:
            return info
        if daemon and daemon.poll() is not None:
            # Ended: perhaps only because the package's own start came first, so that one gets a moment.
            until, daemon = min(until, time.monotonic() + ENDED_S), None
        time.sleep(0.5)
    if machine.systemd:
        raise step.fail(f"Docker was started and gives no answer within {START_S} s", "`journalctl -u docker`")
    said = DAEMON_LOG.read_text(errors="replace").strip().splitlines()[-5:]
    raise step.fail(
        "dockerd was started and gives no answer; it said:\n" + "\n".join(said),
        f"{DAEMON_LOG} says more; a container or sandbox may not be allowed to run Docker at all",
    )
