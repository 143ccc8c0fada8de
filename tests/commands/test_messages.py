"""Decisions and words of `make up`: machine, ports, Pulumi's failures, the last screen, the first question."""

import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.setup import chat, choices, preflight, state, up
from tools.setup.paths import REPO
from tools.setup.preflight import Machine
from tools.setup.progress import SetupError, Step

GOOD = Machine(
    system="Linux", arch="x86_64", cores=2, memory_gib=7.6, disk_free_gib=26, cpu_flags=frozenset({"avx2", "fma"})
)


def test_the_smallest_machine_is_enough() -> None:
    assert preflight.too_small(GOOD, ready=False) == []


def test_all_that_is_missing_is_told_at_once() -> None:
    bad = replace(GOOD, cores=1, memory_gib=3.9, disk_free_gib=10, cpu_flags=frozenset({"avx"}))
    missing = "\n".join(preflight.too_small(bad, ready=False))
    for word in ("1 CPU core", "3.9 GiB of memory", "10 GiB of free disk", "without avx2"):
        assert word in missing


@pytest.mark.parametrize(
    ("change", "says"),
    [({"system": "Darwin"}, "this is Darwin"), ({"arch": "riscv64"}, "riscv64; images exist for x86_64 and aarch64")],
)
def test_other_systems_are_named(change: dict[str, str], says: str) -> None:
    assert says in preflight.too_small(replace(GOOD, **change), ready=False)[0]  # type: ignore[arg-type]


def test_less_disk_is_enough_once_images_are_there() -> None:
    machine = replace(GOOD, disk_free_gib=4)
    assert preflight.too_small(machine, ready=True) == []
    assert preflight.too_small(machine, ready=False) != []


def test_a_port_of_our_own_is_not_taken() -> None:
    ports = {"gateway.port": 8080, "observability.prometheus.port": 9090}
    assert preflight.taken(ports, [8080, 9090], [9090]) == {"gateway.port": 8080}


def test_grafanas_port_counts_where_there_is_a_grafana() -> None:
    ports = {"gateway.port": 8080, "observability.grafana.port": 3000}
    assert preflight.published(ports, "registry") == ports
    assert preflight.published(ports, "built") == {"gateway.port": 8080}


@pytest.mark.parametrize(
    ("pulumi_said", "reason", "remedy"),
    [
        ("error: getting stack configuration: incorrect passphrase", "does not open", "PULUMI_CONFIG_PASSPHRASE"),
        ("error: the stack is currently locked by 1 lock(s).", "lock", "make up"),
        ("error: no stack named 'demo' found", "there is no stack demo here", "make up STACK=demo"),
        ("error: could not deserialize deployment: snapshot integrity failure", "damaged", "state repair"),
    ],
)
def test_pulumis_failures_in_plain_words(pulumi_said: str, reason: str, remedy: str) -> None:
    told = state.explained(SetupError("step", pulumi_said, "see the log"))
    assert reason in told.reason
    assert remedy in told.remedy


def test_other_failures_stay_as_they_are() -> None:
    error = SetupError("step", "something new", "see the log")
    assert state.explained(error) is error


def test_of_pulumis_output_the_errors_are_told_once_and_whole() -> None:
    out = """\
 +  docker:index:Container chat-0 **creating failed** error: container is unhealthy
Diagnostics:
  docker:index:Container (chat-0):
    error: container is unhealthy
    error: container is unhealthy

  pulumi:pulumi:Stack (inference-stack-dev):
    warning: Grafana is left out
    error: the stack's description can't be used:
    stack_configs/dev.yaml:16  models.chat.max_num_sequences
        is not a setting
    stack_configs/dev.yaml:17  models.chat.max_len
        is not a setting
    error: an unhandled error occurred: program exited with non-zero exit code: 1
    error: update failed

    Traceback (most recent call last):
      File "pulumi-language-python-exec", line 197, in <module>
    KeyboardInterrupt

Outputs:
    error: not an error
"""
    assert up.pulumi_errors("\n" + out) == (
        "error: container is unhealthy\nerror: the stack's description can't be used:\n"
        "stack_configs/dev.yaml:16  models.chat.max_num_sequences\n    is not a setting\n"
        "stack_configs/dev.yaml:17  models.chat.max_len\n    is not a setting"
    )


