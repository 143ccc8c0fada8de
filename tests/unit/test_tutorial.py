"""What the tutorial and the README show of a run is what a run shows."""

import re
from typing import Any

from stack_configs.load import ROOT, Settings, resolve
from stack_configs.source import parse
from tests.unit.built import Made
from tests.unit.test_stack import SPECS, stack
from tools.report import report


def dev(max_num_seqs: str = "8") -> list[Made]:
    """The stack `dev` as it is made where images are built."""
    text = (ROOT / "stack_configs" / "dev.yaml").read_text()
    assert text.count("max_num_seqs: 8\n") == 1
    text = text.replace("max_num_seqs: 8\n", f"max_num_seqs: {max_num_seqs}\n")
    settings = Settings(key_hashes={"me": "0" * 64}, images="built", weights="random")
    return stack(resolve(parse(text, "dev.yaml"), "dev", settings))


def preview(before: list[Made], after: list[Made]) -> dict[str, Any]:
    """As Pulumi tells what lies between two states."""

    def state(made: Made) -> dict[str, Any]:
        custom = made.type.startswith("docker:")
        return {"type": made.type, "custom": custom, "parent": made.parent, "inputs": dict(made.inputs)}

    old = {made.urn: state(made) for made in before}
    new = {made.urn: state(made) for made in after}
    assert old.keys() == new.keys()
    return {
        "steps": [
            {
                "urn": urn,
                "op": "same" if old[urn] == new[urn] else "replace",
                "oldState": old[urn],
                "newState": new[urn],
            }
            for urn in new
        ]
    }


def test_the_tutorials_preview_is_the_one_of_its_change() -> None:
    page = (ROOT / "docs" / "tutorial.md").read_text()
    (told,) = re.findall(r"set `max_num_seqs: (\d+)` for the model", page)
    (shown,) = re.findall(r"^```\n(Preview of `dev`.*?)\n```$", page, re.MULTILINE | re.DOTALL)
    assert report(preview(dev(), dev(told)), "dev") == shown


def test_the_readmes_first_run_creates_as_much_as_a_first_run_does() -> None:
    page = (ROOT / "README.md").read_text()
    (created,) = re.findall(r"^ok +pulumi up .* \+ (\d+) created$", page, re.MULTILINE)
    assert int(created) == len(stack(SPECS["built"])) + 1, "and Pulumi's own resource of the stack"
