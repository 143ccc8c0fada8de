"""A real nginx as planned for a gateway in a mesh, asked as its host's node asks: by the port that Docker publishes on
the host's loopback, with the client's address stated before the connection."""

import json
import ssl
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from http.client import HTTPConnection, RemoteDisconnected
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from planning.containers import ContainerPlan, PublishedPort
from planning.gateway.meshed import KEY
from planning.names import LITELLM_PORT, OUTSIDE_VOLUME
from planning.stack import plan_stack
from stack_configs.schema.network import MESHED_PORT, MeshCertificates
from tests.contract.gateway import free_port
from tests.docker_run import Sandbox, docker, inspect, need_image
from tests.golden.specs import ingress, spec
from tests.network import proxied
from tests.network.authority import NAME, Authority, Certified
from tests.unit.network.mesh import mesh, prod

HERE = Path(__file__).parent
ALLOWED, V6, STRANGER = "100.64.0.9", "fd7a:115c:a1e0::9", "100.64.7.7"
ALLOW = ["100.64.0.0/24", "fd7a:115c:a1e0::/112"]
LIMITED, CERTIFIED = "limited", "certified"


@dataclass
class Running:
    sandbox: Sandbox
    authority: Authority
    ports: Mapping[str, int]
    """nginx → where it is published on this machine's loopback."""
    own: Mapping[str, int]
    """nginx → where its listener for the host itself is."""
    behind: str
    server_key: str

    def client(self, certified: Certified | None) -> ssl.SSLContext:
        """TLS of a client that trusts the authority, and has this certificate."""
        context = ssl.create_default_context(cadata=self.authority.certificate)
        if certified:
            context.load_cert_chain(*certified.files)
        return context

    def ask(
        self,
        nginx: str,
        path: str,
        client: str,
        tls: ssl.SSLContext | None = None,
        header: tuple[str, str] = ("A", "b"),
    ) -> tuple[int, Any]:
        status, text = proxied.ask(("127.0.0.1", self.ports[nginx]), client, path, dict([header]), tls, NAME)
        return status, json.loads(text) if status else text

    def log(self, nginx: str, path: str) -> dict[str, Any]:
        """nginx's line about a path, once it is there."""
        for _ in range(25):
            rows = docker("logs", self.sandbox.container(nginx)).splitlines()
            if found := [line for line in rows if line.startswith("{") and json.loads(line)["path"] == path]:
                return dict(json.loads(found[-1]))
            time.sleep(0.2)
        raise AssertionError(f"nothing about {path}")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    server = authority.certify("server", NAME)
    certificates = MeshCertificates(certificate=server.certificate, client_ca=authority.certificate)
    # With a tunnel too nginx is on one more network that has a way out.
    network = {"mesh": mesh(allow_from=ALLOW), "ingress": ingress()}
    plain = spec("prod", {**prod().file.model_dump(mode="json"), "network": network})
    tls = prod(tls={"certificate": "server.pem", "client_ca": "ca.pem"})
    specs = {LIMITED: plain, CERTIFIED: tls.model_copy(update={"mesh_certificates": certificates})}
    nginx_image, python, sandbox = need_image("nginx"), need_image("python"), Sandbox("meshed-test")
    tunnel, volume = f"{sandbox.name}-tunnel", f"{sandbox.name}-outside"
    ports, own = ({name: free_port() for name in specs} for _ in range(2))
    files = {name: (HERE / name).read_text() for name in ("echo.py", "proxied.py")}
    try:
        docker("network", "create", tunnel)
        docker("volume", "create", volume)
        (behind,) = (c for c in plan_stack(plain).containers if c.service == "litellm-0")
        argv = ("python3", "/config/echo.py", str(LITELLM_PORT))
        echo = replace(behind, image=python, entrypoint=argv, command=(), files=files, env={}, health=None)
        name = sandbox.run(replace(echo, service="behind", aliases=("litellm",)), wait=False)
        for service, of in specs.items():
            (plan,) = (c for c in plan_stack(of).containers if c.service == "nginx")
            secrets = dict.fromkeys(plan.secret_files, server.key)
            assert set(secrets) == ({KEY} if service == CERTIFIED else set())
            sandbox.run(
                replace(
                    plan,
                    service=service,
                    image=nginx_image,
                    ports=_published(plan, own[service], ports[service]),
                    files={**plan.files, **secrets},
                ),
                volumes={OUTSIDE_VOLUME: volume},
            )
        yield Running(sandbox, authority, ports, own, name, server.key)
    finally:
        sandbox.close()
        docker("network", "rm", tunnel, check=False)
        docker("volume", "rm", "-f", volume, check=False)


def _published(plan: ContainerPlan, *ports: int) -> tuple[PublishedPort, ...]:
    api, mesh = plan.ports
    assert (mesh.container, mesh.host, mesh.address) == (MESHED_PORT, MESHED_PORT, "127.0.0.1")
    return tuple(replace(port, host=host) for port, host in zip((api, mesh), ports, strict=True))


