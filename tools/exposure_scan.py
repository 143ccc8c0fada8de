"""The scan of `make exposure`, as it runs at the vantage point: this text on the standard input of `python3 -`.

Every TCP port by connecting to it, UDP ports by asking. It needs no root and nothing but Python 3.8's standard library,
so that any machine can be the vantage point.
"""

from __future__ import annotations

import ipaddress
import json
import resource
import selectors
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import EAGAIN, ECONNREFUSED, EINPROGRESS
from typing import Any, NamedTuple

LAST_PORT = 65535
SILENT_AFTER_S = 2.5
"""Two SYNs: the kernel sends the second after 1 s."""
AT_ONCE = 10_000
PER_S = 10_000
"""New connections, at all targets together."""
UDP_WAITS_S = 1.2
"""After each round: Linux sends an address six refusals at once, and then one a second."""

DNS = bytes.fromhex("1a2b01000001000000000000 00 0002 0001")
QUESTIONS = {
    53: DNS,
    123: b"\x23" + bytes(47),
    161: bytes.fromhex("302602010104067075626c6963a019020101020100020100300e300c06082b060102010101000500"),
    1900: b'M-SEARCH * HTTP/1.1\r\nHost: 239.255.255.250:1900\r\nMan: "ssdp:discover"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n',
    3478: bytes.fromhex("000100002112a442") + b"inference-12",
    5353: DNS,
}
"""What a server of that port answers: DNS for the root's name servers, NTP, SNMP for `public`, SSDP, STUN."""


MESH = ("100.64.0.0/10", "fd7a:115c:a1e0::/48")
"""Addresses of nodes: who comes from one is not outside. Source: https://tailscale.com/docs/concepts/tailscale-ip-addresses"""


class Target(NamedTuple):
    family: int
    at: tuple[Any, ...]
    """Socket address, with any port."""
    udp: list[int]
    """Ports to ask."""


class Sorted(NamedTuple):
    """TCP ports of a target."""

    open: list[int]
    refused: list[int]
    silent: list[int]
    """Also those where a firewall on the way says that it lets nothing through."""


def main(job: str) -> None:
    """`job`: JSON, a list of `{"target", "network", "udp"}`. Prints one of what was seen, by target and address."""
    seen: list[dict[str, Any]] = []
    scanned: dict[str, Target] = {}
    for wish in json.loads(job):
        for one, at in _places(wish["target"], wish["network"]):
            seen.append(one)
            if at:
                before = scanned.get(one["address"], Target(*at, udp=[]))
                scanned[one["address"]] = before._replace(udp=sorted({*before.udp, *wish["udp"]}))
    said: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(len(scanned) or 1) as pool:
        asked = pool.map(ask_all, scanned.values())
        connected = connect_all(list(scanned.values()), _files())
        for address, tcp, udp in zip(scanned, connected, asked):  # noqa: B905 (`strict` is younger than 3.8)
            counts = {"tcp_refused": len(tcp.refused), "tcp_silent": len(tcp.silent)}
            said[address] = {"tcp_open": sorted(tcp.open), "udp": udp, **counts}
    print(json.dumps([one if "skipped" in one else {**one, **said[one["address"]]} for one in seen]))


