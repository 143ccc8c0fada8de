"""A headscale of one's own for tests: in a container beside the test hosts, with a certificate of a CA of its own."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.clone import REPO
from tests.docker_run import docker, need_image
from tests.hosts.host import Host, neighbour
from tests.network import programs

DOMAIN = "mesh.test"
HOW_TO = REPO / "docs" / "mesh.md"
STARTS_WITHIN_S = 30
CA_ON_HOST = "/usr/local/share/ca-certificates/tests.crt"


@dataclass(frozen=True)
class Headscale:
    """A control server that answers; `say` is its command line, as its owner types it."""

    container: str
    address: str
    folder: Path

    @property
    def url(self) -> str:
        return f"https://{self.address}"

    @property
    def ca(self) -> Path:
        """The certificate that nodes must trust."""
        return self.folder / "ca.crt"

    def say(self, *words: str) -> str:
        return docker("exec", self.container, "/opt/mesh/headscale", *words).strip()

    def api_key(self) -> str:
        return self.say("apikeys", "create").splitlines()[-1]

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Name → what the server knows of the node."""
        return {node["given_name"]: node for node in json.loads(self.say("nodes", "list", "--output", "json")) or []}

    def set_policy(self, policy: dict[str, Any]) -> None:
        (self.folder / "policy.json").write_text(json.dumps(policy))
        self.say("policy", "set", "--file", "/etc/headscale/policy.json")

    @contextmanager
    def down(self) -> Iterator[None]:
        docker("stop", "--time", "2", self.container)
        try:
            yield
        finally:
            docker("start", self.container)

    def trusted_by(self, host: Host) -> None:
        """As its owner does it on each machine, once."""
        host.put(CA_ON_HOST, self.ca.read_text())
        host.inside("update-ca-certificates >/dev/null 2>&1")


@contextmanager
def control_server(folder: Path, at: tuple[str, list[str]] | None = None) -> Iterator[Headscale]:
    """A headscale in the network of the test hosts, or at another address, with `docker run`'s options for it."""
    binaries, image = programs.headscale().parent, need_image("python")
    address, there = at or neighbour()
    folder.chmod(0o755)
    _certificate(folder, address)
    (folder / "config.yaml").write_text(yaml.safe_dump(_config(address)))
    container = docker(
        *("run", "--detach", *there),
        *("--volume", f"{folder}:/etc/headscale", "--volume", f"{binaries}:/opt/mesh:ro", "--user", "0:0"),
        *("--entrypoint", "/opt/mesh/headscale", image, "serve"),
    ).strip()
    server = Headscale(container, address, folder)
    try:
        deadline = time.monotonic() + STARTS_WITHIN_S
        while subprocess.run(
            ["docker", "exec", container, "/opt/mesh/headscale", "users", "list"], capture_output=True, check=False
        ).returncode:
            assert time.monotonic() < deadline, docker("logs", container)
            time.sleep(0.2)
        yield server
    finally:
        docker("rm", "--force", "--volumes", container)


def _config(address: str) -> dict[str, Any]:
    """The how-to's, with addresses and paths of its own."""
    (block,) = re.findall(r"^```yaml\n(server_url:.*?)^```", HOW_TO.read_text(), re.MULTILINE | re.DOTALL)
    text = block.replace("headscale.example.org", address).replace("/var/lib/headscale", "/etc/headscale/kept")
    found: dict[str, Any] = yaml.safe_load(text.replace("mesh.example.org", DOMAIN).replace("203.0.113.5", address))
    return found


def _certificate(folder: Path, address: str) -> None:
    """A CA, and what it signed for the address."""
    (folder / "kept").mkdir()
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-x509")
    own = ("-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=tests")
    server = ("-keyout", "server.key", "-out", "server.crt", "-subj", f"/CN={address}")
    named = ("-addext", f"subjectAltName=IP:{address}", "-addext", "basicConstraints=CA:FALSE")
    for words in ((*curve, *own), (*curve, *server, *named, "-CA", "ca.crt", "-CAkey", "ca.key")):
        subprocess.run(["openssl", "req", *words], cwd=folder, check=True, capture_output=True)
