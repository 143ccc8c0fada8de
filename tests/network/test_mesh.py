"""Hosts join a real headscale, publish their services and are kept apart by its policy. The scripts alone, over SSH.

The tests share two hosts and run in the order in which they stand here.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from components.network.headscale import Headscale as Client
from planning.hosts import facts as facts_of
from planning.hosts import steps
from planning.hosts.plan import HostPlan, StepName
from planning.names import FRONT_PORT
from planning.network.exposure import findings
from planning.network.firewall import ruleset
from planning.network.listeners import SCRIPT, read_listeners
from planning.network.policy import policy, text
from stack_configs.schema.facts import Facts
from stack_configs.schema.network import Allowed, Firewall, Network
from stack_configs.schema.stack import StackSpec
from tests.hosts.host import Host, bare_hosts
from tests.hosts.repository import Repository, docker, spec_of, tailscale_package
from tests.network import programs
from tests.network.headscale import DOMAIN, Headscale, control_server

KEY_FILE = "/run/inference-stack-join-key"
ANSWER = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=%d, bind='127.0.0.1')"
QUIET = "nothing to change"


@dataclass(frozen=True)
class Mesh:
    server: Headscale
    client: Client
    spec: StackSpec
    hosts: dict[str, Host]

    def plan(self, name: str) -> HostPlan:
        return steps.plan_host(name, self.spec)

    def try_(self, name: str, step: StepName, what: str = "apply") -> subprocess.CompletedProcess[str]:
        """Run a step as the plugin does."""
        found = next(one for one in self.plan(name).steps if one.name == step)
        words = ("summary", *found.once, found.digest) if what == "apply" else ()
        command = " ".join(("sudo -n bash -s", what, *words))
        return self.hosts[name].ssh(command, stdin=steps.text(found), check=False)

    def run(self, name: str, step: StepName, what: str = "apply") -> str:
        done = self.try_(name, step, what)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def fails(self, name: str, step: StepName) -> str:
        done = self.try_(name, step)
        assert done.returncode == 1, done.stdout
        return done.stderr.strip()

    def facts(self, name: str) -> Facts:
        done = self.hosts[name].ssh("bash -s", stdin=facts_of.SCRIPT.read_text())
        return facts_of.parse_facts(name, facts_of.read_answers(done.stdout), datetime.now(UTC))

    def give_key(self, name: str, key: str) -> None:
        self.hosts[name].put(KEY_FILE, key, "0600")

    def join(self, name: str) -> str:
        self.give_key(name, self.client.mint_key(self.plan(name).tags))
        return self.run(name, "join")

    def reaches(self, source: str, target: str) -> bool:
        """Whether a new TCP connection from a host gets an answer."""
        line = f"curl -sS -o /dev/null -m 3 http://{target}/"
        return self.hosts[source].ssh(line, check=False).returncode == 0

    def address(self, name: str) -> str:
        return self.hosts[name].inside("tailscale ip -4")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    repository = Repository(tmp_path_factory.mktemp("apt"))
    repository.publish(tailscale_package(programs.folder()), *docker(suite="debian.13~trixie"))
    control = tmp_path_factory.mktemp("headscale")
    hosts = bare_hosts("one", "two", distribution="debian-13")
    with hosts as found, control_server(control) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(server.ca))
        yield _mesh(found, server, repository)


def _mesh(found: list[Host], server: Headscale, repository: Repository) -> Mesh:
    one, two = found
    spec = spec_of(one, {}, repository.versions())
    join = {"control": "headscale", "login_server": server.url, "domain": DOMAIN, "operators": ["kim@"]}
    file = spec.file.model_dump(mode="json")
    file["hosts"][two.name] = {**file["hosts"][one.name], "connection": two.connection}
    file |= {"network": {"mesh": join}, "gateway": {**file["gateway"], "host": one.name}}
    spec = StackSpec.model_validate({**spec.model_dump(mode="json"), "file": file})
    for host in found:
        repository.copy_to(host)
        server.trusted_by(host)
        host.inside("apt-get update -q >/dev/null && apt-get install -qy curl python3-minimal python3 >/dev/null")
    server.say("users", "create", "kim")
    made = Mesh(server, Client(server.url, server.api_key()), spec, {host.name: host for host in found})
    made.client.set_policy(text(policy(spec, frozenset()), spec.stack))
    return made


def test_without_a_key_a_host_says_what_is_missing(mesh: Mesh) -> None:
    says = mesh.fails("one", "join")
    assert says.startswith("join: this host is no node of the mesh, and there is no key to join with")
    assert "was not given its API key" in says


def test_a_key_that_is_not_good_is_told(mesh: Mesh) -> None:
    mesh.give_key("one", "hskey-auth-abcdefghijkl-" + "x" * 64)
    says = mesh.fails("one", "join")
    assert "the control server refused the key" in says
    assert "xxxx" not in says
    assert mesh.hosts["one"].inside(f"ls {KEY_FILE}* 2>/dev/null || true") == ""


def test_a_host_joins_under_its_name_with_the_tag_of_its_part(mesh: Mesh) -> None:
    for name, part in (("one", "gateway"), ("two", "host")):
        assert f"joined the mesh as {name}.{DOMAIN}" in mesh.join(name)
        assert mesh.server.nodes()[name]["tags"] == [f"tag:inference-test-{part}"]
        assert mesh.hosts[name].inside(f"ls {KEY_FILE}* 2>/dev/null || true") == "", "the key is not left behind"


def test_a_host_that_has_joined_needs_no_key(mesh: Mesh) -> None:
    assert mesh.run("one", "join").strip() == QUIET


def test_the_node_takes_no_routes_no_names_and_no_ssh(mesh: Mesh) -> None:
    mesh.run("one", "mesh")
    prefs = mesh.hosts["one"].inside("tailscale debug prefs")
    for line in ('"RouteAll": false', '"CorpDNS": false', '"RunSSH": false', '"AdvertiseRoutes": null'):
        assert line in prefs
    assert "100.100.100.100" not in mesh.hosts["one"].inside("cat /etc/resolv.conf")


def test_facts_say_when_somebody_has_changed_the_node(mesh: Mesh) -> None:
    assert (facts := mesh.facts("one")).mesh == facts.mesh_noted is not None
    mesh.hosts["one"].inside("tailscale set --accept-routes=true")
    assert (facts := mesh.facts("one")).mesh != facts.mesh_noted
    assert "set the node" in mesh.run("one", "mesh")
    assert (facts := mesh.facts("one")).mesh == facts.mesh_noted


def test_what_listens_on_loopback_is_published_into_the_mesh_alone(mesh: Mesh) -> None:
    two = mesh.hosts["two"]
    assert f"publishes 127.0.0.1: {FRONT_PORT}" in mesh.run("two", "mesh")
    assert mesh.run("two", "mesh").strip() == QUIET
    two.inside(f'systemd-run -q --unit front python3 -c "{ANSWER % FRONT_PORT}"')
    assert _eventually(lambda: mesh.reaches("one", f"{mesh.address('two')}:{FRONT_PORT}"))
    assert not mesh.reaches("one", f"{two.address}:{FRONT_PORT}")
    listening = two.inside(f"ss -Hltn 'sport = :{FRONT_PORT}' | awk '{{print $4}}'").split()
    assert {at.rsplit(":", 1)[0] for at in listening} <= {"127.0.0.1", mesh.address("two"), "[fd7a:115c:a1e0::2]"}


def test_a_host_that_joins_lets_the_mesh_in_through_rules_from_before(mesh: Mesh) -> None:
    two, at = mesh.hosts["two"], f"{mesh.address('two')}:{FRONT_PORT}"
    firewall = Network(firewall=Firewall(allow=(Allowed(port=22, sources=("0.0.0.0/0",)),)))
    before = mesh.spec.model_copy(update={"file": mesh.spec.file.model_copy(update={"network": firewall})})
    two.inside("apt-get install -qy nftables >/dev/null")
    # What the node publishes it takes out of the tunnel itself; sshd's port, say, comes by the interface.
    listen = f"import http.server as h; h.test(port={FRONT_PORT}, bind='{mesh.address('two')}')"
    two.inside(f'tailscale serve reset; systemd-run -q --unit beside python3 -c "{listen}"')
    assert _eventually(lambda: mesh.reaches("one", at))
    two.put("/etc/inference-stack-firewall.nft", ruleset("two", before))
    load = "nft -f /etc/inference-stack-firewall.nft"
    two.inside(load)
    try:
        assert not mesh.reaches("one", at)
        assert "the firewall's rules let in what comes over the mesh" in mesh.run("two", "join")
        assert _eventually(lambda: mesh.reaches("one", at))
        two.inside(load)  # as a boot does
        assert mesh.reaches("one", at)
        assert mesh.run("two", "join").strip() == QUIET
    finally:
        two.inside("nft delete table inet inference_stack; rm /etc/inference-stack-firewall.nft; systemctl stop beside")
        mesh.run("two", "mesh")


def test_the_nodes_own_listeners_are_declared_ones(mesh: Mesh) -> None:
    for name, host in mesh.hosts.items():
        inside = read_listeners(host.ssh("exec bash -s", stdin=SCRIPT.read_text()).stdout)
        assert {("tcp", True), ("udp", False)} <= {
            (of.protocol, str(of.address) == mesh.address(name))
            for of in inside.listeners
            if (of.process, of.unit) == ("tailscaled", "tailscaled.service")
        }
        assert findings(name, mesh.spec, inside, (), "") == ()


def test_the_policy_lets_through_what_the_spec_has_and_nothing_else(mesh: Mesh) -> None:
    one, two = mesh.address("one"), mesh.address("two")
    mesh.hosts["two"].inside('systemd-run -q --unit other python3 -c "import http.server as h; h.test(port=9400)"')
    assert _eventually(lambda: mesh.reaches("two", "127.0.0.1:9400"))
    assert _eventually(lambda: mesh.reaches("one", f"{two}:{FRONT_PORT}")), "gateway to front"
    assert not mesh.reaches("one", f"{two}:9400"), "a port that the spec doesn't have"
    assert not mesh.reaches("two", f"{one}:22"), "a host to the gateway"
    assert "pong from two" in mesh.hosts["one"].inside("tailscale ping -c 1 two"), "which says nothing of the policy"


def test_a_node_that_has_lost_its_state_joins_again_under_its_name(mesh: Mesh) -> None:
    two = mesh.hosts["two"]
    two.inside("systemctl stop tailscaled && rm -rf /var/lib/tailscale/* && systemctl start tailscaled")
    assert "is not in the mesh" in mesh.fails("two", "mesh")
    mesh.client.delete_node(next(node.id for node in mesh.client.nodes() if node.name == "two"))
    assert f"joined the mesh as two.{DOMAIN}" in mesh.join("two")
    assert "publishes" in mesh.run("two", "mesh")
    assert _eventually(lambda: mesh.reaches("one", f"{mesh.address('two')}:{FRONT_PORT}"))


def test_a_node_that_was_expired_joins_again(mesh: Mesh) -> None:
    before = mesh.server.nodes()["two"]["id"]
    mesh.server.say("nodes", "expire", "--identifier", str(before), "--force")
    assert _eventually(lambda: not mesh.reaches("one", f"{mesh.address('two')}:{FRONT_PORT}"))
    assert "is not in the mesh" in mesh.fails("two", "mesh")
    mesh.client.delete_node(str(before))  # as `up` does, before it makes a key
    assert f"joined the mesh as two.{DOMAIN}" in mesh.join("two")
    mesh.run("two", "mesh")
    assert _eventually(lambda: mesh.reaches("one", f"{mesh.address('two')}:{FRONT_PORT}"))


def test_traffic_goes_on_while_the_control_plane_is_down(mesh: Mesh) -> None:
    with mesh.server.down():
        assert _eventually(lambda: mesh.reaches("one", f"{mesh.address('two')}:{FRONT_PORT}"))


def test_after_a_power_cut_all_is_back_in_whatever_order_machines_start(mesh: Mesh) -> None:
    two = mesh.hosts["two"]
    at = f"{mesh.address('two')}:{FRONT_PORT}"
    with mesh.server.down():
        two.power_off()
        two.power_on()
        two.inside(f'systemd-run -q --unit front python3 -c "{ANSWER % FRONT_PORT}"')
    assert _eventually(lambda: mesh.reaches("one", at), 60), "same address, published as before"


def test_a_host_of_another_mesh_is_refused(mesh: Mesh) -> None:
    found = next(one for one in mesh.plan("one").steps if one.name == "join")
    command = f"sudo -n bash -s apply summary https://elsewhere.example one.{DOMAIN} {found.digest}"
    done = mesh.hosts["one"].ssh(command, stdin=steps.text(found), check=False)
    assert "this host is a node of another mesh" in done.stderr


def test_a_host_that_leaves_the_spec_leaves_the_mesh(mesh: Mesh) -> None:
    before = mesh.hosts["two"].inside("ls /etc/apt/sources.list.d")
    mesh.run("two", "join", "undo")
    assert "inference-stack-tailscale" in before
    assert "inference-stack-tailscale" not in mesh.hosts["two"].inside("ls /etc/apt/sources.list.d")
    assert mesh.hosts["two"].inside("apt-mark showhold") == ""
    assert mesh.hosts["two"].inside("systemctl is-active tailscaled || true") == "inactive"
    assert not mesh.reaches("one", f"two.{DOMAIN}:{FRONT_PORT}")


def test_a_host_that_comes_back_joins_under_its_name(mesh: Mesh) -> None:
    mesh.client.delete_node(str(mesh.server.nodes()["two"]["id"]))  # as `up` does, before it makes a key
    assert f"joined the mesh as two.{DOMAIN}" in mesh.join("two")
    mesh.run("two", "mesh")
    assert _eventually(lambda: mesh.reaches("one", f"{mesh.address('two')}:{FRONT_PORT}"))


def _eventually(true: Callable[[], bool], within_s: float = 20) -> bool:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.3)
    return True
