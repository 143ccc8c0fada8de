"""A digest that nobody could verify is left out, never invented: `dev` warns of such an image, `prod` refuses it."""

import datetime
import re
import shutil
from pathlib import Path

import pytest

from stack_configs.load import ROOT, Settings, load
from stack_configs.problems import SpecError
from tools import lock

KEYS = Settings(key_hashes={"me": "0" * 64, "editors": "1" * 64, "batch": "2" * 64})
DIGEST = f"sha256:{'a' * 64}"


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """The version set below `tmp_path`, with nginx pinned by its tag only."""
    configs = tmp_path / "stack_configs"
    shutil.copytree(ROOT / "stack_configs", configs, ignore=shutil.ignore_patterns("*.py", "__pycache__", "facts"))
    path = configs / "versions" / lock.newest().name
    text, count = re.subn(r"(?m)(^  nginx:\n(?:    .*\n)*?)    digest: .*\n", r"\1", path.read_text())
    assert count == 1
    path.write_text(text)
    return path


def test_dev_runs_an_image_by_its_tag_and_says_so(versions: Path) -> None:
    spec = load("dev", KEYS, versions.parents[2])
    assert "@" not in spec.images["nginx"].ref
    assert [f"image {spec.images['nginx'].ref} is pinned by its tag only: nobody could verify a digest"] == [
        warning for warning in spec.warnings if "tag" in warning
    ]


def test_prod_refuses_it_until_the_lock_has_its_digest(versions: Path) -> None:
    with pytest.raises(SpecError) as refused:
        load("prod", KEYS, versions.parents[2])
    (problem,) = refused.value.problems
    assert "nginx" in problem.says
    assert "has no digest: its tag can move under a running service" in problem.says
    assert "`python -m tools.lock images`" in problem.write
    versions.write_text(lock.edited(versions.read_text(), {"nginx": DIGEST}, datetime.date(2026, 12, 1)))
    assert load("prod", KEYS, versions.parents[2]).images["nginx"].ref.endswith(f"@{DIGEST}")
