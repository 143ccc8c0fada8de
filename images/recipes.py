"""Recipes: what each image that we build is called. Standard library only, so that `load` can ask.

A recipe is a folder beside this file. It builds FROM another recipe (`FROM inference-stack/<recipe>` in its
Dockerfile), or from nothing (`base`, which has no Dockerfile).
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent
REPOSITORY = "inference-stack"
LABEL = "inference-stack.image"
"""On every image that we build; its value is the recipe. What lacks it is never removed."""

_FROM = re.compile(rf"^FROM {REPOSITORY}/([a-z-]+)$", re.MULTILINE)


def names() -> list[str]:
    """Every recipe."""
    return sorted(
        folder.name for folder in ROOT.iterdir() if folder.is_dir() and not folder.name.startswith((".", "_"))
    )


def parent(recipe: str) -> str | None:
    """The recipe that this one builds FROM; None for `base`. Raises KeyError for an unknown recipe."""
    folder = ROOT / recipe
    if not re.fullmatch(r"[a-z-]+", recipe) or not folder.is_dir():
        raise KeyError(f"no recipe {recipe!r} in {ROOT.name}/; there are {', '.join(names())}")
    dockerfile = folder / "Dockerfile"
    if not dockerfile.exists():
        return None
    found = _FROM.search(dockerfile.read_text())
    if found is None:
        raise ValueError(f"{dockerfile} has no line `FROM {REPOSITORY}/<recipe>`")
    return found[1]


def chain(recipe: str) -> list[str]:
    """The recipe and all that it builds FROM, `base` first."""
    above = parent(recipe)
    return [*(chain(above) if above else []), recipe]


@cache
def tag(recipe: str) -> str:
    """`inference-stack/<recipe>:<12 hex digits>`: a hash of the recipe's files and of what it builds FROM.

    Names, contents and executable bits count. What the files refer to (Debian's packages of the day) doesn't.
    Cached for the life of the process. Raises KeyError for an unknown recipe.
    """
    above = parent(recipe)
    digest = hashlib.sha256((tag(above) if above else "").encode())
    folder = ROOT / recipe
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            executable = bool(path.stat().st_mode & 0o100)
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"\n{path.relative_to(folder).as_posix()} {executable} {content}".encode())
    return f"{REPOSITORY}/{recipe}:{digest.hexdigest()[:12]}"
