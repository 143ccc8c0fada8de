"""The image of a bare host, by debootstrap, as images/base is made."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import pytest

from images import debian
from tools.setup import paths
from tools.setup.progress import Step

Distribution = Literal["debian-12", "debian-13"]
SUITES: dict[Distribution, str] = {"debian-12": "bookworm", "debian-13": "trixie"}
HERE = Path(__file__).parent


def host_image(distribution: Distribution) -> str:
    """The tag of the image, made when it is missing. Skips the test where it can't be made, and says why."""
    tag = f"inference-stack-tests/host:{distribution}-{_digest()}"
    if _exists(tag):
        return tag
    if os.geteuid() != 0:
        pytest.skip("the image of a test host is made by debootstrap, which only root can run")
    if debian.find_mirror() is None:
        pytest.skip(f"test hosts are made of Debian packages, and no mirror is known: set {debian.MIRROR_VARIABLE}")
    scratch = paths.cache() / "build" / f"host-{distribution}"
    scratch.parent.mkdir(parents=True, exist_ok=True)
    with scratch.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _exists(tag):
            _build(distribution, scratch, tag)
    return tag


def _build(distribution: Distribution, scratch: Path, tag: str) -> None:
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(HERE / "root", scratch / "recipe" / "root")
    recipe = (HERE / "recipe.toml").read_text()
    (scratch / "recipe" / "recipe.toml").write_text(f'suite = "{SUITES[distribution]}"\n{recipe}')
    paths.LOGS.mkdir(parents=True, exist_ok=True)
    step = Step(f"image of a {distribution} host", paths.LOGS / f"host-{distribution}.log")
    try:
        debian.build_base(scratch / "recipe", scratch, tag, step)
    finally:
        step.close()
        shutil.rmtree(scratch, ignore_errors=True)


def _digest() -> str:
    """Of the recipe, its files and their executable bits."""
    digest = hashlib.sha256()
    for path in (HERE / "recipe.toml", *sorted((HERE / "root").rglob("*"))):
        if path.is_file():
            digest.update(f"{path.relative_to(HERE)} {path.stat().st_mode & 0o100} ".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _exists(tag: str) -> bool:
    return subprocess.run(["docker", "image", "inspect", tag], capture_output=True, check=False).returncode == 0


__all__ = ["Distribution", "host_image"]
