"""Pulumi is taken by version and checksum from its download, and built when the download isn't to be had.

The download here is a local server with the official layout; what it serves are scripts of the right names.
"""

import functools
import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.setup.official import ARCH, CLI, CLI_SUMS, PLUGIN, Downloads, write_sums
from tools.setup import engine, paths
from tools.setup.progress import SetupError, run_step

PULUMI_SCRIPT = f"#!/bin/sh\necho v{engine.PULUMI}\n"

REAL_BUILD = engine._build


def archive(path: Path, files: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(text), 0o755
            tar.addfile(info, io.BytesIO(text.encode()))


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """The official layout."""
    root = tmp_path / "served"
    archive(root / CLI, {"pulumi/pulumi": PULUMI_SCRIPT, "pulumi/pulumi-language-python": "#!/bin/sh\n"})
    archive(root / PLUGIN, {"pulumi-resource-docker": "#!/bin/sh\necho plugin\n", "LICENSE": "text\n"})
    write_sums(root)
    return root


@pytest.fixture
def server(served: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Downloads]:
    downloads = Downloads(served)
    monkeypatch.setenv("INFERENCE_STACK_PULUMI_DOWNLOADS", downloads.url)
    yield downloads
    downloads.stop()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and logs of this test's own, no pulumi on PATH, and a Go build that mustn't happen."""
    monkeypatch.setenv("INFERENCE_STACK_CACHE", str(tmp_path))
    monkeypatch.setattr(paths, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(paths, "TIMINGS", tmp_path / "timings.json")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")

    def no_build(*_: object) -> None:
        pytest.fail("built from Go although the download answers")

    monkeypatch.setattr(engine, "_build", no_build)
    return tmp_path / "inference-stack"


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "engine").iterdir())


def pretend_go(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Stand in for the compiler alone: what is built, is built by every run of the deploy tests."""
    built: list[tuple[str, ...]] = []

    def build(_: object, folder: Path, parts: tuple[str, ...]) -> None:
        built.append(parts)
        plugin = folder / "plugins" / f"resource-docker-v{engine.DOCKER_PLUGIN}"
        plugin.mkdir(parents=True)
        (plugin / engine.PLUGIN_BINARY).write_text("built")
        (folder / "bin").mkdir()
        (folder / "complete").touch()

    monkeypatch.setattr(engine, "_build", build)
    return built


@pytest.mark.usefixtures("server")
def test_the_download_is_taken_and_is_complete(cache: Path) -> None:
    got = run_step("Pulumi", engine.ensure)
    assert got.way == "official download"
    assert (got.bin_dir / "pulumi").read_text() == PULUMI_SCRIPT
    assert (got.bin_dir / "pulumi").stat().st_mode & 0o111
    assert (got.bin_dir / "pulumi-language-python").exists()
    assert (got.plugin / engine.PLUGIN_BINARY).exists()
    assert len(left_in(cache)) == 1, "scratch folders are left"


def test_a_second_run_needs_no_network(server: Downloads) -> None:
    first = run_step("Pulumi", engine.ensure)
    server.stop()
    assert run_step("Pulumi", engine.ensure) == first


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("path", [CLI, PLUGIN])
def test_changed_bytes_are_refused_and_nothing_is_kept(served: Path, cache: Path, path: str) -> None:
    (served / path).write_bytes((served / path).read_bytes() + b"x")
    with pytest.raises(SetupError) as error:
        run_step("Pulumi", engine.ensure)
    assert f"{Path(path).name} from http://127.0.0.1" in error.value.reason
    assert "is not what its checksum says" in error.value.reason
    assert left_in(cache) == []


@pytest.mark.usefixtures("server")
def test_an_archive_that_the_sums_do_not_name_is_refused(served: Path, cache: Path) -> None:
    (served / CLI_SUMS).write_text(f"{'0' * 64}  something-else.tar.gz\n")
    with pytest.raises(SetupError, match="published none"):
        run_step("Pulumi", engine.ensure)
    assert left_in(cache) == []


@pytest.mark.parametrize("gone", ["server", CLI_SUMS, PLUGIN])
def test_what_the_server_lacks_is_built(
    gone: str,
    server: Downloads,
    served: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = pretend_go(monkeypatch)
    if gone == "server":
        server.stop()
    else:
        (served / gone).unlink()
    got = run_step("Pulumi", engine.ensure)
    assert got.way == "built from Go modules"
    assert built == [("cli", "plugin")]
    assert len(left_in(cache)) == 1, "half of a download is left"


def test_without_download_and_go_all_three_ways_are_named(server: Downloads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_build", REAL_BUILD)
    server.stop()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SetupError) as error:
        run_step("Pulumi", engine.ensure)
    assert "there is no Go to build it" in error.value.reason
    for way in (f"install Pulumi {engine.PULUMI}", "INFERENCE_STACK_PULUMI_DOWNLOADS", "install Go 1.26"):
        assert way in error.value.remedy


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(("version", "taken"), [(engine.PULUMI, True), ("3.1.0", False)])
def test_pulumi_on_path_is_used_if_it_is_the_pinned_version(
    version: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "users-bin"
    users.mkdir()
    for name in ("pulumi", "pulumi-language-python"):
        (users / name).write_text(f"#!/bin/sh\necho v{version}\n")
        (users / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{users}:/usr/bin:/bin")
    got = run_step("Pulumi", engine.ensure)
    assert (got.bin_dir == users) == taken
    assert got.way.startswith("on PATH") == taken
    assert (got.plugin / engine.PLUGIN_BINARY).exists(), "Pulumi's own acquisition fails on a closed network"


def test_versions_are_those_of_the_python_packages() -> None:
    """CLI and SDK, and plugin and SDK, must be of one version; the Go modules must build the same."""
    lock = (paths.REPO / "requirements.txt").read_text()
    assert f"\npulumi=={engine.PULUMI} " in lock
    assert f"\npulumi-docker=={engine.DOCKER_PLUGIN} " in lock
    for name, (version, _) in engine.AT_TIMES.items():
        assert f"\npulumi-{name}=={version} " in lock
    cli = (paths.GO_MODULES / "cli" / "go.mod").read_text()
    assert f"github.com/pulumi/pulumi/pkg/v3 v{engine.PULUMI}" in cli
    language = (paths.GO_MODULES / "language-python" / "go.mod").read_text()
    assert f"github.com/pulumi/pulumi/sdk/v3 v{engine.LANGUAGE_HOST}" in language
    provider = (paths.GO_MODULES / "docker-plugin" / "provider" / "provider.go").read_text()
    assert f'const Version = "{engine.DOCKER_PLUGIN}+' in provider


@pytest.mark.usefixtures("server")
def test_what_a_killed_run_left_is_cleared_away(cache: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (cache / "engine" / f".scratch-{gone.pid}-x" / "bin").mkdir(parents=True)
    (cache / "engine" / f".scratch-{os.getpid()}-y").mkdir()  # somebody else's, still at work
    got = run_step("Pulumi", engine.ensure)
    assert left_in(cache) == [f".scratch-{os.getpid()}-y", got.bin_dir.parent.name]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("name", engine.AT_TIMES)
def test_a_plugin_that_some_stacks_need_is_downloaded_once(served: Path, tmp_path: Path, name: str) -> None:
    version, _ = engine.AT_TIMES[name]
    file = served / "plugins" / f"pulumi-resource-{name}-v{version}-linux-{ARCH}.tar.gz"
    archive(file, {f"pulumi-resource-{name}": "#!/bin/sh\n"})
    digest = hashlib.sha1(file.read_bytes()).hexdigest()
    (served / "plugins" / f"pulumi-{name}_{version}_checksums.txt").write_text(f"{digest}  ./{file.name}\n")
    for home in ("one", "two"):
        run_step("Plugin", functools.partial(engine.ensure_plugin, name, pulumi_home=tmp_path / home))
        assert (tmp_path / home / "plugins" / f"resource-{name}-v{version}" / f"pulumi-resource-{name}").exists()
        file.unlink(missing_ok=True)


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("name", engine.AT_TIMES)
def test_without_its_download_the_way_to_such_a_plugin_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(SetupError) as error:
        run_step("Plugin", functools.partial(engine.ensure_plugin, name, pulumi_home=tmp_path))
    assert f"{name} plugin" in error.value.reason
    assert f"pulumi plugin install resource {name} {engine.AT_TIMES[name][0]}" in error.value.remedy
