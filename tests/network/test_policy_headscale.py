"""The mesh's policy on a real headscale, which is asked over loopback; its nodes are entries without machines."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
import yaml
from pulumi import ResourceOptions, automation

from components.network.control import ControlError, ask_json
from components.network.headscale import Headscale
from components.network.mesh_policy import MeshPolicy, MeshPolicyArgs
from planning.network.plan import PolicyPlan
from planning.network.policy import Policy, is_ours, plan_policy, policy, present, text
from stack_configs.schema.stack import StackSpec
from tests.contract.gateway import free_port
from tests.hosts.engine import Project, plain
from tests.network import programs
from tests.unit.network.mesh import DOMAIN, both, prod
from tools import policy as command
from tools.mesh_control import digest, remove_stale, retag, write_policy, writer

STARTS_WITHIN_S = 30
GATEWAY, HOST, LAB = "tag:inference-prod-gateway", "tag:inference-prod-host", "tag:inference-lab-gateway"
LAB_HOST = "tag:inference-lab-host"
OPEN = '{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]} // everything\n'


@dataclass(frozen=True)
class Server:
    """A headscale, and what its owner does there."""

    asked: Headscale
    folder: Path

    def say(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [str(programs.headscale()), "--config", str(self.folder / "config.yaml"), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def api(self, path: str, body: Mapping[str, Any]) -> Any:
        return ask_json("POST", f"{self.asked.url}/api/v1/{path}", self.asked.api_key, body)

    def join(self, name: str, user: str, *tags: str) -> str:
        """A node's entry; its id."""
        pending = f"hskey-authreq-{token_hex(12)}"
        self.api("debug/node", {"user": user, "key": pending, "name": name, "routes": []})
        node = str(self.api("auth/register", {"user": user, "authId": pending})["node"]["id"])
        if tags:
            self.api(f"node/{node}/tags", {"tags": list(tags)})
        return node

    def join_all(self) -> None:
        """The hosts of both stacks, one that has left the lab's file and isn't undone yet, and a laptop for each
        person. Their tags must be in force."""
        for name, node_tag in (("studio-1", GATEWAY), ("studio-2", HOST), ("lab-1", LAB), ("lab-2", LAB_HOST)):
            self.join(name, "kim", node_tag)
        for user in ("kim", "ann", "bo"):
            self.join(f"{user}s-laptop", user)


