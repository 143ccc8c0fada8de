"""One real stack for all deploy tests: `make up` in a clone, as a user does it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.clone import Clone, docker, make_clone, ours


@pytest.fixture(scope="session")
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


def remove_leftovers() -> None:
    """What an earlier, killed test run may have left: only what carries the test stack's label."""
    for kind in ("container", "network", "volume"):
        for name in ours(kind):
            docker(kind, "rm", *(["--force"] if kind != "network" else []), name, check=False)
    docker("volume", "rm", "inference-test-models", check=False)
