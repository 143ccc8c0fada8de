"""A stack on two hosts for tests: what it runs, its stand-ins for engines, and how it is asked."""

import hashlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from components.stack import InferenceStack, InferenceStackArgs
from planning.containers import ContainerPlan, Health
from planning.names import VLLM_PORT
from planning.plans import ModelPlan, StackPlan
from planning.stack import plan_stack
from stack_configs.schema.stack import StackSpec
from tests.docker_run import need_image
from tests.golden.specs import host_versions
from tests.hosts.engine import Project
from tests.hosts.host import Host
from tests.simulator import simulator

KEY = "sk-me-0123456789abcdef"
IMAGES = {"alertmanager", "litellm", "nginx", "node-exporter", "prometheus"}
FAKE_ENGINE = (Path(__file__).parents[1] / "contract" / "fake_engine.py").read_text()
ENDS = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit())\n"
"""The first process of a container ignores the signal otherwise, and a host that shuts down waits 90 s for it."""
FETCH = "from pathlib import Path\nimport sys\nat = Path(sys.argv[1])\nat.parent.mkdir(parents=True, exist_ok=True)\n"
FETCH += "at.write_text('weights')\nprint('fetched')\n"
MODELS_DIR = "/var/lib/inference-stack/models"
PREPARED = {"engine": "distribution", "models_dir": MODELS_DIR, "models_free_gib": 1}
WAITS = "it has no facts yet"


def file_of(hosts: list[Host]) -> dict[str, Any]:
    source = {"repo": "some/model", "revision": "0" * 40}
    first, second = (host.name for host in hosts)
    return {
        "versions": "2026.11",
        "hosts": {
            host.name: {"connection": host.connection, "lan_address": host.address, **PREPARED} for host in hosts
        },
        "models": {
            "near": {"source": source, "replicas": [{"host": first}], "start_timeout_s": 60},
            "far": {"source": source, "replicas": [{"host": second}], "start_timeout_s": 60},
            "sim": {"source": source, "replicas": [{"host": second}], "start_timeout_s": 60},
            "both": {"source": source, "replicas": [{"host": first}, {"host": second}], "start_timeout_s": 60},
        },
        "gateway": {"host": first, "keys": {"me": {}}, "fallbacks": {"far": ["near"]}},
    }


def engine(plan: ContainerPlan, broken: bool, version: int) -> ContainerPlan:
    """The planned replica with a stand-in for its image; all that says where it runs, and how, is as planned."""
    if plan.service.startswith("sim-"):
        stand_in = simulator(model="sim")
        return replace(plan, image=stand_in.image, user=stand_in.user, command=stand_in.command, health=None, env={})
    ready = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{VLLM_PORT}/health', timeout=2)"
    source = "raise SystemExit('broken on purpose')" if broken else ENDS + FAKE_ENGINE
    return replace(
        plan,
        image=need_image("python"),
        entrypoint=("python3", "-c", source),
        command=(f"--version={version}",),
        env={},
        health=Health(command=("python3", "-c", ready), interval_s=1, start_period_s=5, retries=2),
        ready_within_s=40,
        stop_grace_s=5,
    )


def fetch(plan: ContainerPlan) -> ContainerPlan:
    into = plan.command[-1]
    return replace(plan, image=need_image("python"), command=(f"{into}/weights",), files={"fetch.py": FETCH})


def planned(spec: StackSpec, broken: tuple[str, ...] = (), versions: Mapping[str, int] | None = None) -> StackPlan:
    plan = plan_stack(spec)
    models = tuple(
        ModelPlan(
            name=model.name,
            fetches=tuple(fetch(one) for one in model.fetches),
            replicas=tuple(
                engine(one, bool({model.name, one.service} & {*broken}), (versions or {}).get(model.name, 1))
                for one in model.replicas
            ),
            after=model.after,
        )
        for model in plan.models
    )
    return replace(plan, models=models)


def program(inputs: dict[str, Any]) -> None:
    InferenceStack("test", InferenceStackArgs(plan=planned(inputs["spec"], inputs["broken"], inputs["versions"])))


@dataclass
class Serving:
    first: Host
    second: Host
    project: Project
    spec: StackSpec
    port: int
    """On this machine's loopback: the gateway's, through SSH."""

    versions: dict[str, int] = field(default_factory=dict)
    """Of models' engines; another one is another container."""

    def up(self, *, broken: tuple[str, ...] = (), **changes: Any) -> dict[str, int]:
        """Operation → number of resources."""
        self._change(broken, changes)
        return {op: count for op, count in self.project.up().items() if op != "same"}

    def preview(self) -> dict[str, list[str]]:
        """Resource → inputs that differ."""
        self._change((), {})
        return self.project.preview()

    def _change(self, broken: tuple[str, ...], changes: Mapping[str, Any]) -> None:
        spec = self.spec.model_copy(update=changes)
        self.project.inputs = {"spec": spec, "broken": broken, "versions": self.versions}

    @property
    def hosts(self) -> tuple[Host, Host]:
        return self.first, self.second

    def chat(self, model: str, text: str = "hello") -> dict[str, Any]:
        """The answer; for a refusal `{"status": …}`."""
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/chat/completions",
            body,
            {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            return {"status": error.code, "text": error.read().decode()}
        except TimeoutError:
            return {"status": 0, "text": "no answer within 60 s"}

    def answers(self, model: str, within_s: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + within_s
        while "choices" not in (answer := self.chat(model)):
            assert time.monotonic() < deadline, answer
            time.sleep(0.5)
        return answer


@contextmanager
def forwarded(host: Host, port: int) -> Iterator[int]:
    """A port of this machine's loopback that leads to one on the host's, as a user reaches the gateway."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        here = int(probe.getsockname()[1])
    argv = host.ssh_argv()
    tunnel = subprocess.Popen([*argv[:-1], "-N", "-L", f"127.0.0.1:{here}:127.0.0.1:{port}", argv[-1]])
    try:
        yield here
    finally:
        tunnel.terminate()
        tunnel.wait()


def spec_of(hosts: list[Host]) -> StackSpec:
    return StackSpec.model_validate(
        {
            "stack": "test",
            "file": file_of(hosts),
            "images": {
                **{name: {"ref": need_image(name), "starts_in_s": 1} for name in IMAGES},
                "vllm-cpu": {"ref": "replaced", "starts_in_s": 1},
            },
            "host_versions": host_versions("2026.11"),
            "key_hashes": {"me": hashlib.sha256(KEY.encode()).hexdigest()},
        }
    )


def running_on(host: Host) -> set[str]:
    rows = host.ssh("docker ps --format '{{.Names}}'").stdout.split()
    return {row.removeprefix("inference-test-") for row in rows}


def container_of(host: Host, service: str) -> str:
    """The id of the container that runs as `service`."""
    (found,) = host.ssh(f"docker ps -q --filter name=^/inference-test-{service}").stdout.split()
    return found
