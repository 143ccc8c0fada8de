"""A host's firewall, seen from outside: what it lets in, that nobody locks himself out, and that it goes again.

Debian's real Docker, nftables, systemd and sshd; who asks is this machine, as the operator, and another host.
"""

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pulumi.automation import CommandError

from components import remote
from components.hosts.gpu_host import GpuHost, GpuHostArgs
from components.remote import no_question
from planning.hosts import steps
from planning.hosts.facts import SCRIPT, parse_facts, read_answers
from planning.hosts.plan import HostPlan, StepName
from planning.names import FRONT_PORT
from stack_configs.schema.facts import Facts
from stack_configs.schema.stack import StackFile, StackSpec
from tests.golden.specs import host_versions
from tests.hosts.engine import Project
from tests.hosts.host import Host, bare_hosts, login
from tests.hosts.repository import spec_of
from tests.hosts.steps import QUIET, SNAPSHOT

PUBLISHED, OTHER_SSHD, OUTSIDE_PORT = 8080, 2222, 7000
V6, OUTSIDE_V6 = "fd00:89::10", "fd00:89::20"
TABLE = "nft -s list table inet inference_stack"
MESHED, OUTSIDE_MESHED = "100.64.0.1", "100.64.0.2"
NOBODY = "192.0.2.0/24"
INSTALL = "apt-get update -q; apt-get install -qy --no-install-recommends"
PACKAGES = ("docker.io docker-cli iptables libnftables1 busybox-static", "busybox-static")
ROOT = (
    "mkdir -p /srv/root/bin && cp /bin/busybox /srv/root/bin/ && tar -C /srv/root -c . | docker import - tests/busybox"
)
CONTAINER = (
    f"docker run -d --name web --restart unless-stopped -p {PUBLISHED}:80 -p ADDRESS:{FRONT_PORT}:80 tests/busybox "
    "/bin/busybox nc -ll -p 80 -e /bin/busybox echo hello"
)