def _files() -> int:
    """How many connections may be open at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = AT_ONCE + 200
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return AT_ONCE if soft == resource.RLIM_INFINITY else max(50, min(AT_ONCE, soft - 200))


def _places(name: str, network: str | None) -> Iterator[tuple[dict[str, Any], tuple[int, tuple[Any, ...]] | None]]:
    """The addresses of a name; `skipped` says why one can't or must not be scanned.

    `network`: scan only from within it. A private address may be another machine's elsewhere.
    """
    try:
        rows = socket.getaddrinfo(name, 9, type=socket.SOCK_DGRAM)
    except OSError:
        yield {"target": name, "address": name, "skipped": "unknown"}, None
        return
    for family, _, _, _, at in rows:
        one = {"target": name, "address": str(at[0])}
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as way:
                way.connect(at)  # sends nothing: the kernel chooses the way
                one["source"] = str(way.getsockname()[0])
        except OSError:
            yield {**one, "skipped": "no route"}, None
            continue
        if one["source"] == one["address"]:
            yield {**one, "skipped": "itself"}, None
        elif any(_within(one[end], mesh) for end in ("source", "address") for mesh in MESH):
            yield {**one, "skipped": "mesh"}, None
        elif network and not _within(one["source"], network):
            yield {**one, "skipped": "elsewhere"}, None
        else:
            yield one, (family, at)


def _within(address: str, network: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(network)


def connect_all(targets: list[Target], at_once: int) -> list[Sorted]:
    """What each target says to a connection to each of its TCP ports."""
    found = [Sorted([], [], []) for _ in targets]
    # Port by port, so that no target gets all connections at once.
    to_do = ((index, port) for port in range(1, LAST_PORT + 1) for index in range(len(targets)))
    following = next(to_do, None)
    open_: dict[socket.socket, tuple[float, int, int]] = {}  # in the order in which their time is over
    begin, count = time.monotonic(), 0

    def ended(connection: socket.socket, error: int) -> None:
        _, index, port = open_.pop(connection)
        selector.unregister(connection)
        connection.close()
        _sort(found[index], port, error)

    with selectors.DefaultSelector() as selector:
        while following or open_:
            allowed = int((time.monotonic() - begin) * PER_S)
            while following and count < allowed and len(open_) < at_once:
                index, port = following
                connection = socket.socket(targets[index].family, socket.SOCK_STREAM)
                connection.setblocking(False)
                error = connection.connect_ex((targets[index].at[0], port, *targets[index].at[2:]))
                if error == EINPROGRESS:
                    open_[connection] = (time.monotonic() + SILENT_AFTER_S, index, port)
                    selector.register(connection, selectors.EVENT_WRITE)
                else:
                    connection.close()
                    if error == EAGAIN:  # this machine has no port left just now
                        break
                    _sort(found[index], port, error)
                following, count = next(to_do, None), count + 1
            for key, _ in selector.select(0.01):
                assert isinstance(key.fileobj, socket.socket)
                ended(key.fileobj, key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            now = time.monotonic()
            while open_ and next(iter(open_.values()))[0] <= now:
                ended(next(iter(open_)), EAGAIN)
    return found


def _sort(found: Sorted, port: int, error: int) -> None:
    (found.open if not error else found.refused if error == ECONNREFUSED else found.silent).append(port)


def ask_all(target: Target) -> dict[int, str]:
    """UDP port → `open` (it answered), `refused` (the host says that nothing is there), or `silent`."""
    answers = dict.fromkeys(target.udp, "silent")
    asked: dict[int, socket.socket] = {}
    for port in answers:
        asked[port] = socket.socket(target.family, socket.SOCK_DGRAM)
        asked[port].connect((target.at[0], port, *target.at[2:]))
        asked[port].settimeout(0)
    rounds = 0
    while True:
        left = [port for port, answer in answers.items() if answer == "silent"]
        for port in left:
            try:
                asked[port].send(QUESTIONS.get(port, b"\r\n\r\n"))
            except ConnectionRefusedError:  # of the question before
                answers[port] = "refused"
            except OSError:
                pass  # no way, just now
        time.sleep(UDP_WAITS_S)
        rounds += 1
        for port in left:
            try:
                asked[port].recv(1)
                answers[port] = "open"
            except ConnectionRefusedError:
                answers[port] = "refused"
            except OSError:
                pass  # nothing has come
        # Refusals come a few in each round, as long as there are more.
        if rounds > 1 and all(answers[port] == "silent" for port in left):
            break
    for one in asked.values():
        one.close()
    return answers
