"""Where set-up keeps things.

STATE is this clone's own and ignored by git: Pulumi's state, secrets, logs, choices. CACHE is the user's and
shared by all clones: whatever can be had again from the network, keyed by version, so that deleting it costs
time and nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
STATE = REPO / ".state"
LOGS = STATE / "logs"
TIMINGS = STATE / "timings.json"
VENV = REPO / ".venv"
GO_MODULES = REPO / "tools" / "setup" / "go"


def cache() -> Path:
    """`inference-stack` in $INFERENCE_STACK_CACHE, else in $XDG_CACHE_HOME, else in ~/.cache.

    A folder of its own below what the user names: `make clean` removes it whole.
    """
    own = os.environ.get("INFERENCE_STACK_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return (Path(own).expanduser() if own else Path.home() / ".cache").resolve() / "inference-stack"


CACHE = cache()