def test_what_was_left_out_is_told_once_and_whole_after_a_run_that_went_well() -> None:
    out = """
Diagnostics:
  pulumi:pulumi:Stack (inference-stack-prod):
    warning: Grafana is left out: its image can't be built here
    warning: Grafana is left out: its image can't be built here
    warning: stack_configs/prod.yaml:7  hosts.studio-1
        has facts from before its driver
        run `make facts STACK=prod`

Outputs:
    url: "warning: not a warning"
"""
    assert up.pulumi_warnings(out) == [
        "warning: Grafana is left out: its image can't be built here",
        "warning: stack_configs/prod.yaml:7  hosts.studio-1\n    has facts from before its driver\n"
        "    run `make facts STACK=prod`",
    ]
    assert up.pulumi_warnings("Resources:\n    29 unchanged\n") == []


def test_of_a_run_that_could_not_be_written_down_the_last_error_is_told() -> None:
    out = """
Diagnostics:
  pulumi:pulumi:Stack (inference-stack-dev):
    warning: Grafana is left out

Resources:
    29 unchanged

error: saving update info: write dev.json: no space left on device
"""
    assert up.pulumi_errors(out) == "error: saving update info: write dev.json: no space left on device"


OUTPUTS: dict[str, Any] = {
    "url": "http://127.0.0.1:8080/v1",
    "models": ["chat", "small"],
    "monitoring": {"prometheus": "http://127.0.0.1:9090"},
    "weights": "hub",
}


def test_the_last_screen_has_the_answer_the_address_the_key_and_a_command_to_try() -> None:
    said = up.report("dev", OUTPUTS, "It answers\nrequests.", 61.4)
    for part in (
        "It answers requests.",
        "http://127.0.0.1:8080/v1",
        "chat, small",
        "make key",
        "make -s key | sed",
        "61 s",
    ):
        assert part in said
    assert "gibberish" not in said


def test_addresses_stand_below_each_other() -> None:
    monitoring = {"prometheus": "http://127.0.0.1:9090", "alertmanager": "http://127.0.0.1:9093"}
    said = up.report("dev", {**OUTPUTS, "monitoring": monitoring}, "", 1).splitlines()
    assert len({line.index("http://") for line in said if line.startswith("  ") and "  http://127" in line}) == 1


def test_random_weights_are_called_gibberish() -> None:
    assert "gibberish by design" in up.report("dev", {**OUTPUTS, "weights": "random"}, "xq zz", 1)


def test_commands_of_another_stack_name_it() -> None:
    assert "make key STACK=test" in up.report("test", OUTPUTS, "", 1)


class Gateway(http.server.BaseHTTPRequestHandler):
    status = 200
    seen: dict[str, Any]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).seen = {"path": self.path, "key": self.headers["Authorization"], **json.loads(body)}
        answer = {"choices": [{"message": {"content": "Hello."}}], "usage": {"completion_tokens": 3}}
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode() if self.status == 200 else b"no such key")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), Gateway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_the_question_goes_through_the_front_door(gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gateway, "status", 200)
    assert chat.ask(gateway, "sk-1", "chat") == chat.Answer("Hello.", 3)
    assert Gateway.seen["path"] == "/v1/chat/completions"
    assert Gateway.seen["key"] == "Bearer sk-1"
    assert Gateway.seen["model"] == "chat"


def test_a_refusal_is_told_without_the_key(gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gateway, "status", 401)
    with pytest.raises(chat.NoAnswer, match="status 401: no such key") as told:
        chat.ask(gateway, "sk-secret", "chat")
    assert "sk-secret" not in str(told.value)


def test_nobody_there() -> None:
    with pytest.raises(chat.NoAnswer, match="refused"):
        chat.ask("http://127.0.0.1:9/v1", "sk-1", "chat")


COMMAND = re.compile(r"^ *make -s key \| .*?(?<![\\|])$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("shown", ["the last screen", "README.md", "docs/tutorial.md"])
def test_the_command_to_try_asks_the_question(
    shown: str, gateway: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gateway, "seen", {}, raising=False)
    if not shutil.which("curl"):
        pytest.skip("there is no curl here")
    text = up.report("dev", OUTPUTS, "", 1) if shown == "the last screen" else (REPO / shown).read_text()
    (command,) = COMMAND.findall(text)
    (tmp_path / "make").write_text("#!/bin/sh\n[ \"$*\" = '-s key' ] && echo sk-mine\n")
    (tmp_path / "make").chmod(0o755)
    line = command.replace("http://127.0.0.1:8080/v1", gateway)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "no_proxy": "*"}
    subprocess.run(["sh", "-c", f"{line} --silent --fail"], env=env, check=True, capture_output=True)
    assert Gateway.seen["path"] == "/v1/chat/completions"
    assert Gateway.seen["key"] == "Bearer sk-mine"
    assert Gateway.seen["messages"] == [{"role": "user", "content": "Hello"}]


