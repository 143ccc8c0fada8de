"""A running gateway for tests: nginx and LiteLLM as planned, in front of a fake engine."""

import hashlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from planning.containers import ContainerPlan
from planning.gateway.plan import plan_gateway
from stack_configs.schema.stack import StackSpec
from tests.docker_run import Sandbox, docker, need_image

KEYS = {name: f"sk-{name}-{hashlib.sha256(name.encode()).hexdigest()[:24]}" for name in ("me", "narrow", "slow")}
"""`me` may do everything, `narrow` may call `chat` alone, `slow` has 2 requests a minute."""


def gateway_spec(*, litellm: str = "litellm:test", nginx: str = "nginx:test", **gateway: Any) -> StackSpec:
    """Two replicas of `chat`, one of `spare`, to which `chat` falls back."""
    source = {"repo": "some/model", "revision": "0" * 40}
    return StackSpec.model_validate(
        {
            "stack": "dev",
            "file": {
                "versions": "2026.11",
                "hosts": {"here": {"connection": {"kind": "local"}}},
                "models": {
                    "chat": {"source": source, "replicas": [{"host": "here"}, {"host": "here"}]},
                    "spare": {"source": source, "replicas": [{"host": "here"}]},
                },
                "gateway": {
                    "keys": {"me": {}, "narrow": {"models": ["chat"]}, "slow": {"rpm": 2}},
                    "fallbacks": {"chat": ["spare"]},
                    **gateway,
                },
            },
            "images": {"litellm": {"ref": litellm, "starts_in_s": 8}, "nginx": {"ref": nginx, "starts_in_s": 1}},
            "key_hashes": {name: hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()},
        }
    )


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class RunningGateway:
    sandbox: Sandbox
    spec: StackSpec
    litellm: list[str]
    nginx: str
    engine: str
    """The engine's container."""
    port: int

    def call(
        self,
        path: str,
        body: Any = None,
        *,
        key: str | None = KEYS["me"],
        method: str | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 60,
    ) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        send = {"Authorization": f"Bearer {key}"} if key else {}
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        if data is not None:
            send["Content-Type"] = "application/json"
        try:
            connection.request(method or ("POST" if data is not None else "GET"), path, data, send | (headers or {}))
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read().decode())
        finally:
            connection.close()

    def chat(self, text: str = "hello", *, model: str = "chat", **more: Any) -> Reply:
        """More of the request's body by `body`, the rest as in `call`."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more.pop("body", {})}
        return self.call("/v1/chat/completions", body, **more)

    def raw(self, target: str) -> int:
        """The status for a request target sent as it is, with a good key."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as wire:
            head = (
                f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEYS['me']}\r\nConnection: close\r\n\r\n"
            )
            wire.sendall(head.encode())
            return int(wire.makefile("rb").readline().split()[1])

    def fake(self, path: str, body: Any = None) -> Any:
        """Ask the fake engine itself."""
        connection = http.client.HTTPConnection(self.sandbox.address(self.engine), 8000, timeout=10)
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body))
        return json.loads(connection.getresponse().read())

    def direct(self, path: str) -> Reply:
        """Ask LiteLLM itself, as Prometheus does."""
        connection = http.client.HTTPConnection(self.sandbox.address(self.litellm[0]), 4000, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode())

    def logs(self) -> str:
        return "".join(docker("logs", name) for name in (*self.litellm, self.nginx))

    def lines(self, request_id: str, log: str = "request", within_s: float = 5) -> list[dict[str, Any]]:
        """The JSON lines of one request; waits for the first, and a moment for ones too many."""
        deadline = time.monotonic() + within_s
        while True:
            found = [line for line in _json_lines(self.logs()) if line.get("request_id") == request_id]
            found = [line for line in found if line.get("log") == log]
            if found or time.monotonic() > deadline:
                return found
            time.sleep(0.2)


def _json_lines(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith("{"):
            try:
                yield json.loads(line)
            except ValueError:
                raise AssertionError(f"not JSON: {line}") from None


def fake_engine() -> ContainerPlan:
    """One container that answers as chat-0, chat-1 and spare-0."""
    return ContainerPlan(
        service="engine",
        host="local",
        component="serving",
        image=need_image("python"),
        user="30000:30000",
        entrypoint=("python3", "/config/fake_engine.py"),
        files={"fake_engine.py": (Path(__file__).parent / "fake_engine.py").read_text()},
        aliases=("chat-0", "chat-1", "spare-0"),
        memory_mib=256,
        max_processes=1024,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_gateway(engine_plan: ContainerPlan | None = None, **gateway: Any) -> Iterator[RunningGateway]:
    """All of it up, in front of the fake engine or of another engine; removed at the end."""
    port = free_port()
    spec = gateway_spec(litellm=need_image("litellm"), nginx=need_image("nginx"), port=port, **gateway)
    sandbox = Sandbox("gateway-test")
    try:
        plan = plan_gateway(spec)
        engine = sandbox.run(engine_plan or fake_engine())
        litellm = [sandbox.run(replace(p, env=dict(p.env)), wait=False) for p in plan.litellm]
        nginx = sandbox.run(plan.nginx)
        for name in litellm:
            sandbox.wait_for(name, "healthy", 120)
        yield RunningGateway(sandbox, spec, litellm, nginx, engine, port)
    finally:
        sandbox.close()
