"""docs/prepare-a-gpu-host.md tells of everything that the steps leave on a host."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from planning.hosts.steps import SCRIPTS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "prepare-a-gpu-host.md"


def written() -> list[str]:
    """Files that scripts write, with a star for what a variable says."""
    found: set[str] = set()
    for script in SCRIPTS.glob("*.sh"):
        text = script.read_text()
        named = dict(re.findall(r"^\s*(?:local )?(\w+)=(/\S+)$", text, re.MULTILINE))
        for target in re.findall(r"\bput \"?([^\s\"|]+)\"?", text):
            variable = re.fullmatch(r"\$(\w+)", target)
            target = named.get(variable[1], "") if variable else target
            if target.startswith("/"):
                found.add(re.sub(r"\$\{[^}]*\}|\$\w+", "*", target))
    return sorted(found)


def test_the_scripts_write_files() -> None:
    assert len(written()) >= 6


@pytest.mark.parametrize("file", written())
def test_every_file_that_is_written_is_in_the_table(file: str) -> None:
    told = re.findall(r"`(/[^`]+)`", PAGE.read_text())
    assert any(fnmatch(file, span) for span in told), told
