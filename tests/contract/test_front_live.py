"""What a host's front says, on a real nginx, of an engine whose container is just gone: LiteLLM asks another then."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

import pytest

from planning.containers import ContainerPlan, PublishedPort
from planning.gateway.front import LOOPBACK_PORT
from planning.names import VLLM_PORT
from planning.stack import plan_stack
from tests.contract.gateway import free_port
from tests.docker_run import Sandbox, need_image
from tests.golden.specs import spec, stack_file

SERVE = "import http.server as h\nclass H(h.BaseHTTPRequestHandler):\n def do_GET(self): self.send_response(200); "
SERVE += f"self.end_headers(); self.wfile.write(b'{{}}')\nh.HTTPServer(('', {VLLM_PORT}), H).serve_forever()"
NO_ANSWER_TO_ARP = {"net.ipv4.conf.all.arp_ignore": "8"}
"""Its name resolves, and nobody has the address: as in the moment after a container has stopped."""


def engine(name: str, sysctls: dict[str, str]) -> ContainerPlan:
    return ContainerPlan(
        service=name, host="local", component="serving", image=need_image("python"), user="65534:65534",
        entrypoint=("python3", "-c", SERVE), sysctls=sysctls, memory_mib=64,
    )  # fmt: skip


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    gateway = plan_stack(spec("prod-like", stack_file("prod"))).gateway
    assert gateway
    there = PublishedPort(container=LOOPBACK_PORT, host=free_port())
    sandbox = Sandbox("front-test")
    try:
        sandbox.run(engine("alive-0", {}), wait=False)
        sandbox.run(engine("gone-0", NO_ANSWER_TO_ARP), wait=False)
        sandbox.run(replace(gateway.fronts[0], image=need_image("nginx"), ports=(there,)))
        yield there.host
    finally:
        sandbox.close()


def status(port: int, name: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}/v1/models", timeout=30) as answer:
            assert json.load(answer) == {}
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_engine_that_is_gone_is_no_engine_that_takes_too_long(port: int) -> None:
    deadline = time.monotonic() + 60
    while status(port, "alive-0") != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert status(port, "gone-0") == 502
