"""`make down`, `make clean`, `make logs`, `make key`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.setup import objects, over_ssh, paths, recover, state
from tools.setup.progress import SetupError, Step, run_step
from tools.setup.up import secret_keys

IMAGE_LABEL = "inference-stack.image"


def down(stack: str) -> None:
    """Destroy what `up` made; the model cache, config and keys stay."""
    env = state.ready()
    if state.is_local_backend(env) and not state.checkpoint(stack).exists():
        print(f"There is no stack {stack} here: nothing to remove.")
        return
    remote = over_ssh.is_over_ssh(stack)

    def destroy(step: Step) -> None:
        recover.recover(stack, step, env, over_ssh=remote)
        with recover.noted(stack):
            state.pulumi(step, env, "destroy", "--yes", "--skip-preview", "-s", stack)
        step.note = "containers, networks and volumes are gone"

    run_step("pulumi destroy", destroy)
    if remote and over_ssh.is_in_mesh(stack):
        run_step("Mesh nodes", lambda step: over_ssh.forget_nodes(stack, step, env, "--all"))
    if remote:
        print("Kept: weights on the hosts, and what `when_removed` keeps: drivers, Docker, data.")
    else:
        print(
            f"Kept: the model cache (volume inference-{stack}-models), keys, choices. `make clean` removes the cache."
        )


def clean(stack: str) -> None:
    """After `down`: the model cache, images built here, our caches and .venv. Keys and choices stay in .state.

    Raises SetupError, and removes nothing, where Docker does not answer.
    """
    if _told((), "version") is None:
        raise SetupError("clean", "Docker does not answer: nothing was removed", "start it, and run `make clean` again")
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
        _remove(paths.cache(), step)
        if not paths.VENV.is_symlink():
            _remove(paths.VENV, step)
        step.note = f"kept because containers use them: {', '.join(kept)}" if kept else ""

    run_step("Images and caches", remove)
    print("Kept: keys, passphrase and choices in .state (delete that folder to forget them).")


def _remove(folder: Path, step: Step) -> None:
    """Remove a folder of ours; Go writes its own read-only. Raises SetupError."""
    if not folder.exists():
        return
    subprocess.run(["chmod", "-R", "u+w", folder], check=False)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        remedy = "if another command of ours uses it, in any clone, wait for its end; then run `make clean` again"
        raise step.fail(f"{folder} can't be removed: {error.strerror}", remedy) from error


def logs(stack: str, service: str) -> None:
    """The last lines of one service; without one, how all of them are. Raises SetupError."""
    places = objects.places(stack) if over_ssh.is_over_ssh(stack) else {"": ()}
    if service:
        missing = SetupError("logs", f"there is no service {service} in {stack}", "`make logs` lists them")
        for on in places.values():
            told = _told(on, "logs", "--tail", "50", f"inference-{stack}-{service}")
            if told is not None:
                _show(told)
                return
        raise missing
    label = f"label=inference-stack.stack={stack}"
    form = 'table {{.Label "inference-stack.service"}}\t{{.Status}}\t{{.Ports}}'
    for host, on in places.items():
        told = _told(on, "ps", "--all", "--filter", label, "--format", form)
        if told is None:
            where = f"Docker on {host}" if host else "Docker"
            raise SetupError("logs", f"{where} does not answer", "docs/troubleshooting.md, under Docker")
        rows = told.splitlines(keepends=True)
        services = [row for row in rows if not row.split(maxsplit=1)[0].endswith("-files")]  # carriers never run
        stopped = [f"{why}\n" for why in objects.noted(on)] if host else []
        _show((f"{host}\n" if host else "") + "".join([*services, *stopped]) + "\n")
    _show(f"`make logs SERVICE=name` shows one service's last lines{_hint(stack)}.\n")


def _told(on: tuple[str, ...], *args: str) -> str | None:
    """Both streams of a docker command; None where it fails."""
    done = subprocess.run(
        objects.there(on, "docker", *args),
        cwd=paths.REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.stdout if done.returncode == 0 else None


def _show(text: str) -> None:
    """Print; a reader that has seen enough (`make logs | head`) is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
