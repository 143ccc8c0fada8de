"""Parts of the hosts' scripts, run by bash with stand-ins for the host's programs: what a run that is cut off leaves,
and what the next one makes of it. The whole scripts run on hosts in tests/hosts.
"""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from planning.hosts import steps
from planning.hosts.plan import StepName

DOCKER = """
docker() {
  echo "docker $*" >>calls
  case "$*" in
    "ps "*) printf '%s\\n' model-0 model-1 ;;
    "start gone") echo "no such GPU" >&2; return 1 ;;
  esac
}
systemctl() { echo "systemctl $*" >>calls; [[ $* != *.socket ]]; }
systemd-run() { echo "systemd-run $*" >>calls; }
"""
REBOOT = f"VERSION=580.2 POLICY=allowed SERVING_LABEL=a=b REOPENS_S=300\n{DOCKER}\nloaded_module() {{ echo 580.1; }}\n"


def command(folder: Path, step: StepName, line: str) -> list[str]:
    """What runs `line` with the step's functions, notes in `folder`."""
    script = steps.script(step).replace('main "$@" </dev/null', "")
    settings = f"STEP={step} DIGEST=1 APT_LOCK_S=1 OS=debian_12 OS_ID=debian OS_VERSION=12\n"
    (folder / f"{step}.sh").write_text(f"{settings}{script}\nSTATE={folder} LOCK={folder}/lock\n{line}\n")
    return ["bash", str(folder / f"{step}.sh")]


def run(folder: Path, step: StepName, line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, step, line), cwd=folder, capture_output=True, text=True, check=False)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_a_script_waits_for_one_that_still_runs_and_leaves_the_lock_to_nobody(tmp_path: Path) -> None:
    """What it starts must not keep the lock: Docker, say, which runs for ever."""
    first = subprocess.Popen(
        command(tmp_path, "base", "alone; work() { sleep 60 & echo at work; read -r x; }; work 9>&-"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "at work\n"
        second = run(tmp_path, "driver", "alone; echo in")
        assert second.returncode == 1
        assert second.stdout.startswith("waiting: a step that was started before")
        assert second.stderr.startswith("driver: another step has been running on this host for 1 s: ")
        assert first.stdin is not None
        first.stdin.close()
        first.wait(10)
        assert run(tmp_path, "driver", "alone; echo in").stdout == "in\n", "only what the first one started is left"
    finally:
        first.stdout and first.stdout.close()
        subprocess.run(["kill", "--", f"-{first.pid}"], check=False, stderr=subprocess.DEVNULL)


def test_every_part_of_a_step_runs_without_the_lock() -> None:
    main = steps.script("base").partition("main() {")[2].partition("\n}\n")[0]
    assert 'apply "${@:2}" 9>&-' in main
    assert "undo 9>&-" in main


def test_waiting_for_apt_is_told_and_never_taken_for_a_version(tmp_path: Path) -> None:
    apt = """
apt-get() { echo "E: Could not get lock /x. It is held by process 1" >>asked; cat asked; [[ $(wc -l <asked) -gt 2 ]]; }
apt-cache() { [[ ! -e asked ]] || echo " p | 580.2-1 | x"; }
sleep() { :; }
APT_LOCK_S=60
must_build_of p 580.2
echo "found $BUILD"
"""
    done = run(tmp_path, "driver", apt)
    told, found = done.stdout.splitlines()
    assert told.startswith("waiting for apt: process 1 ")
    assert found == "found 580.2-1"


def test_a_connection_that_is_cut_while_models_are_stopped_leaves_the_reboot_to_come(tmp_path: Path) -> None:
    """Whoever writes to it then ends: between the models' stop and the reboot nothing is written."""
    slow = '"stop "*) touch stopping; until [[ -e cut ]]; do sleep 0.02; done ;;\n    "start gone")'
    line = REBOOT.replace('"start gone")', slow) + "apply"
    running = subprocess.Popen(command(tmp_path, "reboot", line), cwd=tmp_path, stdout=subprocess.PIPE)
    while not (tmp_path / "stopping").exists():
        assert running.poll() is None
        time.sleep(0.02)
    assert running.stdout is not None
    running.stdout.close()
    (tmp_path / "cut").touch()
    assert running.wait(10) == -signal.SIGPIPE
    assert any("systemctl reboot" in call for call in calls(tmp_path))
    assert calls(tmp_path)[-1].startswith("systemctl stop ssh.service"), "to its end"
    assert (tmp_path / "drained").read_text().split() == ["model-0", "model-1"]


@pytest.mark.parametrize(
    "now", ["VERSION=580.1", "POLICY=manual"], ids=["the loaded driver is wanted again", "not allowed any more"]
)
def test_a_reboot_that_was_cut_off_and_is_not_wanted_any_more_is_not_waited_for(tmp_path: Path, now: str) -> None:
    (tmp_path / "rebooting").write_text("this boot\n")
    assert run(tmp_path, "reboot", f"{REBOOT}{now}\napply").returncode == 0
    assert not (tmp_path / "rebooting").exists()


def test_a_model_that_does_not_start_after_the_reboot_keeps_no_other_from_starting(tmp_path: Path) -> None:
    (tmp_path / "drained").write_text("gone\nmodel-0\n")
    done = run(tmp_path, "engine", f"{DOCKER}start_drained\nmust_have_started")
    assert done.stdout == "started model-0\n"
    assert done.stderr.startswith("engine: gone stopped for the reboot, and can't be started again: no such GPU; ")
    assert (tmp_path / "drained").read_text() == "gone\n", "tried again by the next run"


UPLINKS = """
PROGRAM=$PWD/program UNIT=$PWD/unit UPLINKS=eth0=10.0.0.1=1.1.1.1
ensure() { :; }
ip() { if [[ $* == *link* ]]; then echo "2: eth0: <UP>"; else echo "default via 10.0.0.1"; fi; }
systemctl() { echo "systemctl $*" >>calls; if [[ $1 == is-enabled ]]; then echo enabled; fi; }
"""


def test_new_uplinks_are_watched_also_after_runs_that_were_cut_off(tmp_path: Path) -> None:
    """Each ends where it tells that it has written a file."""
    for written in ("program", "unit"):
        assert run(tmp_path, "uplinks", f"{UPLINKS}apply >/dev/full").returncode == 1
        assert (tmp_path / written).exists()
    assert not (tmp_path / "calls").exists()
    whole = f"{UPLINKS}apply; note_done"
    assert run(tmp_path, "uplinks", whole).stdout == "restarted inference-stack-uplinks.service\n"
    assert run(tmp_path, "uplinks", whole).stdout == ""


def test_an_undo_of_uplinks_that_was_cut_off_is_ended_by_the_next(tmp_path: Path) -> None:
    """After it has removed the unit."""
    (tmp_path / "program").touch()
    assert run(tmp_path, "uplinks", f"{UPLINKS}undo").returncode == 0
    assert not (tmp_path / "program").exists()


def test_rules_are_as_old_as_their_loading(tmp_path: Path) -> None:
    """Not as the script, which may have waited for apt: a connection from in between shows nothing."""
    late = 'sleep 0.05; now >since; (($(cat since) > $(started "/proc/$$")))'
    assert run(tmp_path, "firewall", late).returncode == 0
