"""`make up` where downloads and registries are reached: the way that most users take, from its start to its loss.

The tests share one stack and run in the order in which they stand here.
"""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.deploy.clone import Clone, container_ids, docker, make_clone, ours, remove_leftovers
from tests.docker_run import need_image
from tests.images.local_registry import Registry, program
from tests.mirror.mirrors import NAMES, VERSIONS, Pin, pack_engine, push_images, write_versions
from tests.setup.official import CLI, CLI_SUMS, PLUGIN, PLUGIN_SUMS, Downloads
from tools.setup import engine, images
from tools.setup.progress import run_step

STACK = "mirror"
PORTS = {"gateway": 16080, "prometheus": 16090, "alertmanager": 16093, "grafana": 16000}
NOBODY = "http://127.0.0.1:9"
WRONG = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Site:
    """A clone whose stack is up, got from the two mirrors alone."""

    clone: Clone
    downloads: Downloads
    registry: Registry
    pins: dict[str, Pin]
    cache: Path
    said: str
    """By the first `make up`."""

    def with_fresh_cache(self, name: str) -> "Site":
        cache, env = make_cache(self.cache.parents[1] / name)
        return replace(self, cache=cache, clone=replace(self.clone, env={**self.clone.env, **env}))


def make_cache(folder: Path) -> tuple[Path, dict[str, str]]:
    """An empty cache below `folder` and its setting, with the mark that this machine needs no room to build images."""
    cache = folder / "inference-stack"
    cache.mkdir(parents=True)
    (cache / "images-built").touch()
    return cache, {"INFERENCE_STACK_CACHE": str(folder)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("Docker does not answer")
    scratch = tmp_path_factory.mktemp("mirror")
    (scratch / "registry").mkdir()
    registry = Registry(program(scratch / "registry"), scratch / "registry")
    pack_engine(run_step("Pulumi", engine.ensure), scratch / "served")
    downloads = Downloads(scratch / "served")
    pins: dict[str, Pin] = {}
    clone: Clone | None = None
    try:
        pins = push_images(registry, scratch / "stand-in")
        env = {"INFERENCE_STACK_PULUMI_DOWNLOADS": downloads.url}
        cache, setting = make_cache(scratch / "cache")
        clone = make_clone(scratch / "clone", stack=STACK, ports=PORTS, env={**env, **setting})
        if shutil.which("pulumi", path=clone.env["PATH"]):
            pytest.skip("a pulumi on PATH is taken before any download")
        write_versions(clone, pins)
        clone.edit(r'^versions: ".*"$', f'versions: "{VERSIONS}"\nhub: {NOBODY}')
        clone.edit(r"^  grafana:\n    port: \d+\n", "")
        remove_leftovers(STACK)
        yield Site(clone, downloads, registry, pins, cache, clone.setup("up").stdout)
    finally:
        if clone:
            clone.setup("down", check=False)
        remove_leftovers(STACK)
        registry.stop()
        downloads.stop()
        for pin in pins.values():
            docker("image", "rm", pin.reference, check=False)
        shutil.rmtree(scratch)


def line(said: str, step: str) -> str:
    """The step's last line."""
    found = [row for row in said.splitlines() if row.startswith(("ok", "FAIL")) and f" {step} " in row]
    assert len(found) == 1, said
    return found[0]


def images_of(names: list[str]) -> dict[str, str]:
    """Container → the image that it was made from, as it was named."""
    return {name: docker("inspect", "--format", "{{.Config.Image}}", name) for name in names}


def test_up_says_where_it_got_its_parts_and_ends_with_an_answer(site: Site) -> None:
    assert line(site.said, "Pulumi").endswith(f"pulumi {engine.PULUMI}, official download")
    assert "registry, all 6 pinned images are there; 6 pulled, 0 there" in line(site.said, "Images")
    assert "images: registry" in line(site.said, "Stack and choices")
    assert f"The stack `{STACK}` runs" in site.said
    assert "answered" in site.said


def test_each_part_of_the_engine_is_fetched_once_with_its_sums(site: Site) -> None:
    assert sorted(site.downloads.asked) == sorted([CLI, CLI_SUMS, PLUGIN, PLUGIN_SUMS])


def test_pulumi_by_hand_is_the_downloaded_one_with_the_downloaded_plugin(site: Site) -> None:
    line = (
        '. ./activate && pulumi version && readlink -f "$(command -v pulumi)" && readlink -f "$PULUMI_HOME"/plugins/*/*'
    )
    version, *places = site.clone.run("bash", "-c", line).stdout.split()
    assert version == f"v{engine.PULUMI}"
    assert len(places) == 2
    assert all(place.startswith(f"{site.cache}/engine/download-") for place in places), places
    plugins = site.clone.run("bash", "-c", ". ./activate && pulumi plugin ls").stdout
    assert engine.DOCKER_PLUGIN in plugins


def test_every_container_runs_a_pinned_image_from_the_registry(site: Site) -> None:
    made_from = images_of(ours("container", stack=STACK))
    assert set(made_from.values()) == {site.pins[name].reference for name in NAMES}
    for container in made_from:
        identity = docker("inspect", "--format", "{{.Image}}", container)
        digests = docker("image", "inspect", "--format", "{{json .RepoDigests}}", identity)
        repository, digest = made_from[container].rsplit(":", 2)[0], made_from[container].split("@")[1]
        assert f'"{repository}@{digest}"' in digests, container


def test_nothing_is_asked_or_changed_a_second_time(site: Site) -> None:
    asked, before = len(site.downloads.asked), container_ids(STACK)
    assert "all there" in line(site.clone.setup("up").stdout, "Images")
    assert len(site.downloads.asked) == asked
    assert container_ids(STACK) == before
    assert site.clone.changes("--refresh").keys() == {"refresh"}, (
        "Docker names an image in other words than the program"
    )


def test_an_engine_with_a_wrong_checksum_is_refused(site: Site) -> None:
    archive = site.downloads.root / CLI
    good, before = archive.read_bytes(), container_ids(STACK)
    archive.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        tampered = site.with_fresh_cache("tampered")
        refused = tampered.clone.setup("up", check=False)
    finally:
        archive.write_bytes(good)
    assert refused.returncode != 0
    assert f"{archive.name} from {site.downloads.url.rstrip('/')} is not what its checksum says" in refused.stderr
    assert "nothing of it was kept" in refused.stderr
    assert list((tampered.cache / "engine").iterdir()) == []
    assert container_ids(STACK) == before


def test_a_digest_that_the_registry_lacks_is_refused(site: Site) -> None:
    before = container_ids(STACK)
    write_versions(site.clone, site.pins, nginx=WRONG)
    try:
        refused = site.clone.setup("up", check=False)
    finally:
        write_versions(site.clone, site.pins)
    assert refused.returncode != 0
    assert line(refused.stdout, "Images").startswith("FAIL")
    assert f"{site.pins['nginx'].repository}:{site.pins['nginx'].tag}@{WRONG}" in refused.stderr
    assert "manifest unknown" in refused.stderr
    assert f"Docker reaches {site.registry.host}" in refused.stderr
    assert "pulumi config set inference-stack:images built" in refused.stderr
    assert container_ids(STACK) == before


@pytest.fixture(scope="module")
def alone(site: Site) -> Site:
    """The same clone after both mirrors have vanished, with an empty cache."""
    site.registry.stop()
    site.downloads.stop()
    return site.with_fresh_cache("alone")


def test_without_mirrors_pulumi_would_be_built_and_what_that_needs_is_told(alone: Site) -> None:
    """With a Go that is too old: to compile takes minutes, and begins every test run where there is no download."""
    before = container_ids(STACK)
    old = alone.cache.parent / "go"
    old.write_text("#!/bin/sh\necho go1.19\n")
    old.chmod(0o755)
    clone = replace(alone.clone, env={**alone.clone.env, "PATH": f"{old.parent}:{alone.clone.env['PATH']}"})
    refused = clone.setup("up", check=False)
    assert refused.returncode != 0
    assert line(refused.stdout, "Pulumi").startswith("FAIL")
    away = f"its download ({alone.downloads.url.rstrip('/')}) can't be reached, and Go is too old to build it"
    assert f"there is no Pulumi {engine.PULUMI} on PATH, {away}" in refused.stderr
    assert "a mirror named by INFERENCE_STACK_PULUMI_DOWNLOADS; install Go" in refused.stderr
    assert container_ids(STACK) == before


def test_without_mirrors_a_stack_that_runs_goes_on_with_a_built_pulumi(alone: Site) -> None:
    machines = run_step("Pulumi", engine.ensure)
    if not machines.built:
        pytest.skip("this machine's Pulumi is a download: to compile one takes minutes")
    folder, before = machines.bin_dir.parent, container_ids(STACK)
    built = alone.cache / "engine" / folder.name
    shutil.copytree(folder, built)
    said = alone.clone.setup("up").stdout
    assert line(said, "Pulumi").endswith(f"pulumi {engine.PULUMI}, built from Go modules")
    assert "registry, as decided before; all there" in line(said, "Images")
    assert "answered" in said
    assert container_ids(STACK) == before
    found = alone.clone.run(
        "bash", "-c", '. ./activate && readlink -f "$(command -v pulumi)" "$PULUMI_HOME"/plugins/*/*'
    )
    assert all(place.startswith(f"{built}/") for place in found.stdout.split()), found.stdout


def test_without_mirrors_a_new_stack_is_given_built_images_and_told_why(alone: Site) -> None:
    recipes_needed = {pin.built.recipe for pin in images.version_set().images.values() if pin.built}
    for recipe in sorted(recipes_needed):
        need_image(recipe)  # to build it here would take minutes
    dev = replace(alone.clone, stack="dev")
    dev.edit(r'^versions: ".*"$', f'versions: "{VERSIONS}"')
    decided = line(dev.setup("parts").stdout, "Images")
    assert "built, " in decided
    assert alone.registry.host in decided
    assert "(and 5 more)" in decided
    assert decided.endswith("images there")
