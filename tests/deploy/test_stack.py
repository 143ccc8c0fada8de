"""The dev stack on the real engine: real Pulumi, Docker, vLLM, LiteLLM, nginx, Prometheus.

The tests share one stack and run in the order in which they stand here.
"""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

import openai
import pytest

from planning.observability.queries import all_queries, all_selectors, needs_failure
from stack_configs.load import Settings, resolve
from stack_configs.source import parse
from tests.deploy.clone import PORTS, STACK, Clone, container_ids, docker, is_clean, logs, ours

API = f"http://127.0.0.1:{PORTS['gateway']}/v1"
PROMETHEUS = f"http://127.0.0.1:{PORTS['prometheus']}"
CHAT = f"inference-{STACK}-chat-0"


HELLO: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


def client(key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=API, api_key=key, max_retries=0, timeout=120)


def say(key: str, model: str = "chat", tokens: int = 8) -> str:
    answer = client(key).chat.completions.create(
        model=model, max_tokens=tokens, messages=[{"role": "user", "content": "Hello"}]
    )
    return answer.choices[0].message.content or ""


def spec_of(clone: Clone) -> Any:
    """The stack as the program sees it."""
    settings = Settings(images="built", weights="random", key_hashes={"me": "0" * 64})
    return resolve(parse(clone.spec_file.read_text(), "test.yaml"), STACK, settings)


