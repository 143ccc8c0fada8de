"""`make preview`: what `make up` would change.

Before the first `up` there is no stack to compare with. Then a copy of this clone takes the steps that `up` takes up to
`pulumi up`, but for what takes long (Docker, images, weights), shows what would come, and is deleted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tools.setup import choices, docker, engine, images, over_ssh, paths, preflight, processes, recover, state, venv
from tools.setup.progress import SetupError, Step, run_step, run_steps

PREFIX = "preview-"
"""Of copies in .state; the process that made it comes next."""
NOT_COPIED = ("bench", "docs", "tests")
"""Folders of the repository that neither set-up nor the program reads."""


def preview(stack: str) -> int:
    """Show what `up` would change; the exit status. Raises SetupError."""
    found: engine.Engine = run_steps({"Python packages": venv.ensure, "Pulumi": engine.ensure})["Pulumi"]
    env = state.environment()
    env["PATH"] = f"{found.bin_dir}{os.pathsep}{env['PATH']}"
    known = state.is_local_backend(env) and state.checkpoint(stack).exists()
    if known or run_step("Stack", lambda step: _is_there(stack, step, env)):
        state.prepare(found)
        return _report(stack)
    with _copy(env) as (copy, own):
        words = ("-m", "tools.setup", "preview", "--stack", stack, "--in-copy")
        return subprocess.run([_python(), *words], cwd=copy, env=own, check=False).returncode


def _is_there(stack: str, step: Step, env: dict[str, str]) -> bool:
    fresh = state.is_local_backend(env) and not (paths.STATE / "backend").exists()
    there = not fresh and state.has_stack(stack, step, env)
    step.note = "" if there else "there is none yet"
    return there


def _python() -> str:
    return str(paths.VENV / "bin" / "python")


def _report(stack: str) -> int:
    argv = [_python(), "-m", "tools.report", "--stack", stack]
    return subprocess.run(argv, cwd=paths.REPO, env=state.environment(), check=False).returncode


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Below the repository's own folder all is copied, since images are named by a hash of their recipes' files."""
    if Path(folder) != paths.REPO:
        return {"__pycache__"}
    return {name for name in names if name.startswith(".") or name in NOT_COPIED}


@contextlib.contextmanager
def _copy(env: Mapping[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    """A copy of this clone with a backend of its own, for as long as this lasts; and the environment to use it in.

    It lies in .state, which git does not see and other users can't read.
    """
    for left in paths.STATE.glob(f"{PREFIX}*"):  # by a run that was killed
        if not processes.runs(int(left.name.split("-")[1])):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{PREFIX}{os.getpid()}-", dir=paths.STATE, ignore_cleanup_errors=True
    ) as scratch:
        copy = Path(scratch) / paths.REPO.name
        shutil.copytree(paths.REPO, copy, symlinks=True, ignore=_left_out)
        (copy / ".venv").symlink_to(paths.VENV)
        own = copy / ".state"
        own.mkdir(mode=0o700)
        for config in paths.STATE.glob("Pulumi.*.yaml"):
            shutil.copy2(config, own)
        (own / "logs").symlink_to(paths.LOGS)
        if state.PASSPHRASE.exists():  # for secrets that are in a configuration already
            (own / "passphrase").symlink_to(state.PASSPHRASE)
        mine = {**os.environ, "PULUMI_BACKEND_URL": f"file://{own}/backend"}
        if state.pulumi_home(dict(env)) == state.OWN_HOME:
            plugins = state.OWN_HOME / "plugins"
            plugins.mkdir(parents=True, exist_ok=True)
            (own / "pulumi").mkdir()
            (own / "pulumi" / "plugins").symlink_to(plugins)
            mine["PULUMI_HOME"] = str(own / "pulumi")
        if mine.get("PULUMI_CONFIG_PASSPHRASE_FILE") == str(state.PASSPHRASE):  # after `. ./activate`
            del mine["PULUMI_CONFIG_PASSPHRASE_FILE"]
        yield copy, mine


def in_copy(stack: str) -> int:
    """In the copy: decide what `up` would decide, and show what it would make; the exit status. Raises SetupError."""
    # Errors name these, and by then the copy is gone.
    paths.LOGS, paths.VENV = paths.LOGS.resolve(), paths.VENV.resolve()
    config = paths.REPO / f"Pulumi.{stack}.yaml"
    elsewhere = config.exists() and "encryptionsalt" in config.read_text()
    stops: list[SetupError] = []

    def check(name: str, step: Callable[[Step], Any]) -> bool:
        """What `up` would stop at stops no preview: it is told in the end."""
        try:
            return run_step(name, step) is not False
        except SetupError as error:
            stops.append(error)
            return False

    def made(step: Step) -> tuple[dict[str, Any], dict[str, str]]:
        state.prepare(engine.ensure(step))
        env = state.environment()
        wanted = state.describe(stack, step)
        state.ensure_stack(stack, step, env)
        step.note = "in a copy that is deleted afterwards"
        return wanted, env

    wanted, env = run_step("Trial stack", made)
    home = (state.pulumi_home(env) / "plugins").resolve().parent
    remote = over_ssh.is_over_ssh(stack)
    for name in [*(["command"] if remote else []), *wanted["plugins"]]:
        run_step(f"{name.capitalize()} plugin", partial(engine.ensure_plugin, name, pulumi_home=home))
    if remote:
        check("SSH agent", over_ssh.check_agent)
        run_step("Keys", lambda step: _keys(stack, wanted, step, env))
    else:
        check("This machine", preflight.check_machine)
        there = check("Docker", _docker)
        way = run_step("Images", lambda step: _images(wanted, step, there))
        check("Ports", partial(preflight.check_ports, stack, preflight.published(wanted["ports"], way)))
        run_step("Choices", lambda step: choices.make(stack, wanted, way, step, env))
        if there:
            check("Earlier runs", lambda step: recover.recover(stack, step, env))
    up = f"`make up{'' if stack == 'dev' else f' STACK={stack}'}`"
    print(f"\nThere is no stack `{stack}` here yet: this is what {up} would make. Nothing of it is kept.\n")
    if elsewhere:
        print(f"But {config.name} is of a stack that was made before, elsewhere: a preview there compares with that.\n")
    sys.stdout.flush()
    status = _report(stack)
    if status:
        print(f"\n{up} would stop there too. It makes the stack first: from then on `pulumi config set` works.")
    for error in stops:
        print(f"\nBefore that, {up} would stop. {error}")
    return status


def _keys(stack: str, wanted: dict[str, Any], step: Step, env: dict[str, str]) -> None:
    made = choices.make_keys(stack, wanted, step, env)
    step.note = f"to be made: {', '.join(made)}" if made else "as made before"


def _docker(step: Step) -> bool:
    """Whether Docker answers. Raises SetupError where `up` could not make it answer."""
    decision = docker.decide(docker.look()[0])
    if decision.do == "refuse":
        raise step.fail(decision.reason, decision.remedy)
    step.note = {"use": "answers", "start": "`make up` starts it", "install": "`make up` installs it"}[decision.do]
    return decision.do == "use"


def _images(wanted: dict[str, Any], step: Step, docker_there: bool) -> images.Way:
    """Where they would come from, and in the note what of them is not there yet."""
    versions = images.version_set(wanted["versions"])
    decision = choices.image_way(wanted, versions, step)
    absent = images.absent(decision.way, versions) if docker_there else ["all"]
    gets = "builds" if decision.way == "built" else "pulls"
    step.note = f"{decision.way}, {decision.reason}; "
    step.note += f"`make up` {gets} {', '.join(absent)} first" if absent else "all there"
    return decision.way
