"""A stack with an ingress on the real Pulumi and the real Docker, with doubles of Cloudflare's plugin and connector."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pulumi import ResourceOptions, automation

from components.containers import Runtime, make_networks, make_volume, run_container
from components.naming import Names
from components.network.tunnel_ingress import TunnelIngress, TunnelIngressArgs
from components.stack import InferenceStack, InferenceStackArgs
from planning.containers import Health
from planning.names import OUTSIDE_VOLUME
from planning.plans import StackPlan
from planning.stack import plan_stack
from tests.contract.gateway import free_port
from tests.docker_run import docker, inspect, need_image
from tests.hosts.engine import Project
from tests.network.plugin import install, recorded, set_token
from tests.network.plugin.provider import made_up
from tests.unit.network.cloudflare import with_ingress

TOKEN, NEWER = "eyJhIjoiZmlyc3QifQ==", "eyJhIjoic2Vjb25kIn0="
API_TOKEN = "api-token-of-nobody"
ASK = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:2000/')"


@dataclass
class Deployed:
    """The gateway's door and the ingress of a stack, which nothing is behind."""

    project: Project
    folder: Path
    names: Names
    plan: StackPlan

    def container(self, service: str) -> dict[str, Any]:
        return inspect(self.names.docker(service))

    def calls(self) -> list[tuple[str, str, str]]:
        return [(c["operation"], c["type"], c["name"]) for c in recorded(self.folder) if c["type"] != "provider"]


def make_project(folder: Path, program: Any) -> Project:
    install(folder / "home", folder)
    set_token(folder, TOKEN)
    project = Project(folder, program)
    project._stack.set_config("cloudflare:apiToken", automation.ConfigValue(API_TOKEN, secret=True))
    return project


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    plan = plan_stack(with_ingress())
    assert plan.gateway
    assert plan.ingress
    names = Names(f"ingress-{uuid4().hex[:6]}")
    port = replace(plan.gateway.nginx.ports[0], host=free_port())
    nginx = replace(plan.gateway.nginx, image=need_image("nginx"), ports=(port,))
    echo = {"echo.py": (Path(__file__).parent / "echo.py").read_text()}
    connector = replace(
        plan.ingress.connector,
        image=need_image("python"),
        entrypoint=("python3", "/config/echo.py", "2000"),
        command=(),
        files=echo,
        health=Health(command=("python3", "-c", ASK)),
        stop_grace_s=1,  # it does not heed SIGTERM
    )
    folder = tmp_path_factory.mktemp("ingress")
    found = Deployed(
        project=make_project(folder, lambda _: program()),
        folder=folder,
        names=names,
        plan=replace(
            plan,
            gateway=replace(plan.gateway, nginx=nginx),
            ingress=replace(plan.ingress, connector=connector),
        ),
    )

    def program() -> None:
        assert found.plan.gateway
        assert found.plan.ingress
        opts = ResourceOptions()
        runtime = Runtime(
            names=names,
            networks=make_networks(names, opts, tunnel=True),
            volumes={OUTSIDE_VOLUME: make_volume(names, OUTSIDE_VOLUME, "network", opts)},
        )
        door = run_container(found.plan.gateway.nginx, runtime, opts)
        arguments = TunnelIngressArgs(plan=found.plan.ingress, runtimes={nginx.host: runtime}, gateway=door.ready)
        TunnelIngress("ingress", arguments)

    try:
        found.project.up()
        yield found
    finally:
        found.project.destroy()
    assert docker("ps", "-aq", "--filter", f"label=inference-stack.stack={names.stack}") == ""
    gone = [call for call in found.calls() if call[0] == "delete"]
    assert [kind for _, kind, _ in gone].index("DnsRecord") == 0, "names go before what guards them"
    assert len(gone) == len({call for call in found.calls() if call[0] == "create"})


def test_all_is_made_in_an_order_that_leaves_nothing_open(deployed: Deployed) -> None:
    made = [(kind, name) for operation, kind, name in deployed.calls() if operation == "create"]
    kinds = [kind for kind, _ in made]
    assert sorted(set(kinds)) == [
        "DnsRecord",
        "ZeroTrustAccessApplication",
        "ZeroTrustAccessPolicy",
        "ZeroTrustAccessServiceToken",
        "ZeroTrustTunnelCloudflared",
        "ZeroTrustTunnelCloudflaredConfig",
    ]
    last_guard = max(place for place, kind in enumerate(kinds) if kind != "DnsRecord")
    assert kinds[last_guard + 1 :] == ["DnsRecord"] * 3