@dataclass(frozen=True)
class Guarded:
    """A host, what its stack's file lets in, and somebody outside."""

    host: Host
    outside: Host
    files: str
    """Of before."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """What the file has besides a firewall."""

    @property
    def operator(self) -> str:
        """This machine, as the hosts see it."""
        return f"{self.host.address.rsplit('.', 1)[0]}.1"

    def spec(self, *allow: dict[str, Any]) -> StackSpec:
        """Of two hosts, whose gateway is the other one."""
        spec = spec_of(self.host, {}, host_versions("2026.11"))
        file = spec.file.model_dump(mode="json")
        file["hosts"] = {
            host.name: {"connection": host.connection, "lan_address": host.address, "engine": "distribution"}
            for host in (self.host, self.outside)
        }
        file["gateway"]["host"] = self.outside.name
        file["network"] = {**self.network, "firewall": {"allow": allow}}
        return spec.model_copy(update={"file": StackFile.model_validate(file)})

    def ssh_from(self, source: str) -> dict[str, Any]:
        return {"port": 22, "sources": [source]}

    def plan(self, *allow: dict[str, Any], reverts_s: int = 60) -> HostPlan:
        """Of the two steps alone."""
        plan = steps.plan_host(self.host.name, self.spec(*allow))
        found = tuple(
            replace(step, settings={**step.settings, "REVERT_S": str(reverts_s)})
            for step in plan.steps
            if step.name in ("firewall", "confirm")
        )
        return replace(plan, steps=found)

    def try_(
        self,
        step: StepName,
        *allow: dict[str, Any],
        what: str = "apply",
        reverts_s: int = 60,
        over: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run a step as the plugin does, by a connection of its own; `over` are options of ssh's."""
        plan = self.plan(*(allow or (self.ssh_from(self.operator),)), reverts_s=reverts_s)
        found = next(one for one in plan.steps if one.name == step)
        argv = [*self.host.ssh_argv(), f"sudo -n bash -s {what}"]
        return subprocess.run(
            [argv[0], *over, *argv[1:]],
            input=steps.text(found),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def run(self, step: StepName, *allow: dict[str, Any], what: str = "apply", reverts_s: int = 60) -> str:
        done = self.try_(step, *allow, what=what, reverts_s=reverts_s)
        assert done.returncode == 0, f"{step}: {done.stdout}\n{done.stderr}"
        return done.stdout

    def settle(self, *allow: dict[str, Any]) -> None:
        self.run("firewall", *allow)
        self.run("confirm", *allow)

    def table(self) -> str:
        return self.host.inside(TABLE, check=False)

    def facts(self) -> Facts:
        said = self.host.ssh("bash -s", stdin=SCRIPT.read_text()).stdout
        return parse_facts(self.host.name, read_answers(said), datetime.now(UTC))

    def ways_in(self) -> set[str]:
        """What answers to the other host."""
        address, inner = self.host.address, self.host.inside("docker inspect -f '{{.NetworkSettings.IPAddress}}' web")
        asked = {
            "front": (address, FRONT_PORT),
            "published": (address, PUBLISHED),
            "published, IPv6": (V6, PUBLISHED),
            "past what is published": (inner, 80),
            "sshd": (address, 22),
            "another sshd": (address, OTHER_SSHD),
            "another sshd, IPv6": (V6, OTHER_SSHD),
        }
        if "mesh" in self.network:
            ports = {"published": PUBLISHED, "sshd": 22, "another sshd": OTHER_SSHD}
            asked |= {f"mesh, {name}": (MESHED, port) for name, port in ports.items()}
        # All at once, since what is dropped costs its whole time.
        lines = [
            f"(timeout 2 bash -c 'exec 3<>/dev/tcp/{to}/{port}' 2>/dev/null && echo '{name}') &"
            for name, (to, port) in asked.items()
        ]
        found = set(self.outside.inside("\n".join([*lines, "wait"])).splitlines())
        assert found <= set(asked)
        return found

    def asked_by_container(self, address: str) -> str:
        """What a server outside says to a container."""
        asks = f"busybox sleep 1 | busybox nc -w 5 {address} {OUTSIDE_PORT}"
        return self.host.inside(f"docker exec -e PATH=/bin web busybox sh -c '{asks}'")

    def operator_gets_in(self) -> bool:
        with socket.socket() as made:
            made.settimeout(1)
            try:
                made.connect((self.host.address, 22))
            except OSError:
                return False
            return True

    def listen(self) -> None:
        """What somebody started on the host, and addresses that a boot forgets."""
        for host, address in ((self.host, V6), (self.outside, OUTSIDE_V6)):
            host.inside(f"ip -6 addr replace {address}/64 dev eth0 nodad")
        self.host.inside(f"systemd-run --quiet --unit other-sshd /usr/sbin/sshd -D -p {OTHER_SSHD}", check=False)


EVERYTHING = {
    "front",
    "published",
    "published, IPv6",
    "past what is published",
    "sshd",
    "another sshd",
    "another sshd, IPv6",
}


@pytest.fixture(scope="module")
def bare() -> Iterator[Guarded]:
    with bare_hosts("guarded", "outside", distribution="debian-13") as hosts:
        host, outside = hosts
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda host, names: host.inside(f"{INSTALL} {names}"), hosts, PACKAGES))
        for one in hosts:
            one.put("/etc/sysctl.d/tests.conf", "net.ipv6.conf.all.disable_ipv6=0\n")
            one.inside("sysctl -qp /etc/sysctl.d/tests.conf")
        host.inside(f"{ROOT} && {CONTAINER.replace('ADDRESS', host.address)}")
        outside.inside(f"ip route add 172.17.0.0/16 via {host.address}")
        outside.inside(f"systemd-run --quiet /usr/sbin/sshd -D -p {OUTSIDE_PORT}")
        made = Guarded(host, outside, host.inside(SNAPSHOT))
        made.listen()
        yield made


def test_before_it_everything_answers_that_listens(bare: Guarded) -> None:
    assert bare.ways_in() == EVERYTHING


@pytest.fixture
def guarded(bare: Guarded) -> Guarded:
    bare.settle()
    return bare


def test_only_what_the_file_allows_comes_in(guarded: Guarded) -> None:
    """The other host is the gateway's, so it reaches the front."""
    assert guarded.operator_gets_in()
    with pytest.raises(OSError, match="timed out"):
        socket.create_connection((guarded.host.address, FRONT_PORT), timeout=1)
    assert guarded.ways_in() == {"front"}


def test_the_second_time_there_is_nothing_to_change(guarded: Guarded) -> None:
    assert guarded.run("firewall").strip() == QUIET
    assert guarded.run("confirm").strip() == QUIET


def test_containers_reach_the_world_and_the_host_its_containers(guarded: Guarded) -> None:
    assert "SSH-2.0" in guarded.asked_by_container(guarded.outside.address)
    for address in ("127.0.0.1", guarded.host.address):
        assert guarded.host.inside(f"timeout 5 bash -c 'cat </dev/tcp/{address}/{PUBLISHED}'") == "hello"
    assert "1 packets received" in guarded.outside.inside(f"busybox ping -c 1 -W 2 {guarded.host.address}")
    assert "1 packets received" in guarded.outside.inside(f"busybox ping -c 1 -W 2 {V6}")


