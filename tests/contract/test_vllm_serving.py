"""A real vLLM on the random model, run as planned: when it counts as ready, how it drains, what its death looks like.

One container for the module, on two cores; a test that ends it leaves it stopped, and the next one starts it again.
"""

import json
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from planning.containers import ContainerPlan
from planning.plans import ModelPlan
from planning.serving.ledger.architecture import architecture_of
from planning.serving.ledger.kv import Batch, blocks_in, pool_of, requests_at_once, tokens_in
from planning.serving.plan import plan_model
from stack_configs.schema.stack import Image
from tests.docker_run import Sandbox, docker, inspect, need_image
from tests.golden.specs import spec, stack_file

LENGTH = 2048
"""dev.yaml's `max_model_len`."""
READY_WITHIN_S = 180
"""The promise for two cores."""


class Engine:
    def __init__(self, box: Sandbox, plan: ContainerPlan, volumes: dict[str, str]) -> None:
        self.box = box
        self.plan = plan
        self.name = box.run(plan, wait=False, volumes=volumes)
        docker("update", "--cpus", "2", self.name)
        self.ready_after_s = box.wait_for(self.name, "healthy", READY_WITHIN_S)

    def up(self) -> "Engine":
        if not inspect(self.name)["State"]["Running"]:
            docker("start", self.name)
            self.box.wait_for(self.name, "healthy", READY_WITHIN_S)
        return self

    def open(self, path: str, body: dict[str, Any] | None = None) -> Any:
        url = f"http://{self.box.address(self.name)}:8000{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})
        return urllib.request.urlopen(request, timeout=60)

    def completions(self) -> float:
        lines = self.open("/metrics").read().decode().splitlines()
        counts = [line for line in lines if line.startswith("vllm:request_success_total{")]
        assert counts
        return sum(float(line.rsplit(" ", 1)[1]) for line in counts)

    def checks(self) -> list[dict[str, Any]]:
        log: list[dict[str, Any]] = inspect(self.name)["State"]["Health"]["Log"]
        return log


@pytest.fixture(scope="module")
def plans() -> ModelPlan:
    stack = spec("dev", stack_file("dev"), weights="random")
    built = Image(ref=need_image("vllm"), starts_in_s=1)
    # As long as a slow machine may need for the answer that a stop waits for.
    model = stack.file.models["chat"].model_copy(update={"drain_timeout_s": 120})
    file = stack.file.model_copy(update={"models": {**stack.file.models, "chat": model}})
    return plan_model("chat", stack.model_copy(update={"file": file, "images": {**stack.images, "vllm-cpu": built}}))


@pytest.fixture(scope="module")
def engine(plans: ModelPlan) -> Iterator[Engine]:
    box = Sandbox("serving-test")
    volume = f"{box.name}-models"
    try:
        job = box.run(plans.fetches[0], volumes={"models": volume})
        assert inspect(job)["State"]["ExitCode"] == 0, docker("logs", job)
        yield Engine(box, plans.replicas[0], {"models": volume})
    finally:
        box.close()
        docker("volume", "rm", "-f", volume, check=False)


def test_it_is_ready_in_time_on_two_cores(engine: Engine) -> None:
    assert engine.ready_after_s < READY_WITHIN_S


def test_its_kv_cache_holds_the_tokens_that_the_ledger_counts(engine: Engine, plans: ModelPlan) -> None:
    """On a CPU the KV cache's memory is given, so that its tokens are exact."""
    text = engine.up().open("/metrics").read().decode()
    (line,) = [line for line in text.splitlines() if line.startswith("vllm:cache_config_info{")]
    said = dict(re.findall(r'(\w+)="([^"]*)"', line))
    config = json.loads(docker("exec", engine.name, "cat", f"{plans.replicas[0].command[0]}/config.json"))
    pool = pool_of(architecture_of(config), tensor_parallel=1, kv_bytes=2, block_tokens=int(said["block_size"]))
    blocks = blocks_in(pool, int(said["kv_cache_memory_bytes"]))
    batch = Batch(in_flight=4096)
    assert blocks == int(said["num_gpu_blocks"])
    assert tokens_in(pool, blocks, LENGTH, batch) == int(said["kv_cache_size_tokens"])
    assert said["kv_cache_max_concurrency"] == str(requests_at_once(pool, blocks, LENGTH, batch))


def test_one_completion_per_start_however_often_it_is_checked(engine: Engine) -> None:
    engine.up()
    seen = engine.checks()[-1]["Start"]
    deadline = time.monotonic() + 60
    while sum(check["Start"] > seen for check in engine.checks()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert engine.completions() == 1
    docker("restart", engine.name)
    engine.box.wait_for(engine.name, "healthy", READY_WITHIN_S)
    assert engine.completions() == 1


def test_it_stays_within_its_limits(engine: Engine) -> None:
    """Half of each limit at most, measured with 8 requests at once: headroom for larger models and more cores."""
    engine.up()
    body = {"model": "chat", "prompt": "Hello", "max_tokens": 300, "ignore_eos": True}
    threads = [threading.Thread(target=lambda: engine.open("/v1/completions", body).read()) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    used = docker(
        "exec",
        engine.name,
        "sh",
        "-c",
        "df --output=used -k /tmp /dev/shm | tail -n 2; ls -d /proc/[0-9]*/task/* | wc -l",
    )
    tmp_kib, shm_kib, tasks = (int(line) for line in used.split())
    for thread in threads:
        thread.join()
    stats = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", engine.name)
    print(f"/tmp {tmp_kib} KiB, shm {shm_kib} KiB, {tasks} tasks, memory {stats.strip()}")
    assert tmp_kib < 128 * 1024
    assert tasks < engine.plan.max_processes / 2


def test_what_it_answers_is_the_planned_model(engine: Engine) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    answer = json.loads(engine.up().open("/v1/chat/completions", body).read())
    assert answer["model"] == "chat"
    assert answer["usage"]["completion_tokens"] > 0


def test_a_stream_is_finished_before_a_stop(engine: Engine) -> None:
    engine.up()
    tokens = 200
    body = {"model": "chat", "prompt": "Hello", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    stream = engine.open("/v1/completions", {**body, "stream_options": {"include_usage": True}})
    stream.readline()
    stopping = subprocess.Popen(("docker", "stop", engine.name), stdout=subprocess.DEVNULL)
    time.sleep(0.5)
    rest = [line.decode().removeprefix("data: ").strip() for line in stream if line.startswith(b"data: ")]
    assert rest[-1] == "[DONE]"
    assert json.loads(rest[-2]).get("usage", {}).get("completion_tokens") == tokens, rest[-2]
    assert stopping.wait(engine.plan.stop_grace_s) == 0
    assert inspect(engine.name)["State"]["ExitCode"] != 137, "it was killed"


def test_a_dead_engine_process_ends_the_container(engine: Engine) -> None:
    """So that Docker starts it again; /health doesn't go on to say 200."""
    engine.up()
    find = "for p in /proc/[0-9]*; do grep -aq EngineCor $p/comm && kill -9 ${p#/proc/} && echo killed; done; true"
    assert "killed" in docker("exec", engine.name, "sh", "-c", find)
    deadline = time.monotonic() + 60
    while inspect(engine.name)["State"]["Running"]:
        assert time.monotonic() < deadline, docker("logs", "--tail", "30", engine.name)
        time.sleep(0.5)
    print("exit code", inspect(engine.name)["State"]["ExitCode"])
