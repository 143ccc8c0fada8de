from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.setup import paths


@pytest.fixture(autouse=True, scope="session")
def _own_logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Steps that tests run leave the user's own logs and timings alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "LOGS", tmp_path_factory.mktemp("logs"))
        patch.setattr(paths, "TIMINGS", paths.LOGS / "timings.json")
        yield
