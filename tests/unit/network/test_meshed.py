"""The gateway's listener for the mesh: what is planned for it, and what it must not touch."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pulumi import Output

from components.stack import InferenceStack, InferenceStackArgs
from planning.containers import ContainerPlan
from planning.gateway.meshed import KEY, TRUST_HOST
from planning.network.mesh import mesh_settings, mesh_summary, published
from planning.stack import plan_stack
from stack_configs.schema.network import MESHED_PORT, MeshCertificates
from stack_configs.schema.stack import StackSpec
from tests.golden.specs import ingress, spec, stack_file
from tests.unit.built import built, is_secret, of_type
from tests.unit.network.mesh import mesh, prod
from tests.unit.test_containers import CONTAINER

SECRET = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
FILES = {"certificate": "gateway.pem", "client_ca": "clients.pem"}


def certified(**over: Any) -> StackSpec:
    texts = MeshCertificates(certificate="a certificate\n", client_ca="an authority\n")
    return prod(tls=FILES, **over).model_copy(update={"mesh_certificates": texts})


def nginx(of: StackSpec) -> ContainerPlan:
    return next(c for c in plan_stack(of).containers if c.service == "nginx")


def server(of: StackSpec) -> str:
    """The listener's own part of nginx.conf."""
    _, _, rest = nginx(of).files["nginx.conf"].partition(f"        listen {MESHED_PORT}")
    assert rest
    return rest


def test_without_a_mesh_there_is_no_listener_and_no_script() -> None:
    plan = nginx(spec("prod", stack_file("prod")))
    assert str(MESHED_PORT) not in plan.files["nginx.conf"]
    assert (plan.entrypoint, len(plan.ports)) == (("nginx",), 1)


def test_the_mesh_changes_nothing_for_the_hosts_own_loopback() -> None:
    before = nginx(spec("prod", stack_file("prod"))).files["nginx.conf"]
    assert nginx(prod()).files["nginx.conf"].startswith(before[:-2])


def test_the_node_hands_the_api_to_its_own_port_and_states_the_client() -> None:
    of = prod()
    gateway = of.file.gateway.model_copy(update={"port": 18080})
    of = of.model_copy(update={"file": of.file.model_copy(update={"gateway": gateway})})
    assert mesh_settings("studio-1", of)["PORTS"] == "18080:8302:2 3000 9090 9093", "as tailscaled sorts them"
    assert mesh_settings("studio-2", of)["PORTS"] == "8300"
    assert "API (18080)" in mesh_summary("studio-1", of)
    assert [one.what for one in published("studio-1", of) if one.states_client] == ["API"]
    assert [(port.container, port.host, port.address) for port in nginx(of).ports] == [
        (8080, 18080, "127.0.0.1"),
        (MESHED_PORT, MESHED_PORT, "127.0.0.1"),
    ]


def test_addresses_are_limited_where_some_are_named() -> None:
    assert "deny" not in server(prod())
    rules = [line.strip() for line in server(prod(allow_from=["100.64.0.0/24", "fd7a:115c:a1e0::9"])).splitlines()]
    assert [rule for rule in rules if rule.startswith(("allow", "deny"))] == [
        "allow 100.64.0.0/24;",
        "allow fd7a:115c:a1e0::9/128;",
        "deny all;",
    ]


def test_the_client_is_taken_from_nowhere_but_the_nodes_word() -> None:
    """A header of the client's own decides on the tunnel's socket alone."""
    file = {**stack_file("prod"), "network": {"mesh": mesh(), "ingress": ingress()}}
    plan = nginx(spec("prod", file))
    conf = plan.files["nginx.conf"]
    assert conf.count("real_ip_header") == 2
    assert "real_ip_header proxy_protocol;" in conf.partition(f"listen {MESHED_PORT}")[2]
    assert conf.count("set_real_ip_from") == 1
    assert "set_real_ip_from unix:;" in conf
    assert plan.entrypoint[2].startswith('rm -f "$0" && while')
    assert plan.networks == ("inner", "edge", "tunnel")


@pytest.mark.parametrize(
    ("route", "trusted"),
    [
        ("eth0\t00000000\t010012AC\t0003", "set_real_ip_from 172.18.0.1;\n"),
        ("eth0\t000012AC\t00000000\t0001", ""),
        ("eth1\t00000000\tFEA8C0C0\t0003", "set_real_ip_from 192.192.168.254;\n"),
    ],
)
def test_the_host_is_where_the_default_route_leads(route: str, trusted: str, tmp_path: Path) -> None:
    table = tmp_path / "route"
    table.write_text(f"Iface\tDestination\tGateway \tFlags\n{route}\n")
    script = TRUST_HOST.replace("/proc/net/route", str(table)).replace("/tmp/host.conf", str(tmp_path / "host.conf"))
    subprocess.run(["sh", "-ec", script], check=True)
    assert (tmp_path / "host.conf").read_text() == trusted


def test_with_tls_clients_must_have_a_certificate() -> None:
    rules = server(certified())
    assert rules.startswith(" ssl proxy_protocol;")
    assert "ssl_verify_client on;" in rules
    assert nginx(certified()).files["mesh-clients.crt"] == "an authority\n"
    assert " ssl" not in server(prod())


def test_the_key_is_a_secret_file_and_in_no_plan() -> None:
    assert nginx(certified()).secret_files == (KEY,)
    assert nginx(prod()).secret_files == ()


def test_the_key_reaches_nginx_encrypted_and_nothing_else_has_it() -> None:
    def program() -> None:
        args = InferenceStackArgs(plan=plan_stack(certified(policy="checked")), mesh_key=Output.secret(SECRET))
        InferenceStack("prod", args)

    made = built(program, stack="prod")
    (carrier,) = (m for m in of_type(made, CONTAINER) if m.name == "nginx-files-carrier")
    assert is_secret(carrier.inputs["uploads"])
    uploads = {upload["file"]: upload["content"] for upload in carrier.inputs["uploads"]["value"]}
    assert uploads[f"/config/{KEY}"] == SECRET
    assert list(carrier.request.additionalSecretOutputs) == ["uploads"]
    assert "c2VjcmV0" not in json.dumps([dict(m.inputs) for m in made if m is not carrier], default=str)
