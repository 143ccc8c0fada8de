"""Whether a host can be worked on: asked before each step of it, so that a failure is told in one line and in time."""

import os
import time

from planning.hosts.plan import HostPlan
from tools.ssh import SshError, run_script

ASK_WITHIN_S = 40
"""For the connection and its two commands."""
AGAIN_AFTER_S = 2
NO_SUDO = 77
QUESTION = f"sudo -n true 2>/dev/null || exit {NO_SUDO}\n"


class UnreachedError(Exception):
    """The host can't be worked on. The text is one line: who, what is wrong, what to do."""


def reach(plan: HostPlan, rebooting: bool) -> None:
    """Return once the host answers and its user may sudo.

    A host that may be `rebooting` has `reboot_within_s` to come back; any other answers at once or not at all.
    Raises UnreachedError.
    """
    if not os.environ.get("SSH_AUTH_SOCK"):
        raise UnreachedError(
            f"{plan.name}: there is no SSH agent (SSH_AUTH_SOCK is not set), and hosts are logged in to by one alone; "
            'run `eval "$(ssh-agent)" && ssh-add`'
        )
    deadline = time.monotonic() + plan.reboot_within_s
    while True:
        try:
            done = run_script(plan.name, plan.connection, QUESTION, limit_s=ASK_WITHIN_S)
        except SshError as error:
            if not rebooting or not error.may_pass:
                raise UnreachedError(str(error)) from error
            if time.monotonic() > deadline:
                raise UnreachedError(
                    f"{plan.name} did not come back within {plan.reboot_within_s} s of its reboot ({error}); look at "
                    "its console, and run `up` again when it answers"
                ) from error
            time.sleep(AGAIN_AFTER_S)
            continue
        if done.rc:
            raise UnreachedError(
                f"{plan.name}: {plan.connection.user} may not sudo there without a password, which preparing a host "
                f"needs; as root, put `{plan.connection.user} ALL=(ALL) NOPASSWD: ALL` into a file below /etc/sudoers.d"
            )
        return


__all__ = ["UnreachedError", "reach"]
