"""Real vLLM on one host, asked through nginx and LiteLLM on another; its weights come from a hub and match a lock."""

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from components.stack import InferenceStack, InferenceStackArgs
from planning.serving.weights import SCRIPTS
from planning.stack import plan_stack
from stack_configs.schema.model_lock import LockedFile, ModelLock
from stack_configs.schema.stack import StackSpec
from tests.docker_run import docker, need_image
from tests.golden.specs import host_versions
from tests.hosts.engine import Project
from tests.hosts.host import LABEL, Host, bare_hosts, login
from tests.hosts.images import give_images
from tests.hosts.serving import IMAGES, KEY, MODELS_DIR, PREPARED, WAITS, container_of, forwarded, running_on
from tests.unit.ledger import local_hub

HUB = """
import pathlib, socket, threading, hub
files = {path.name: path.read_bytes() for path in pathlib.Path("/weights").iterdir()}
with hub.serving(files, address=socket.gethostbyname(socket.gethostname())) as serving:
    print(serving.url, flush=True)
    threading.Event().wait()
"""
FETCHED = "/".join((MODELS_DIR, local_hub.REPO.replace("/", "--"), local_hub.REVISION))


@dataclass
class Real:
    gateway: Host
    engine: Host
    project: Project
    lock: ModelLock
    port: int

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=KEY, max_retries=0, timeout=60)


def make_weights(folder: Path) -> ModelLock:
    """Those that stand in where no hub is reached, as if somebody had published them."""
    folder.chmod(0o777)
    docker(
        *("run", "--rm", "--network", "none", "--env", "HOME=/tmp", "--volume", f"{folder}:/made"),
        *("--volume", f"{SCRIPTS}/make_random.py:/make.py:ro", "--entrypoint", "python3", need_image("vllm")),
        *("/make.py", "--positions", "2048", "--into", "/made/weights"),
    )
    files = {path.name: path.read_bytes() for path in (folder / "weights").iterdir()}
    return ModelLock(
        repo=local_hub.REPO,
        revision=local_hub.REVISION,
        source="made for this test",
        files={
            name: LockedFile(size=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in files.items()
        },
        complete=True,
        config=json.loads(files["config.json"]),
    )


@contextmanager
def hub_beside(host: Host, weights: Path) -> Iterator[str]:
    """The address of a hub in the hosts' network, in a container of its own."""
    owner = docker("inspect", host.container, "--format", f'{{{{index .Config.Labels "{LABEL}"}}}}').strip()
    container = docker(
        *("run", "--detach", "--network", host.network, "--label", f"{LABEL}={owner}", "--env", "PYTHONPATH=/srv"),
        *("--volume", f"{local_hub.__file__}:/srv/hub.py:ro", "--volume", f"{weights}:/weights:ro"),
        *("--entrypoint", "python3", need_image("python"), "-c", HUB),
    ).strip()
    try:
        deadline = time.monotonic() + 20
        while not (told := docker("logs", container)).startswith("http"):
            assert time.monotonic() < deadline, told
            time.sleep(0.1)
        yield told.strip()
    finally:
        docker("rm", "--force", container)


def spec_of(gateway: Host, engine: Host, hub: str, lock: ModelLock) -> StackSpec:
    file = {
        "versions": "2026.11",
        "hub": hub,
        "hosts": {
            host.name: {"connection": host.connection, "lan_address": host.address, **PREPARED}
            for host in (gateway, engine)
        },
        "models": {
            "chat": {
                "source": {"repo": lock.repo, "revision": lock.revision},
                "replicas": [{"host": engine.name}],
                "max_model_len": 2048,
                "max_num_seqs": 8,
                "memory_mib": 4096,
                "cpu_kv_cache_mib": 64,
            }
        },
        "gateway": {"host": gateway.name, "keys": {"me": {}}},
    }
    images: dict[str, Any] = {name: {"ref": need_image(name), "starts_in_s": 1} for name in IMAGES}
    return StackSpec.model_validate(
        {
            "stack": "test",
            "file": file,
            "images": {**images, "vllm-cpu": {"ref": need_image("vllm"), "starts_in_s": 30}},
            "host_versions": host_versions("2026.11"),
            "key_hashes": {"me": hashlib.sha256(KEY.encode()).hexdigest()},
            "locks": {"chat": lock},
        }
    )


def program(inputs: dict[str, Any]) -> None:
    InferenceStack("test", InferenceStackArgs(plan=plan_stack(inputs["spec"])))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    engines = [need_image(name) for name in ("vllm", "nginx", "node-exporter")]
    gateways = [need_image(name) for name in IMAGES]
    folder, made = tmp_path_factory.mktemp("real"), tmp_path_factory.mktemp("made")
    lock = make_weights(made)
    with pytest.MonkeyPatch.context() as patch, bare_hosts("front-1", "gpu-1", distribution="debian-13") as hosts:
        gateway, engine = hosts
        patch.chdir(folder)  # where Pulumi starts programs and plugins
        patch.setenv("SSH_AUTH_SOCK", str(login().agent))
        with hub_beside(engine, made / "weights") as hub, forwarded(gateway, 8080) as port:
            spec = spec_of(gateway, engine, hub, lock)
            project = Project(folder, program)
            project.inputs = {"spec": spec.model_copy(update={"waiting": {host.name: WAITS for host in hosts}})}
            project.up()
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda to: give_images(*to), ((gateway, *gateways), (engine, *engines))))
            project.inputs = {"spec": spec}
            project.up()
            yield Real(gateway, engine, project, lock, port)
            project.destroy()


MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


def test_a_question_is_answered_across_hosts(real: Real) -> None:
    answer = real.client.chat.completions.create(model="chat", messages=MESSAGES, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage
    assert answer.usage.completion_tokens == 8
    assert "chat-0" in running_on(real.engine)
    assert "chat-0" not in running_on(real.gateway)


def test_a_stream_comes_in_parts_and_ends(real: Real) -> None:
    parts = list(
        real.client.chat.completions.create(
            model="chat", messages=MESSAGES, max_tokens=16, stream=True, extra_body={"ignore_eos": True}
        )
    )
    assert sum(bool(part.choices and part.choices[0].delta.content) for part in parts) > 4
    assert parts[-1].choices[0].finish_reason == "length"


def test_an_answer_follows_its_schema(real: Real) -> None:
    """The engine itself decides token by token: no stand-in can do this."""
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    answer = real.client.chat.completions.create(
        model="chat",
        messages=MESSAGES,
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    )
    assert json.loads(answer.choices[0].message.content or "")["n"] in (1, 2)


def sums(real: Real) -> dict[str, str]:
    """File → SHA-256, of the weights as they lie on the host."""
    rows = (row.split() for row in real.engine.inside(f"cd {FETCHED} && sha256sum *").splitlines())
    return {name: digest for digest, name in rows}


def test_weights_on_the_host_are_those_of_the_lock(real: Real) -> None:
    assert sums(real) == {name: file.sha256 for name, file in real.lock.files.items()}


def test_a_fetch_that_was_interrupted_and_damaged_files_are_made_good(real: Real) -> None:
    real.engine.inside(f"cd {FETCHED} && truncate -s 1000 model.safetensors && rm config.json")
    said = real.engine.ssh("docker start --attach inference-test-chat-fetch-gpu-1").stdout
    assert said.splitlines()[-1].startswith("complete: ")
    assert sums(real) == {name: file.sha256 for name, file in real.lock.files.items()}


def test_nothing_changes_by_itself(real: Real) -> None:
    before = container_of(real.engine, "chat-0")
    assert set(real.project.up()) == {"same"}
    assert container_of(real.engine, "chat-0") == before
