"""The picture in docs/mesh.md is what the policy of its own example says."""

import re

import yaml

from planning.network.picture import mermaid
from planning.network.policy import rules
from stack_configs.load import ROOT
from tests.golden.specs import spec, stack_file

PAGE = ROOT / "docs" / "mesh.md"


def block(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"no block of {language} in {PAGE.name}"
    return str(found[0])


def test_the_picture_is_of_the_policy() -> None:
    example = yaml.safe_load(block("yaml"))
    drawn = mermaid(rules(spec("prod", {**stack_file("prod"), **example})))
    assert block("mermaid") == drawn, f"docs/mesh.md has another picture; put this into it:\n{drawn}"
