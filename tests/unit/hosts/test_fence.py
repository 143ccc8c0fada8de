"""How fence.sh, with a stand-in for Docker, leaves alone what can't be ended, and where its notes are told.

On a host it runs in tests/hosts/test_crashes.py.
"""

import os
import subprocess
from pathlib import Path

import pytest

from planning.hosts.drift import Difference, differences, repairs
from planning.hosts.steps import SCRIPTS
from tests.unit.hosts import prepared, shaped
from tools.setup import objects, over_ssh

ID = "1f" * 32
DOCKER = f"""#!/bin/sh
echo "$1" >>calls
case "$*" in
  "ps "*) echo {ID} ;;
  *"{{{{.State.Running}}}} {ID}") echo true ;;
  "stop "*) echo "tried to kill container, but did not receive an exit event" >&2; exit 1 ;;
  "inspect "*) echo "{ID}|/model|serving|true|$(cat started)|$(cat restarts)||||1|" ;;
esac
"""


def look(folder: Path) -> list[str]:
    """What is asked of Docker in one look."""
    (folder / "calls").write_text("")
    text = (SCRIPTS / "fence.sh").read_text()
    text = text.replace("/var/lib/inference-stack", str(folder)).replace("/run/inference", f"{folder}/inference")
    path = f"{folder}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", text], cwd=folder, env={"PATH": path}, check=True)
    return (folder / "calls").read_text().split()


def test_what_can_not_be_ended_is_told_once_and_not_tried_again(tmp_path: Path) -> None:
    for name, program in (("docker", DOCKER), ("journalctl", "#!/bin/sh\n")):
        (tmp_path / name).write_text(program)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "started").write_text("then")
    (tmp_path / "restarts").write_text("0")
    look(tmp_path)
    (tmp_path / "restarts").write_text("6")
    assert "stop" in look(tmp_path)
    note = tmp_path / "pending" / "fenced-model"
    assert "it died 6 times within 3600 s" in note.read_text()
    assert note.read_text().endswith("Its processes can't be ended: reboot this host first\n")
    assert "stop" not in look(tmp_path)
    assert note.exists()
    # After the reboot somebody has started it.
    (tmp_path / "started").write_text("later")
    (tmp_path / "restarts").write_text("0")
    assert "stop" not in look(tmp_path)
    assert not note.exists()


def test_a_fenced_replica_is_drift_that_a_person_mends() -> None:
    spec = prepared.spec()
    why = "inference-prod-chat-0 is fenced since 2026-11-21 12:00 UTC: it died 6 times within 3600 s"
    facts = prepared.facts(spec, pending={"fenced-inference-prod-chat-0": why})
    assert differences(shaped.HOST, spec, facts) == (Difference(step="engine", says=why, by_step=False),)
    assert repairs(shaped.HOST, spec, facts) == {}


def test_make_up_ends_with_what_is_fenced(monkeypatch: pytest.MonkeyPatch) -> None:
    why = {"one": ["chat-0 is fenced since noon: it hangs", "chat-1 is, too"], "two": []}
    monkeypatch.setattr(objects, "places", lambda _stack: {host: (host,) for host in why})
    monkeypatch.setattr(objects, "noted", lambda on: why[on[0]])
    said = over_ssh.report("prod", "one", {}, None, 1).splitlines()
    assert [line for line in said if "two" in line or "one" in line] == [f"  one: {line}" for line in why["one"]]
