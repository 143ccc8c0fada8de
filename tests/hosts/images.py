"""How images reach a test host, which has no registry."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.docker_run import docker
from tests.hosts.host import Host


def give_images(host: Host, *tags: str) -> None:
    """Before the host's Docker runs anything, since that is stopped for a moment.

    Where layers of this machine's Docker and the host's disk lie on one file system, hard links do: seconds for vLLM's
    image of 4.7 GB, and no room. Elsewhere images go through SSH: two minutes, and the room.
    """
    ours, theirs = Path(docker("info", "--format", "{{.DockerRootDir}}").strip()), _folder(host)
    if os.access(ours / "overlay2", os.W_OK) and (theirs / "overlay2").is_dir():
        _link(host, ours, theirs, tags)
    else:
        _load(host, tags)


def _folder(host: Host) -> Path:
    """The host's /var/lib/docker as this machine sees it."""
    return Path(docker("volume", "inspect", host.container, "--format", "{{.Mountpoint}}").strip())


def _load(host: Host, tags: tuple[str, ...]) -> None:
    save = subprocess.Popen(["docker", "save", *tags], stdout=subprocess.PIPE)
    load = subprocess.run([*host.ssh_argv(), "docker load -q"], stdin=save.stdout, capture_output=True, check=False)
    assert save.wait() == 0
    assert load.returncode == 0, load.stderr.decode()


def _link(host: Host, ours: Path, theirs: Path, tags: tuple[str, ...]) -> None:
    """What `docker load` would write, in the format of overlay2, which Docker 20.10 and 26 share."""
    host.inside("systemctl stop docker.socket docker.service")
    (theirs / "overlay2" / "l").mkdir(exist_ok=True)
    known = theirs / "image" / "overlay2" / "repositories.json"
    names: dict[str, Any] = json.loads(known.read_text()) if known.exists() else {"Repositories": {}}
    for tag in tags:
        (image,) = json.loads(docker("image", "inspect", tag))
        chain = ""
        for layer in image["RootFS"]["Layers"]:
            chain = f"sha256:{hashlib.sha256(f'{chain} {layer}'.encode()).hexdigest()}" if chain else layer
            _link_layer(ours, theirs, chain.removeprefix("sha256:"))
        content = Path("image", "overlay2", "imagedb", "content", "sha256", image["Id"].removeprefix("sha256:"))
        (theirs / content).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ours / content, theirs / content)
        names["Repositories"].setdefault(tag.rsplit(":", 1)[0], {})[tag] = image["Id"]
    known.write_text(json.dumps(names))
    host.inside("systemctl start docker.socket docker.service")
    for tag in tags:
        host.ssh(f"docker image inspect {tag}")


def _link_layer(ours: Path, theirs: Path, chain: str) -> None:
    told = Path("image", "overlay2", "layerdb", "sha256", chain)
    layer = Path("overlay2", (ours / told / "cache-id").read_text())
    if (theirs / layer).exists():
        return
    (theirs / layer).mkdir(mode=0o710)
    # Lower layers are never written to: what a container changes is copied up first.
    subprocess.run(["cp", "-al", str(ours / layer / "diff"), str(theirs / layer / "diff")], check=True)
    for name in ("link", "lower"):
        if (ours / layer / name).exists():
            shutil.copy(ours / layer / name, theirs / layer / name)
    (theirs / layer / "committed").touch()
    (theirs / layer / "work").mkdir(mode=0o700)
    (theirs / "overlay2" / "l" / (ours / layer / "link").read_text()).symlink_to(f"../{layer.name}/diff")
    if not (theirs / told).exists():
        shutil.copytree(ours / told, theirs / told)
