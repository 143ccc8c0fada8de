"""A host with two ways to the internet: what follows when one dies, and when it comes back.

The host is a Debian 12 with the real systemd and the program that `uplinks` puts there. Each uplink is a network of
its own, whose router belongs to one container, `world`: behind both routers it has the addresses of "the internet". It
drops what comes in by one uplink from an address of the other, as providers do. An uplink dies beyond its router: the
link stays up, the router answers, and nothing that goes further is heard of again.

A TCP client that dials again when its connection is silent stands in for a tunnel's connector.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

import pytest

from tests.docker_run import docker, need_image
from tests.hosts.host import LABEL, Host, bare_host
from tests.hosts.image import host_image
from tests.hosts.repository import Repository
from tests.hosts.steps import QUIET, Target

WITHIN_S = 30
"""The requirement: mesh and connections are back."""
INTERNET = ("203.0.113.10", "203.0.113.20")
PROGRAM = "inference-stack-uplinks"
NOTES = "/var/lib/inference-stack/pending"

SERVER = """
import socketserver, time

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

class Tells(socketserver.BaseRequestHandler):
    def handle(self):
        while True:
            self.request.sendall(f"{self.client_address[0]} {self.client_address[1]}\\n".encode())
            time.sleep(0.2)

Server(("203.0.113.10", 9000), Tells).serve_forever()
"""
CLIENT = """
import socket, time

while True:
    try:
        with socket.create_connection(("203.0.113.10", 9000), timeout=3) as heard:
            for line in heard.makefile():
                print(time.time(), line.strip(), flush=True)
    except OSError:
        time.sleep(0.5)
"""


@dataclass
class World:
    """Two routers and what is behind them."""

    container: str
    subnets: list[str] = field(default_factory=list)
    """Of the uplinks, the first three numbers of each."""

    def gateway(self, uplink: int) -> str:
        return f"{self.subnets[uplink]}.2"

    def address(self, uplink: int) -> str:
        """The host's."""
        return f"{self.subnets[uplink]}.5"

    def do(self, command: str, *, check: bool = True) -> str:
        return docker("exec", self.container, "bash", "-c", command, check=check).strip()

    def kill(self, uplink: int) -> None:
        """From now on what goes beyond that router, or comes from there, is dropped."""
        self.do(
            f"ip rule add pref {uplink + 1} iif eth{uplink} to 203.0.113.0/24 blackhole; "
            f"ip rule add pref {uplink + 1} from 203.0.113.0/24 to {self.subnets[uplink]}.0/24 blackhole"
        )

    def mend(self, uplink: int) -> None:
        self.do(f"while ip rule del pref {uplink + 1} 2>/dev/null; do :; done")

    def reaches(self, address: str) -> bool:
        """Whether the SSH server at an address of the host answers who dials from the internet."""
        return "SSH-2.0" in self.do(f"timeout 2 bash -c 'head -n 1 </dev/tcp/{address}/22'", check=False)


@contextmanager
def world_around(host: Host) -> Iterator[World]:
    """Both uplinks, plugged into the host."""
    name = f"test-uplinks-{uuid4().hex[:6]}"
    label = (
        "--label",
        docker("inspect", "--format", f'{LABEL}={{{{index .Config.Labels "{LABEL}"}}}}', host.container),
    )
    label = (label[0], label[1].strip())
    world = World(name)
    networks = [f"{name}-{letter}" for letter in "ab"]
    try:
        for number, network in enumerate(networks):
            world.subnets.append(_network(network, label, number))
        sysctls = [word for one in ("all", "default") for word in ("--sysctl", f"net.ipv4.conf.{one}.rp_filter=1")]
        docker(
            *("run", "--detach", "--name", name, *label, "--cap-add", "NET_ADMIN", *sysctls, "--network", networks[0]),
            *("--ip", world.gateway(0), "--entrypoint", "sleep", host_image("debian-12"), "infinity"),
        )
        docker("network", "connect", "--ip", world.gateway(1), networks[1], name)
        world.do("ip rule add pref 10 lookup local; ip rule del pref 0")  # so that a rule can come before it
        world.do("; ".join(f"ip address add {address} dev lo" for address in INTERNET))
        for number, network in enumerate(networks):
            world.do(f"ip route replace {world.subnets[number]}.0/24 dev eth{number} src {INTERNET[0]}")
            docker("network", "connect", "--ip", world.address(number), network, host.container)
        _python(f"{name}-server", label, name, SERVER)
        yield world
    finally:
        docker("rm", "--force", f"{name}-server", name, check=False)
        for network in networks:
            docker("network", "disconnect", "--force", network, host.container, check=False)
            docker("network", "rm", network, check=False)


