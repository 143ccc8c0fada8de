"""A real image registry on the loopback: Debian's package, unpacked below a scratch folder. Nothing is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml


class Registry:
    """One `docker-registry serve`. `stop` makes it vanish."""

    def __init__(self, binary: Path, scratch: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"
        config = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(scratch / "data")}},
            "http": {"addr": self.host},
        }
        path = scratch / "registry.yml"
        path.write_text(yaml.safe_dump(config))
        self.log = (scratch / "registry.log").open("w")
        self.process = subprocess.Popen(
            [str(binary), "serve", str(path)], stdout=self.log, stderr=subprocess.STDOUT, env={**os.environ}
        )
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/", timeout=1).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError((scratch / "registry.log").read_text())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.log.close()


def program(scratch: Path) -> Path:
    """The registry's program. Skips the test where it can be had neither installed nor from apt."""
    found = shutil.which("docker-registry")
    if found:
        return Path(found)
    if not shutil.which("apt-get"):
        pytest.skip("no docker-registry here, and no apt-get to fetch it with")
    scratch.chmod(0o755)
    fetched = subprocess.run(
        ["apt-get", "download", "-q", "docker-registry"], cwd=scratch, capture_output=True, text=True, check=False
    )
    package = next(scratch.glob("docker-registry_*.deb"), None)
    if package is None:
        pytest.skip(f"apt-get can't download docker-registry: {fetched.stderr.strip()[-200:]}")
    subprocess.run(["dpkg", "-x", str(package), str(scratch / "unpacked")], check=True)
    return scratch / "unpacked/usr/bin/docker-registry"


def tiny_image(reference: str, content: str, scratch: Path) -> None:
    """An image of one file, so that pushing and pulling take no time."""
    (scratch / "content").write_text(content)
    archive = scratch / "content.tar"
    subprocess.run(["tar", "-C", str(scratch), "-cf", str(archive), "content"], check=True)
    subprocess.run(["docker", "import", str(archive), reference], check=True, capture_output=True)
