"""An operator's machine: a node of the mesh like any other, where Pulumi runs.

Its network is that of a container, and so are its names; files, Docker and programs are this machine's.
"""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.deploy.clone import REPO
from tests.docker_run import docker
from tests.hosts.host import Host, login
from tests.network import programs
from tests.network.headscale import Headscale

PUMP = """
import os, socket, sys, threading
far = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def out():
    while data := far.recv(65536): os.write(1, data)
    os._exit(0)
threading.Thread(target=out).start()
while data := os.read(0, 65536): far.sendall(data)
far.shutdown(socket.SHUT_WR)
"""
ENTER = 'mount --bind "$RESOLV_CONF" /etc/resolv.conf && exec "$@"'


@dataclass(frozen=True)
class Laptop:
    host: Host
    folder: Path
    ca: Path

    def argv(self, *command: str) -> list[str]:
        """How a command of this machine is run there."""
        pid = docker("inspect", "--format", "{{.State.Pid}}", self.host.container).strip()
        enters = ["nsenter", f"--net=/proc/{pid}/ns/net", "unshare", "--mount", "sh", "-c", ENTER, "sh"]
        return ["env", f"RESOLV_CONF={self.folder / 'resolv.conf'}", f"SSL_CERT_FILE={self.ca}", *enters, *command]

    def run(self, *command: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.argv(*command),
            input=stdin,
            env={**login().env, "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def reaches(self, name: str, port: int) -> bool:
        """Whether a new TCP connection is accepted."""
        line = f"import socket; socket.create_connection(({name!r}, {port}), 3)"
        return self.run(sys.executable, "-c", line, check=False).returncode == 0

    def python(self, module: str, *words: str, given: Mapping[str, Any]) -> Any:
        """What `python -m module` prints as JSON, with `given` as JSON on its standard input."""
        return json.loads(
            self.run(sys.executable, "-m", module, *words, stdin=json.dumps(given)).stdout.splitlines()[-1]
        )


@contextmanager
def laptop(host: Host, server: Headscale, folder: Path, user: str) -> Iterator[Laptop]:
    """Joined as docs/mesh.md says, by its user."""
    server.trusted_by(host)
    for program in (programs.tailscale(), programs.tailscaled()):
        docker("cp", str(program), f"{host.container}:/usr/bin/{program.name}")
    host.inside("apt-get update -q >/dev/null && apt-get install -qy iptables >/dev/null")
    host.inside("systemd-run -q --unit tailscaled tailscaled --state=/var/lib/tailscaled.state")
    users = {one["name"]: str(one["id"]) for one in json.loads(server.say("users", "list", "--output", "json"))}
    key = server.say("preauthkeys", "create", "--user", users[user]).splitlines()[-1]
    host.inside(f"tailscale up --login-server={server.url} --auth-key={key} --accept-dns=false")
    (folder / "resolv.conf").write_text("nameserver 100.100.100.100\n")
    yield Laptop(host, folder, server.ca)


@contextmanager
def forwarded(machine: Laptop, name: str, port: int) -> Iterator[int]:
    """A port of this machine's loopback that leads to `name:port` as the laptop reaches it.

    A byte pump in the laptop's network for each connection: its own loopback is not this machine's.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        stopped = threading.Event()
        listener.settimeout(0.2)

        def accept() -> None:
            while not stopped.is_set():
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    connection.setblocking(True)
                    with connection:
                        subprocess.Popen(
                            machine.argv(sys.executable, "-c", PUMP, name, str(port)),
                            stdin=connection.fileno(),
                            stdout=connection.fileno(),
                        )

        pump = threading.Thread(target=accept)
        pump.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopped.set()
            pump.join()
