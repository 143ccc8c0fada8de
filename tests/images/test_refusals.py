"""What can stand in the way of a build is told before it starts, with the way out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from images import builder, debian, recipes
from tools.setup import images, paths
from tools.setup.progress import SetupError, Step, run_step


def refused(fn: Callable[[Step], object]) -> SetupError:
    with pytest.raises(SetupError) as raised:
        run_step("Images", fn)
    return raised.value


def test_debootstrap_without_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    error = refused(lambda step: debian.build_base(recipes.ROOT / "base", tmp_path, "x:1", step))
    assert "only root can run" in error.reason
    assert "sudo" in error.remedy


def test_no_debian_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(debian, "find_mirror", lambda: None)
    error = refused(lambda step: debian.build_base(recipes.ROOT / "base", tmp_path, "x:1", step))
    assert "no Debian mirror" in error.reason
    assert debian.MIRROR_VARIABLE in error.remedy


def test_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    error = refused(lambda step: builder.stage("nginx", step))
    assert "aarch64" in error.reason


@pytest.mark.parametrize(
    ("one_by_one", "needs"), [(False, "building 4 images takes 22.1"), (True, "building 4 images takes 20.1")]
)
def test_a_disk_too_small_is_told_before_anything_is_fetched(
    one_by_one: bool, needs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERENCE_STACK_CACHE", str(tmp_path))
    monkeypatch.setattr(images, "_exists", lambda _: False)
    monkeypatch.setattr(builder, "docker", lambda *_: str(tmp_path))
    monkeypatch.setattr(builder, "stage", lambda recipe, _: pytest.fail(f"fetched for {recipe}"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * 2**30))
    error = refused(lambda step: images.build(["vllm", "litellm"], step, one_by_one=one_by_one))
    assert f"{needs} GiB" in error.reason
    assert "4.0 GiB are free" in error.reason
    assert "INFERENCE_STACK_CACHE" in error.remedy


def test_an_image_whose_files_vanished_while_they_were_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docker build itself goes on, and ends well."""
    said = (
        'time="…" level=error msg="Can\'t add file site/vllm to tar: no such file or directory"\nSuccessfully built\n'
    )
    removed: list[tuple[str, ...]] = []
    monkeypatch.setattr(Step, "run", lambda *_, **__: said)
    monkeypatch.setattr(builder, "docker", lambda *words: removed.append(words))
    error = refused(lambda step: builder.build("nginx", tmp_path / "scratch", step))
    assert "vanished" in error.reason
    assert removed == [("image", "rm", recipes.tag("nginx"))]


def test_the_first_failure_is_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_STACK_CACHE", str(tmp_path))
    monkeypatch.setattr(images, "_exists", lambda _: False)
    monkeypatch.setattr(images, "_check_disk", lambda *_: None)
    monkeypatch.setattr(images, "remove_old", lambda _: pytest.fail("nothing was built"))
    monkeypatch.setattr(builder, "stage", lambda *_: paths.cache())

    def build(recipe: str, _: Path, step: Step) -> str:
        if recipe == "base":
            raise step.fail("the mirror is away", "wait")
        return recipe

    monkeypatch.setattr(builder, "build", build)
    assert refused(lambda step: images.build(["nginx", "vllm"], step)).reason == "the mirror is away"


def test_a_proc_that_debootstrap_left_mounted_is_no_part_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(debian, "find_mirror", lambda: debian.Mirror("http://127.0.0.1/debian", None))
    monkeypatch.setattr(debian, "KEYRING", tmp_path)
    monkeypatch.setattr(debian, "_settle", lambda *_: None)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "proc")
    monkeypatch.setattr(Step, "run", lambda _step, argv, **_: ran.append(argv[0]))
    run_step("Images", lambda step: debian.build_base(recipes.ROOT / "base", tmp_path, "x:1", step))
    assert ran == ["debootstrap", "umount", "tar", "docker"]
