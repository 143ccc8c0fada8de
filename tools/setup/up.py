"""`make up`: from a fresh clone to an answered question."""

from __future__ import annotations

import json
import re
import site
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tools.setup import chat, choices, docker, engine, images, paths, preflight, recover, state, venv
from tools.setup.progress import SetupError, Step, Stopped, run_step, run_steps

LAST_LINES = 15
DEATHS = 3
"""A container that died this often since its start won't get well by itself."""


def up(stack: str) -> None:
    """Run everything. Raises SetupError; a second run goes on from what is done."""
    started = time.monotonic()
    run_step("This machine", preflight.check_machine)
    wanted, way, found = parts(stack)
    state.prepare(found)
    env = state.environment()

    def stack_ready(step: Step) -> None:
        state.ensure_stack(stack, step, env)
        choices.make(stack, wanted, way, step, env)

    for name in wanted["plugins"]:
        run_step(f"{name.capitalize()} plugin", partial(engine.ensure_plugin, name, pulumi_home=state.pulumi_home(env)))
    ports = preflight.published(wanted["ports"], way)
    run_step("Ports", lambda step: preflight.check_ports(stack, ports, step))
    run_step("Stack and choices", stack_ready)
    run_step("Earlier runs", lambda step: recover.recover(stack, step, env))
    for warning in run_step("pulumi up", lambda step: _pulumi_up(stack, step, env)):
        print(warning)
    outputs = run_step("Outputs", lambda step: read_outputs(stack, step, env))
    key = outputs.pop("key")
    answer = run_step("First question", lambda step: _ask(stack, step, outputs, key))
    print(report(stack, outputs, answer, time.monotonic() - started))


def parts(stack: str) -> tuple[dict[str, Any], str, engine.Engine]:
    """Python, Docker, Pulumi and images, side by side as far as one doesn't need the other."""
    python_ready, docker_ready, pulumi_ready = threading.Event(), threading.Event(), threading.Event()
    roomy = preflight.is_roomy()
    answer: dict[str, Any] = {}

    def python(step: Step) -> None:
        venv.ensure(step)
        python_ready.set()

    def docker_there(step: Step) -> None:
        docker.ensure(step)
        docker_ready.set()

    def pulumi_there(step: Step) -> engine.Engine:
        found = engine.ensure(step)
        pulumi_ready.set()
        return found

    def images_there(step: Step) -> None:
        needed = [(python_ready, "Python"), (docker_ready, "Docker")]
        if not roomy:
            needed.append((pulumi_ready, "Pulumi, since the disk has no room for both at once"))
        for event, what in needed:
            step.say(f"waiting for {what}")
            while not event.wait(0.2):
                if step.stopping.is_set():
                    raise Stopped
        # From here on what needs YAML and the schema can be imported: .venv was made with this interpreter.
        site.addsitedir(sysconfig.get_path("purelib", vars={"base": str(paths.VENV)}))
        wanted = state.describe(stack, step)
        answer["wanted"] = wanted
        versions = images.version_set(wanted["versions"])
        decision = choices.image_way(wanted, versions, step)
        images.ensure(decision.way, step, versions=versions, one_by_one=not roomy)
        step.note = f"{decision.way}, {decision.reason}; {step.note}"
        answer["way"] = decision.way

    results = run_steps(
        {
            "Python packages": python,
            "Docker": docker_there,
            "Pulumi": pulumi_there,
            "Images": images_there,
        }
    )
    (paths.cache() / "images-built").touch()
    return answer["wanted"], answer["way"], results["Pulumi"]


