"""The Makefile's help, and how its commands end."""

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]

ENDED = """
import sys
from tools.setup import __main__, paths
from tools.setup.progress import run_step
from pathlib import Path

paths.LOGS = Path(sys.argv[1]) / "logs"
paths.TIMINGS = Path(sys.argv[1]) / "timings.json"
line = f"echo $$ > {sys.argv[1]}/pid; exec sleep 60"
__main__.up = lambda _stack: run_step("Long", lambda step: step.run(["sh", "-c", line], remedy=""))
sys.argv = ["setup", "up"]
sys.exit(__main__.main())
"""


def test_help_lists_every_target() -> None:
    shown = subprocess.run(["make", "-s", "help"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^([a-z-]+):(?!=)", (REPO / "Makefile").read_text(), re.MULTILINE))
    assert targets
    assert set(re.findall(r"^  make (\S+) +\S", shown, re.MULTILINE)) == targets


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_what_a_step_runs(sent: signal.Signals, tmp_path: Path) -> None:
    """Steps' commands lead sessions of their own: nothing else would end them."""
    command = subprocess.Popen(
        [sys.executable, "-c", ENDED, str(tmp_path)],
        cwd=REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has given them a deaf ear for it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    noted = tmp_path / "pid"
    try:
        _until(lambda: noted.exists() and noted.read_text().strip() != "")
        child = Path("/proc") / noted.read_text().strip()
        assert child.exists()
        command.send_signal(sent)
        out, err = command.communicate(timeout=20)
    finally:
        command.kill()
    assert command.returncode == 130
    assert "what has begun is finished first" in out
    assert "The same command goes on from here" in err
    assert not child.exists()


def _until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
