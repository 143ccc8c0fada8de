"""The Python environment in .venv, from the hash locks requirements.txt and requirements-dev.txt."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from tools.setup import paths
from tools.setup.progress import Step

LOCKS = {"run": paths.REPO / "requirements.txt", "dev": paths.REPO / "requirements-dev.txt"}
PYTHON_AT_LEAST = (3, 11)


def ensure(step: Step, *, dev: bool = False) -> Path:
    """Make .venv hold the run lock (dev: the development lock, which includes it); returns its bin folder.

    No-op when it does. Raises SetupError.
    """
    if sys.version_info < PYTHON_AT_LEAST:
        raise step.fail(
            f"this is Python {sys.version.split()[0]}; 3.11 or newer is needed",
            "install python3.11 or newer, and run `make up PYTHON=python3.11`",
        )
    if importlib.util.find_spec("ensurepip") is None and not (paths.VENV / "bin" / "pip").exists():
        raise step.fail("this Python can't make environments", "`apt-get install python3-venv` (on Debian, Ubuntu)")
    bin_dir = paths.VENV / "bin"
    lock = LOCKS["dev" if dev else "run"]
    # A development environment serves for running too.
    stamps = {paths.VENV / f".{kind}-{_digest(LOCKS[kind])}" for kind in ({"dev"} if dev else {"run", "dev"})}
    if any(stamp.exists() for stamp in stamps) and (bin_dir / "python").exists():
        step.note = "already there"
        return bin_dir
    remedy = "check that this machine reaches its package index (pip's own settings count), and run again"
    if not (bin_dir / "python").exists():
        step.say("making .venv")
        step.run([sys.executable, "-m", "venv", "--clear", paths.VENV], remedy=remedy)
    step.say(f"installing from {lock.name}")
    pip: list[str | Path] = [bin_dir / "python", "-m", "pip", "install", "--quiet", "--require-hashes"]
    flags: list[str | Path] = ["--only-binary", ":all:", "--disable-pip-version-check", "--requirement", lock]
    step.run([*pip, *flags], remedy=remedy)
    for old in paths.VENV.glob(".run-*"):
        old.unlink()
    for old in paths.VENV.glob(".dev-*"):
        old.unlink()
    (paths.VENV / f".{'dev' if dev else 'run'}-{_digest(lock)}").touch()
    step.note = f"installed from {lock.name}"
    return bin_dir


def lock() -> None:
    """Write both locks anew from pyproject.toml. For developers: needs uv in .venv."""
    uv = shutil.which("uv", path=str(paths.VENV / "bin")) or "uv"
    shared = [
        "--generate-hashes",
        "--universal",
        "--python-version",
        "3.11",
        "--no-emit-index-url",
        "--quiet",
    ]
    header = "python3 -m tools.setup lock"
    for kind, extra in (("run", []), ("dev", ["--group", "dev"])):
        argv = [uv, "pip", "compile", *shared, "--custom-compile-command", header, *extra]
        subprocess.run([*argv, "pyproject.toml", "-o", LOCKS[kind].name], cwd=paths.REPO, check=True)


def _digest(lock: Path) -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}\n"
    return hashlib.sha256(version.encode() + lock.read_bytes()).hexdigest()[:16]
