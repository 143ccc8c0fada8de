"""What steps print, log and raise."""

import json
import sys
import time
from pathlib import Path

import pytest

from tools.setup import paths, progress
from tools.setup.progress import SetupError, Step, Stopped, run_step, run_steps


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(paths, "TIMINGS", tmp_path / "timings.json")


def test_an_error_names_step_reason_remedy_and_log() -> None:
    error = SetupError("Docker", "it is gone\nreally", "start it", Path("/x/docker.log"))
    assert str(error) == ("Docker: it is gone\n    really\n  What to do: start it\n  Full log: /x/docker.log")


def test_a_short_step_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def step(step: Step) -> int:
        step.note = "already there"
        return 7

    assert run_step("Python packages", step) == 7
    printed = capsys.readouterr().out
    assert printed.startswith("ok    Python packages")
    assert printed.endswith("already there\n")
    assert printed.count("\n") == 1


def test_a_failed_command_tells_its_last_lines_and_the_log_has_all() -> None:
    script = "for i in range(40): print('line', i)\nraise SystemExit(3)"
    with pytest.raises(SetupError) as error:
        run_step("Build it", lambda step: step.run([sys.executable, "-c", script], remedy="mend it"))
    assert "ended with status 3" in error.value.reason
    assert "line 39" in error.value.reason
    assert "line 20" not in error.value.reason
    assert error.value.remedy == "mend it"
    assert error.value.log is not None
    assert "line 0\n" in error.value.log.read_text()


def test_a_missing_program_is_an_error_with_the_remedy() -> None:
    with pytest.raises(SetupError, match="can't run `no-such-program`"):
        run_step("x", lambda step: step.run(["no-such-program"], remedy="install it"))


def test_what_goes_to_stdin_is_not_logged() -> None:
    def step(step: Step) -> Path:
        step.run([sys.executable, "-c", "import sys; print(len(sys.stdin.read()))"], remedy="", stdin="hunter2")
        return step.log

    log = run_step("x", step).read_text()
    assert "7" in log
    assert "hunter2" not in log


def test_the_first_failure_ends_the_others_and_is_the_one_raised() -> None:
    def fails(step: Step) -> None:
        time.sleep(0.2)
        raise step.fail("broken", "mend it")

    def long(step: Step) -> None:
        step.run(["sh", "-c", "sleep 60; true"], remedy="")

    started = time.monotonic()
    with pytest.raises(SetupError, match="broken"):
        run_steps({"long": long, "fails": fails})
    assert time.monotonic() - started < 10


def test_a_step_that_waits_for_a_failed_one_is_not_the_error() -> None:
    def fails(step: Step) -> None:
        raise step.fail("broken", "mend it")

    def waits(step: Step) -> None:
        assert step.stopping.wait(10)
        raise Stopped

    with pytest.raises(SetupError, match="broken"):
        run_steps({"waits": waits, "fails": fails})


def test_long_steps_show_life_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.1)
    run_step("x", lambda step: step.run(["sh", "-c", "echo halfway; sleep 1.5"], remedy=""))
    assert "halfway" in capsys.readouterr().out


def test_wall_times_are_kept() -> None:
    run_step("timed", lambda _: time.sleep(0.2))
    steps = json.loads(paths.TIMINGS.read_text())["steps"]
    assert steps[-1]["step"] == "timed"
    assert steps[-1]["seconds"] >= 0.2


def test_a_full_disk_is_told_as_such() -> None:
    line = "echo 'write /blob: No space left on device'; exit 1"
    with pytest.raises(SetupError, match="No space left on device") as error:
        run_step("x", lambda step: step.run(["sh", "-c", line], remedy="look at the registry"))
    assert "free space on the disk that is full" in error.value.remedy


def test_a_step_goes_on_when_its_log_has_no_room() -> None:
    paths.LOGS.mkdir()
    (paths.LOGS / "x.log").symlink_to("/dev/full")
    paths.TIMINGS.with_suffix(".tmp").symlink_to("/dev/full")
    assert run_step("x", lambda step: step.run(["echo", "done"], remedy="")) == "done\n"


def test_timings_tell_the_cpu_seconds_of_commands() -> None:
    def used(code: str) -> float:
        run_step("x", lambda step: step.run([sys.executable, "-c", code], remedy=""))
        return float(json.loads(paths.TIMINGS.read_text())["steps"][-1]["cpu_s"])

    before = used("pass")
    assert used("import time\nwhile time.process_time() < 0.3: pass") >= before + 0.29
