"""Programs from Go modules, each in the version that the module's go.mod and go.sum pin."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tools.setup import paths
from tools.setup.progress import Step

AT_LEAST = (1, 26)
WANTED = ".".join(map(str, AT_LEAST))
REMEDY = "see the log; what was compiled is kept, so running again goes on from here"


def find(step: Step, why: str, remedy: str) -> str:
    """The machine's Go. Raises SetupError when there is none that is new enough: `why` it is needed, and `remedy`."""
    go = shutil.which("go")
    if go is None or _version(go) < AT_LEAST:
        raise step.fail(why + ("Go is too old to build it" if go else "there is no Go to build it"), remedy)
    return go


def environment() -> dict[str, str]:
    """The machine's own GOPROXY, GOFLAGS and GOSUMDB hold; -mod=readonly is what enforces go.sum.

    Sources and compiled packages go into our cache, unless this machine's environment names another place.
    """
    caches = {"GOMODCACHE": str(_own() / "mod"), "GOCACHE": str(_own() / "build")}
    return {**caches, **os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def forget() -> None:
    """Remove sources and compiled packages, which are of no use once all is built: 6 GB for Pulumi.

    They stay while another build on this machine needs them.
    """
    with _locked(fcntl.LOCK_EX | fcntl.LOCK_NB) as alone:
        if alone and _own().exists():
            subprocess.run(["chmod", "-R", "u+w", _own()], check=False)  # Go writes its sources read-only
            shutil.rmtree(_own(), ignore_errors=True)


def _own() -> Path:
    return paths.cache() / "go"


@contextlib.contextmanager
def _locked(how: int) -> Iterator[bool]:
    """Hold the lock of our Go caches, as one of many builds or alone; False when that would be to wait."""
    lock = paths.cache() / "go.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            yield False
        else:
            yield True


def build(
    step: Step,
    go: str,
    module: Path,
    package: str,
    output: Path,
    *flags: str,
    link: str = "",
    tags: str = "osusergo",
) -> None:
    """Build one package of a module into the file `output`. Raises SetupError."""
    fixed = ["-mod=readonly", "-buildvcs=false", "-trimpath", "-tags", tags, *flags]
    with _locked(fcntl.LOCK_SH):
        step.run(
            [go, "build", *fixed, "-ldflags", f"-s -w {link}", "-o", output, package],
            cwd=module,
            env=environment(),
            remedy=REMEDY,
            show=lambda line: f"{output.name}: {line[-60:]}",
        )


def _version(go: str) -> tuple[int, ...]:
    done = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    numbers = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, numbers.groups())) if numbers else (0,)