def some_path() -> str:
    """Of a model that nobody asked for before, to find its line in the log."""
    return f"/v1/models/m{uuid4().hex}"


@pytest.mark.parametrize("client", [ALLOWED, V6])
def test_the_client_is_who_the_node_says(running: Running, client: str) -> None:
    path = some_path()
    status, answer = running.ask(LIMITED, path, client)
    assert (status, answer["path"]) == (200, path)
    assert running.log(LIMITED, path)["client"] == client


def test_only_allowed_addresses_are_let_in(running: Running) -> None:
    path = some_path()
    status, answer = running.ask(LIMITED, path, STRANGER)
    assert (status, answer["error"]["type"]) == (403, "permission_error")
    assert running.log(LIMITED, path)["client"] == STRANGER
    tls = running.client(running.authority.certify("stranger"))
    assert running.ask(CERTIFIED, some_path(), STRANGER, tls)[0] == 200, "which names no addresses"


@pytest.mark.parametrize("name", ["CF-Connecting-IP", "X-Forwarded-For", "X-Real-IP", "Forwarded"])
def test_headers_of_the_clients_own_change_nothing(running: Running, name: str) -> None:
    path = some_path()
    assert running.ask(LIMITED, path, STRANGER, header=(name, ALLOWED))[0] == 403
    assert running.log(LIMITED, path)["client"] == STRANGER
    status, answer = running.ask(LIMITED, path, ALLOWED, header=(name, STRANGER))
    assert status == 200
    assert name not in answer["headers"]


def test_who_is_not_the_host_is_not_believed(running: Running) -> None:
    """A container beside nginx, on the networks that both are on, which states an address that would be let in."""
    path = some_path()
    address = running.sandbox.address(running.sandbox.container(LIMITED))
    said = docker(
        *("exec", running.behind, "python3", "/config/proxied.py", address, str(MESHED_PORT), ALLOWED, path),
    )
    assert json.loads(said)[0] == 403
    assert running.log(LIMITED, path)["client"] == running.sandbox.address(running.behind)


def test_the_listener_of_the_hosts_own_states_no_client(running: Running) -> None:
    """By the other published port: a PROXY header is no request there, and headers are no addresses."""
    assert proxied.ask(("127.0.0.1", running.own[LIMITED]), ALLOWED, "/v1/models", {})[0] == 400


def test_without_an_address_stated_before_it_there_is_no_request(running: Running) -> None:
    connection = HTTPConnection("127.0.0.1", running.ports[LIMITED], timeout=10)
    connection.request("GET", "/v1/models")
    with pytest.raises((RemoteDisconnected, ConnectionResetError)):
        connection.getresponse()


def test_a_client_with_a_certificate_is_let_in_and_its_name_is_in_the_log(running: Running) -> None:
    path = some_path()
    status, answer = running.ask(CERTIFIED, path, ALLOWED, running.client(running.authority.certify("render")))
    assert (status, answer["path"]) == (200, path)
    line = running.log(CERTIFIED, path)
    assert (line["client"], line["certificate"]) == (ALLOWED, "CN=render")


def test_a_client_without_one_reads_what_is_missing(running: Running) -> None:
    status, answer = running.ask(CERTIFIED, some_path(), ALLOWED, running.client(None))
    assert (status, answer["error"]["code"]) == (403, "403")
    assert "Send a client certificate" in answer["error"]["message"]


def test_a_certificate_of_another_authority_or_an_expired_one_is_refused(running: Running, tmp_path: Path) -> None:
    for bad in (Authority(tmp_path).certify("render"), running.authority.certify("old", days=-1)):
        path = some_path()
        status, answer = running.ask(CERTIFIED, path, ALLOWED, running.client(bad))
        assert (status, answer["error"]["type"]) == (403, "permission_error")
        assert "not good here" in answer["error"]["message"]
        assert running.log(CERTIFIED, path)["upstream"] == ""


def test_http_is_told_to_be_https(running: Running) -> None:
    status, answer = running.ask(CERTIFIED, some_path(), ALLOWED)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert "https://" in answer["error"]["message"]


@pytest.mark.parametrize(("version", "spoken"), [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)])
def test_old_tls_is_not_spoken(running: Running, version: ssl.TLSVersion, spoken: bool) -> None:
    context = running.client(running.authority.certify("render"))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    assert (running.ask(CERTIFIED, some_path(), ALLOWED, context)[0] == 200) == spoken


def test_a_restarted_nginx_still_believes_its_host(running: Running) -> None:
    name, path = running.sandbox.container(LIMITED), some_path()
    docker("restart", name)
    running.sandbox.wait_for(name, "healthy", 30)
    assert running.ask(LIMITED, path, ALLOWED)[0] == 200
    assert inspect(name)["State"]["Running"]


def test_no_key_is_in_what_docker_tells(running: Running) -> None:
    lines = [line for line in running.server_key.splitlines() if "-----" not in line]
    told = docker("inspect", running.sandbox.container(CERTIFIED)) + docker(
        "logs", running.sandbox.container(CERTIFIED)
    )
    assert lines
    assert not [line for line in lines if line in told]