def _pulumi_up(stack: str, step: Step, env: dict[str, str]) -> list[str]:
    """The deployment itself, and its warnings; while it waits for a container, its last line is the status."""
    waiting: dict[str, float] = {}
    dead: list[str] = []
    ended = threading.Event()

    def show(line: str) -> str | None:
        started = re.match(r"\+\+?-?\s+docker:index:(\w+) (\S+) creating", line)
        done = re.match(r"\+\+?-?\s+docker:index:(\w+) (\S+) (created|\*\*creating failed\*\*)", line)
        if started and started[1] == "Container":
            waiting.setdefault(started[2], time.monotonic())
        if done:
            waiting.pop(done[2], None)
        return None

    def watch() -> None:
        while not ended.wait(2):
            for name, since in list(waiting.items()):
                container = f"inference-{stack}-{name}"
                step.status = f"{name} for {time.monotonic() - since:.0f} s: {_logs(container, 1)}"
                if _restarts(container) >= DEATHS and not dead:
                    # Pulumi waits for it until its time is up, which is long for a model, and a signal doesn't
                    # shorten that (seen). Once the container is gone, its create fails at once.
                    step.say(f"{name} has died {DEATHS} times since its start: stopping here")
                    dead.append(f"{name} has died {DEATHS} times since its start; its last lines:")
                    dead.append(_logs(container, LAST_LINES))
                    step.interrupt()
                    subprocess.run(["docker", "rm", "--force", container], capture_output=True, check=False)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    argv = ["pulumi", "up", "--yes", "--skip-preview", "--non-interactive", "--color", "never", "-s", stack]
    remedy = "docs/troubleshooting.md; `make up` goes on from here"
    try:
        with recover.noted(stack):
            out = step.run(argv, cwd=paths.REPO, env=env, show=show, remedy=remedy)
    except SetupError as error:
        told = _with_logs(stack, state.explained(error))
        if dead:
            told = SetupError(told.step, "\n".join([*dead, told.reason]), told.remedy, told.log)
        raise told from error
    finally:
        ended.set()
    counts = re.findall(r"^ +([+~-]{1,2}-? ?\d+ \w+|\d+ unchanged)$", out, re.MULTILINE)
    step.note = ", ".join(count.strip() for count in counts)
    return pulumi_warnings(out)


def _with_logs(stack: str, error: SetupError) -> SetupError:
    """Add the last lines of every container that is not well."""
    output = error.log.read_text(errors="replace") if error.log and error.log.exists() else error.reason
    lines = [pulumi_errors(output) if "\nDiagnostics:\n" in output else error.reason]
    for name, status in _statuses(stack):
        sick = "unhealthy" in status or "Restarting" in status or "starting" in status
        failed = status.startswith("Exited") and not status.startswith("Exited (0)")
        if sick or failed:
            lines += [f"--- {name} ({status}), its last lines:", _logs(name, LAST_LINES)]
    return SetupError(error.step, "\n".join(lines), error.remedy, error.log)


def pulumi_errors(output: str) -> str:
    """What went wrong, from Pulumi's whole output: the errors under "Diagnostics", with all of their lines.

    When there are none: the error with which it ended, such as that it could not write down what it has done.
    Left out: the two errors that only say that there was one.
    """
    empty = ("an unhandled error occurred", "update failed")
    told = [text for text in _diagnostics(output, "error:") if not any(words in text for words in empty)]
    _, mark, last = output.partition("\nDiagnostics:\n")[2].rpartition("\nerror: ")
    return "\n".join(dict.fromkeys(told)) or (mark + last).strip() or output


def pulumi_warnings(output: str) -> list[str]:
    """What Pulumi's whole output warns of, each once: what was left out, and why."""
    return list(dict.fromkeys(_diagnostics(output, "warning:")))


def _diagnostics(output: str, kind: str) -> list[str]:
    """The messages of one kind under "Diagnostics", with all of their lines; tracebacks are none."""
    told: list[list[str]] = []
    keep = False
    for line in output.partition("\nDiagnostics:\n")[2].splitlines():
        if line and not line.startswith(" "):  # the next part: Outputs, Resources
            break
        text = line.strip()
        if text.startswith(("error:", "warning:", "Traceback")) or re.match(r"  \S", line):
            keep = text.startswith(kind)
            if keep:
                told.append([])
        if keep and text:
            told[-1].append(line.removeprefix("    ").rstrip())
    return ["\n".join(message) for message in told]


def _statuses(stack: str) -> list[tuple[str, str]]:
    """Every container of the stack, with Docker's words for how it is: `Up 5 seconds (health: starting)`."""
    label = f"label=inference-stack.stack={stack}"
    argv = ["docker", "ps", "--all", "--filter", label, "--format", "{{.Names}}\t{{.Status}}"]
    rows = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()
    return [(name, status) for name, _, status in (row.partition("\t") for row in rows)]


def _restarts(container: str) -> int:
    argv = ["docker", "inspect", "--format", "{{.RestartCount}}", container]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else 0


