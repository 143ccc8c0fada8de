"""`make up` of a stack on hosts over SSH: this machine runs Pulumi only, and asks the first question by a tunnel."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from tools.setup import chat, choices, engine, objects, paths, recover, state, venv
from tools.setup.progress import SetupError, Step, run_step, run_steps
from tools.setup.up import example, pulumi_errors, pulumi_warnings, read_outputs

_OVER_SSH = re.compile(r"^[^#\n]*\bkind:\s*[\"']?ssh\b", re.MULTILINE)
_MESH = re.compile(r"^[^#\n]*\bmesh[\"']?:", re.MULTILINE)
TUNNEL_S = 20
"""For ssh to log in and to listen."""


def is_over_ssh(stack: str) -> bool:
    """Whether the stack's file names a host over SSH. Asked before there is anything here that reads YAML."""
    file = paths.REPO / "stack_configs" / f"{stack}.yaml"
    return file.exists() and bool(_OVER_SSH.search(file.read_text(errors="replace")))


def is_in_mesh(stack: str) -> bool:
    """Whether the stack's file names a mesh."""
    return bool(_MESH.search((paths.REPO / "stack_configs" / f"{stack}.yaml").read_text(errors="replace")))


def up(stack: str) -> None:
    """Prepare the hosts and run everything on them. Raises SetupError; a second run goes on from what is done."""
    started = time.monotonic()
    run_step("SSH agent", check_agent)
    found: engine.Engine = run_steps({"Python packages": venv.ensure, "Pulumi": engine.ensure})["Pulumi"]
    state.prepare(found)
    env = state.environment()
    run_step("Command plugin", lambda step: engine.ensure_plugin("command", step, state.pulumi_home(env)))

    def stack_ready(step: Step) -> dict[str, Any]:
        wanted = state.describe(stack, step)
        state.ensure_stack(stack, step, env)
        made = choices.make_keys(stack, wanted, step, env)
        if made:
            step.note = f"made {', '.join(made)}: now in Pulumi.{stack}.yaml, which you may commit (keys are encrypted)"
        return wanted

    wanted = run_step("Stack and keys", stack_ready)
    for name in wanted["plugins"]:
        run_step(f"{name.capitalize()} plugin", partial(engine.ensure_plugin, name, pulumi_home=state.pulumi_home(env)))
    run_step("Earlier runs", lambda step: recover.recover(stack, step, env, over_ssh=True))
    if not agreed(run_step("Preview", lambda step: _preview(stack, step, env))):
        print("Nothing was changed on the hosts.")
        return
    for warning in run_step("pulumi up", lambda step: _pulumi_up(stack, step, env)):
        print(warning)
    if is_in_mesh(stack):
        run_step("Mesh nodes", lambda step: forget_nodes(stack, step, env))
    outputs = run_step("Outputs", lambda step: read_outputs(stack, step, env))
    key, host = outputs.pop("key"), wanted["gateway_host"]
    answer = None
    if outputs.get("url") and outputs["models"]:
        answer = run_step("First question", lambda step: ask(stack, host, step, outputs, key))
    print(report(stack, host, outputs, answer, time.monotonic() - started))


