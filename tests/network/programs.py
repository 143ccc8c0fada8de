"""tailscale, tailscaled and headscale, built from their Go modules: no stack runs what is built here, hosts install
Tailscale's own packages.
"""

import fcntl
import functools
import hashlib
from pathlib import Path

import pytest

from tools.setup import golang, paths
from tools.setup.progress import SetupError, Step, run_step

MODULE = Path(__file__).parent / "go"
TAILSCALE = "1.102.3"
"""As in go.mod: the program doesn't know by itself what it was built from."""
STAMPS = " ".join(f"-X tailscale.com/version.{name}Stamp={TAILSCALE}" for name in ("short", "long"))


@functools.cache
def folder() -> Path:
    """Where the three programs are, built when they are missing. Skips the test where they can't be."""
    digest = hashlib.sha256((MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes()).hexdigest()[:12]
    at = paths.cache() / "mesh" / digest
    at.parent.mkdir(parents=True, exist_ok=True)
    with at.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (at / "complete").exists():
            try:
                run_step("Mesh programs", lambda step: _build(at, step))
            except SetupError as error:
                pytest.skip(str(error))
    return at


def _build(at: Path, step: Step) -> None:
    at.mkdir(exist_ok=True)
    go = golang.find(step, "headscale and Tailscale are built from Go modules, and ", "install Go 1.26 or newer")
    golang.build(step, go, MODULE, "tool", at, link=STAMPS)
    golang.forget()
    (at / "complete").touch()


def headscale() -> Path:
    return folder() / "headscale"


def tailscale() -> Path:
    return folder() / "tailscale"


def tailscaled() -> Path:
    return folder() / "tailscaled"


__all__ = ["TAILSCALE", "headscale", "tailscale", "tailscaled"]