def _logs(container: str, lines: int) -> str:
    done = subprocess.run(
        ["docker", "logs", "--tail", str(lines), container],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def read_outputs(stack: str, step: Step, env: dict[str, str]) -> dict[str, Any]:
    """The stack's outputs and, under `key`, the first API key. The key reaches no log."""
    outputs: dict[str, Any] = {}
    jobs: dict[str, Callable[[], str]] = {
        "outputs": lambda: state.pulumi(step, env, "stack", "output", "--json", "-s", stack),
        "keys": lambda: secret_keys(stack, env),
    }
    threads = []
    for name, job in jobs.items():
        thread = threading.Thread(target=lambda n=name, j=job: outputs.__setitem__(n, j()))
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    if "outputs" not in outputs:
        raise step.fail("the stack has no outputs", "see the log")
    keys: dict[str, str] = json.loads(outputs["keys"])
    return {**json.loads(outputs["outputs"]), "key": next(iter(keys.values()))}


def secret_keys(stack: str, env: dict[str, str]) -> str:
    """The API keys, decrypted, as JSON: id → key. Never logged."""
    done = subprocess.run(
        ["pulumi", "config", "get", "inference-stack:keys", "-s", stack, "--non-interactive"],
        cwd=paths.REPO,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise state.explained(SetupError("Keys", done.stderr.strip(), "run `make up`, which makes the missing keys"))
    return done.stdout


def _wait_for_starting(stack: str, step: Step) -> None:
    """Wait for containers that were started a moment ago, by Docker after a reboot or by `recover`: Pulumi waits only
    for those that it makes. Docker says of each, within the time that its health check allows, how it went."""
    died: dict[str, int] = {}
    began = time.monotonic()
    while starting := [name for name, status in _statuses(stack) if "health: starting" in status]:
        if any(_restarts(name) - died.setdefault(name, _restarts(name)) >= DEATHS for name in starting):
            return
        step.status = f"{starting[0]} for {time.monotonic() - began:.0f} s: {_logs(starting[0], 1)}"
        time.sleep(1)


def _ask(stack: str, step: Step, outputs: dict[str, Any], key: str) -> str:
    _wait_for_starting(stack, step)
    model = outputs["models"][0]
    try:
        answer = chat.ask(outputs["url"], key, model)
    except chat.NoAnswer as error:
        sick = _with_logs(stack, SetupError(step.name, f"error: no answer from {outputs['url']}: {error}", ""))
        raise step.fail(sick.reason, "`make logs` shows every service; docs/troubleshooting.md") from error
    step.note = f"{answer.tokens} tokens from {model}"
    return answer.text


def report(stack: str, outputs: dict[str, Any], answer: str, seconds: float) -> str:
    """What `make up` leaves on the screen."""
    random = outputs["weights"] == "random"
    say = f" STACK={stack}" if stack != "dev" else ""
    lines = [
        "",
        f"The stack `{stack}` runs ({seconds:.0f} s).",
        "",
        f"  asked     {chat.QUESTION}",
        f"  answered  {' '.join(answer.split())[:200]}",
    ]
    if random:
        lines.append("            (the model has random weights: gibberish by design, until a hub can be reached)")
    places = {"API": f"{outputs['url']}   models: {', '.join(outputs['models'])}", **outputs["monitoring"]}
    places["key"] = f"make key{say}"
    width = max(len(name) for name in places)
    lines += ["", *(f"  {name:<{width}}  {where}" for name, where in places.items())]
    lines += [
        "",
        "  Try next:",
        *example(stack, outputs["url"], outputs["models"][0]),
        f"    edit stack_configs/{stack}.yaml, then `make preview{say}` and `make up{say}`",
        f"    make logs{say}   make down{say}",
    ]
    return "\n".join(lines)


def example(stack: str, url: str, model: str) -> list[str]:
    """A question to try, as a command of three lines. Its pipe keeps the key out of the list of processes."""
    say = f" STACK={stack}" if stack != "dev" else ""
    return [
        f"    make -s key{say} | sed 's/^/Authorization: Bearer /' |",
        f"      curl {url}/chat/completions -H @- -H 'Content-Type: application/json' \\",
        f'      -d \'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}\'',
    ]