def check_agent(step: Step) -> None:
    """Hosts are logged in to with keys of the user's SSH agent, so that no private key is in any state."""
    try:
        done = subprocess.run(["ssh-add", "-l"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise step.fail("there is no ssh here", "`apt-get install openssh-client` (on Debian, Ubuntu)") from error
    if done.returncode != 0:
        raise step.fail(
            "no SSH agent with a key in it: " + (done.stdout + done.stderr).strip(),
            'hosts are logged in to with your agent\'s keys: `eval "$(ssh-agent)" && ssh-add`, then run again',
        )
    step.note = f"{len(done.stdout.splitlines())} keys"


def _preview(stack: str, step: Step, env: dict[str, str]) -> str:
    """What `make preview` says; empty where it can't be had, which `pulumi up` then gives the reason for."""
    argv = [str(paths.VENV / "bin" / "python"), "-m", "tools.report", "--stack", stack]
    try:
        return step.run(argv, cwd=paths.REPO, env=env, remedy="`pulumi up` says what is wrong").strip()
    except SetupError:
        step.note = "there is none"
        return ""


def agreed(preview: str) -> bool:
    """Show what will happen; on a terminal, whether that is wanted: hosts may reboot, and models stop."""
    if not preview or "Nothing would change" in preview:
        return True
    print(f"\n{preview}\n", flush=True)
    return not sys.stdin.isatty() or input("Type `yes` to go on: ").strip() == "yes"


def _pulumi_up(stack: str, step: Step, env: dict[str, str]) -> list[str]:
    argv = ["pulumi", "up", "--yes", "--skip-preview", "--non-interactive", "--color", "never", "-s", stack]
    try:
        with recover.noted(stack):
            out = step.run(argv, cwd=paths.REPO, env=env, remedy="docs/troubleshooting.md; `make up` goes on from here")
    except SetupError as error:
        output = error.log.read_text(errors="replace") if error.log and error.log.exists() else error.reason
        told = pulumi_errors(output) if "\nDiagnostics:\n" in output else error.reason
        raise state.explained(SetupError(error.step, told, error.remedy, error.log)) from error
    counts = re.findall(r"^ +([+~-]{1,2}-? ?\d+ \w+|\d+ unchanged)$", out, re.MULTILINE)
    step.note = ", ".join(count.strip() for count in counts)
    return pulumi_warnings(out)


def forget_nodes(stack: str, step: Step, env: dict[str, str], *words: str) -> None:
    """Take hosts that have left out of the mesh. Where that can't be done it is told: nothing else waits for it."""
    argv = [str(paths.VENV / "bin" / "python"), "-m", "tools.nodes", "--stack", stack, *words]
    try:
        done = step.run(argv, cwd=paths.REPO, env=env, remedy="`make policy` tells of them").strip()
        step.note = done or "none to remove"
    except SetupError as error:
        step.note = error.reason.strip().splitlines()[-1]


def ask(stack: str, host: str, step: Step, outputs: dict[str, Any], key: str) -> str:
    model = outputs["models"][0]
    port = urlsplit(outputs["url"]).port or 80
    try:
        with tunnel(stack, host, port, step) as url:
            answer = chat.ask(url, key, model)
    except chat.NoAnswer as error:
        raise step.fail(
            f"error: no answer from the gateway on {host}: {error}",
            f"`docker ps --all` and `docker logs` on {host} tell of each service; docs/troubleshooting.md",
        ) from error
    step.note = f"{answer.tokens} tokens from {model}"
    return answer.text


@contextlib.contextmanager
def tunnel(stack: str, host: str, port: int, step: Step) -> Iterator[str]:
    """The gateway's base URL as it is reached from here while this lasts. Raises SetupError."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *("ssh", "-F", objects.ssh_config(stack), "-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes"),
            *("-N", "-L", f"127.0.0.1:{free}:127.0.0.1:{port}", host),
        ],
        cwd=paths.REPO,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + TUNNEL_S
        while not _listens(free):
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                said = process.stderr.read().strip() if process.stderr else ""
                raise step.fail(f"no tunnel to {host}: {said or 'ssh stays silent'}", "see that the host is up")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{free}/v1"
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def report(stack: str, host: str, outputs: dict[str, Any], answer: str | None, seconds: float) -> str:
    """What `make up` leaves on the screen."""
    lines = ["", f"The stack `{stack}` is as its file says ({seconds:.0f} s)."]
    for name, why in outputs.get("waiting", {}).items():
        lines += ["", f"  {name} waits: {why}"]
    for name, on in objects.places(stack).items():
        lines += [line for why in objects.noted(on) for line in ("", f"  {name}: {why}")]
    if not outputs.get("url"):
        return "\n".join(lines)
    port = urlsplit(outputs["url"]).port or 80
    if answer is not None:
        lines += ["", f"  asked     {chat.QUESTION}", f"  answered  {' '.join(answer.split())[:200]}"]
    places = {"API": f"{outputs['url']}   models: {', '.join(outputs['models'])}", **outputs["monitoring"]}
    places["key"] = f"make key STACK={stack}"
    width = max(len(name) for name in places)
    lines += ["", f"  On the loopback of {host}:"]
    lines += [f"  {name:<{width}}  {where}" for name, where in places.items()]
    lines += [
        "",
        "  Reach it from here:",
        f"    ssh -F {os.path.relpath(paths.REPO / objects.ssh_config(stack))} -N -L {port}:127.0.0.1:{port} {host}",
    ]
    if outputs["models"]:
        lines += [*example(stack, outputs["url"], outputs["models"][0])]
    return "\n".join(lines)
