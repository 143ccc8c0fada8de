"""The commands behind the Makefile, on Python's standard library alone: `python3 -m tools.setup --help`."""

from __future__ import annotations

import argparse
import errno
import signal
import sys
from pathlib import Path
from types import FrameType

from tools.setup import down, over_ssh, paths, preview, state, venv
from tools.setup.progress import NO_SPACE, SetupError, run_step
from tools.setup.up import parts, up


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End as by Ctrl-C: the commands that a step runs lead sessions of their own, and would otherwise go on."""
    raise KeyboardInterrupt


def _told(error: OSError) -> SetupError:
    """What the operating system refused, in a user's words. Raises `error` itself where we know none."""
    if error.errno == errno.ENOENT and error.filename == "docker":
        return SetupError("Docker", "the command `docker` is not on PATH", "`make parts` gets it, or says how")
    if error.errno == errno.ENOSPC:
        return SetupError("Files", f"{error.filename or 'a file'}: {error.strerror}", NO_SPACE)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
        file = Path(error.filename)
        ours = next((f for f in (paths.STATE, paths.VENV, paths.cache()) if file.is_relative_to(f)), file)
        return SetupError(
            "Files",
            f"{file}: {error.strerror}",
            f"it must be yours: if another user (root?) ran this before, `sudo chown -R $USER {ours}`",
        )
    raise error


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tools.setup", description="Set up and run a stack.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_ in (
        ("up", "get every part, run `pulumi up`, ask a question"),
        ("preview", "what `up` would change; before the first one, what it would make"),
        ("down", "destroy what `up` made, except the model cache"),
        ("clean", "down, then remove model cache, images and caches of ours"),
        ("logs", "how the services are, or one service's last lines"),
        ("key", "print an API key"),
    ):
        command = commands.add_parser(name, help=help_)
        command.add_argument("--stack", default="dev")
        if name in ("logs", "key"):
            command.add_argument("name", nargs="?", default="")
        if name == "preview":
            command.add_argument("--in-copy", action="store_true", help="of `preview`'s own: this is a copy to delete")
    commands.add_parser("dev", help="the development environment")
    commands.add_parser("parts", help="Docker, Pulumi and the images of the dev stack, for tests; runs nothing")
    commands.add_parser("lock", help="write requirements*.txt anew from pyproject.toml")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        match args.command:
            case "up" if over_ssh.is_over_ssh(args.stack):
                over_ssh.up(args.stack)
            case "up":
                up(args.stack)
            case "preview":
                return preview.in_copy(args.stack) if args.in_copy else preview.preview(args.stack)
            case "down":
                down.down(args.stack)
            case "clean":
                down.clean(args.stack)
            case "logs":
                down.logs(args.stack, args.name)
            case "key":
                down.key(args.stack, args.name)
            case "lock":
                venv.lock()
            case "parts":
                state.prepare(parts("dev")[2])
            case _:
                run_step("Python packages", lambda step: venv.ensure(step, dev=True))
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\n{_told(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nStopped. The same command goes on from here; logs are in {paths.LOGS}.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
