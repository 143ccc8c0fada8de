"""What most users' machines reach, on the loopback: Pulumi's download, and a registry with the stack's images.

Engine and images are those that this machine has, packed as their publishers pack theirs; only vLLM's image has a
stand-in, since a registry takes two minutes to be given the real one.
"""

import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from images import recipes
from stack_configs.schema.versions import ImagePin
from tests.deploy.clone import Clone, docker
from tests.images.local_registry import Registry
from tests.setup.official import CLI, PLUGIN, write_sums
from tools import lock
from tools.setup.engine import Engine

NAMES = ("vllm-cpu", "litellm", "nginx", "prometheus", "alertmanager", "node-exporter")
"""All that a stack without GPUs needs. Grafana's image can't be had everywhere, so the stack does without it."""
ENGINE = "vllm-cpu"
STAND_IN = "inference-stack-tests/mirror-vllm"
VERSIONS = "2000.01"
"""The clone's own version set: older than the newest, which must not be the one that is taken."""


def pack_engine(engine: Engine, root: Path) -> None:
    """Lay out the official download below `root`."""
    for archive, folder, sources in (
        (CLI, "pulumi/", engine.bin_dir.glob("pulumi*")),
        (PLUGIN, "", engine.plugin.iterdir()),
    ):
        (root / archive).parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(root / archive, "w:gz", compresslevel=1) as tar:
            for source in sources:
                tar.add(source.resolve(), f"{folder}{source.name}")
    write_sums(root)


@dataclass(frozen=True)
class Pin:
    """An image in the registry."""

    repository: str
    tag: str
    digest: str

    @property
    def reference(self) -> str:
        return f"{self.repository}:{self.tag}@{self.digest}"


def push_images(registry: Registry, scratch: Path) -> dict[str, Pin]:
    """Give the registry every image of the stack, under its publisher's path and tag. Skips where one isn't here."""
    pins = lock.read(lock.newest()).images
    sources = {name: _here(pins[name]) for name in NAMES if name != ENGINE}  # type: ignore[index]

    def push(name: str) -> Pin:
        pin = pins[name]  # type: ignore[index]
        repository = f"{registry.host}/{pin.repository.split('/', 1)[1]}"
        docker("tag", sources[name], f"{repository}:{pin.tag}")
        try:
            docker("push", "--quiet", f"{repository}:{pin.tag}")
            known = docker("image", "inspect", "--format", '{{join .RepoDigests "\\n"}}', f"{repository}:{pin.tag}")
        finally:
            docker("image", "rm", f"{repository}:{pin.tag}")
        digest = next(line for line in known.splitlines() if line.startswith(f"{repository}@")).split("@")[1]
        return Pin(repository, pin.tag, digest)

    with ThreadPoolExecutor(2) as pool:
        pushed = dict(zip(sources, pool.map(push, sources), strict=True))
    sources[ENGINE] = _stand_in(sources["litellm"], scratch)
    try:
        return {**pushed, ENGINE: push(ENGINE)}  # after LiteLLM's, most of whose layers it has
    finally:
        docker("image", "rm", sources[ENGINE])


def _stand_in(base: str, scratch: Path) -> str:
    """An image that starts as vLLM's does. LiteLLM's below it has what the job that makes random weights imports."""
    scratch.mkdir()
    (scratch / "vllm").write_text("#!/usr/bin/env python3\n" + (Path(__file__).parent / "stand_in.py").read_text())
    (scratch / "vllm").chmod(0o755)
    (scratch / "Dockerfile").write_text(f'FROM {base}\nCOPY vllm /usr/local/bin/\nENTRYPOINT ["vllm", "serve"]\n')
    docker("build", "--quiet", "--tag", STAND_IN, str(scratch))
    return STAND_IN


def _here(pin: ImagePin) -> str:
    assert pin.built is not None
    wanted = [recipes.tag(pin.built.recipe), f"{pin.repository}:{pin.tag}@{pin.digest}"]
    for reference in wanted:
        if subprocess.run(["docker", "image", "inspect", reference], capture_output=True, check=False).returncode == 0:
            return reference
    pytest.skip(f"neither {wanted[0]} nor {wanted[1]} is on this machine: `make parts` gets one")


def write_versions(clone: Clone, pins: dict[str, Pin], **digests: str) -> None:
    """The clone's version set: these images, with other digests where `digests` has them."""
    data: dict[str, Any] = yaml.safe_load(lock.newest().read_text())
    data["images"] = {
        name: {
            **data["images"][name],
            "repository": pin.repository,
            "tag": pin.tag,
            "digest": digests.get(name, pin.digest),
            "source": "a registry on the loopback",
        }
        for name, pin in pins.items()
    }
    (clone.path / "stack_configs/versions" / f"{VERSIONS}.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
