"""A real nginx as planned for a stack with an ingress; a container where the connector would be asks it."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from planning.containers import ContainerPlan
from planning.names import CONNECTOR_METRICS_PORT, GRAFANA_PORT, LITELLM_PORT, NGINX_PORT, OUTSIDE_METRICS_PORT
from planning.names import OUTSIDE_VOLUME as OUTSIDE
from planning.network.cloudflare import CLIENT_ADDRESS
from planning.stack import plan_stack
from tests.contract.gateway import free_port
from tests.docker_run import Sandbox, docker, inspect, need_image
from tests.unit.network.cloudflare import with_ingress

SOCKET = "/run/outside/outside.sock"
HERE = Path(__file__).parent
ALLOWED, V6, STRANGER = "203.0.113.9", "2001:db8::17", "198.51.100.7"
LLM, TEAM, GRAPHS = "llm.example.org", "team.example.org", "graphs.example.org"


@dataclass
class Reply:
    status: int
    """0: no connection."""
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Running:
    sandbox: Sandbox
    nginx: str
    connector: str
    behind: str
    """Where LiteLLM and Grafana would be."""

    def ask(
        self, method: str, path: str, host: str, *, client: str, to: str = SOCKET, by: str = "", body: int = 0
    ) -> Reply:
        """A request from the connector's place (or `by` another container), which says that `client` sent it."""
        headers = json.dumps({"Host": host, CLIENT_ADDRESS: client, "X-Request-Id": uuid4().hex})
        more = [str(body)] if body else []
        where = by or self.connector
        said = docker("exec", where, "python3", "/config/ask.py", to, method, path, headers, *more)
        return Reply(**json.loads(said))

    def get(self, path: str, host: str, client: str) -> Reply:
        return self.ask("GET", path, host, client=client)

    def log(self, path: str) -> list[dict[str, Any]]:
        """nginx's lines about a path; waits for the first."""
        for _ in range(25):
            lines = [json.loads(line) for line in docker("logs", self.nginx).splitlines() if line.startswith("{")]
            if found := [line for line in lines if line["path"] == path]:
                return found
            time.sleep(0.2)
        return []


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    plans = {c.service: c for c in plan_stack(with_ingress()).containers}
    python, sandbox = need_image("python"), Sandbox("ingress-test")
    tunnel, volume = f"{sandbox.name}-tunnel", f"{sandbox.name}-outside"
    docker("network", "create", tunnel)
    docker("volume", "create", volume)

    def echo(plan: ContainerPlan, *ports: int) -> ContainerPlan:
        files = {name: (HERE / name).read_text() for name in ("echo.py", "ask.py")}
        argv = ("python3", "/config/echo.py", *map(str, ports))
        return replace(plan, image=python, entrypoint=argv, command=(), files=files, secret_files=(), health=None)

    def run(plan: ContainerPlan, wait: bool) -> str:
        return sandbox.run(plan, wait=wait, volumes={OUTSIDE: volume})

    try:
        nginx = plans["nginx"]
        port = replace(nginx.ports[0], host=free_port())
        behind = replace(plans["litellm-0"], service="behind", aliases=("litellm", "grafana"), env={}, ports=())
        yield Running(
            sandbox=sandbox,
            behind=run(echo(behind, LITELLM_PORT, GRAFANA_PORT), wait=False),
            nginx=run(replace(nginx, image=need_image("nginx"), ports=(port,)), wait=True),
            connector=run(echo(plans["cloudflared"], CONNECTOR_METRICS_PORT), wait=False),
        )
    finally:
        sandbox.close()
        docker("network", "rm", tunnel, check=False)
        docker("volume", "rm", "-f", volume, check=False)


@pytest.mark.parametrize("client", [ALLOWED, V6])
def test_the_client_is_who_the_connector_says(running: Running, client: str) -> None:
    answer = running.get(f"/v1/models?from={client}", LLM, client)
    assert (answer.status, answer.json["path"]) == (200, "/v1/models")
    line = running.log("/v1/models")[-1]
    assert (line["client"], line["host"], line["status"]) == (client, LLM, "200")


def test_only_allowed_addresses_are_let_in_where_some_are_named(running: Running) -> None:
    answer = running.get("/v1/models/denied", LLM, STRANGER)
    assert (answer.status, answer.json["error"]["type"]) == (403, "permission_error")
    assert running.log("/v1/models/denied")[-1]["client"] == STRANGER
    assert running.get("/v1/models", TEAM, STRANGER).status == 200, "that name lets in all"


