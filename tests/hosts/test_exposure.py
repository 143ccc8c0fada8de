"""`make exposure` against a real host with real listeners and Docker, from a real vantage point, over real SSH.

Debian's own Docker, sshd, systemd and nftables; the vantage points are another host, and this machine.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from planning.network.firewall import ruleset
from stack_configs.schema.network import Network
from stack_configs.schema.stack import StackSpec
from tests.golden.specs import host_versions
from tests.hosts.host import USER, Host, bare_hosts, login
from tests.hosts.repository import spec_of
from tools import exposure

V6, OUTSIDE_V6 = "fd00:89:6::10", "fd00:89:6::20"
IMAGE = "mkdir -p /srv/root/bin && cp /bin/busybox /srv/root/bin/ && tar -C /srv/root -c . | docker import - web"
CONTAINER = "docker run -d --name web -p 8080:80 web /bin/busybox nc -ll -p 80 -e /bin/busybox echo hello"
TCP = "IO::Socket::IP->new(LocalHost => '{address}', LocalPort => {port}, Listen => 5, V6Only => 1)"
UDP = "IO::Socket::IP->new(LocalHost => '{address}', LocalPort => {port}, Proto => 'udp')"
ANSWERS = "while ($s->recv(my $asked, 9)) {{ $s->send('here', 0, $s->peername) }}"


@dataclass(frozen=True)
class Scene:
    """A host of a stack, somebody outside, and how `make exposure` ended."""

    host: Host
    outside: Host
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    @property
    def vantage(self) -> str:
        return f"{USER}@{self.outside.address}"

    @property
    def here(self) -> str:
        """This machine, as the hosts see it."""
        return f"{self.host.address.rsplit('.', 1)[0]}.1"

    def spec(self, *allow: dict[str, Any], firewall: bool = True) -> StackSpec:
        spec = spec_of(self.host, {"engine": "distribution"}, host_versions("2026.11"))
        network = Network.model_validate({"firewall": {"allow": allow}} if firewall else {})
        return spec.model_copy(update={"file": spec.file.model_copy(update={"network": network})})

    def ends(self, spec: StackSpec, vantage: str | None) -> tuple[int, list[str], str]:
        """Its exit status, its lines, and what it complains of."""
        self.monkeypatch.setattr(exposure, "load_stack", lambda stack, root: spec)  # noqa: ARG005
        status = exposure.run(spec.stack, vantage, Path())
        said = self.capsys.readouterr()
        return status, said.out.splitlines(), said.err


def listen(host: Host, unit: str, of: str, address: str, port: int, then: str = "sleep") -> None:
    program = f"use IO::Socket::IP; my $s = {of.format(address=address, port=port)} or die $!; {then}"
    host.inside(f'systemd-run --quiet --unit {unit} perl -e "{program.replace("$", chr(92) + "$")}"')


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    with bare_hosts("exposed", "outside", distribution="debian-13") as (host, outside):
        for one, address in ((host, V6), (outside, OUTSIDE_V6)):
            one.inside(f"sysctl -qw net.ipv6.conf.all.disable_ipv6=0; ip -6 addr add {address}/64 dev eth0 nodad")
        install = "apt-get update -q && apt-get install -qy --no-install-recommends"
        outside.inside(f"{install} python3-minimal libpython3-stdlib")
        host.inside(f"{install} docker.io docker-cli iptables nftables busybox-static")
        host.inside(f"{IMAGE} && {CONTAINER}")
        listen(host, "rogue", TCP, "0.0.0.0", 8088)
        listen(host, "rogue6", TCP, "::", 8089)
        listen(host, "inner", TCP, "127.0.0.1", 8090)
        listen(host, "echo", UDP, "0.0.0.0", 8091, ANSWERS.format())
        listen(host, "mute", UDP, "0.0.0.0", 8092)
        yield host, outside


@pytest.fixture
def scene(
    hosts: tuple[Host, Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Scene:
    host, outside = hosts
    # In place of the user's own ~/.ssh, which knows the vantage point.
    outside.ssh_argv()
    (tmp_path / "config").write_text(f"UserKnownHostsFile {login().folder}/known_hosts-{outside.container}\n")
    script = f'#!/bin/sh\n[ "$1" = -F ] || set -- -F {tmp_path}/config "$@"\nexec /usr/bin/ssh "$@"\n'
    (tmp_path / "ssh").write_text(script)
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(login().agent))
    return Scene(host, outside, monkeypatch, capsys)


def test_what_nobody_declared_is_found_from_inside_and_outside(scene: Scene) -> None:
    status, lines, complaint = scene.ends(scene.spec(firewall=False), scene.vantage)
    v4, vantage = scene.host.address, scene.vantage
    remedy = "; stop it, bind it to loopback, or declare the port under network.firewall.allow"
    assert complaint.startswith("Scanning 2 addresses from ")
    assert lines == [
        "exposed: 5 findings",
        f"  {v4}: TCP 22 8080 8088 open, 65532 refused; UDP 8091 open, 8092 silent, 10 refused",
        f"  {V6}: TCP 22 8080 8089 open, 65532 refused; UDP 12 refused",
        "  tcp 8080: container web is published on every IPv4 address and every IPv6 address, and nobody declared it; "
        f"it answers {vantage} at {v4} and {V6}; publish it on 127.0.0.1, stop it, or declare the port under "
        "network.firewall.allow",
        "  tcp 8088: perl (rogue.service) listens on every IPv4 address, and nobody declared it; "
        f"it answers {vantage} at {v4}{remedy}",
        "  tcp 8089: perl (rogue6.service) listens on every IPv6 address, and nobody declared it; "
        f"it answers {vantage} at {V6}{remedy}",
        "  udp 8091: perl (echo.service) listens on every IPv4 address, and nobody declared it; "
        f"it answers {vantage} at {v4}{remedy}",
        "  udp 8092: perl (mute.service) listens on every IPv4 address, and nobody declared it; "
        f"it gave {vantage} no answer, which for UDP proves nothing{remedy}",
        "This doesn't show:",
        "  exposed: whether UDP 8092 is open: who gives no answer may still listen",
        f"1 host from inside, 2 addresses, 131070 TCP ports and 24 UDP ports from {vantage}: 5 findings",
    ]
    assert status == 1


def test_what_is_declared_for_the_vantage_point_is_none(scene: Scene) -> None:
    everybody = [f"{scene.outside.address}/32", f"{OUTSIDE_V6}/128"]
    allow: list[dict[str, Any]] = [
        *({"port": port, "sources": everybody} for port in (22, 8080, 8088, 8089)),
        *({"port": port, "protocol": "udp", "sources": everybody} for port in (8091, 8092)),
    ]
    status, lines, _ = scene.ends(scene.spec(*allow), scene.vantage)
    assert lines[0] == "exposed: nothing but what the file allows"
    assert lines[-1].endswith(f" from {scene.vantage}: nothing but what stack_configs/test.yaml allows")
    assert status == 0


def test_a_vantage_point_that_cant_be_reached_is_told(scene: Scene) -> None:
    address = scene.host.address  # whose key nobody knows
    status, lines, complaint = scene.ends(scene.spec({"port": 22, "sources": ["0.0.0.0/0"]}), f"{USER}@{address}")
    assert status == 1
    assert lines[-1] == "1 host from inside: 5 findings"
    assert "  exposed: what answers outside" in lines
    reason = (
        f"Could not be asked:\nthe vantage point {USER}@{address} can't be reached: Host key verification failed.; "
    )
    assert complaint.endswith(f"{reason}does `ssh {USER}@{address} true` work?\n")


def test_a_vantage_point_without_python_is_told(scene: Scene, tmp_path: Path) -> None:
    scene.host.ssh_argv()
    (tmp_path / "config").write_text(f"UserKnownHostsFile {login().folder}/known_hosts-{scene.host.container}\n")
    status, _, complaint = scene.ends(scene.spec(firewall=False), f"{USER}@{scene.host.address}")
    assert status == 1
    assert complaint.endswith(f"{scene.host.address} has no python3, which runs the scan there: install it\n")


def test_without_sudo_it_says_what_it_cant_see(scene: Scene) -> None:
    scene.host.inside("mv /etc/sudoers.d/ops /root/ops")
    try:
        status, lines, complaint = scene.ends(scene.spec(firewall=False), None)
    finally:
        scene.host.inside("mv /root/ops /etc/sudoers.d/ops")
    assert status == 1
    assert any(line.startswith("  exposed: sudo asks for a password or is missing") for line in lines)
    assert any(line.startswith("  exposed: docker: permission denied") for line in lines)
    assert "Could not be asked:\nexposed: docker: permission denied" in complaint
    assert any(
        line.startswith("  tcp 8088: the kernel, or a program whose name can't be read, listens") for line in lines
    )


def test_behind_the_firewall_only_what_it_lets_in_answers_though_the_rest_listens(scene: Scene) -> None:
    scene.host.inside(f"ip -6 addr del {V6}/64 dev eth0")
    spec = scene.spec({"port": 22, "sources": [f"{scene.here}/32", f"{scene.outside.address}/32"]})
    scene.host.put("/root/rules", ruleset("exposed", spec))
    scene.host.inside("nft -f /root/rules")
    try:
        status, lines, _ = scene.ends(spec, scene.vantage)
    finally:
        scene.host.inside("nft delete table inet inference_stack")
    assert lines[1].startswith(f"  {scene.host.address}: TCP 22 open, 65534 silent; UDP ")
    findings = [line for line in lines if line.startswith(("  tcp", "  udp"))]
    assert [line[:11] for line in findings] == [f"  tcp {port}:" for port in (8080, 8088, 8089)] + [
        f"  udp {port}:" for port in (8091, 8092)
    ]
    assert all(f"; {scene.vantage} doesn't reach it; " in line for line in findings[:2])
    assert status == 1


def test_once_all_is_closed_it_succeeds(scene: Scene) -> None:
    scene.host.inside("systemctl stop rogue rogue6 echo mute; docker rm -f web")
    assert scene.ends(scene.spec(firewall=False), None)[0] == 0
    scene.host.inside("mv $(command -v ss) /root/ss")
    try:
        status, _, complaint = scene.ends(scene.spec(firewall=False), None)
    finally:
        scene.host.inside("mv /root/ss /usr/bin/ss")
    assert "Could not be asked:\nexposed: ss: " in complaint
    assert status == 2
    status, lines, _ = scene.ends(scene.spec({"port": 22, "sources": [f"{scene.outside.address}/32"]}), exposure.HERE)
    assert [line.split(",")[0] for line in lines if line.startswith("  tcp")] == [
        f"  tcp 22: sshd (ssh.service) answers this machine at {scene.host.address}"
    ]
    assert status == 1
    status, lines, _ = scene.ends(scene.spec({"port": 22, "sources": [f"{scene.here}/32"]}), exposure.HERE)
    assert lines[0] == "exposed: nothing but what the file allows"
    assert lines[1].startswith(f"  {scene.host.address}: TCP 22 open, 65534 refused; UDP ")
    assert status == 0
