"""Pulumi's CLI, Python language host and Docker plugin, at pinned versions.

Three ways, in this order: a `pulumi` of the pinned version on PATH (which then gets its plugins by
itself), the official download, and a build from Go modules for machines that reach only package registries.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tools.setup import paths
from tools.setup.progress import SetupError, Step

PULUMI = "3.259.0"
"""Equal to the SDK's version in pyproject.toml."""
DOCKER_PLUGIN = "5.1.0"
"""Equal to pulumi-docker's version in pyproject.toml."""
LANGUAGE_HOST = "3.75.0"
"""The last SDK module that carries the Python language host; the protocol has stayed the same."""
GO_AT_LEAST = (1, 26)

DOWNLOADS = os.environ.get("INFERENCE_STACK_PULUMI_DOWNLOADS", "https://get.pulumi.com/releases")
"""Base address of `sdk/pulumi-v…tar.gz`, its `.sha512` sums and `plugins/`. A mirror may stand in."""
CONNECT_S = 5

LANGUAGE_HOST_SCRIPTS = (
    "python/cmd/pulumi-language-python-exec",
    "python/dist/pulumi-resource-pulumi-python",
    "python/dist/pulumi-analyzer-policy-python",
)


class Unreachable(Exception):
    """The official download can't be had from here: another way may do."""


@dataclass(frozen=True)
class Engine:
    """A Pulumi that can run this repository's program."""

    bin_dir: Path
    """Holds pulumi and pulumi-language-python; comes on PATH after .venv/bin."""
    plugin: Path | None
    """The folder resource-docker-v…, to be found in $PULUMI_HOME/plugins; None: Pulumi fetches its own."""
    way: str
    """In words for the user: `on PATH`, `official download`, `built from Go modules`."""


def ensure(step: Step) -> Engine:
    """Get the engine. No-op when done before. Raises SetupError."""
    found = shutil.which("pulumi", path=_users_path())
    if found and _version(Path(found)) == PULUMI and shutil.which("pulumi-language-python", path=_users_path()):
        step.note = f"pulumi {PULUMI} on PATH"
        return Engine(Path(found).parent, None, "on PATH")
    for way, folder in (("official download", _folder("download")), ("built from Go modules", _folder("go"))):
        if (folder / "complete").exists():
            step.note = f"pulumi {PULUMI}, {way}"
            return _engine(folder, way)
    try:
        _download(step, _folder("download"))
        step.note = f"pulumi {PULUMI}, official download"
        return _engine(_folder("download"), "official download")
    except Unreachable as error:
        step.say(f"official download: {error}; building from Go modules")
    _build(step, _folder("go"))
    step.note = f"pulumi {PULUMI}, built from Go modules"
    return _engine(_folder("go"), "built from Go modules")


def install_plugins(engine: Engine, pulumi_home: Path) -> None:
    """Make the plugin findable below `pulumi_home`: a link, made anew when it points elsewhere."""
    if engine.plugin is None:
        return
    link = pulumi_home / "plugins" / engine.plugin.name
    if link.is_symlink() and link.readlink() == engine.plugin:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    if not link.exists():
        link.symlink_to(engine.plugin)


def _engine(folder: Path, way: str) -> Engine:
    return Engine(folder / "bin", folder / "plugins" / f"resource-docker-v{DOCKER_PLUGIN}", way)


def _folder(way: str) -> Path:
    """Keyed by all that decides the content."""
    key = hashlib.sha256(f"{PULUMI} {DOCKER_PLUGIN} {LANGUAGE_HOST}".encode())
    if way == "go":
        for path in sorted(paths.GO_MODULES.rglob("*")):
            if path.is_file():
                key.update(path.read_bytes())
    return paths.cache() / "engine" / f"{way}-{PULUMI}-{key.hexdigest()[:12]}"


def _users_path() -> str:
    """PATH without our own engine folders, which `activate` puts there."""
    own = str(paths.cache() / "engine")
    return os.pathsep.join(p for p in os.environ.get("PATH", "").split(os.pathsep) if not p.startswith(own))


