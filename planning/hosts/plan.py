"""A host's preparation as a decided thing: which scripts run on it, in which order, with which settings."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from stack_configs.schema.hosts import SshConnection

StepName = Literal["base", "driver", "reboot", "engine"]
"""In the order in which they run. `base`: repositories, storage, time, security updates. `driver`: NVIDIA's packages,
pins, kernel modules. `reboot`: only if another module is loaded and the spec allows it. `engine`: Docker, CDI."""

STEPS: tuple[StepName, ...] = ("base", "driver", "reboot", "engine")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One run of one script on one host.

    The script gets `apply` or `undo` as its first argument and `settings` as shell variables. It is idempotent, prints
    a line for each thing that it changed, and notes `digest` in /var/lib/inference-stack/steps/<name> at its good end.
    """

    name: StepName
    summary: str
    """What a preview shows of it: `580.105.08 open, held`."""
    script: str
    """The whole text that the host runs, without settings."""
    settings: Mapping[str, str]
    """Shell variables. No secrets: they stand in state and can be seen on the host."""
    timeout_s: int
    """Longest time for `apply`."""
    repair: int = 0
    """Counts up when drift was found: the only way to run an unchanged step again."""

    @property
    def digest(self) -> str:
        """Names script, settings and repair: 12 hex digits."""
        parts = [self.script, *(f"{key}={value}" for key, value in sorted(self.settings.items())), str(self.repair)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class HostPlan:
    """All steps of one host."""

    name: str
    connection: SshConnection
    steps: tuple[Step, ...]
