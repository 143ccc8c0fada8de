"""Plans are what people reviewed last."""

import difflib

import pytest

from tests.golden.render import COMMAND, golden, stored

NOW, STORED = golden(), stored()


@pytest.mark.parametrize("path", sorted(NOW.keys() | STORED.keys()))
def test_plan_is_as_reviewed(path: str) -> None:
    before, now = STORED.get(path, ""), NOW.get(path, "")
    diff = difflib.unified_diff(before.splitlines(), now.splitlines(), f"tests/golden/{path}", "now", lineterm="")
    assert before == now, "\n".join(diff) + f"\nIf this is meant: {COMMAND}, review the diff, commit it."


def test_every_stack_is_there() -> None:
    assert {path.split("/")[0] for path in NOW} == {
        "dev-cpu",
        "dev-gpu",
        "two-models",
        "prod-like",
        "with-ingress",
        "with-mesh",
    }
