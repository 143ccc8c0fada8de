"""Pulumi's CLI, Python language host and Docker plugin, at pinned versions.

Three ways, in this order: a `pulumi` of the pinned version on PATH (then only the plugin is got, the next two ways),
the official download, and a build from Go modules for machines that reach only package registries.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tools.setup import golang, paths
from tools.setup.progress import SetupError, Step

PULUMI = "3.259.0"
"""Equal to the SDK's version in pyproject.toml."""
DOCKER_PLUGIN = "5.1.0"
"""Equal to pulumi-docker's version in pyproject.toml."""
COMMAND_PLUGIN = "1.2.1"
"""Equal to pulumi-command's version in pyproject.toml."""
CLOUDFLARE_PLUGIN = "6.23.1"
"""Equal to pulumi-cloudflare's version in pyproject.toml."""
TAILSCALE_PLUGIN = "0.29.2"
"""Equal to pulumi-tailscale's version in pyproject.toml."""
PLUGIN_BINARY = "pulumi-resource-docker"
AT_TIMES = {
    "command": (COMMAND_PLUGIN, "which prepares hosts"),
    "cloudflare": (CLOUDFLARE_PLUGIN, "which makes tunnels"),
    "tailscale": (TAILSCALE_PLUGIN, "which writes a tailnet's policy"),
}
"""Plugins that some stacks need → version, what for."""
PLUGINS = {
    "plugin": f"resource-docker-v{DOCKER_PLUGIN}",
    **{name: f"resource-{name}-v{version}" for name, (version, _) in AT_TIMES.items()},
}
"""Part of the download → its folder below `plugins`."""
LANGUAGE_HOST = "3.75.0"
"""The last SDK module that carries the Python language host; the protocol has stayed the same."""

OFFICIAL = "https://get.pulumi.com/releases"
"""Has `sdk/` with the CLI and `plugins/`, each with a file of checksums. No sum of these versions could be pinned from
a public source, so what is checked is that archive and published sum agree, both fetched over TLS."""
CONNECT_S = 5
"""To the first answer; without one, the next way is tried."""
STALL_S = 30

DOWNLOADED = "official download"
BUILT = "built from Go modules"

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
    plugin: Path
    """The folder resource-docker-v…, to be found in $PULUMI_HOME/plugins."""
    way: str
    """In words for the user: DOWNLOADED, BUILT, or `on PATH, plugin: …`."""

    @property
    def built(self) -> bool:
        """Whether some of it was built, because Pulumi's download can't be had from here."""
        return self.way.endswith(BUILT)


def ensure(step: Step) -> Engine:
    """Get the engine. No-op when done before. Raises SetupError."""
    on_path = _on_path()
    parts = ("plugin",) if on_path else ("cli", "plugin")
    folders = {DOWNLOADED: _folder("download", parts), BUILT: _folder("go", parts)}
    way = next((way for way, folder in folders.items() if (folder / "complete").exists()), None)
    if way is None:
        way = DOWNLOADED
        try:
            _download(step, folders[way], parts)
        except Unreachable as error:
            step.say(f"{DOWNLOADED}: {error}; building from Go modules")
            way = BUILT
            _build(step, folders[way], parts)
    folder = folders[way]
    if on_path:
        way = f"on PATH, plugin: {way}"
    step.note = f"pulumi {PULUMI}, {way}"
    return Engine(on_path or folder / "bin", folder / "plugins" / f"resource-docker-v{DOCKER_PLUGIN}", way)


def downloads() -> str:
    """The base address of the official download; $INFERENCE_STACK_PULUMI_DOWNLOADS names a mirror."""
    return os.environ.get("INFERENCE_STACK_PULUMI_DOWNLOADS", OFFICIAL).rstrip("/")


def _on_path() -> Path | None:
    """The folder of a usable `pulumi` that isn't one of ours."""
    found = shutil.which("pulumi", path=_users_path())
    if found and shutil.which("pulumi-language-python", path=_users_path()) and _version(found) == PULUMI:
        return Path(found).parent
    return None


def link_plugin(engine: Engine, pulumi_home: Path) -> None:
    """Make the plugin findable below `pulumi_home`, this clone's own: a folder with links.

    Pulumi takes no notice of a plugin's folder that is a link itself.
    """
    folder = _installed(engine, pulumi_home)
    folder.mkdir(parents=True, exist_ok=True)
    for file in engine.plugin.iterdir():
        link = folder / file.name
        if link.is_symlink() and link.readlink() == file:
            continue
        link.unlink(missing_ok=True)
        link.symlink_to(file)


