"""A double of Pulumi's command plugin, for machines where the real one can't be had.

It runs `command:remote:Command` through OpenSSH and does what was read in, and seen of, the real plugin 1.2.1 (pulumi/
pulumi-command, provider/pkg/provider/remote); tests/hosts/test_plugin.py holds that, and tests the real one instead
where $INFERENCE_STACK_COMMAND_PLUGIN names its folder.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

from tests.deploy.clone import REPO
from tools.setup import processes

VERSION = "1.2.1"
REAL_VARIABLE = "INFERENCE_STACK_COMMAND_PLUGIN"
"""Names the folder with the real plugin's binary."""
BINARY = "pulumi-resource-command"


def install(pulumi_home: Path) -> Path:
    """Put the real plugin, where there is one, or the double where Pulumi finds it below `pulumi_home`."""
    folder = pulumi_home / "plugins" / f"resource-command-v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    binary = folder / BINARY
    real = os.environ.get(REAL_VARIABLE)
    if real:
        shutil.copy2(Path(real) / BINARY, binary)
        return binary
    python = REPO / ".venv" / "bin" / "python"
    runs = shlex.join([str(python if python.exists() else sys.executable), "-m", "tests.hosts.plugin"])
    binary.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(REPO))} PYTHONDONTWRITEBYTECODE=1 exec {runs} "$@"\n')
    binary.chmod(0o755)
    return binary


def end_leftovers(clone: Path) -> None:
    """End what killed runs of a clone's Pulumi have left: plugins live on in process groups of their own."""
    mark = f"PULUMI_BACKEND_URL=file://{clone}/.state/backend".encode()
    processes.end(processes.find(mark, (b"tests.hosts.plugin", b"pulumi")), 2)


__all__ = ["REAL_VARIABLE", "VERSION", "end_leftovers", "install"]