def test_what_only_cloudflare_knows_comes_where_it_belongs(deployed: Deployed) -> None:
    sent = {(c["type"], c["name"]): c["inputs"] for c in recorded(deployed.folder) if c["operation"] == "create"}
    tunnel = made_up("tunnel", "id")
    rules = sent["ZeroTrustTunnelCloudflaredConfig", "tunnel-config"]["config"]["ingresses"]
    audiences = [rule.get("originRequest", {}).get("access", {}).get("audTags") for rule in rules]
    hosts = ("team.example.org", "graphs.example.org")
    assert audiences == [None, *([made_up(f"{host}-access", "aud")] for host in hosts), None]
    records = [inputs for (kind, _), inputs in sent.items() if kind == "DnsRecord"]
    assert {record["content"] for record in records} == {f"{tunnel}.cfargotunnel.com"}


def test_the_plugin_got_the_api_token_and_the_connector_its_own(deployed: Deployed) -> None:
    configured = [c["inputs"]["apiToken"] for c in recorded(deployed.folder) if c["operation"] == "configure"]
    assert set(configured) == {API_TOKEN}
    name = deployed.names.docker("cloudflared")
    assert docker("exec", name, "cat", "/config/token") == TOKEN


def test_no_secret_stands_in_state_or_in_what_docker_tells(deployed: Deployed) -> None:
    state = json.dumps(deployed.project.state())
    told = json.dumps([deployed.container("cloudflared"), deployed.container("cloudflared-files")])
    told += docker("top", deployed.names.docker("cloudflared"))
    for secret in (TOKEN, API_TOKEN, made_up("render-token", "clientSecret")):
        assert secret not in state
        assert secret not in told
    assert made_up("render-token", "clientId") in state, "or this test would look at the wrong thing"


def test_the_connector_is_on_its_own_network_with_nginx_and_has_the_socket(deployed: Deployed) -> None:
    networks = set(deployed.container("cloudflared")["NetworkSettings"]["Networks"])
    assert networks == {deployed.names.docker("tunnel")}
    assert deployed.container("cloudflared")["NetworkSettings"]["Ports"] in ({}, None)
    script = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/outside/outside.sock')"
    docker("exec", deployed.names.docker("cloudflared"), "python3", "-c", script)


def test_a_second_up_changes_nothing(deployed: Deployed) -> None:
    assert deployed.project.preview() == {}
    before = deployed.calls()
    assert set(deployed.project.up()) == {"same"}
    assert deployed.calls() == before


def test_another_hostname_restarts_no_connector(deployed: Deployed) -> None:
    ingress = deployed.plan.ingress
    assert ingress
    before = deployed.container("cloudflared")["Id"]
    rule = replace(ingress.rules[0], hostname="more.example.org")
    deployed.plan = replace(deployed.plan, ingress=replace(ingress, rules=(*ingress.rules, rule)))
    deployed.project.up()
    assert deployed.container("cloudflared")["Id"] == before
    assert deployed.calls()[-2:] == [
        ("update", "ZeroTrustTunnelCloudflaredConfig", "tunnel-config"),
        ("create", "DnsRecord", "more.example.org-record"),
    ]


def test_another_token_reaches_the_connector_and_touches_nothing_else(deployed: Deployed) -> None:
    before = {service: deployed.container(service)["Id"] for service in ("cloudflared", "nginx")}
    calls = deployed.calls()
    set_token(deployed.folder, NEWER)
    deployed.project.up()
    assert docker("exec", deployed.names.docker("cloudflared"), "cat", "/config/token") == NEWER
    assert deployed.container("cloudflared")["Id"] != before["cloudflared"]
    assert deployed.container("nginx")["Id"] == before["nginx"]
    assert deployed.calls() == calls
    assert NEWER not in json.dumps(deployed.project.state())


def test_a_whole_stack_with_an_ingress_is_previewed_before_anything_is_known(tmp_path: Path) -> None:
    """Models, gateway, monitoring and ingress, on the real engine."""

    def program(_: Any) -> None:
        InferenceStack("with-ingress", InferenceStackArgs(plan=plan_stack(with_ingress())))

    found = make_project(tmp_path, program).preview()
    assert {"chat-0", "nginx", "cloudflared", "tunnel", "tunnel-config", "llm.example.org-record"} <= set(found)
    assert [c for c in recorded(tmp_path) if c["operation"] != "configure"] == []
