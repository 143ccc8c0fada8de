"""This clone's own state: Pulumi's backend, the passphrase, and the environment in which Pulumi runs."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tools.setup import engine, paths
from tools.setup.progress import SetupError, Step

ON_PATH = paths.STATE / "engine-bin"
"""What `activate` puts on PATH."""
PASSPHRASE = paths.STATE / "passphrase"
OWN_HOME = paths.STATE / "pulumi"
NO_DOWNLOADS = paths.STATE / "no-downloads"
"""Is there where Pulumi had to be built; `activate` looks at it."""


def prepare(found: engine.Engine) -> None:
    """Make .state, readable by its owner alone. What is there stays."""
    paths.STATE.mkdir(mode=0o700, exist_ok=True)
    paths.STATE.chmod(0o700)
    (paths.STATE / "backend").mkdir(exist_ok=True)
    if not PASSPHRASE.exists():
        descriptor = os.open(PASSPHRASE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
    if found.built:
        NO_DOWNLOADS.touch()
    else:
        NO_DOWNLOADS.unlink(missing_ok=True)
    on_path = [found.bin_dir]
    home = pulumi_home(environment())
    if home == OWN_HOME:
        engine.link_plugin(found, home)
    elif found.built:
        # Less than Pulumi's plugin of that name and version: not for the user's other programs.
        on_path.append(found.plugin)
    else:
        engine.copy_plugin(found, home)
    ON_PATH.write_text(os.pathsep.join(map(str, on_path)) + "\n")


def environment() -> dict[str, str]:
    """The environment after `. ./activate`: there is one place that decides it."""
    shell = subprocess.run(
        ["sh", "-c", ". ./activate && env -0"], cwd=paths.REPO, capture_output=True, text=True, check=True
    )
    return dict(item.split("=", 1) for item in shell.stdout.split("\0") if "=" in item)


def pulumi_home(env: dict[str, str]) -> Path:
    """Where Pulumi looks for plugins."""
    return Path(env.get("PULUMI_HOME", Path.home() / ".pulumi"))


def ready() -> dict[str, str]:
    """`environment()`, once it is known that Pulumi is there. Raises SetupError."""
    env = environment()
    if not shutil.which("pulumi", path=env["PATH"]):
        raise SetupError("Pulumi", "it is not here (yet, or any more)", "`make parts` gets it; `make up` does so too")
    return env


def is_local_backend(env: dict[str, str]) -> bool:
    return env.get("PULUMI_BACKEND_URL", "") == f"file://{paths.STATE}/backend"


def stack_folder(kind: str) -> Path:
    """Where the local file backend keeps `stacks` or `locks`."""
    return paths.STATE / "backend" / ".pulumi" / kind


def checkpoint(stack: str) -> Path:
    """The local file backend's state of a stack."""
    return stack_folder("stacks") / "inference-stack" / f"{stack}.json"


def ensure_stack(stack: str, step: Step, env: dict[str, str]) -> None:
    """Make the Pulumi stack when there is none."""
    if not has_stack(stack, step, env):
        pulumi(step, env, "stack", "init", stack, "--no-select")
        step.note = f"made the stack {stack}"


def has_stack(stack: str, step: Step, env: dict[str, str]) -> bool:
    """Whether the backend knows the stack."""
    if is_local_backend(env) and checkpoint(stack).exists():
        return True
    return stack in [s["name"] for s in json.loads(pulumi(step, env, "stack", "ls", "--json"))]


def describe(stack: str, step: Step) -> dict[str, Any]:
    """What the stack's file asks for; see tools/describe.py."""
    python = paths.VENV / "bin" / "python"
    out = step.run(
        [python, "-m", "tools.describe", stack],
        cwd=paths.REPO,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        remedy=f"mend stack_configs/{stack}.yaml, and run again",
    )
    return dict(json.loads(out))


def pulumi(step: Step, env: dict[str, str], *args: str, stdin: str | None = None) -> str:
    """Run a Pulumi command that says little. Known failures get their own remedy. Raises SetupError."""
    try:
        return step.run(
            ["pulumi", *args, "--non-interactive"],
            cwd=paths.REPO,
            env=env,
            stdin=stdin,
            remedy="see the log, and docs/troubleshooting.md; the same command goes on from here",
        )
    except SetupError as error:
        raise explained(error) from error


def explained(error: SetupError) -> SetupError:
    """Pulumi's failure in a user's words, where we know it."""
    text = error.reason
    if "incorrect passphrase" in text:
        return SetupError(
            error.step,
            "the passphrase does not open this stack's secrets",
            "if PULUMI_CONFIG_PASSPHRASE or PULUMI_CONFIG_PASSPHRASE_FILE is set, correct or unset it; "
            "else bring back .state/passphrase from a backup",
            error.log,
        )
    if missing := re.search(r"no stack named '(.*?)' found", text):
        return SetupError(
            error.step,
            f"there is no stack {missing[1]} here",
            f"`make up STACK={missing[1]}` makes it; if it was made elsewhere, Pulumi's backend there is another one",
            error.log,
        )
    if "the stack is currently locked" in text:
        return SetupError(
            error.step,
            "another Pulumi run holds this stack's lock",
            "wait for it; if it is dead, `make up` on the machine where it ran clears the lock, "
            "and so does `. ./activate && pulumi cancel`",
            error.log,
        )
    if "snapshot" in text and ("integrity" in text or "could not deserialize" in text or "invalid character" in text):
        return SetupError(
            error.step,
            "the stack's state is damaged:\n" + text,
            "`. ./activate && pulumi state repair`; the version before is beside it, as …json.bak, "
            "below .state/backend/.pulumi/stacks",
            error.log,
        )
    return error