def copy_plugin(engine: Engine, pulumi_home: Path) -> None:
    """Put the official plugin into a user's own `pulumi_home`, as Pulumi itself would. One that is there stays.

    A copy, since other programs will find it there too, and must not lose it to `make clean`.
    """
    folder = _installed(engine, pulumi_home)
    if not (folder / PLUGIN_BINARY).exists():
        _copy(engine.plugin, folder)


def ensure_plugin(name: str, step: Step, pulumi_home: Path) -> None:
    """Have one of Pulumi's plugins of AT_TIMES below `pulumi_home`. Raises SetupError.

    It is there or downloaded: what a build of it needs is in no Go module.
    """
    version, what_for = AT_TIMES[name]
    folder = pulumi_home / "plugins" / PLUGINS[name]
    step.note = f"{name} plugin {version}"
    if (folder / f"pulumi-resource-{name}").exists():
        return
    cached = paths.cache() / "engine" / f"download-{name}-{version}"
    if not (cached / "complete").exists():
        try:
            _download(step, cached, (name,))
        except Unreachable as error:
            raise step.fail(
                f"Pulumi's {name} plugin {version}, {what_for}, can't be had: {error}",
                "let this machine reach it, or a mirror named by INFERENCE_STACK_PULUMI_DOWNLOADS; or copy the folder "
                f"{folder} from a machine where `pulumi plugin install resource {name} {version}` works",
            ) from error
    _copy(cached / "plugins" / PLUGINS[name], folder)