class Recorder:
    """Stands for `pulumi config set`: what would be on the command line, and what on stdin."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[str, ...], str | None]] = []

    def __call__(self, _step: Step, _env: dict[str, str], *args: str, stdin: str | None = None) -> str:
        self.calls.append((args, stdin))
        return ""


NOTHING_YET: dict[str, Any] = {
    "images": None,
    "weights": None,
    "gpus": None,
    "keys": ["me", "ci"],
    "key_hashes": {},
    "repos": ["Qwen/Qwen2.5-0.5B-Instruct"],
    "hub": None,
}


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(state, "pulumi", made)
    monkeypatch.setattr(choices, "hub_answers", lambda _hub, _repos: False)
    monkeypatch.setattr(choices, "usable_gpus", lambda: ([], ""))
    return made


def test_all_choices_are_made_on_the_first_run(recorder: Recorder, tmp_path: Any) -> None:
    step = Step("choices", tmp_path / "log")
    choices.make("dev", NOTHING_YET, "built", step, {})
    keys = [args[4].removeprefix("inference-stack:") for args, _ in recorder.calls]
    assert keys == ["images", "weights", "gpus", "keys.me", "key-hashes.me", "keys.ci", "key-hashes.ci"]
    assert "weights: random" in step.note


def test_keys_are_long_secret_and_never_on_a_command_line_or_in_a_log(recorder: Recorder, tmp_path: Any) -> None:
    step = Step("choices", tmp_path / "log")
    choices.make("dev", NOTHING_YET, "built", step, {})
    made = [(args, value) for args, value in recorder.calls if args[4].startswith("inference-stack:keys.")]
    values = [value for _, value in made if value]
    assert len(set(values)) == 2
    for args, value in made:
        assert value is not None
        assert value.startswith("sk-")
        assert len(value) >= 3 + 43, "256 bits in base64"
        assert "--secret" in args
        assert value not in " ".join(args)
        assert value not in (tmp_path / "log").read_text()


def test_what_was_decided_stays_decided(recorder: Recorder, tmp_path: Any) -> None:
    decided = {"images": "registry", "weights": "hub", "gpus": [], "key_hashes": {"me": "1", "ci": "2"}}
    choices.make("dev", {**NOTHING_YET, **decided}, "registry", Step("choices", tmp_path / "log"), {})
    assert recorder.calls == []


@pytest.mark.parametrize(
    ("smi", "docker", "gpus", "told"),
    [
        ("echo GPU-1; echo GPU-2", """echo '["/etc/cdi"]'""", ["GPU-1", "GPU-2"], ""),
        ("echo GPU-1; echo GPU-2", "echo null", [], "2 left out: this Docker hands out none by CDI"),
        ("echo GPU-1", "exit 1", [], "1 left out: this Docker hands out none by CDI"),
        ("echo 'no driver'; exit 9", "echo null", [], "nvidia-smi ends with status 9"),
    ],
)
def test_gpus_that_docker_can_not_hand_out_are_told(
    smi: str, docker: str, gpus: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, does in (("nvidia-smi", smi), ("docker", docker)):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found, but = choices.usable_gpus()
    assert found == gpus
    assert told in but
    assert bool(told) == bool(but)


class Hub(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/mirror/api/models/Qwen/Qwen2.5-0.5B-Instruct" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_the_hub_that_is_asked_is_the_one_that_the_stacks_file_names() -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        mirror = f"http://127.0.0.1:{server.server_port}/mirror"
        assert choices.hub_answers(mirror, ["Qwen/Qwen2.5-0.5B-Instruct"])
        assert not choices.hub_answers(mirror, ["Qwen/none"])
    finally:
        server.shutdown()
    assert not choices.hub_answers(mirror, [])
    assert not choices.hub_answers("http://127.0.0.1:9", ["Qwen/Qwen2.5-0.5B-Instruct"])
