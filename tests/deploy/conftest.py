"""One real stack for all deploy tests: `make up` in a clone, as a user does it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.clone import Clone, make_clone, remove_leftovers


@pytest.fixture(scope="package")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """A clone whose stack `test` is up. Everything it made is removed at the end."""
    made = make_clone(tmp_path_factory.mktemp("clone") / "inference-stack")
    remove_leftovers()
    try:
        first = made.setup("up")
        Path(made.path / "first-up.txt").write_text(first.stdout)
        yield made
    finally:
        made.setup("down", check=False)
        remove_leftovers()