def _copy(plugin: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _scratch(folder) as scratch:
        shutil.copytree(plugin, scratch, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        scratch.rename(folder)


def _installed(engine: Engine, pulumi_home: Path) -> Path:
    return pulumi_home / "plugins" / engine.plugin.name


def _folder(way: str, parts: Sequence[str]) -> Path:
    """Keyed by all that decides the content."""
    key = hashlib.sha256(f"{PULUMI} {DOCKER_PLUGIN} {LANGUAGE_HOST} {parts}".encode())
    if way == "go":
        for path in sorted(paths.GO_MODULES.rglob("*")):
            if path.is_file():
                key.update(path.read_bytes())
    return paths.cache() / "engine" / f"{way}-{'-'.join(parts)}-{PULUMI}-{key.hexdigest()[:12]}"


def _users_path() -> str:
    """PATH without our own engine folders, which `activate` puts there."""
    own = str(paths.cache() / "engine")
    return os.pathsep.join(p for p in os.environ.get("PATH", "").split(os.pathsep) if not p.startswith(own))


def _version(pulumi: str) -> str:
    try:
        done = subprocess.run([pulumi, "version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().removeprefix("v")


def _download(step: Step, folder: Path, parts: Sequence[str]) -> None:
    """The CLI with its language hosts, and plugins, each checked against the sums published beside it."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine())
    if machine is None:
        raise Unreachable(f"there is none for {platform.machine()}")
    arch = {"x64": "amd64", "arm64": "arm64"}[machine]
    archives = {
        "cli": (f"sdk/pulumi-v{PULUMI}-linux-{machine}.tar.gz", f"sdk/pulumi-{PULUMI}-checksums.txt"),
        "plugin": (
            f"plugins/pulumi-resource-docker-v{DOCKER_PLUGIN}-linux-{arch}.tar.gz",
            f"plugins/pulumi-docker_{DOCKER_PLUGIN}_checksums.txt",
        ),
    }
    for name, (version, _) in AT_TIMES.items():
        archive_path = f"plugins/pulumi-resource-{name}-v{version}-linux-{arch}.tar.gz"
        archives[name] = (archive_path, f"plugins/pulumi-{name}_{version}_checksums.txt")
    with _scratch(folder) as scratch:
        for part in parts:
            path, sums_path = archives[part]
            name = path.rsplit("/", 1)[1]
            step.say(f"downloading {name}")
            sums, archive = scratch / "checksums.txt", scratch / name
            _fetch(f"{downloads()}/{sums_path}", sums, CONNECT_S)
            _fetch(f"{downloads()}/{path}", archive, STALL_S)
            _check_sum(step, archive, sums)
            with tarfile.open(archive) as tar:
                tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
                tar.extractall(scratch / part)
            archive.unlink()
            sums.unlink()
        (scratch / "plugins").mkdir()
        for part in PLUGINS.keys() & parts:
            (scratch / part).rename(scratch / "plugins" / PLUGINS[part])
        if "cli" in parts:
            (scratch / "cli" / "pulumi").rename(scratch / "bin")
            (scratch / "cli").rmdir()
        _finish(scratch, folder)


def _check_sum(step: Step, archive: Path, sums: Path) -> None:
    """Compare with the line of `sums` that names the archive: SHA-256 for the CLI, SHA-1 for plugins.

    Source: pulumi/pulumi issue 10807; pulumi/pulumi-docker .github/workflows/publish.yml (`shasum ./*.tar.gz`).
    """
    published = ""
    for line in sums.read_text(errors="replace").splitlines():
        digest, _, name = line.strip().partition(" ")
        if name.lstrip(" *").removeprefix("./") == archive.name:
            published = digest.lower()
    algorithm = {40: "sha1", 64: "sha256", 128: "sha512"}.get(len(published))
    got = ""
    if algorithm:
        with archive.open("rb") as file:
            got = hashlib.file_digest(file, algorithm).hexdigest()
    if not algorithm or got != published:
        raise step.fail(
            f"{archive.name} from {downloads()} is not what its checksum says: "
            f"published {published or 'none'}, got {got or 'no way to compare'}",
            "don't use it; nothing of it was kept. Try again; if it stays so, tell whoever runs that server",
        )


def _fetch(url: str, target: Path, timeout: float) -> None:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response, target.open("wb") as file:
            shutil.copyfileobj(response, file)
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise Unreachable(f"{url} can't be had ({reason})") from error


def _build(step: Step, folder: Path, parts: Sequence[str]) -> None:
    """Build from Go modules, each in the version that its go.mod and go.sum pin."""
    go = golang.find(
        step,
        f"there is no Pulumi {PULUMI} on PATH, its download ({downloads()}) can't be reached, and ",
        f"one of: install Pulumi {PULUMI} and put it on PATH; let this machine reach the download, or a mirror "
        f"named by INFERENCE_STACK_PULUMI_DOWNLOADS; install Go {golang.WANTED} or newer",
    )
    with _scratch(folder) as scratch:
        binaries, plugin = scratch / "bin", scratch / "plugins" / f"resource-docker-v{DOCKER_PLUGIN}"
        binaries.mkdir()
        plugin.mkdir(parents=True)
        sdk_version = "github.com/pulumi/pulumi/sdk/v3/go/common/version.Version"

        def build(module: str, package: str, output: Path, link: str, tags: str, *flags: str) -> None:
            golang.build(step, go, paths.GO_MODULES / module, package, output, *flags, link=link, tags=tags)

        def cli() -> None:
            package = "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"
            build("cli", package, binaries / "pulumi", f"-X {sdk_version}=v{PULUMI}", "osusergo")

        def language_host() -> None:
            package = "github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python"
            target = binaries / "pulumi-language-python"
            build("language-python", package, target, f"-X {sdk_version}=v{LANGUAGE_HOST}", "osusergo")
            listed = step.run(
                [go, "list", "-mod=readonly", "-m", "-json", "github.com/pulumi/pulumi/sdk/v3"],
                cwd=paths.GO_MODULES / "language-python",
                env=golang.environment(),
                remedy=golang.REMEDY,
                show=lambda _: None,
            )
            sources = Path(json.loads(listed)["Dir"])
            for script in LANGUAGE_HOST_SCRIPTS:
                copy = binaries / Path(script).name
                shutil.copyfile(sources / script, copy)
                copy.chmod(0o755)

        def docker_plugin() -> None:
            # The schema goes into the plugin: making it at each start would cost 0.2 s and 30 MB.
            module, writer = paths.GO_MODULES / "docker-plugin", scratch / "schema-writer"
            build("docker-plugin", "./schema", writer, "", "no_compose,osusergo")
            schema, overlay = scratch / "schema.json", scratch / "overlay.json"
            step.run([writer, schema], cwd=module, remedy=golang.REMEDY, show=lambda _: None)
            empty = module / "plugin" / "schema.json"
            overlay.write_text(json.dumps({"Replace": {str(empty): str(schema)}}))
            target = plugin / PLUGIN_BINARY
            build("docker-plugin", "./plugin", target, "", "no_compose,osusergo", "-overlay", str(overlay))
            for made in (writer, schema, overlay):
                made.unlink()

        jobs = (cli, language_host, docker_plugin) if "cli" in parts else (docker_plugin,)
        step.say(f"building with {go}")
        with ThreadPoolExecutor(len(jobs)) as pool:
            futures = [pool.submit(job) for job in jobs]
            try:
                for future in as_completed(futures):
                    future.result()
            except SetupError:
                step.stop()  # the other builds need not run to their end
                raise
        _finish(scratch, folder)
    golang.forget()


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside the final one: an interrupted run leaves nothing that looks finished."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(".scratch-*"):  # by a run that was killed
        if not Path("/proc", left.name.split("-")[1]).exists():
            shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".scratch-{os.getpid()}-", dir=folder.parent))
    scratch.chmod(0o755)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _finish(scratch: Path, folder: Path) -> None:
    if (folder / "complete").exists():  # another clone was faster, and may be using it
        return
    (scratch / "complete").touch()
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)
