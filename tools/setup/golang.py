"""Programs from Go modules, each in the version that the module's go.mod and go.sum pin."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

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
    """The machine's own GOPROXY, GOFLAGS and GOSUMDB hold; -mod=readonly is what enforces go.sum."""
    return {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}


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