def test_a_container_gets_of_its_host_what_the_file_allows(guarded: Guarded) -> None:
    ask = f"busybox sleep 1 | busybox nc -w 2 {guarded.host.address} {OTHER_SSHD}"
    asked = f"docker exec -e PATH=/bin web busybox sh -c '{ask}'"
    assert guarded.host.inside(asked, check=False) == ""
    guarded.settle(guarded.ssh_from(guarded.operator), {"port": OTHER_SSHD, "sources": ["172.17.0.0/16"]})
    assert "SSH-2.0" in guarded.host.inside(asked)


def test_a_docker_that_is_started_again_opens_nothing(guarded: Guarded) -> None:
    guarded.host.inside("systemctl restart docker")
    until(lambda: guarded.host.inside(f"timeout 5 bash -c 'cat </dev/tcp/127.0.0.1/{PUBLISHED}'", check=False), 30)
    assert guarded.ways_in() == {"front"}
    assert "SSH-2.0" in guarded.asked_by_container(guarded.outside.address)


def test_a_published_port_that_is_allowed_answers_those_who_may(guarded: Guarded) -> None:
    may = {"port": PUBLISHED, "sources": [f"{guarded.outside.address}/32", f"{OUTSIDE_V6}/128"]}
    guarded.settle(guarded.ssh_from(guarded.operator), may)
    assert guarded.ways_in() == {"front", "published", "published, IPv6"}
    with pytest.raises(OSError, match="timed out"):
        socket.create_connection((guarded.host.address, PUBLISHED), timeout=1)


