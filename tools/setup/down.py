"""`make down`, `make clean`, `make logs`, `make key`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tools.setup import paths, recover, state
from tools.setup.progress import SetupError, Step, run_step
from tools.setup.up import secret_keys

IMAGE_LABEL = "inference-stack.image"


def down(stack: str) -> None:
    """Destroy what `up` made; the model cache, config and keys stay."""
    env = state.ready()

    def destroy(step: Step) -> None:
        recover.recover(stack, step, env)
        with recover.noted(stack):
            state.pulumi(step, env, "destroy", "--yes", "--skip-preview", "-s", stack)
        step.note = "containers, networks and volumes are gone"

    run_step("pulumi destroy", destroy)
    print(f"Kept: the model cache (volume inference-{stack}-models), keys and choices. `make clean` removes the cache.")


def clean(stack: str) -> None:
    """After `down`: the model cache, images built here, our caches and .venv. Keys and choices stay in .state."""
    if recover.resources(stack) or not state.is_local_backend(state.environment()):
        down(stack)

    def remove(step: Step) -> None:
        _docker("volume", "rm", f"inference-{stack}-models")
        in_use = set(_docker("ps", "--all", "--format", "{{.Image}}"))
        label = f"label={IMAGE_LABEL}"
        images = _docker("image", "ls", "--filter", label, "--format", "{{.Repository}}:{{.Tag}}")
        images = [image for image in images if "<none>" not in image]
        kept = [image for image in images if image in in_use]
        for image in images:
            if image not in in_use:
                step.say(f"removing {image}")
                _docker("image", "rm", image)
        _docker("image", "prune", "--force", "--filter", label)
        _remove(paths.cache())
        if not paths.VENV.is_symlink():
            _remove(paths.VENV)
        step.note = f"kept because containers use them: {', '.join(kept)}" if kept else ""

    run_step("Images and caches", remove)
    print("Kept: keys, passphrase and choices in .state (delete that folder to forget them).")


def _remove(folder: Path) -> None:
    """Remove a folder of ours; Go writes its own read-only."""
    if folder.exists():
        subprocess.run(["chmod", "-R", "u+w", folder], check=False)
        shutil.rmtree(folder)


def logs(stack: str, service: str) -> None:
    """The last lines of one service; without one, how all of them are."""
    label = f"label=inference-stack.stack={stack}"
    if not service:
        form = 'table {{.Label "inference-stack.service"}}\t{{.Status}}\t{{.Ports}}'
        subprocess.run(["docker", "ps", "--all", "--filter", label, "--format", form], check=False)
        print(f"\n`make logs SERVICE=name` shows one service's last lines{_hint(stack)}.")
        return
    done = subprocess.run(["docker", "logs", "--tail", "50", f"inference-{stack}-{service}"], check=False)
    if done.returncode != 0:
        raise SetupError("logs", f"there is no service {service} in {stack}", "`make logs` lists them")


def _hint(stack: str) -> str:
    return "" if stack == "dev" else f" (with STACK={stack})"


def key(stack: str, name: str) -> None:
    """Print one API key: the only command that does."""
    keys: dict[str, str] = json.loads(secret_keys(stack, state.ready()))
    if name and name not in keys:
        raise SetupError("key", f"there is no key {name}", f"one of: {', '.join(keys)}")
    sys.stdout.write(f"{keys[name or next(iter(keys))]}\n")


def _docker(*args: str) -> list[str]:
    done = subprocess.run(["docker", *args], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()
