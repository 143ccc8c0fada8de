"""Two uplinks for a test host, their routers and an internet behind them, in containers; clients that dial there."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

from tests.docker_run import docker, need_image
from tests.hosts.host import LABEL, Host
from tests.hosts.image import host_image

WITHIN_S = 30
"""The requirement: mesh and connections are back."""

SERVER = """
import socketserver, time

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

class Tells(socketserver.BaseRequestHandler):
    def handle(self):
        while True:
            self.request.sendall(f"{self.client_address[0]} {self.client_address[1]}\\n".encode())
            time.sleep(0.2)

Server(("", 9000), Tells).serve_forever()
"""
CLIENT = """
import socket, sys, time

while True:
    try:
        with socket.create_connection((sys.argv[1], 9000), timeout=3) as heard:
            for line in heard.makefile():
                print(time.time(), line.strip(), flush=True)
    except OSError:
        time.sleep(0.5)
"""

CLIENT_OF_SHELL = """#!/bin/bash
while true; do
  if exec 3<>/dev/tcp/$1/9000; then
    while read -t 3 -r heard <&3; do echo "$EPOCHREALTIME $heard"; done
    exec 3<&-
  fi
  sleep 0.5
done
"""
NAT = """
set -e
ip netns add behind
ip link add behind type veth peer name eth0 netns behind
ip address add 172.30.0.1/24 dev behind
ip -n behind address add 172.30.0.2/24 dev eth0
ip link set behind up
ip -n behind link set eth0 up
ip -n behind route add default via 172.30.0.1
sysctl -qw net.ipv4.ip_forward=1
nft add table ip tests
nft 'add chain ip tests out {{ type nat hook postrouting priority srcnat; }}'
nft 'add rule ip tests out ip saddr 172.30.0.0/24 oifname != behind masquerade'
systemd-run -q -p StandardOutput=truncate:/run/heard ip netns exec behind bash /srv/client {address}
"""


@dataclass
class World:
    """Two routers, and the internet behind them."""

    container: str
    subnets: list[str] = field(default_factory=list)
    """The first three numbers of each: the uplinks', the internet's."""

    @property
    def beyond(self) -> str:
        """The container in the internet."""
        return f"{self.container}-beyond"

    @property
    def internet(self) -> str:
        """Its address; no probe, for these have rules of their own."""
        return f"{self.subnets[2]}.10"

    @property
    def probes(self) -> tuple[str, str]:
        """Others of its addresses."""
        return f"{self.subnets[2]}.20", f"{self.subnets[2]}.30"

    def gateway(self, uplink: int) -> str:
        return f"{self.subnets[uplink]}.2"

    def address(self, uplink: int) -> str:
        """The host's."""
        return f"{self.subnets[uplink]}.5"

    def do(self, command: str) -> str:
        return docker("exec", self.container, "bash", "-ec", command).strip()

    def kill(self, uplink: int) -> None:
        """From now on what goes beyond that router, or comes from there, is dropped."""
        out, back = f"iif eth{uplink} to {self.subnets[2]}.0/24", f"iif eth2 to {self.subnets[uplink]}.0/24"
        self.do(f"for way in '{out}' '{back}'; do ip rule add pref {uplink + 1} $way blackhole; done")

    def mend(self, uplink: int) -> None:
        self.do(f"while ip rule del pref {uplink + 1} 2>/dev/null; do :; done")

    def reaches(self, address: str) -> bool:
        """Whether the SSH server at an address of the host answers who dials from the internet."""
        dial = f"timeout 2 bash -c 'head -n 1 </dev/tcp/{address}/22'"
        return "SSH-2.0" in docker("exec", self.beyond, "bash", "-c", dial, check=False)


@contextmanager
def world_around(host: Host) -> Iterator[World]:
    """Both uplinks, plugged into the host."""
    name = f"test-uplinks-{uuid4().hex[:6]}"
    label, world = label_of(host), World(name)
    networks = [f"{name}-{letter}" for letter in "abc"]
    image = host_image("debian-12")
    own = (*label, "--cap-add", "NET_ADMIN", "--entrypoint", "sleep")
    sysctls = [word for one in ("all", "default") for word in ("--sysctl", f"net.ipv4.conf.{one}.rp_filter=1")]
    try:
        world.subnets += [_network(network, label, number) for number, network in enumerate(networks)]
        at = ("--network", networks[0], "--ip", world.gateway(0))
        docker("run", "--detach", "--name", name, *own, *sysctls, *at, image, "infinity")
        for number in (1, 2):
            docker("network", "connect", "--ip", world.gateway(number), networks[number], name)
        at = ("--network", networks[2], "--ip", world.internet)
        docker("run", "--detach", "--name", world.beyond, *own, *at, image, "infinity")
        there = "".join(f"ip address add {probe}/24 dev eth0; " for probe in world.probes)
        there += f"ip route replace default via {world.gateway(2)}"
        docker("exec", world.beyond, "bash", "-ec", there)
        for number in (0, 1):
            docker("network", "connect", "--ip", world.address(number), networks[number], host.container)
        python_at(f"{name}-server", label, world.beyond, SERVER)
        yield world
    finally:
        docker("rm", "--force", f"{name}-server", world.beyond, name, check=False)
        for network in networks:
            docker("network", "disconnect", "--force", network, host.container, check=False)
            docker("network", "rm", network, check=False)


def _network(name: str, label: tuple[str, ...], number: int) -> str:
    for tried in range(128):
        subnet = f"10.88.{(os.getpid() * 3 + number + tried) % 256}"
        try:
            docker("network", "create", *label, "--subnet", f"{subnet}.0/24", name)
        except AssertionError as error:
            if "overlap" not in str(error):
                raise
        else:
            return subnet
    raise AssertionError("all subnets for uplinks are taken")


def label_of(host: Host) -> tuple[str, str]:
    """What goes with a host that a killed run left."""
    show = f'{LABEL}={{{{index .Config.Labels "{LABEL}"}}}}'
    return "--label", docker("inspect", "--format", show, host.container).strip()


def python_at(name: str, label: tuple[str, ...], network_of: str, code: str, *arguments: str) -> None:
    image = need_image("python")
    where = ("--network", f"container:{network_of}", "--entrypoint", "python3")
    docker("run", "--detach", "--init", "--name", name, *label, *where, image, "-u", "-c", code, *arguments)


@dataclass
class Client:
    """The long-lived connection: the last line of its log says when it heard of the internet, and its own address."""

    log: Callable[[], str]

    def last(self) -> tuple[float, str, str]:
        """When, by which address and port."""
        rows = self.log().split()
        return (float(rows[0]), rows[1], rows[2]) if rows else (0.0, "", "")

    def is_by(self, address: str) -> bool:
        return self.last()[1] == address


def soon(condition: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> float:
    """Waits, a generous time; how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < within_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - started


__all__ = [
    "CLIENT",
    "CLIENT_OF_SHELL",
    "NAT",
    "WITHIN_S",
    "Client",
    "World",
    "label_of",
    "python_at",
    "soon",
    "world_around",
]