def _network(name: str, label: tuple[str, ...], number: int) -> str:
    for tried in range(128):
        subnet = f"10.88.{(os.getpid() * 2 + number + tried) % 256}"
        try:
            docker("network", "create", *label, "--subnet", f"{subnet}.0/24", name)
        except AssertionError as error:
            if "overlap" not in str(error):
                raise
        else:
            return subnet
    raise AssertionError("all subnets for uplinks are taken")


def _python(name: str, label: tuple[str, ...], network_of: str, code: str) -> None:
    image = need_image("python")
    where = ("--network", f"container:{network_of}", "--entrypoint", "python3")
    docker("run", "--detach", "--init", "--name", name, *label, *where, image, "-u", "-c", code)


@dataclass
class Client:
    """The long-lived connection."""

    container: str

    def last(self) -> tuple[float, str, str]:
        """When it last heard of the internet, and by which address and port of its own."""
        rows = docker("logs", "--tail", "1", self.container).split()
        return (float(rows[0]), rows[1], rows[2]) if rows else (0.0, "", "")

    def is_by(self, address: str, *, after: float = 0.0) -> bool:
        at, by, _ = self.last()
        return by == address and at > after


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    need_image("python")
    with bare_host("gateway") as found:
        yield found


@pytest.fixture(scope="module")
def world(host: Host) -> Iterator[World]:
    with world_around(host) as found:
        yield found


@pytest.fixture(scope="module")
def before(host: Host, world: World) -> list[str]:
    """Routes and rules of the host as it was."""
    # Else none of what follows could fail: by the host's own default route no answer comes back.
    assert not any(world.reaches(world.address(uplink)) for uplink in (0, 1))
    return routes(host)


@pytest.fixture(scope="module")
def target(host: Host, world: World, before: list[str], tmp_path_factory: pytest.TempPathFactory) -> Target:  # noqa: ARG001
    uplinks = [
        {"interface": interface(host, world, number), "gateway": world.gateway(number), "probes": INTERNET}
        for number in (0, 1)
    ]
    return Target(host, Repository(tmp_path_factory.mktemp("apt")), {"uplinks": uplinks}, {})


@pytest.fixture(scope="module")
def client(applied: Target, world: World) -> Iterator[Client]:
    name = f"{world.container}-client"
    host = applied.host.container
    label = docker("inspect", "--format", f'{LABEL}={{{{index .Config.Labels "{LABEL}"}}}}', host).strip()
    _python(name, ("--label", label), host, CLIENT)
    yield Client(name)
    docker("rm", "--force", name)


@pytest.fixture(scope="module")
def applied(target: Target) -> Target:
    target.run("uplinks")
    return target


def routes(host: Host) -> list[str]:
    return host.inside("ip -4 route show table all; ip -4 rule show").splitlines()


def interface(host: Host, world: World, uplink: int) -> str:
    rows = json.loads(host.inside("ip -j -4 address show"))
    return next(str(row["ifname"]) for row in rows for one in row["addr_info"] if one["local"] == world.address(uplink))


def default_by(host: Host) -> str:
    """The gateway that the kernel sends to."""
    return host.inside(f"ip -4 route get {INTERNET[0]} | sed -nE 's/.* via ([0-9.]+) .*/\\1/p'")


def soon(condition: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> float:
    """Waits, a generous time; how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - started


def test_the_first_uplink_has_the_default_route(target: Target, world: World) -> None:
    out = target.run("uplinks")
    assert f"started {PROGRAM}.service" in out
    assert default_by(target.host) == world.gateway(0)
    assert target.run("uplinks").strip() == QUIET


def test_answers_leave_by_the_uplink_that_they_were_asked_by(applied: Target, world: World) -> None:
    soon(lambda: all(world.reaches(world.address(uplink)) for uplink in (0, 1)), "an answer by each")
    assert default_by(applied.host) == world.gateway(0)


def test_an_uplink_dies_and_the_connection_is_back_by_the_other(applied: Target, world: World, client: Client) -> None:
    soon(lambda: client.is_by(world.address(0)), "a connection by the first")
    world.kill(0)
    took = soon(lambda: client.is_by(world.address(1)), "a connection by the second")
    print(f"back after {took:.1f} s")
    assert default_by(applied.host) == world.gateway(1)
    assert "nothing is heard of 203.0.113.10, 203.0.113.20" in applied.host.inside(f"cat {NOTES}/uplink-*")