def _version(pulumi: Path) -> str:
    try:
        done = subprocess.run([pulumi, "version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().removeprefix("v")


def _download(step: Step, folder: Path) -> None:
    """The CLI with its language hosts, and the plugin, each checked against the sums published beside it."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine())
    if machine is None:
        raise Unreachable(f"there is none for {platform.machine()}")
    arch = {"x64": "amd64", "arm64": "arm64"}[machine]
    with _scratch(folder) as scratch:
        archives = {
            "cli": f"sdk/pulumi-v{PULUMI}-linux-{machine}.tar.gz",
            "plugin": f"plugins/pulumi-resource-docker-v{DOCKER_PLUGIN}-linux-{arch}.tar.gz",
        }
        for part, path in archives.items():
            step.say(f"downloading {path.rsplit('/', 1)[1]}")
            archive = scratch / f"{part}.tar.gz"
            _fetch(f"{DOWNLOADS}/{path}", archive)
            _check_sum(step, archive, path)
            with tarfile.open(archive) as tar:
                tar.extractall(scratch / part, filter="data")
            archive.unlink()
        inner = scratch / "cli" / "pulumi"
        inner.rename(scratch / "bin")
        plugins = scratch / "plugins"
        plugins.mkdir()
        (scratch / "plugin").rename(plugins / f"resource-docker-v{DOCKER_PLUGIN}")
        (scratch / "cli").rmdir()
        _finish(scratch, folder)


def _check_sum(step: Step, archive: Path, path: str) -> None:
    """Compare with `<address>.sha512`, written as sha512sum does. A wrong sum stops everything."""
    sums = archive.with_suffix(".sha512")
    _fetch(f"{DOWNLOADS}/{path}.sha512", sums)
    published = re.match(r"[0-9a-f]{128}", sums.read_text().strip())
    with archive.open("rb") as file:
        got = hashlib.file_digest(file, "sha512").hexdigest()
    sums.unlink()
    if published is None or published[0] != got:
        raise step.fail(
            f"{path} from {DOWNLOADS} is not what its checksum says:\n"
            f"published {published[0][:16] if published else 'nothing readable'}…, got {got[:16]}…",
            "don't use it. Try again; if it stays so, tell whoever runs that server.",
        )


def _fetch(url: str, target: Path) -> None:
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_S) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file)
    except (urllib.error.URLError, OSError) as error:
        raise Unreachable(f"{url.split('/')[2]} can't be reached ({getattr(error, 'reason', error)})") from error


def _build(step: Step, folder: Path) -> None:
    """Build all three from Go modules, each in the version that its go.mod and go.sum pin."""
    go = shutil.which("go")
    if go is None or _go_version(go) < GO_AT_LEAST:
        wanted = ".".join(map(str, GO_AT_LEAST))
        raise step.fail(
            f"there is no Pulumi {PULUMI} on PATH, its download can't be reached, and "
            + ("Go is too old to build it" if go else "there is no Go to build it"),
            f"one of: install Pulumi {PULUMI} and put it on PATH; let this machine reach {DOWNLOADS}; "
            f"install Go {wanted} or newer",
        )
    env = {
        **os.environ,
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    remedy = "see the log; `make up` goes on from here"
    with _scratch(folder) as scratch:
        binaries = scratch / "bin"
        plugin = scratch / "plugins" / f"resource-docker-v{DOCKER_PLUGIN}"
        binaries.mkdir()
        plugin.mkdir(parents=True)
        sdk_version = "github.com/pulumi/pulumi/sdk/v3/go/common/version.Version"

        def build(module: str, package: str, output: Path, link: str, *flags: str) -> None:
            argv = [
                go,
                "build",
                "-trimpath",
                *flags,
                "-ldflags",
                f"-s -w -X {link}",
                "-o",
                str(output),
                package,
            ]
            step.run(argv, cwd=paths.GO_MODULES / module, env=env, remedy=remedy, show=lambda line: line[-60:])

        def cli() -> None:
            package = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
            build("cli", package, binaries / "pulumi", f"{sdk_version}=v{PULUMI}", "-tags", "osusergo")

        def language_host() -> None:
            package = "github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python"
            target = binaries / "pulumi-language-python"
            build("language-python", package, target, f"{sdk_version}=v{LANGUAGE_HOST}")
            listed = step.run(
                [go, "list", "-m", "-json", "github.com/pulumi/pulumi/sdk/v3"],
                cwd=paths.GO_MODULES / "language-python",
                env=env,
                remedy=remedy,
            )
            sources = Path(json.loads(listed)["Dir"])
            for script in LANGUAGE_HOST_SCRIPTS:
                copy = binaries / Path(script).name
                shutil.copyfile(sources / script, copy)
                copy.chmod(0o755)

        def docker_plugin() -> None:
            # Twice: the first prints the schema, the second has it inside and so starts in no time.
            version = f"main.version={DOCKER_PLUGIN}"
            first = scratch / "schema-printer"
            build("docker-plugin", ".", first, version, "-tags", "no_compose")
            schema = scratch / "schema.json"
            schema.write_text(step.run([first, "--print-schema"], remedy=remedy))
            empty = paths.GO_MODULES / "docker-plugin" / "schema.json"
            overlay = scratch / "overlay.json"
            overlay.write_text(json.dumps({"Replace": {str(empty): str(schema)}}))
            target = plugin / "pulumi-resource-docker"
            build("docker-plugin", ".", target, version, "-tags", "no_compose", "-overlay", str(overlay))
            for made in (first, schema, overlay):
                made.unlink()

        with ThreadPoolExecutor(3) as pool:
            for future in [pool.submit(part) for part in (cli, language_host, docker_plugin)]:
                future.result()
        _finish(scratch, folder)


def _go_version(go: str) -> tuple[int, ...]:
    done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    numbers = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, numbers.groups())) if numbers else (0,)


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside the final one: an interrupted run leaves nothing that looks finished."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _finish(scratch: Path, folder: Path) -> None:
    (scratch / "complete").touch()
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)


__all__ = ["DOCKER_PLUGIN", "PULUMI", "Engine", "SetupError", "ensure", "install_plugins"]
