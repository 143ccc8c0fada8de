"""What no test host can show of fence.sh: a process that the kernel lets nobody end. Docker is a stand-in."""

import os
import subprocess
from pathlib import Path

from planning.hosts.steps import SCRIPTS

ID = "1f" * 32
DOCKER = f"""#!/bin/sh
echo "$1" >>calls
case "$*" in
  "ps "*) echo {ID} ;;
  *"{{{{.State.Running}}}} {ID}") echo true ;;
  "stop "*) echo "tried to kill container, but did not receive an exit event" >&2; exit 1 ;;
  "inspect "*) echo "{ID}|/model|true|$(cat started)|$(cat restarts)|||1|" ;;
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