def test_a_forged_header_means_nothing_on_the_other_listener(running: Running) -> None:
    """From the connector's network and from the inner one, by TCP: the address that is claimed is in no log."""
    forged = "192.0.2.77"
    address = inspect(running.nginx)["NetworkSettings"]["Networks"]
    for by, network in ((running.connector, "tunnel"), (running.behind, "inner")):
        at = f"{address[f'{running.sandbox.name}-{network}']['IPAddress']}:{NGINX_PORT}"
        answer = running.ask("GET", "/v1/models/forged", LLM, client=forged, to=at, by=by)
        assert answer.status == 200
        assert CLIENT_ADDRESS not in answer.json["headers"]
    assert len(running.log("/v1/models/forged")) == 2
    assert forged not in docker("logs", running.nginx)


def test_the_tunnels_listener_has_no_port(running: Running) -> None:
    listening = docker("exec", running.nginx, "cat", "/proc/net/tcp", "/proc/net/tcp6")
    rows = [line.split() for line in listening.splitlines() if " 0A " in line]
    ports = {int(row[1].split(":")[1], 16) for row in rows if not row[1].startswith("0B00007F")}  # Docker's own DNS
    assert ports == {NGINX_PORT, 8081, OUTSIDE_METRICS_PORT}


def test_who_is_not_given_the_volume_has_no_socket(running: Running) -> None:
    assert running.ask("GET", "/v1/models", LLM, client=ALLOWED, by=running.behind).status == 0


def test_the_connector_finds_nothing_of_the_stack_but_nginx(running: Running) -> None:
    inner = running.sandbox.address(running.behind)
    # Pages of the monitoring are on `edge`, and so is nginx: one bridge of Docker's is not reached from another.
    edge = inspect(running.nginx)["NetworkSettings"]["Networks"][f"{running.sandbox.name}-edge"]["IPAddress"]
    behind = (f"litellm:{LITELLM_PORT}", f"behind:{LITELLM_PORT}", f"{inner}:{LITELLM_PORT}")
    for at in (*behind, f"{edge}:{NGINX_PORT}"):
        assert running.ask("GET", "/v1/models", LLM, client=ALLOWED, to=at).status == 0, at


@pytest.mark.parametrize(
    ("method", "path", "host", "status"),
    [
        ("GET", "/health", LLM, 404),
        ("GET", "/metrics", LLM, 404),
        ("GET", "/v1/../metrics", LLM, 404),
        ("GET", "/v1/chat/completions", LLM, 405),
        ("GET", "/v1/models", "other.example.org", 404),
        ("GET", "/v1/models", "127.0.0.1", 404),
        ("POST", "/v1/chat/completions", TEAM, 200),
    ],
)
def test_from_outside_there_are_the_named_hosts_and_the_apis_paths(
    running: Running, method: str, path: str, host: str, status: int
) -> None:
    assert running.ask(method, path, host, client=ALLOWED).status == status


def test_bodies_are_limited_as_on_the_other_listener(running: Running) -> None:
    largest = with_ingress().file.gateway.max_body_mib * 2**20
    assert running.ask("POST", "/v1/completions", TEAM, client=ALLOWED, body=largest).status == 200
    answer = running.ask("POST", "/v1/completions", TEAM, client=ALLOWED, body=largest + 1)
    assert answer.status == 413


def test_grafana_is_asked_under_its_own_name(running: Running) -> None:
    answer = running.get("/d/overview?orgId=1", GRAPHS, STRANGER)
    assert (answer.status, answer.json["port"], answer.json["path"]) == (200, GRAFANA_PORT, "/d/overview?orgId=1")
    assert answer.json["headers"]["Host"] == GRAPHS
    assert running.log("/d/overview")[-1]["client"] == STRANGER


def test_prometheus_finds_the_connectors_metrics_at_nginx_and_nothing_else_of_it(running: Running) -> None:
    at = f"{running.sandbox.address(running.nginx)}:{OUTSIDE_METRICS_PORT}"
    answer = running.ask("GET", "/metrics", "nginx", client=ALLOWED, to=at, by=running.behind)
    assert (answer.status, answer.json["port"]) == (200, CONNECTOR_METRICS_PORT)
    assert running.ask("GET", "/config", "nginx", client=ALLOWED, to=at, by=running.behind).status == 404


def test_a_killed_nginx_comes_back_although_its_socket_was_left_behind(running: Running) -> None:
    docker("kill", running.nginx)
    assert running.get("/v1/models", LLM, ALLOWED).status == 0
    docker("start", running.nginx)
    running.sandbox.wait_for(running.nginx, "healthy", 30)
    assert running.get("/v1/models", LLM, ALLOWED).status == 200
