"""Give a Docker that isn't running yet the images of another one, without a copy of their files.

`docker save | docker load` of the engine's image takes two minutes and twice its size on disk. Both Dockers only read
an image's files, so the second can have them as hard links. Knows the folders of Docker's overlay2 driver.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

LINK = """
set -e
target="$1"; shift
# Docker mounts its folder onto itself; a hard link can't cross that, though both sides are one disk.
# Mounts of containers that end meanwhile go by themselves.
awk -v at="$ROOT" 'index($2, at) == 1 {print $2}' /proc/mounts | sort -r | xargs -r umount -l || true
for layer in "$@"; do
    cp --archive --link "$ROOT/overlay2/$layer" "$target/overlay2/$layer"
    ln -s "../$layer/diff" "$target/overlay2/l/$(cat "$ROOT/overlay2/$layer/link")"
done
"""


class NotLinkable(Exception):
    """The Docker here keeps images in another way, or on another disk."""


def link(images: Sequence[str], target: Path) -> None:
    """Put `images` (names with tags) into the data folder `target`. Raises NotLinkable."""
    source = Path(_docker("info", "--format", "{{.DockerRootDir}}"))
    if _docker("info", "--format", "{{.Driver}}") != "overlay2" or source.stat().st_dev != target.stat().st_dev:
        raise NotLinkable
    here, there = source / "image" / "overlay2", target / "image" / "overlay2"
    (target / "overlay2" / "l").mkdir(parents=True)
    names: dict[str, dict[str, str]] = {}
    layers: dict[Path, str] = {}
    for image in images:
        ident = _docker("image", "inspect", "--format", "{{.Id}}", image)
        names.setdefault(image.rsplit(":", 1)[0], {})[image] = ident
        config = Path("imagedb", "content", *ident.split(":"))
        (there / config).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(here / config, there / config)
        for chain in _chains(json.loads((here / config).read_text())["rootfs"]["diff_ids"]):
            layer = Path("layerdb", "sha256", chain)
            if layer not in layers:
                shutil.copytree(here / layer, there / layer)
                layers[layer] = (here / layer / "cache-id").read_text()
    (there / "repositories.json").write_text(json.dumps({"Repositories": names}))
    subprocess.run(
        ["unshare", "--mount", "sh", "-c", LINK, "sh", target, *layers.values()],
        env={**os.environ, "ROOT": str(source)},
        check=True,
    )


def _chains(diff_ids: Sequence[str]) -> list[str]:
    """Names of an image's layers in Docker's layer folder: each is a hash over the one below and its own content."""
    chain, chains = "", []
    for diff in diff_ids:
        chain = f"sha256:{sha256(f'{chain} {diff}'.encode()).hexdigest()}" if chain else diff
        chains.append(chain.removeprefix("sha256:"))
    return chains


def _docker(*args: str) -> str:
    return subprocess.run(["docker", *args], capture_output=True, text=True, check=True).stdout.strip()
