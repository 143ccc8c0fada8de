"""A double of Pulumi's Cloudflare and Tailscale plugins, for machines where these and the clouds can't be had.

It accepts what it is sent, records it, and answers with what only the cloud knows: ids, an application's audience, a
token. It is no cloud: it refuses nothing, and shows only what the program sends and in which order.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from tests.deploy.clone import REPO

VERSIONS = {"cloudflare": "6.23.1", "tailscale": "0.29.2"}
"""Of their packages in pyproject.toml."""


def install(pulumi_home: Path, folder: Path, package: str = "cloudflare") -> None:
    """Put it where Pulumi finds it below `pulumi_home`; it records in `folder`."""
    binary = pulumi_home / "plugins" / f"resource-{package}-v{VERSIONS[package]}" / f"pulumi-resource-{package}"
    binary.parent.mkdir(parents=True, exist_ok=True)
    runs = shlex.join([sys.executable, "-m", "tests.network.plugin", str(folder), package])
    binary.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(REPO))} PYTHONDONTWRITEBYTECODE=1 exec {runs} "$@"\n')
    binary.chmod(0o755)


def recorded(folder: Path) -> list[dict[str, Any]]:
    """What it was asked to do: operation, type, name and inputs, in order."""
    file = folder / "recorded.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def set_token(folder: Path, token: str) -> None:
    """What the tunnel's token is from now on."""
    (folder / "token").write_text(token)
