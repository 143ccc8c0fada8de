"""Real vLLM on one host, asked through nginx and LiteLLM on another, by an operator, over the mesh alone. Its weights
come from a hub and match a lock.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from planning.names import FRONT_PORT
from planning.serving.weights import SCRIPTS
from stack_configs.schema.model_lock import LockedFile, ModelLock
from stack_configs.schema.network import Allowed, Firewall, Network
from stack_configs.schema.stack import StackSpec
from tests.docker_run import docker, need_image
from tests.golden.specs import host_versions
from tests.hosts.host import LABEL, Host, bare_hosts
from tests.hosts.images import give_images
from tests.hosts.repository import Repository, tailscale_package
from tests.hosts.serving import IMAGES, KEY, MODELS_DIR, PREPARED, WAITS
from tests.network import programs
from tests.network.headscale import DOMAIN, Headscale, control_server
from tests.network.laptop import Laptop, forwarded, laptop
from tests.unit.ledger import local_hub

HUB = """
import pathlib, socket, threading, hub
files = {path.name: path.read_bytes() for path in pathlib.Path("/weights").iterdir()}
with hub.serving(files, address=socket.gethostbyname(socket.gethostname())) as serving:
    print(serving.url, flush=True)
    threading.Event().wait()
"""
OUT = """
import sys
from planning.hosts.steps import plan_host
from stack_configs.schema.stack import StackSpec
from tools.invite import is_out
spec = StackSpec.model_validate_json(sys.stdin.read())
print(*[name for name in spec.file.hosts if is_out(plan_host(name, spec))])
"""
FRESH = (
    "docker exec inference-test-litellm-0 python3 -c 'import urllib.request as r;"
    f' print(r.urlopen("http://gpu-1.{DOMAIN}:{FRONT_PORT}/chat-0/health", timeout=5).status)\''
)
"""Asks the engine as LiteLLM does once it resolves the name anew, which it does after 300 s."""
FETCHED = "/".join((MODELS_DIR, local_hub.REPO.replace("/", "--"), local_hub.REVISION))


@dataclass
class Real:
    gateway: Host
    engine: Host
    laptop: Laptop
    folder: Path
    spec: StackSpec
    server: Headscale
    api_key: str
    lock: ModelLock
    port: int
    """On this machine's loopback: the gateway's, through the mesh."""

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=KEY, max_retries=0, timeout=60)

    def pulumi(self, what: str, spec: StackSpec | None = None) -> Any:
        given = {"spec": (spec or self.spec).model_dump(mode="json"), "api_key": self.api_key}
        return self.laptop.python("tests.network.as_operator", str(self.folder), what, given=given)


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


def spec_of(
    hosts: tuple[Host, Host], server: Headscale, repository: Repository, hub: str, lock: ModelLock
) -> StackSpec:
    gateway, engine = hosts
    file = {
        "versions": "2026.11",
        "hub": hub,
        "hosts": {host.name: {"connection": host.connection, **PREPARED} for host in hosts},
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
        "network": {
            "mesh": {
                "control": "headscale",
                "login_server": server.url,
                "domain": DOMAIN,
                "operators": ["kim@"],
                "policy": "owned",
            },
            "firewall": {},
        },
    }
    versions = host_versions("2026.11")
    repositories = {**versions.repositories, "tailscale": repository.versions().repositories["tailscale"]}
    images: dict[str, Any] = {name: {"ref": need_image(name), "starts_in_s": 1} for name in IMAGES}
    return StackSpec.model_validate(
        {
            "stack": "test",
            "file": file,
            "images": {**images, "vllm-cpu": {"ref": need_image("vllm"), "starts_in_s": 30}},
            "host_versions": versions.model_copy(update={"repositories": repositories}),
            "key_hashes": {"me": hashlib.sha256(KEY.encode()).hexdigest()},
            "locks": {"chat": lock},
        }
    )


def with_firewall(spec: StackSpec, firewall: Firewall | None) -> StackSpec:
    network = spec.file.network.model_copy(update={"firewall": firewall})
    return spec.model_copy(update={"file": spec.file.model_copy(update={"network": network})})


def running_on(host: Host) -> set[str]:
    rows = host.inside("docker ps --format '{{.Names}}'").split()
    return {row.removeprefix("inference-test-") for row in rows}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    engines = [need_image(name) for name in ("vllm", "nginx", "node-exporter")]
    gateways = [need_image(name) for name in IMAGES]
    folders = {name: tmp_path_factory.mktemp(name) for name in ("real", "made", "apt", "headscale", "laptop")}
    repository = Repository(folders["apt"])
    repository.publish(tailscale_package(programs.folder()))
    lock = make_weights(folders["made"])
    with (
        bare_hosts("front-1", "gpu-1", "laptop", distribution="debian-13") as (gateway, engine, own),
        control_server(folders["headscale"]) as server,
        hub_beside(engine, folders["made"] / "weights") as hub,
    ):
        server.say("users", "create", "kim")
        for host in (gateway, engine):
            repository.copy_to(host)
            server.trusted_by(host)
        with laptop(own, server, folders["laptop"], "kim") as machine:
            spec = spec_of((gateway, engine), server, repository, hub, lock)
            made = Real(gateway, engine, machine, folders["real"], spec, server, server.api_key(), lock, 0)
            waiting = spec.model_copy(update={"waiting": {host.name: WAITS for host in (gateway, engine)}})
            made.pulumi("up", with_firewall(waiting, None))  # which would keep the tests themselves from the hosts
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda to: give_images(*to), ((gateway, *gateways), (engine, *engines))))
            made.pulumi("up")
            with forwarded(machine, f"{gateway.name}.{DOMAIN}", 8080) as made.port:
                yield made
            assert set(made.pulumi("destroy")) == {"front-1", "gpu-1"}
            assert set(server.nodes()) == {"laptop"}


MESSAGES: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


def test_a_question_is_answered_across_hosts(real: Real) -> None:
    answer = real.client.chat.completions.create(model="chat", messages=MESSAGES, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage
    assert answer.usage.completion_tokens == 8
    assert "chat-0" in running_on(real.engine)
    assert "chat-0" not in running_on(real.gateway)


def test_the_gateways_log_has_who_asked_by_the_address_in_the_mesh(real: Real) -> None:
    real.client.models.list()
    lines = real.gateway.inside('docker logs inference-test-nginx 2>&1 | grep \'"path":"/v1/models"\'').splitlines()
    assert json.loads(lines[-1])["client"] in real.laptop.host.inside("tailscale ip").split()


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
    said = real.engine.inside("docker start --attach inference-test-chat-fetch-gpu-1")
    assert said.splitlines()[-1].startswith("complete: ")
    assert sums(real) == {name: file.sha256 for name, file in real.lock.files.items()}


def test_nothing_changes_by_itself(real: Real) -> None:
    before = real.engine.inside("docker ps -q")
    assert real.pulumi("preview") == {}
    assert set(real.pulumi("up")) == {"same"}
    assert real.engine.inside("docker ps -q") == before


def test_hosts_answer_nobody_but_the_mesh(real: Real) -> None:
    for host, port in ((real.engine, FRONT_PORT), (real.gateway, 8080), (real.engine, 22), (real.gateway, 22)):
        assert not real.laptop.reaches(host.address, port), (host.name, port)
    assert real.laptop.reaches(f"{real.engine.name}.{DOMAIN}", 22)
    assert not real.laptop.reaches(f"{real.engine.name}.{DOMAIN}", FRONT_PORT), "engines are the gateway's alone"


def test_no_key_to_join_with_is_in_the_state_or_on_a_host(real: Real) -> None:
    state = (real.folder / "backend" / ".pulumi" / "stacks" / "test" / "test.json").read_text()
    assert "hskey-" not in state
    for host in (real.gateway, real.engine):
        found = "grep -rlE hskey-auth /run /etc /root /var/lib/inference-stack /var/log 2>/dev/null || true"
        assert host.inside(found) == ""
        assert "hskey-" not in host.inside("journalctl -q -o cat")


def test_a_node_that_has_lost_its_state_joins_again_and_no_container_is_restarted(real: Real) -> None:
    """Over SSH at the host's own address, which its firewall must leave open for that."""
    ssh = Allowed(port=22, sources=(f"{real.laptop.host.address}/32",))
    spec = with_firewall(real.spec, Firewall(allow=(ssh,)))
    real.pulumi("up", spec)
    containers = {host.name: host.inside("docker ps -q") for host in (real.gateway, real.engine)}
    real.engine.inside("systemctl stop tailscaled && rm -rf /var/lib/tailscale/* && systemctl start tailscaled")
    assert not real.laptop.reaches(f"{real.engine.name}.{DOMAIN}", 22)
    assert real.laptop.run(sys.executable, "-c", OUT, stdin=spec.model_dump_json()).stdout.split() == [real.engine.name]
    real.pulumi("up", spec.model_copy(update={"repairs": {real.engine.name: {"join": 1}}}))
    assert _eventually(lambda: "200" in real.gateway.inside(FRESH, check=False), 60), (
        "by name, as LiteLLM resolves it anew"
    )
    assert {host.name: host.inside("docker ps -q") for host in (real.gateway, real.engine)} == containers
    assert set(real.server.nodes()) == {real.gateway.name, real.engine.name, "laptop"}


def test_a_stack_that_leaves_the_mesh_goes_on_by_its_own_addresses(real: Real) -> None:
    ssh = Allowed(port=22, sources=(f"{real.laptop.host.address}/32",))
    both = (real.gateway, real.engine)
    hosts = {
        host.name: real.spec.file.hosts[host.name].model_copy(update={"lan_address": host.address}) for host in both
    }
    network = Network(firewall=Firewall(allow=(ssh,)))
    file = real.spec.file.model_copy(update={"hosts": hosts, "network": network})
    engine = real.engine.inside("docker ps -q --filter name=chat-0")
    real.pulumi("up", real.spec.model_copy(update={"file": file}))
    assert real.engine.inside("docker ps -q --filter name=chat-0") == engine
    assert {host.inside("systemctl is-active tailscaled || true") for host in both} == {"inactive"}
    body = json.dumps({"model": "chat", "messages": MESSAGES, "max_tokens": 4})
    asks = f"curl -sS -m 30 -H 'Authorization: Bearer {KEY}' -H 'Content-Type: application/json' -d '{body}'"
    assert "completion_tokens" in real.gateway.inside(f"{asks} http://127.0.0.1:8080/v1/chat/completions")


def _eventually(true: Callable[[], bool], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(1)
    return True
