"""A host's preparation as a decided thing: which scripts run on it, in which order, with which settings.

How a step runs: `bash -s apply` (or `undo`) as root, `sudo -n bash -s apply` over SSH, with `steps.text(step)` on its
standard input. Exit status 0 is success; its output are lines for a person; an error is one line on stderr. Steps of
one host run in order, undone in the reverse order; hosts side by side.

How a reboot runs. Nothing waits inside a script, and no connection is cut under one:

1. `reboot`, where the loaded module isn't the wanted one and the host's policy allows it now, stops the model
   containers of the host, schedules the reboot for a few seconds later by `systemd-run`, **closes the SSH server for
   new connections**, and ends with status 0. Where the policy forbids it, it notes `pending/reboot` and ends with 0.
2. `engine` is dialled next. While the host goes down and comes up its SSH server refuses (or doesn't answer), so who
   runs the steps dials again until `reboot_within_s` has passed, and fails then: the host did not come back. A dial
   that succeeds is in the new boot. (If there is no reboot after all, the SSH server opens again after SSH_REOPENS_S.)
3. `engine` sees from /var/lib/inference-stack/rebooting that a reboot was asked for. In the same boot it fails and says
   so. In another it verifies /sys/module/nvidia/version, starts the models that were stopped, and forgets the note.

So the runner needs patience in dialling `engine` (and nothing else) after a `reboot` that may reboot: `may_reboot`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from stack_configs.schema.hosts import SshConnection

StepName = Literal["join", "base", "driver", "reboot", "engine", "mesh", "uplinks", "firewall", "confirm"]
"""In the order in which they run.

`join`: into the mesh, by the address that the host had before. `base`: repositories, storage, time, security updates.
`driver`: NVIDIA's packages, pins, kernel modules. `reboot`: only if another module is loaded and the spec allows it.
`engine`: Docker, CDI. `mesh`: the node's settings, and what it publishes. `uplinks`: the default route's health.
`firewall`: rules that end by themselves unless `confirm`, by a connection of its own, keeps them."""

STEPS: tuple[StepName, ...] = get_args(StepName)

SSH_REOPENS_S = 300
"""After which a host that was to reboot and didn't takes SSH connections again."""

FIREWALL_REVERTS_S = 300
"""After which a firewall's rules end that `confirm` hasn't kept."""


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
    undone: bool = True
    """Whether it is undone when it leaves the spec; False where another step's `undo` takes it back."""
    once: tuple[str, ...] = ()
    """For a step that a changed script or setting doesn't run again: its arguments, which do."""

    @property
    def digest(self) -> str:
        """Names what makes the step run again: script, settings and repair. 12 hex digits."""
        given = [self.script, *(f"{key}={value}" for key, value in sorted(self.settings.items()))]
        parts = [*(self.once or given), str(self.repair)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class HostPlan:
    """All steps of one host."""

    name: str
    connection: SshConnection
    """How everything but `join` reaches it."""
    steps: tuple[Step, ...]
    bootstrap: SshConnection | None = None
    """How `join` reaches it; None without a mesh."""
    tags: tuple[str, ...] = ()
    """Of its node in the mesh."""
    reboot_within_s: int = 900
    """How long the host may be away for a reboot."""

    @property
    def may_reboot(self) -> bool:
        """Whether `reboot` may close the host for up to `reboot_within_s`; if not, `engine` needs no patience."""
        return any(step.name == "reboot" and step.settings["POLICY"] != "manual" for step in self.steps)