def until(condition: Any, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_rules_that_lock_the_operator_out_end_by_themselves(guarded: Guarded) -> None:
    was, other, wrong = guarded.table(), guarded.ssh_from("10.0.0.0/8"), guarded.ssh_from(NOBODY)
    guarded.run("firewall", other)
    # What comes back is what was there before both.
    guarded.run("firewall", wrong, reverts_s=5)
    assert not guarded.operator_gets_in()
    assert guarded.try_("confirm", wrong, over=("-o", "ConnectTimeout=1")).returncode == 255
    until(guarded.operator_gets_in, 20)
    assert guarded.table() == was
    assert guarded.run("firewall").strip() == QUIET


def test_rules_that_were_not_confirmed_in_time_are_tried_once_more(guarded: Guarded) -> None:
    was, other = guarded.table(), guarded.ssh_from("10.0.0.0/8")
    guarded.run("firewall", other, reverts_s=1)
    until(lambda: guarded.table() == was, 10)
    done = guarded.try_("confirm", other)
    assert done.returncode == 1
    assert "nobody confirmed the rules in time" in done.stderr
    assert "run `up` again within that time" in done.stderr
    assert guarded.run("confirm", other).endswith("the rules stay\n")
    assert guarded.run("firewall", other).strip() == QUIET


def test_an_up_that_locks_itself_out_fails_and_a_mended_one_goes_on(
    bare: Guarded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pulumi's engine: each step dials anew."""
    monkeypatch.setattr(remote, "DIALS", 0)
    monkeypatch.setattr(remote, "DIAL_S", 2)

    def program(inputs: dict[str, Any]) -> None:
        GpuHost("guarded", GpuHostArgs(plan=inputs["plan"], reach=no_question))

    project = Project(tmp_path, program)
    project.inputs = {"plan": bare.plan(bare.ssh_from(NOBODY), reverts_s=6)}
    with pytest.raises(CommandError, match="guarded-confirm"):
        project.up()
    assert not bare.operator_gets_in()
    until(bare.operator_gets_in, 20)
    project.inputs = {"plan": bare.plan(bare.ssh_from(bare.operator))}
    assert project.up() == {"same": 2, "update": 1, "create": 1}
    assert set(project.up()) == {"same"}
    assert bare.ways_in() == {"front"}
    project.destroy()
    assert bare.table() == ""


def test_a_connection_that_was_there_before_the_rules_confirms_nothing(guarded: Guarded) -> None:
    shared = ("-o", f"ControlPath={login().folder}/shared")
    argv = guarded.host.ssh_argv()
    subprocess.run([argv[0], *shared, "-o", "ControlMaster=yes", "-fN", *argv[1:]], check=True)
    try:
        guarded.run("firewall", guarded.ssh_from("10.0.0.0/8"))
        done = guarded.try_("confirm", guarded.ssh_from("10.0.0.0/8"), over=shared)
        assert done.returncode == 1
        assert "this connection is older than the rules" in done.stderr
    finally:
        subprocess.run([argv[0], *shared, "-O", "exit", *argv[1:]], check=True, capture_output=True)


def test_a_boot_before_the_confirmation_brings_the_former_rules(guarded: Guarded) -> None:
    was = guarded.table()
    guarded.run("firewall", guarded.ssh_from("10.0.0.0/8"), {"port": PUBLISHED, "sources": ["0.0.0.0/0", "::/0"]})
    guarded.listen()
    assert guarded.ways_in() == {"front", "sshd", "published", "published, IPv6"}
    guarded.host.reboot()
    guarded.listen()
    until(lambda: guarded.host.inside("docker ps -q --filter name=web", check=False), 30)
    assert guarded.table() == was
    assert guarded.ways_in() == {"front"}
    assert guarded.run("firewall").strip() == QUIET


def test_a_table_that_somebody_changed_is_told_and_loaded_again(guarded: Guarded) -> None:
    was, facts = guarded.table(), guarded.facts()
    assert facts.firewall
    assert facts.firewall == facts.firewall_confirmed
    guarded.host.inside("nft insert rule inet inference_stack input accept")
    assert guarded.facts().firewall != facts.firewall == guarded.facts().firewall_confirmed
    guarded.host.inside("nft delete table inet inference_stack")
    assert guarded.facts().firewall is None
    assert guarded.run("firewall").startswith("loaded the rules")
    assert guarded.table() == was
    guarded.run("confirm")


def test_files_that_somebody_removed_are_there_again(guarded: Guarded) -> None:
    files = "find /etc -name 'inference-stack-firewall*' | sort"
    were = guarded.host.inside(files).splitlines()
    assert len(were) == 4, "rules, unit, the unit's link for boots, drop-in"
    for file in were:
        guarded.host.inside(f"rm {file}; systemctl daemon-reload")
        guarded.settle()
        assert guarded.host.inside(files).splitlines() == were


def test_the_distributions_own_service_takes_nothing_away(guarded: Guarded) -> None:
    was = guarded.table()
    guarded.host.inside("nft list ruleset | grep -v ^# >/srv/all; nft flush ruleset")
    guarded.settle()
    before = guarded.host.inside("cat /etc/nftables.conf")
    assert "flush ruleset" in before
    try:
        for what in ("start", "reload", "restart", "stop"):
            guarded.host.inside(f"systemctl {what} nftables")
            assert guarded.table() == was, what
    finally:
        guarded.host.reboot()  # what else it took away comes back


def test_what_comes_over_the_mesh_was_judged_there(guarded: Guarded) -> None:
    """An interface on the same wire, with the mesh's name, stands in for it."""
    guarded.listen()
    guarded.host.inside(
        "sysctl -qw net.ipv4.conf.all.arp_ignore=1; ip link add tailscale0 link eth0 type macvlan mode bridge;"
        f"ip addr add {MESHED}/24 dev tailscale0; ip link set tailscale0 up"
    )
    guarded.outside.inside(f"ip addr add {OUTSIDE_MESHED}/24 dev eth0")
    try:
        mesh = {"control": "tailscale", "domain": "tail1234.ts.net", "operators": ["kim@example.org"]}
        over_mesh = replace(guarded, network={"mesh": mesh})
        assert over_mesh.ways_in() == {"front"}, "the stack's file has no mesh yet"
        over_mesh.settle()
        assert over_mesh.ways_in() == {"mesh, published", "mesh, sshd", "mesh, another sshd"}
        assert "SSH-2.0" in guarded.asked_by_container(OUTSIDE_MESHED)
    finally:
        guarded.host.inside("ip link del tailscale0")
        guarded.outside.inside(f"ip addr del {OUTSIDE_MESHED}/24 dev eth0")


def test_an_interface_that_would_pass_for_dockers_is_refused(guarded: Guarded) -> None:
    guarded.host.inside("ip link add br-lan type bridge")
    try:
        done = guarded.try_("firewall")
        assert "the interface br-lan would pass for one of Docker's" in done.stderr
    finally:
        guarded.host.inside("ip link del br-lan")


def test_leaving_takes_all_of_it_away(guarded: Guarded) -> None:
    guarded.run("firewall", guarded.ssh_from("10.0.0.0/8"))  # on trial meanwhile
    guarded.run("confirm", what="undo")
    guarded.run("firewall", what="undo")
    assert "inference_stack" not in guarded.host.inside("nft list tables")
    assert guarded.host.inside("find /etc /usr/local /run /var/lib/inference-stack -name '*firewall*'") == ""
    assert "inference-stack" not in guarded.host.inside("systemctl list-units --all --plain --no-legend")
    added = set(guarded.host.inside(SNAPSHOT).splitlines()) - set(guarded.files.splitlines())
    assert [row.split()[1] for row in added] == ["/etc/nftables.conf"], "nftables itself stays"
    guarded.listen()
    assert guarded.ways_in() == EVERYTHING
