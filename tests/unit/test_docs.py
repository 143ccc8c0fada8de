"""The documents say what is there: commands, paths, links, settings."""

import gc
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tools import docs_reference

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE = re.compile(r"`([^`\n]+)`")
TOP_LEVEL = {path.name for path in ROOT.iterdir() if not path.name.startswith(".git")}
MADE_AT_HOME = (".state", ".venv")
"""Folders that `make up` makes: what pages say is inside them is not in the repository."""


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def slugs(page: Path) -> set[str]:
    """Anchors of the page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> Iterator[str]:
    """`make X` in code spans and code blocks: where a line begins, after a variable, and in `$(…)`."""
    code = [*re.findall(r"^ *```.*?^ *```", text, re.MULTILINE | re.DOTALL), *INLINE.findall(without_code(text))]
    for part in code:
        yield from re.findall(r"(?:^|\$\() *(?:[A-Z_]+=\S+ )?make (?:-s )?([a-z][a-z-]*)", part, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_make_command_exists(page: Path) -> None:
    assert set(commands(page.read_text())) <= make_targets()


@pytest.mark.parametrize("folder", ["components", "images", "planning", "stack_configs", "tools"])
def test_messages_name_make_commands_that_exist(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        assert set(re.findall(r"`make (?:-s )?([a-z][a-z-]*)", path.read_text())) <= make_targets(), path


def test_the_readme_names_the_two_commands() -> None:
    assert {"up", "test"} <= set(commands((ROOT / "README.md").read_text()))


def test_contributing_names_every_command_of_a_developer() -> None:
    named = {name for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") for name in commands(page.read_text())}
    assert {"check", "fix", "unit", "test", "golden", "docs", "lock", "dev"} <= named


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_resolves(page: Path) -> None:
    wrong = []
    for link in LINK.findall(without_code(page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in slugs(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_path_exists(page: Path) -> None:
    """A code span is a path of ours when it starts with a name at the top of the repository and has a slash."""
    wrong = []
    for span in INLINE.findall(without_code(page.read_text())):
        first = span.split("/")[0]
        is_path = re.fullmatch(r"[\w.-]+(/[\w.-]*)+|[\w-]+\.(py|yaml|toml|txt)", span)
        if not is_path or first not in TOP_LEVEL or first in MADE_AT_HOME:
            continue
        if not (ROOT / span).exists():
            wrong.append(span)
    assert wrong == []


def code(text: str) -> str:
    return "\n".join(
        [*re.findall(r"^ *```.*?^ *```", text, re.MULTILINE | re.DOTALL), *INLINE.findall(without_code(text))]
    )


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_module_that_is_run_exists(page: Path) -> None:
    modules = set(re.findall(r"python3? -m ((?:bench|tests|tools)[\w.]*)", code(page.read_text())))
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_setting_of_a_make_command_is_read_by_the_makefile(page: Path) -> None:
    given = re.findall(r"make (?:-s )?[a-z][a-z-]*((?: [A-Z]+=\S+)+)", code(page.read_text()))
    names = {word.partition("=")[0] for words in given for word in words.split()}
    assert names <= set(re.findall(r"\$\(([A-Z]+)\)", (ROOT / "Makefile").read_text()))


def test_contributing_names_each_folder_of_tests_once() -> None:
    named = re.findall(r"^\| `tests/([a-z_]+)/` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    there = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert sorted(named) == sorted(there)


def told() -> str:
    """Every text in our sources, with strings that go on over lines joined."""
    folders = ("components", "images", "planning", "stack_configs", "tools")
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".sh"))
    sources = "\n".join(path.read_text() for path in found)
    return re.sub(r'"\s*\n\s*(\+ )?\(?f?"', "", sources)


OTHERS_WORDS = {
    "No space left on device",
    "unexpected end of JSON input",
    "`docker pull …` ended with status",
    "no resource plugin 'pulumi-resource-docker' found",
    "using pulumi-resource-docker from $PATH",
    "vllm serve: error: argument",
    "vLLM starts again and again",
    "failed attempts: dial tcp",
    "A service is missing, and `make up` changes nothing",
    "401, 403, 429",
    "404",
    "502, 503",
}
"""Headings of troubleshooting that are no message of ours, or are put together from too small pieces."""


def test_headings_of_troubleshooting_are_messages_that_exist() -> None:
    """Between `…` a heading has our words as the sources have them."""
    headings = re.findall(r"^### (.+)$", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert set(headings) >= OTHERS_WORDS
    sources = told()
    pieces = [(h, piece.strip()) for h in headings if h not in OTHERS_WORDS for piece in h.split("…")]
    assert [(heading, piece) for heading, piece in pieces if piece not in sources] == []


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    """The reference is made with ast.parse: test_house.tree says what a collection would do to that."""
    gc.disable()
    yield
    gc.enable()


def test_the_reference_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    status = docs_reference.main(["--check"])
    said = capsys.readouterr()
    assert status == 0, said.out + said.err


def test_check_fails_with_the_command_to_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "docs/reference/settings.md"
    text = (ROOT / name).read_text()
    monkeypatch.setattr(docs_reference, "rendered", lambda: {name: text.replace("# Settings", "# Other")})
    assert docs_reference.main(["--check"]) == 1
    said = capsys.readouterr()
    assert "-# Settings\n+# Other" in said.out
    assert "`make docs` writes it anew" in said.err
    assert (ROOT / name).read_text() == text


def test_every_setting_has_a_meaning() -> None:
    found = list(docs_reference.settings(json.loads((ROOT / "stack_configs/stack.schema.json").read_text())))
    assert len(found) > 40
    assert [setting.path for setting in found if not setting.meaning] == []


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((ROOT / name).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("stack", ["dev", "prod"])
def test_stack_files_fit_their_schema(stack: str) -> None:
    data = yaml.safe_load((ROOT / f"stack_configs/{stack}.yaml").read_text())
    assert [error.message for error in validator("stack_configs/stack.schema.json").iter_errors(data)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "stack_configs/versions").glob("*.yaml")), ids=page_id)
def test_version_sets_fit_their_schema(path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    assert [error.message for error in validator("stack_configs/schema/versions.schema.json").iter_errors(data)] == []


BROKEN: dict[str, dict[str, Any]] = {
    "a key that it does not know": {"modles": {}},
    "a port below 1024": {"gateway": {"port": 80, "keys": {}}},
    "a branch for a commit": {"models": {"chat": {"source": {"repo": "a/b", "revision": "main"}, "replicas": []}}},
    "a name in capitals": {"hosts": {"STUDIO": {"connection": {"kind": "local"}}}},
    "a connection of no kind": {"hosts": {"studio": {"connection": {}}}},
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_the_schema_refuses(change: dict[str, Any]) -> None:
    data = yaml.safe_load((ROOT / "stack_configs/dev.yaml").read_text()) | change
    assert list(validator("stack_configs/stack.schema.json").iter_errors(data))


@pytest.mark.parametrize(
    "path", sorted([*(ROOT / "stack_configs").glob("*.yaml"), *(ROOT / "stack_configs/versions").glob("*.yaml")]),
    ids=page_id,
)  # fmt: skip
def test_editors_find_the_schema(path: Path) -> None:
    lines = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", path.read_text(), re.MULTILINE)
    assert len(lines) == 1
    target = (path.parent / lines[0]).resolve()
    expected = "versions.schema.json" if path.parent.name == "versions" else "stack.schema.json"
    assert target.name == expected
    assert target.is_file()
