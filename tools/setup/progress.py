"""Steps that show what they do, keep a log, and fail with a remedy.

A step is a function that takes a `Step`. `run_step` runs one, `run_steps` several side by side. Each ends in
one line ("ok", or "FAIL" with reason and remedy as a `SetupError`), writes everything its commands print to
.state/logs/<step>.log, and its wall time to .state/timings.json. Anything over two seconds shows that it is
alive: on a terminal by a status line, otherwise by a line every 15 s.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any, TextIO, TypeVar

from tools.setup import paths

T = TypeVar("T")

QUIET_SECONDS = 2.0
"""A step shorter than this shows its last line only."""
LINE_EVERY = 15.0
"""Seconds between two signs of life where the output isn't a terminal."""
TAIL_LINES = 12
"""Lines of a failed command that its error repeats; the log has them all."""
NO_SPACE = (
    "free space on the disk that is full (`df -h` shows which; `docker system df`, what Docker keeps), then run the "
    "same command again: it goes on from here"
)
STOPPING = "Stopping: what has begun is finished first. A second Ctrl-C does not wait; the next run then tidies up."


class SetupError(Exception):
    """A step failed: which, why, and what to do. `str()` is what a user reads."""

    def __init__(self, step: str, reason: str, remedy: str, log: Path | None = None) -> None:
        self.step, self.reason, self.remedy, self.log = step, reason, remedy, log
        super().__init__(step, reason, remedy)

    def __str__(self) -> str:
        def indented(text: str) -> str:
            return text.strip().replace("\n", "\n    ")

        lines = [f"{self.step}: {indented(self.reason)}", f"  What to do: {indented(self.remedy)}"]
        if self.log is not None:
            lines.append(f"  Full log: {self.log}")
        return "\n".join(lines)


class Stopped(Exception):
    """Another step failed, so this one's commands were ended."""


class Step:
    """One running step: its status, its note for the final line, its log, its commands."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.note = ""
        self.log = log
        self.started = time.monotonic()
        self.status = ""
        self.last_shown = self.started
        self.stopping = threading.Event()
        self._log: IO[str] = log.open("w", encoding="utf-8", errors="replace")
        self._children: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def say(self, text: str) -> None:
        """Set the status (shown once the step has lasted two seconds) and log it."""
        self.status = text
        self.write(f"# {text}\n")

    def write(self, text: str) -> None:
        with self._lock, contextlib.suppress(OSError):  # a full disk must not end what still goes well
            if not self._log.closed:
                self._log.write(text)
                self._log.flush()

    def fail(self, reason: str, remedy: str) -> SetupError:
        """An error of this step, to raise."""
        return SetupError(self.name, reason, remedy, self.log)

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        remedy: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        show: Callable[[str], str | None] = lambda line: line,
    ) -> str:
        """Run a command to its end; its output goes to the log, its last line is the status; returns it all.

        `env` replaces the environment. `show` turns an output line into a status (None: keep the last one).
        What is given on `stdin` isn't logged. Raises SetupError with the command's last lines when it fails or
        can't start.
        """
        words = [os.fspath(word) for word in argv]
        self.write(f"$ {' '.join(words)}\n")
        if self.stopping.is_set():
            raise Stopped
        try:
            child = subprocess.Popen(
                words,
                cwd=cwd,
                env=None if env is None else dict(env),
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,  # so that stop() ends what the command has started as well
            )
        except OSError as error:
            raise self.fail(f"can't run `{words[0]}`: {error.strerror}", remedy) from error
        with self._lock:
            self._children.add(child)
        output: list[str] = []
        try:
            if stdin is not None and child.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.write(stdin)
                    child.stdin.close()
            assert child.stdout is not None
            for line in child.stdout:
                output.append(line)
                self.write(line)
                shown = show(line.strip())
                if shown:
                    self.status = shown
            status = child.wait()
        finally:
            if child.poll() is None:
                _end(child)
            with self._lock:
                self._children.discard(child)
        if self.stopping.is_set():
            raise Stopped
        if status != 0:
            tail = "".join(deque((line for line in output if line.strip()), TAIL_LINES))
            full = any("no space left on device" in line.lower() for line in output)
            raise self.fail(
                f"`{' '.join(words[:4])}` ended with status {status}:\n{tail}", NO_SPACE if full else remedy
            )
        return "".join(output)

    def interrupt(self) -> None:
        """Ask the step's commands to end; the step then fails as if they had failed by themselves."""
        with self._lock:
            for child in self._children:
                _end(child)

    def stop(self) -> None:
        """End the step's commands: another step failed, or the user interrupted."""
        self.stopping.set()
        self.interrupt()

    def close(self) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._log.close()


def _end(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)


def run_step(name: str, fn: Callable[[Step], T]) -> T:
    """Run one step; returns what it returns. Raises SetupError."""
    return run_steps({name: fn})[name]  # type: ignore[no-any-return]


