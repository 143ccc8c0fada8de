"""docs/add-a-host.md counts edits and commands until the first answer: as many as it lists."""

import re

import yaml

from stack_configs.load import ROOT

PAGE = (ROOT / "docs" / "add-a-host.md").read_text()
SECTION = PAGE.split("\n## ")[1]
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")


def test_edits_and_commands_are_as_many_as_it_says() -> None:
    said = re.findall(r"^(\w+) edits and (\w+) commands", SECTION, re.MULTILINE)
    edits = re.findall(r"^(\d)\. ", SECTION, re.MULTILINE)
    commands = re.findall(r"^[a-z].*  # (\d)\. ", SECTION, re.MULTILINE)
    assert said == [(NUMBERS[len(edits)].capitalize(), NUMBERS[len(commands)])]
    assert [edits, commands] == [[str(n + 1) for n in range(len(found))] for found in (edits, commands)]


def test_each_part_of_the_example_that_is_somebody_elses_is_edited() -> None:
    """Addresses, keys and GPUs of the example are nobody's; versions are everybody's."""
    example = yaml.safe_load((ROOT / "stack_configs" / "prod.yaml").read_text())
    edited = set(re.findall(r"^\d\. (?:Under|For a machine with) `?(\w+)`?", SECTION, re.MULTILINE))
    assert edited == {*example, "GPUs"} - {"versions"}