@contextmanager
def headscale(folder: Path) -> Iterator[Server]:
    """One of its own, without a policy and without nodes."""
    folder.mkdir()
    port, other, grpc = free_port(), free_port(), free_port()
    (folder / "derp.yaml").write_text(
        yaml.safe_dump({"regions": {900: {"regionid": 900, "regioncode": "none", "regionname": "none", "nodes": []}}})
    )
    settings = {
        "server_url": f"http://127.0.0.1:{port}",
        "listen_addr": f"127.0.0.1:{port}",
        "metrics_listen_addr": f"127.0.0.1:{other}",
        "grpc_listen_addr": f"127.0.0.1:{grpc}",
        "noise": {"private_key_path": str(folder / "noise.key")},
        "prefixes": {"v4": "100.64.0.0/10", "v6": "fd7a:115c:a1e0::/48"},
        "derp": {"server": {"enabled": False}, "urls": [], "paths": [str(folder / "derp.yaml")]},
        "disable_check_updates": True,
        "database": {"type": "sqlite", "sqlite": {"path": str(folder / "db.sqlite")}},
        "policy": {"mode": "database"},
        "dns": {"magic_dns": True, "base_domain": DOMAIN, "override_local_dns": False},
        "unix_socket": str(folder / "socket"),
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    argv = [str(programs.headscale()), "--config", str(folder / "config.yaml"), "serve"]
    with (folder / "log").open("w") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            _answers(port, process, folder / "log")
            made = Server(Headscale(f"http://127.0.0.1:{port}", ""), folder)
            key = made.say("apikeys", "create").stdout.split()[-1]
            for user in ("kim", "ann", "bo"):
                made.say("users", "create", user)
            yield Server(Headscale(made.asked.url, key), folder)
        finally:
            process.terminate()


def _answers(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with headscale(tmp_path / "headscale") as made:
        yield made


@pytest.fixture(scope="module")
def with_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Each call of its API costs it a quarter of a second, and each node takes three."""
    with headscale(tmp_path_factory.mktemp("joined") / "headscale") as made:
        write_policy(both(), made.asked)
        made.join_all()
        yield made


@pytest.fixture
def joined(with_nodes: Server) -> Server:
    """With the policy of two stacks in force, and all their nodes."""
    with_nodes.asked.set_policy(text(policy(both()), "prod"))
    return with_nodes


def check(server: Server, made: Policy) -> subprocess.CompletedProcess[str]:
    file = server.folder / "policy.json"
    file.write_text(text(made, "prod"))
    return server.say("policy", "check", "--file", str(file))


def test_headscale_takes_the_policy_and_its_tests_hold(joined: Server) -> None:
    made = policy(both(ssh=True))
    assert made == policy(both(ssh=True), present(joined.asked.nodes())), "a node of everybody is there"
    done = check(joined, made)
    assert done.returncode == 0, done.stderr
    joined.asked.set_policy(text(made, "prod"))
    assert is_ours(joined.asked.policy() or "", "prod")


@pytest.mark.parametrize(
    ("grant", "failed"),
    [
        pytest.param(("ann@", HOST, "tcp:22"), f"ann@ -> {HOST}:22 (tcp): expected DENIED", id="a-user-gets-ssh"),
        pytest.param(("kim@", HOST, "tcp:8300"), f"kim@ -> {HOST}:8300 (tcp): expected DENIED", id="a-front-is-opened"),
        pytest.param((HOST, GATEWAY, "*"), f"{HOST} -> {GATEWAY}:8080 (tcp): expected DENIED", id="a-host-gets-back"),
        pytest.param(("kim@", LAB, "tcp:22"), f"kim@ -> {LAB}:22 (tcp): expected DENIED", id="into-another-stack"),
    ],
)
def test_a_grant_too_many_fails_its_tests(joined: Server, grant: tuple[str, str, str], failed: str) -> None:
    source, to, port = grant
    made = policy(both())
    made["grants"].append({"src": [source], "dst": [to], "ip": [port]})
    assert failed in check(joined, made).stderr
    before = joined.asked.policy()
    with pytest.raises(ControlError, match=r"test\(s\) failed"):
        joined.asked.set_policy(text(made, "prod"))
    assert joined.asked.policy() == before


def test_a_grant_too_few_fails_its_tests(joined: Server) -> None:
    made = policy(both())
    made["grants"] = [grant for grant in made["grants"] if grant["src"] != [GATEWAY]]
    assert f"{GATEWAY} -> {HOST}:8300 (tcp): expected ALLOWED" in check(joined, made).stderr


def test_before_anybody_has_joined_the_policy_is_in_force_without_tests(server: Server) -> None:
    assert server.asked.policy() is None
    with pytest.raises(ControlError, match="resolved to no IP addresses"):
        server.asked.set_policy(text(policy(both()), "prod"))
    write_policy(both(), server.asked)
    assert '"grants"' in (server.asked.policy() or "")
    assert '"tests"' not in (server.asked.policy() or "")
    server.join_all()
    write_policy(both(), server.asked)
    assert json.loads((server.asked.policy() or "").split("\n", 1)[1]) == policy(both())


def test_a_key_lets_one_node_in_with_its_tags(server: Server) -> None:
    key = server.asked.mint_key((HOST,), minutes=5)
    (made,) = json.loads(server.say("preauthkeys", "list", "--output", "json").stdout)
    assert key.startswith(made["key"].removesuffix("***"))
    assert made["acl_tags"] == [HOST]
    assert not made.get("reusable")
    assert not made.get("ephemeral")
    left = made["expiration"]["seconds"] - made["created_at"]["seconds"]
    assert 240 <= left <= 300


def test_a_wrong_key_is_told_with_what_to_do_and_never_shown(server: Server) -> None:
    wrong = Headscale(server.asked.url, "hskey-api-of-nobody-0123456789")
    with pytest.raises(ControlError) as told:
        wrong.mint_key((HOST,))
    assert "headscale apikeys create" in str(told.value)
    assert "pulumi config set --secret inference-stack:headscaleApiKey" in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    assert "of-nobody" not in str(told.value) + repr(wrong)


def test_nodes_whose_host_left_the_spec_are_removed_and_no_others(joined: Server) -> None:
    joined.join("studio-9", "kim", HOST)
    assert [node.name for node in remove_stale(both(), joined.asked)] == ["studio-9"]
    left = {node.name for node in joined.asked.nodes()}
    assert left == {"studio-1", "studio-2", "lab-1", "lab-2", "kims-laptop", "anns-laptop", "bos-laptop"}
    joined.asked.delete_node("9999")


def test_where_the_gateway_has_moved_the_nodes_tags_follow(joined: Server, capsys: pytest.CaptureFixture[str]) -> None:
    spec = at(joined, both())
    moved = spec.model_copy(
        update={
            "file": spec.file.model_copy(update={"gateway": spec.file.gateway.model_copy(update={"host": "studio-2"})})
        }
    )
    status, said = told(moved, joined, capsys)
    assert (status, f"studio-1 has the tag {GATEWAY} since before the gateway moved" in said) == (1, True)
    assert [node.name for node in retag(moved, joined.asked)] == ["studio-1", "studio-2"]
    assert told(moved, joined, capsys)[0] == 0
    retag(spec, joined.asked)
    found = {node.name: node.tags for node in joined.asked.nodes()}
    assert (found["studio-1"], found["studio-2"]) == ((GATEWAY,), (HOST,))


# What `pulumi up` does of it.


def plan_of(spec: StackSpec) -> PolicyPlan:
    plan = plan_policy(spec)
    assert plan
    return plan


@pytest.fixture
def project(server: Server, tmp_path: Path) -> Project:
    """`inputs["spec"]` is what the stack is to be."""

    def program(inputs: dict[str, Any]) -> None:
        spec = inputs["spec"]
        args = MeshPolicyArgs(plan=plan_of(spec), write=writer(spec, server.asked))
        made = MeshPolicy("mesh", args, ResourceOptions())
        made.prove(made.written)

    return Project(tmp_path, program)


def at(server: Server, spec: StackSpec) -> StackSpec:
    """The spec with this headscale's address, which no file may have: it speaks plain HTTP."""
    mesh = spec.file.network.mesh
    assert mesh
    network = spec.file.network.model_copy(update={"mesh": mesh.model_copy(update={"login_server": server.asked.url})})
    return spec.model_copy(update={"file": spec.file.model_copy(update={"network": network})})


def test_up_writes_what_a_preview_has_shown(server: Server, project: Project) -> None:
    project.inputs = {"spec": at(server, prod())}
    assert set(project.preview()) >= {"mesh-policy", "mesh-policy-tests"}
    assert server.asked.policy() is None, "a preview writes nothing"
    project.up()
    assert is_ours(server.asked.policy() or "", "prod")
    assert project.preview() == {}

    project.inputs = {"spec": at(server, prod(users=[]))}
    assert set(project.preview()) == {"mesh-policy", "mesh-policy-tests"}
    project.up()
    assert "ann@" not in (server.asked.policy() or "ann@")
    assert server.asked.api_key not in plain(project.state())


def test_up_keeps_a_policy_that_it_did_not_write_until_it_is_told(server: Server, project: Project) -> None:
    server.asked.set_policy(OPEN)
    project.inputs = {"spec": at(server, prod())}
    with pytest.raises(automation.CommandError, match=r"make policy STACK=prod"):
        project.up()
    assert server.asked.policy() == OPEN
    other = at(server, prod()).model_copy(update={"taken_over_policy": digest("another one")})
    project.inputs = {"spec": other}
    with pytest.raises(automation.CommandError, match="did not write"):
        project.up()
    project.inputs = {"spec": at(server, prod()).model_copy(update={"taken_over_policy": digest(OPEN)})}
    project.up()
    assert is_ours(server.asked.policy() or "", "prod")


# What `make policy` tells.


def told(spec: StackSpec, server: Server, capsys: pytest.CaptureFixture[str], **words: bool) -> tuple[int, str]:
    words = {"take_over": False, "remove": False, **words}
    status = command.compared(spec, server.asked, server.folder, **words)
    return status, capsys.readouterr().out


def test_make_policy_says_what_is_in_force(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    spec = at(server, both())
    status, said = told(spec, server, capsys)
    assert (status, "every node reaches every other" in said) == (1, True)
    write_policy(spec, server.asked)
    status, said = told(spec, server, capsys)
    assert status == 0, said
    assert "untested: ann@, bo@, kim@" in said
    server.join_all()
    status, said = told(spec, server, capsys)
    assert status == 0, said
    assert "Its tests hold: 175 connections" in said


def test_make_policy_shows_an_edit_and_lets_up_replace_it_when_told(
    joined: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = (joined.asked.policy() or "").replace('"tcp:22"', '"*"', 1)
    body = json.loads(edited.split("\n", 1)[1])
    del body["tests"]  # which would fail
    joined.asked.set_policy(edited.split("\n", 1)[0] + "\n" + json.dumps(body))
    status, said = told(at(joined, both()), joined, capsys)
    assert status == 1
    assert '-        "*"' in said
    assert '+        "tcp:22"' in said
    assert "TAKE_OVER=yes" in said

    run: list[list[str]] = []

    def pulumi(argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        run.append(argv)
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pulumi)
    status, said = told(at(joined, both()), joined, capsys, take_over=True)
    assert run[-1][3:5] == ["inference-stack:taken-over-policy", digest(joined.asked.policy() or "")]
    assert "The next `pulumi up` replaces it" in said


def test_a_stack_that_only_checks_compares_its_own_part(joined: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server, checked = joined, at(joined, prod(policy="checked"))
    assert told(checked, server, capsys) == (0, "The policy in force is as the spec has it.\n")
    server.asked.set_policy(text(policy(prod(users=["bo@"], operators=["ann@"])), "lab"))
    status, said = told(checked, server, capsys)
    assert status == 1
    assert f"kim@ can't reach {HOST}, port 22: SSH" in said
    assert f"bo@ may reach {GATEWAY}, port 8080" in said
    server.asked.set_policy(OPEN)
    status, said = told(checked, server, capsys)
    assert (status, f"* may reach {HOST}, ports 0 to 65535" in said) == (1, True)


def test_somebody_whom_the_headscale_does_not_know_is_named(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    """headscale itself takes such a policy, and lets nobody in by it."""
    spec = at(server, prod(users=["zoe@"]))
    write_policy(spec, server.asked)
    status, said = told(spec, server, capsys)
    assert (status, "zoe@ is no user of the headscale" in said) == (1, True)