def run_steps(steps: Mapping[str, Callable[[Step], Any]]) -> dict[str, Any]:
    """Run steps side by side; returns their results by name.

    The first that fails is reported at once, the others' commands are ended, and its SetupError is raised: a
    later run goes on from what they have finished.
    """
    paths.LOGS.mkdir(parents=True, exist_ok=True)
    running = {name: Step(name, paths.LOGS / f"{slug(name)}.log") for name in steps}
    width = max(len(name) for name in steps)
    screen = Screen(sys.stdout, width)

    def one(name: str) -> Any:
        step = running[name]
        try:
            result = steps[name](step)
        except SetupError as error:
            _record(step, failed=True)
            screen.end(step, "FAIL", error.reason.strip().splitlines()[0])
            raise
        except Stopped:
            screen.end(step, "left", "stopped before its end")
            raise
        except Exception as error:
            _record(step, failed=True)
            screen.end(step, "FAIL", f"{type(error).__name__}: {error}")
            raise
        _record(step)
        screen.end(step, "ok", step.note)
        return result

    with screen.watching(running.values()), ThreadPoolExecutor(max_workers=len(steps)) as pool:
        futures = {name: pool.submit(one, name) for name in steps}
        try:
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            if any(future.exception() for future in done):
                for step in running.values():
                    step.stop()
                wait(futures.values())
        except BaseException:  # Ctrl-C: the terminal has told the children too, but not when run from a script
            for step in running.values():
                step.stop()
            screen.say(STOPPING)
            raise
        finally:
            if all(future.done() for future in futures.values()):
                for step in running.values():
                    step.close()
    errors = [error for future in futures.values() if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
        raise error
    return {name: future.result() for name, future in futures.items()}


def slug(name: str) -> str:
    """A step's name as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Screen:
    """Writes steps' lines: a status line on a terminal, a line now and then elsewhere."""

    def __init__(self, out: TextIO, width: int) -> None:
        self.out, self.width = out, width
        self.tty = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._lock = threading.Lock()
        self._status_shown = False
        self._ended: set[str] = set()

    def end(self, step: Step, mark: str, note: str) -> None:
        with self._lock:
            self._ended.add(step.name)
            self._clear()
            self._print(f"{mark:<5} {step.name:<{self.width}}  {step.seconds:6.1f} s  {note}".rstrip())

    def say(self, line: str) -> None:
        with self._lock:
            self._clear()
            self._print(line)

    def tick(self, steps: Sequence[Step]) -> None:
        now = time.monotonic()
        with self._lock:
            alive = [step for step in steps if step.name not in self._ended and step.seconds > QUIET_SECONDS]
            if self.tty:
                self._clear()
                if alive:
                    columns = _columns(self.out)
                    parts = [f"{step.name} {step.seconds:.0f} s {step.status}".strip() for step in alive]
                    share = max(12, (columns - 8) // len(parts) - 3)
                    self.out.write(("...   " + " | ".join(part[:share] for part in parts))[: columns - 1])
                    self.out.flush()
                    self._status_shown = True
                return
            for step in alive:
                if now - step.last_shown >= LINE_EVERY:
                    step.last_shown = now
                    self._print(f"...   {step.name:<{self.width}}  {step.seconds:6.1f} s  {step.status[:90]}".rstrip())

    @contextlib.contextmanager
    def watching(self, steps: Any) -> Iterator[None]:
        every = list(steps)
        stop = threading.Event()

        def loop() -> None:
            while not stop.wait(0.25 if self.tty else 0.5):
                self.tick(every)

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with self._lock:
                self._clear()

    def _clear(self) -> None:
        if self._status_shown:
            self.out.write("\r\x1b[K")
            self._status_shown = False

    def _print(self, line: str) -> None:
        self.out.write(line + "\n")
        self.out.flush()


def _columns(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns
    except (OSError, ValueError):
        return 80


_RUN_STARTED = time.time()
_timings: list[dict[str, Any]] = []
_timings_lock = threading.Lock()


def _record(step: Step, *, failed: bool = False) -> None:
    """Add a step to .state/timings.json, the steps of the last run: start and length in seconds.

    `cpu_s` is what this process and its commands have used so far, of all steps; what Docker does itself isn't in it.
    """
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    entry = {
        "step": step.name,
        "started": round(time.time() - step.seconds - _RUN_STARTED, 2),
        "seconds": round(step.seconds, 2),
        "cpu_s": round(sum(one.ru_utime + one.ru_stime for one in used), 2),
        "note": step.note,
        "failed": failed,
    }
    with _timings_lock, contextlib.suppress(OSError):
        _timings.append(entry)
        paths.TIMINGS.parent.mkdir(parents=True, exist_ok=True)
        scratch = paths.TIMINGS.with_suffix(".tmp")
        scratch.write_text(json.dumps({"run_started": _RUN_STARTED, "steps": _timings}, indent=1) + "\n")
        scratch.replace(paths.TIMINGS)
