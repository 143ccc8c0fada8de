"""Models of shapes.yaml."""

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from planning.serving.ledger.architecture import architecture_of
from planning.serving.ledger.shape import Architecture

FILE = Path(__file__).with_name("shapes.yaml")


@cache
def _read() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())
    return found


def names() -> list[str]:
    return list(_read())


def config(name: str) -> dict[str, Any]:
    found: dict[str, Any] = _read()[name]["config"]
    return found


def shape(name: str) -> Architecture:
    return architecture_of(config(name))
