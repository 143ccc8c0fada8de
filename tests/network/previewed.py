"""A clone with a stack that is only previewed: by the program itself, on the real Pulumi."""

import os
from pathlib import Path

from tests.deploy.clone import REPO, Clone, make_clone
from tools.setup import engine, paths
from tools.setup.progress import Step


def previewed(folder: Path, stack: str) -> Clone:
    """Below `folder`, with a backend and a folder of plugins, `home`, of its own; its stack is the one of dev.yaml."""
    paths.LOGS.mkdir(parents=True, exist_ok=True)
    step = Step("Pulumi", paths.LOGS / f"test-preview-{stack}.log")
    try:
        found = engine.ensure(step)
    finally:
        step.close()
    home = folder / "home"
    engine.link_plugin(found, home)
    (folder / "backend").mkdir()
    env = {
        "PATH": f"{REPO}/.venv/bin:{found.bin_dir}:{os.environ['PATH']}",
        "PULUMI_HOME": str(home),
        "PULUMI_BACKEND_URL": f"file://{folder}/backend",
        "PULUMI_CONFIG_PASSPHRASE": "test",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
    }
    made = make_clone(folder / "inference-stack", stack=stack, env=env)
    made.run("pulumi", "stack", "init", stack)
    return made


def preview(clone: Clone) -> tuple[int, str]:
    """Exit status, and all that is said."""
    done = clone.run("python", "-m", "tools.report", "--stack", clone.stack, check=False)
    return done.returncode, done.stdout + done.stderr