def wait_for(reached: Callable[[], bool], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if reached():
            return True
        time.sleep(0.2)
    return False


def killed_when(clone: Clone, reached: Callable[[], bool], *, pulumi_too: bool = False) -> None:
    """Start `make up` and kill it once something is seen; Pulumi goes on, as after a lost terminal, or dies too."""
    running = subprocess.Popen(
        ["make", "up", f"STACK={STACK}"],
        cwd=clone.path,
        env=dict(clone.env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert wait_for(reached)
    os.killpg(running.pid, signal.SIGKILL)
    if pulumi_too:
        subprocess.run(["pkill", "-KILL", "-f", f"pulumi up .*-s {STACK}$"], check=True)
    running.wait()


def query(expression: str) -> list[Any]:
    quoted = urllib.parse.quote(expression)
    with urllib.request.urlopen(f"{PROMETHEUS}/api/v1/query?query={quoted}", timeout=10) as response:
        return list(json.load(response)["data"]["result"])


def test_up_ends_with_an_answer_and_what_to_do_next(clone: Clone) -> None:
    said = (clone.path / "first-up.txt").read_text()
    (clone.path / "first-up.txt").unlink()
    assert f"The stack `{STACK}` runs" in said
    assert "answered" in said
    assert API in said
    assert f"make key STACK={STACK}" in said
    outputs = clone.outputs()
    assert ("gibberish by design" in said) == (outputs["weights"] == "random")
    assert ("\nwarning: Grafana is left out" in said) == ("grafana" not in outputs["monitoring"])
    assert outputs["models"] == ["chat"]


def test_git_status_is_clean_after_up(clone: Clone) -> None:
    assert is_clean(clone) == []


def test_chat_and_stream_through_the_front_door(clone: Clone) -> None:
    key = clone.key()
    assert say(key)
    stream = client(key).chat.completions.create(
        model="chat", max_tokens=16, stream=True, messages=[{"role": "user", "content": "Hello"}]
    )
    chunks = [chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content]
    assert len(chunks) >= 2


def test_models_are_listed_and_strangers_are_refused(clone: Clone) -> None:
    assert [model.id for model in client(clone.key()).models.list()] == ["chat"]
    with pytest.raises(openai.AuthenticationError):
        say("sk-nobody")


@pytest.mark.parametrize(
    "path", ["/metrics", "/health/readiness", "/key/generate", "/v1/../metrics", "/ui", "/invocations"]
)
def test_nothing_but_the_api_is_reachable(clone: Clone, path: str) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORTS['gateway']}{path}", headers={"Authorization": f"Bearer {clone.key()}"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 404


def test_one_completion_per_start_makes_ready(clone: Clone) -> None:
    del clone
    assert docker("inspect", "--format", "{{.State.Health.Status}}", CHAT) == "healthy"


def test_the_request_log_tells_of_every_request_once(clone: Clone) -> None:
    request = urllib.request.Request(
        f"{API}/chat/completions",
        data=json.dumps(
            {"model": "chat", "max_tokens": 4, "messages": [{"role": "user", "content": "secret words"}]}
        ).encode(),
        headers={
            "Authorization": f"Bearer {clone.key()}",
            "Content-Type": "application/json",
            "X-Request-Id": "test-42",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.headers["X-Request-Id"] == "test-42"
    lines: list[dict[str, Any]] = []
    for _ in range(20):
        logged = logs(f"inference-{STACK}-litellm-0").splitlines()
        lines = [json.loads(line) for line in logged if line.startswith("{") and "test-42" in line]
        if lines:
            break
        time.sleep(0.5)
    assert len(lines) == 1
    assert lines[0]["key"] == "me"
    assert lines[0]["replica"] == "chat-0"
    assert lines[0]["tokens_out"] == 4
    assert lines[0]["status"] == 200
    assert "secret words" not in "\n".join(logged)


def test_no_key_in_inspect_logs_ps_or_state(clone: Clone) -> None:
    key, passphrase = clone.key(), (clone.path / ".state" / "passphrase").read_text().strip()
    seen = docker("inspect", *ours("container"), *ours("volume"), *ours("network"))
    seen += "".join(map(logs, ours("container")))
    seen += subprocess.run(["ps", "auxww"], capture_output=True, text=True, check=True).stdout
    assert key not in seen
    assert passphrase not in seen
    state = "\n".join(p.read_text(errors="replace") for p in (clone.path / ".state").rglob("*") if p.is_file())
    assert key not in state
    assert oct((clone.path / ".state" / "passphrase").stat().st_mode & 0o777) == "0o600"


def test_everything_published_is_on_loopback(clone: Clone) -> None:
    del clone
    for name in container_ids():
        ports = json.loads(docker("inspect", "--format", "{{json .HostConfig.PortBindings}}", name)) or {}
        assert {binding["HostIp"] for bindings in ports.values() for binding in bindings} <= {"127.0.0.1"}, name


def test_every_container_runs_hardened(clone: Clone) -> None:
    del clone
    for name in container_ids():
        seen = json.loads(docker("inspect", name))[0]
        host = seen["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert not host["CapAdd"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["Memory"] > 0, name
        assert host["LogConfig"]["Config"]["max-size"], name
        assert seen["Config"]["User"].split(":")[0] not in ("", "0", "root"), name
        assert seen["State"]["Health"]["Status"] == "healthy", name


def test_every_query_of_rules_and_dashboards_finds_its_series(clone: Clone) -> None:
    """A rate needs two scrapes after traffic, so both are asked for until they are there, or two minutes are over."""
    key, of = clone.key(), spec_of(clone)
    panels = [q for q in all_queries(of) if q.name.startswith("dashboard/")]
    assert panels
    missing: list[str] = []
    for _ in range(60):
        say(key, tokens=4)
        list(client(key).chat.completions.create(model="chat", max_tokens=4, stream=True, messages=HELLO))
        missing = [
            selector.instant
            for selector in all_selectors(of)
            if selector.metric.appears in ("always", "after-traffic")
            and not needs_failure(selector)
            and not query(selector.instant)
        ]
        missing += [
            q.name for q in panels if not any(needs_failure(s) for s in q.expr.selectors) and not query(str(q.expr))
        ]
        if not missing:
            break
        time.sleep(2)
    assert missing == []


def test_a_second_up_changes_nothing(clone: Clone) -> None:
    assert clone.changes() == {}
    before = container_ids()
    assert "pulumi up" in clone.setup("up").stdout
    assert container_ids() == before


def test_a_changed_flag_replaces_that_models_container_alone(clone: Clone) -> None:
    before = container_ids()
    clone.edit(r"max_num_seqs: \d+", "max_num_seqs: 4")
    assert {name for names in clone.changes().values() for name in names} == {"chat-0"}
    clone.setup("up")
    after = container_ids()
    assert {name for name in before if after.get(name) != before[name]} == {CHAT}
    assert say(clone.key())


def test_a_gateway_change_restarts_no_model(clone: Clone) -> None:
    before = container_ids()
    clone.edit(r"rpm: \d+", "rpm: 500")
    clone.setup("up")
    changed = {name for name, ident in container_ids().items() if before.get(name) != ident}
    assert changed == {f"inference-{STACK}-litellm-0"}
    assert say(clone.key())


def test_what_somebody_removed_comes_back(clone: Clone) -> None:
    name = f"inference-{STACK}-node-exporter"
    docker("rm", "--force", name)
    clone.pulumi("refresh", "--yes", "--skip-preview")
    assert clone.changes() == {"create": ["node-exporter"]}
    clone.setup("up")
    assert name in container_ids()


def test_a_crashed_engine_comes_back_by_itself(clone: Clone) -> None:
    pid = docker("inspect", "--format", "{{.State.Pid}}", CHAT)
    os.kill(int(pid), signal.SIGKILL)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if docker("inspect", "--format", "{{.State.Health.Status}} {{.RestartCount}}", CHAT) == "healthy 1":
            break
        time.sleep(1)
    assert docker("inspect", "--format", "{{.RestartCount}}", CHAT) == "1"
    assert say(clone.key())


def test_an_up_that_was_killed_is_finished_by_the_next(clone: Clone) -> None:
    clone.edit(r"max_num_seqs: \d+", "max_num_seqs: 6")
    old = container_ids()[CHAT]
    killed_when(clone, lambda: container_ids().get(CHAT, old) != old)
    locked = clone.pulumi("up", "--yes", "--skip-preview", check=False)
    assert locked.returncode != 0
    assert "lock" in (locked.stdout + locked.stderr).lower()
    said = clone.setup("up").stdout
    assert "an earlier run was cut off" in said
    assert clone.changes() == {}
    assert "--max-num-seqs=6" in docker("inspect", "--format", "{{.Config.Cmd}}", CHAT)
    assert say(clone.key())


def test_arguments_that_the_image_does_not_know_are_told_before_anything_is_stopped(clone: Clone) -> None:
    started = docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", CHAT)
    clone.edit(r"max_num_seqs: (\d+)", r"max_num_seqs: \1\n    extra_args: [--no-such-flag]")
    failed = clone.setup("up", check=False)
    assert failed.returncode != 0
    assert "does not take these arguments: unrecognized arguments: --no-such-flag" in failed.stdout + failed.stderr
    assert docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", CHAT) == started
    clone.edit(r"\n    extra_args:.*$", "")
    clone.setup("up")
    assert clone.changes() == {}
    assert docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", CHAT) == started


def test_a_model_whose_new_version_cannot_start_keeps_serving(clone: Clone) -> None:
    before = container_ids()[CHAT]
    clone.edit(r"max_num_seqs: (\d+)", r"max_num_seqs: \1\n    extra_args: [--quantization=awq]")
    for _ in range(2):  # the second try is no other
        failed = clone.setup("up", check=False)
        assert failed.returncode != 0
        said = failed.stdout + failed.stderr
        assert "chat-0 was not replaced: the container before it serves again" in said
        assert "awq" in said, "its last lines"
        assert container_ids()[CHAT] == before
        assert wait_for(lambda: docker("inspect", "--format", "{{.State.Health.Status}}", CHAT) == "healthy")
        assert say(clone.key())
    clone.edit(r"\n    extra_args:.*$", "")
    clone.setup("up")
    assert clone.changes() == {}
    assert container_ids()[CHAT] != before
    assert [name for name in container_ids() if "-previous-" in name or "-failed-" in name] == []
    assert say(clone.key())


def test_a_replacement_that_was_killed_leaves_a_way_back(clone: Clone) -> None:
    before = container_ids()[CHAT]
    clone.edit(r"max_num_seqs: \d+", "max_num_seqs: 7")
    killed_when(clone, lambda: container_ids().get(CHAT) != before, pulumi_too=True)
    clone.edit(r"max_num_seqs: 7", "max_num_seqs: 6")
    assert f"{CHAT} serves again" in clone.setup("up").stdout
    assert container_ids()[CHAT] == before
    assert say(clone.key())


class Load:
    """Clients that ask without a pause, plain and streaming in turns, until they are told to stop."""

    def __init__(self, key: str, clients: int = 3) -> None:
        self.key = key
        self.answered = 0
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                say(self.key, tokens=4)
                stream = client(self.key).chat.completions.create(
                    model="chat", max_tokens=16, stream=True, messages=[{"role": "user", "content": "Hello"}]
                )
                assert list(stream)
                self.answered += 2
            except Exception as error:
                self.failed.append(f"{type(error).__name__}: {error}")


def test_a_second_litellm_starts_beside_the_first(clone: Clone) -> None:
    clone.edit(r"instances: 1", "instances: 2")
    clone.edit(r"rpm: \d+", "rpm: 100000")
    clone.setup("up")
    assert {f"inference-{STACK}-litellm-{i}" for i in (0, 1)} <= set(container_ids())
    assert say(clone.key())


def test_a_second_model_is_one_more_block_and_fails_no_request(clone: Clone) -> None:
    """The gateway learns of the model, so both LiteLLM instances are replaced, one at a time, under load."""
    before = container_ids()
    clone.edit(
        r"^gateway:$",
        "  small:\n    source:\n      repo: HuggingFaceTB/SmolLM2-135M-Instruct\n"
        "      revision: 12fd25f77366fa6b3b4b768ec3050bf629380bac\n    replicas:\n      - host: local\n"
        "    max_model_len: 1024\n    memory_mib: 3072\n\ngateway:",
    )
    key = clone.key()
    with Load(key) as load:
        clone.setup("up")
    assert load.failed == []
    assert load.answered > 20
    after = container_ids()
    assert after[CHAT] == before[CHAT]
    for index in (0, 1):
        name = f"inference-{STACK}-litellm-{index}"
        assert after[name] != before[name]
    assert say(key, "small")
    assert say(key, "chat")
    assert sorted(model.id for model in client(key).models.list()) == ["chat", "small"]


def test_a_mistake_in_the_file_is_told_and_nothing_is_touched(clone: Clone) -> None:
    text, before = clone.spec_file.read_text(), container_ids()
    clone.edit(r"max_num_seqs: 6", "max_num_sequences: 6")
    try:
        done = clone.pulumi("preview", check=False)
    finally:
        clone.spec_file.write_text(text)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    assert "did you mean `max_num_seqs`?" in said
    assert "Traceback" not in said
    assert container_ids() == before


def test_down_leaves_the_model_cache_alone(clone: Clone) -> None:
    said = clone.setup("down").stdout
    assert "Kept: the model cache" in said
    assert (ours("container"), ours("network"), ours("volume")) == ([], [], [f"inference-{STACK}-models"])
    assert is_clean(clone) == []
