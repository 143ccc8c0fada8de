"""The way that most users take, against a real registry on the loopback: lock, decide, pull by digest, fall back."""

from __future__ import annotations

import datetime
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from stack_configs.schema.versions import VersionSet
from tests.images.local_registry import Registry, program, tiny_image
from tools import lock, registry
from tools.setup import images
from tools.setup.progress import SetupError, Step, run_step

WRONG = "sha256:" + "0" * 64
COMMENT = "# kept by the lock tool"


@dataclass(frozen=True)
class Site:
    """A registry that has one image, and a version set that names it."""

    registry: Registry
    repository: str
    digest: str
    versions: Path

    def write(self, digest: str | None) -> VersionSet:
        pinned = f"    digest: {digest}\n" if digest else ""
        self.versions.write_text(
            f"images:\n  {COMMENT}\n  nginx:\n    repository: {self.repository}\n    tag: v1\n{pinned}"
            "    source: a guess\n    built: {recipe: nginx, version: 1.22.1}\n"
        )
        return lock.read(self.versions)


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("Docker does not answer")
    scratch = tmp_path_factory.mktemp("registry")
    served = Registry(program(scratch), scratch)
    repository = f"{served.host}/somebody/nginx"
    try:
        tiny_image(f"{repository}:v1", "one", scratch)
        docker("push", f"{repository}:v1")
        digest = docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", f"{repository}:v1")
        docker("image", "rm", f"{repository}:v1")
        yield Site(served, repository, digest.strip().split("@")[1], scratch / "2026.11.yaml")
    finally:
        served.stop()
        left = docker("image", "ls", "--quiet", "--no-trunc", repository).split()
        if left:
            docker("image", "rm", "--force", *set(left))


def test_lock_writes_the_registrys_digest_and_keeps_comments(site: Site) -> None:
    site.write(None)
    assert lock.main(["images", "--file", str(site.versions)]) == 0
    pin = lock.read(site.versions).images["nginx"]
    assert pin.digest == site.digest
    assert pin.source.startswith("its registry, resolved from the tag on 20")
    assert COMMENT in site.versions.read_text()
    assert lock.main(["images", "--check", "--file", str(site.versions)]) == 0


def test_lock_check_reports_a_wrong_digest_and_writes_nothing(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.write(WRONG)
    before = site.versions.read_text()
    assert lock.main(["images", "--check", "--file", str(site.versions)]) == 1
    told = capsys.readouterr().out
    assert WRONG in told
    assert site.digest in told
    assert "does NOT have" in told
    assert site.versions.read_text() == before


def test_lock_leaves_a_pin_alone_when_its_registry_is_away(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.write(site.digest)
    before = site.versions.read_text()
    site.registry.stop()
    assert lock.main(["images", "--file", str(site.versions)]) == 1
    assert "does not answer" in capsys.readouterr().out
    assert site.versions.read_text() == before


def test_a_pinned_image_is_pulled_by_digest_once(site: Site) -> None:
    versions = site.write(site.digest)
    assert images.decide(versions).way == "registry"
    notes: list[str] = []

    def fetch(step: Step) -> None:
        images.ensure("registry", step, versions=versions)
        notes.append(step.note)

    run_step("test images", fetch)
    run_step("test images", fetch)
    assert notes == ["1 pulled, 0 there", "all there"]
    docker("image", "inspect", f"{site.repository}:v1@{site.digest}")


def test_room_for_an_image_is_looked_at_before_it_is_pulled(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = site.write(site.digest)
    packed = registry.size_of(site.repository, site.digest, "amd64")
    assert 0 < packed < 10**6
    monkeypatch.setattr(images, "UNPACKED", 3 * 2**30 / packed)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30))
    with pytest.raises(SetupError, match=r"pulling 1 images takes 3.0 GiB at .*, and 1.0 GiB are free") as raised:
        run_step("test images", lambda step: images.ensure("registry", step, versions=versions))
    assert "Free 2.0 GiB (`docker system df`" in raised.value.remedy
    assert docker("image", "ls", "--quiet", site.repository) == ""


def test_of_an_image_for_several_processors_this_ones_part_counts(site: Site) -> None:
    """As an index that names the image for one processor, with a tag of its own."""
    kinds = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.index.v1+json")
    url = f"http://{site.registry.host}/v2/somebody/nginx/manifests"
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1", headers={"Accept": kinds[0]})) as answer:
        size = len(answer.read())
    part = {
        "mediaType": kinds[0],
        "digest": site.digest,
        "size": size,
        "platform": {"architecture": "amd64", "os": "linux"},
    }
    index = json.dumps({"schemaVersion": 2, "mediaType": kinds[1], "manifests": [part]}).encode()
    put = urllib.request.Request(f"{url}/many", index, {"Content-Type": kinds[1]}, method="PUT")
    urllib.request.urlopen(put).close()
    assert registry.size_of(site.repository, "many", "amd64") == registry.size_of(site.repository, "v1", "amd64")
    with pytest.raises(registry.Absent, match="nothing for arm64"):
        registry.size_of(site.repository, "many", "arm64")


def test_a_digest_that_the_registry_lacks_is_refused_with_a_remedy(site: Site) -> None:
    versions = site.write(WRONG)
    assert images.decide(versions).way == "built"
    with pytest.raises(SetupError) as raised:
        run_step("test images", lambda step: images.ensure("registry", step, versions=versions))
    assert "built" in raised.value.remedy
    assert site.registry.host in raised.value.remedy


def test_a_moved_tag_is_not_what_gets_pulled(site: Site, tmp_path: Path) -> None:
    versions = site.write(site.digest)
    tiny_image(f"{site.repository}:v1", "two", tmp_path)
    docker("push", f"{site.repository}:v1")
    docker("image", "rm", f"{site.repository}:v1")
    assert registry.digest_of(site.repository, "v1") != site.digest
    run_step("test images", lambda step: images.ensure("registry", step, versions=versions))
    docker("image", "inspect", f"{site.repository}@{site.digest}")


def test_images_are_built_where_the_registry_has_vanished(site: Site) -> None:
    versions = site.write(site.digest)
    site.registry.stop()
    decision = images.decide(versions)
    assert decision.way == "built"
    assert site.registry.host in decision.reason


def test_every_pin_can_be_written_back_into_the_real_version_set() -> None:
    path = lock.newest()
    digests: dict[str, str] = dict.fromkeys(map(str, lock.read(path).images), WRONG)
    again = yaml.safe_load(lock.edited(path.read_text(), digests, datetime.date(2026, 12, 1)))
    assert {pin["digest"] for pin in again["images"].values()} == {WRONG}
