"""A host with two ways to the internet: what follows when one dies, and when it comes back.

The host is a Debian 12 with the real systemd and the program that `uplinks` puts there. Each uplink is a network of
its own, whose router is one container, `world`, for both: it drops what comes in by one uplink from an address of the
other, as providers do. The internet is a network behind it. An uplink dies beyond its router: the link stays up, the
router answers, and nothing that goes further is heard of again.

A TCP client that dials again when its connection is silent stands in for a tunnel's connector. The mesh is real:
headscale and another node are in the internet. The tests share the host and run in the order in which they stand here;
the long ones, which each go on from the one before, are a campaign.
"""

import json
import time
from collections.abc import Iterator

import pytest

from tests.docker_run import docker, need_image
from tests.hosts.host import Host, bare_host
from tests.hosts.repository import Repository
from tests.hosts.steps import QUIET, Target
from tests.network import programs
from tests.network.headscale import control_server
from tests.network.uplinks_world import (
    CLIENT,
    CLIENT_OF_SHELL,
    NAT,
    WITHIN_S,
    Client,
    World,
    label_of,
    python_at,
    soon,
    world_around,
)

PROGRAM = "inference-stack-uplinks"
NOTES = "/var/lib/inference-stack/pending"
KERNEL_CAN_END_CONNECTIONS = "exec 3<>/dev/tcp/127.0.0.1/22; ss -H -t -n -K dst 127.0.0.1 and dport = :22 | wc -l"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    need_image("python")
    with bare_host("gateway") as found:
        found.inside("apt-get update -qq; apt-get install -qy nftables")  # by the way out that it has so far
        # As hardened hosts have it: what comes in must be routed back by the same interface.
        found.put("/etc/sysctl.d/99-strict.conf", "net.ipv4.conf.all.rp_filter=1\n")
        found.inside("sysctl -q --system")
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
    return Target(
        host,
        Repository(tmp_path_factory.mktemp("apt")),
        {"uplinks": [uplink(host, world, 0), uplink(host, world, 1)]},
        {},
    )


@pytest.fixture(scope="module")
def applied(target: Target) -> Target:
    target.run("uplinks")
    return target


@pytest.fixture(scope="module")
def swift(applied: Target) -> Target:
    """With shorter times, by the means of docs/two-uplinks.md: what is asked from here on is what follows what."""
    figures = "[Service]\nEnvironment=EVERY_S=1 ALIVE_AFTER=7\n"
    applied.host.put(f"/etc/systemd/system/{PROGRAM}.service.d/override.conf", figures)
    applied.host.inside(f"systemctl daemon-reload; systemctl restart {PROGRAM}")
    return applied


@pytest.fixture
def both(swift: Target, world: World) -> Target:
    """With both uplinks alive again, whatever the test before has killed."""
    for number in (0, 1):
        world.mend(number)
    soon(lambda: default_by(swift.host) == world.gateway(0) and not notes(swift.host), "the first, both alive")
    return swift


@pytest.fixture(scope="module")
def client(applied: Target, world: World) -> Iterator[Client]:
    name = f"{world.container}-client"
    python_at(name, label_of(applied.host), applied.host.container, CLIENT, world.internet)
    yield Client(lambda: docker("logs", "--tail", "1", name))
    docker("rm", "--force", name)


@pytest.fixture(scope="module")
def behind(applied: Target, world: World) -> Client:
    """The same from behind the host's NAT, as containers are: `main` alone routes what they send."""
    applied.host.put("/srv/client", CLIENT_OF_SHELL)
    applied.host.inside(NAT.format(address=world.internet))
    return Client(lambda: applied.host.inside("tail -n 1 /run/heard"))


@pytest.fixture(scope="module")
def mesh(applied: Target, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A connection to a node in the internet, through the mesh that the host has joined by its uplinks."""
    host, label = applied.host, label_of(applied.host)
    there = [*label, "--network", f"container:{world.beyond}"]
    node, name = f"{world.container}-node", f"{world.container}-client-of-mesh"
    with control_server(tmp_path_factory.mktemp("headscale"), (world.internet, there)) as server:
        server.say("users", "create", "kim")
        key = server.say("preauthkeys", "create", "--user", "1", "--reusable")
        join = ("up", "--login-server", server.url, "--auth-key", key, "--timeout", "60s")
        programs_at = ("--volume", f"{programs.folder()}:/opt/mesh:ro", "--volume", f"{server.ca}:/ca.crt:ro")
        daemon = ("tailscaled", "--tun=userspace-networking", "--state=mem:", "--socket=/tmp/socket")
        docker(
            *("run", "--detach", "--name", node, *there, *programs_at, "--env", "SSL_CERT_FILE=/ca.crt"),
            *("--entrypoint", f"/opt/mesh/{daemon[0]}", need_image("python"), *daemon[1:]),
        )
        docker("exec", node, "/opt/mesh/tailscale", "--socket=/tmp/socket", *join, "--hostname", "node")
        server.trusted_by(host)
        for program in (programs.tailscale(), programs.tailscaled()):
            docker("cp", str(program), f"{host.container}:/usr/local/bin/")
        host.inside("systemd-run -q --unit tailscaled tailscaled --statedir=/var/lib/tailscale; sleep 1")
        host.inside(f"tailscale {' '.join(join)}")
        address = server.nodes()["node"]["ip_addresses"][0]
        python_at(name, label, host.container, CLIENT, address)
        try:
            yield Client(lambda: docker("logs", "--tail", "1", name))
        finally:
            docker("rm", "--force", name, node)


def uplink(host: Host, world: World, number: int) -> dict[str, object]:
    """As in a stack's YAML."""
    rows = json.loads(host.inside("ip -j -4 address show"))
    mine = next(row for row in rows for one in row["addr_info"] if one["local"] == world.address(number))
    return {"interface": mine["ifname"], "gateway": world.gateway(number), "probes": world.probes}


def routes(host: Host) -> list[str]:
    return host.inside("ip -4 route show table all; ip -4 rule show").splitlines()


def notes(host: Host) -> str:
    """Of uplinks that are dead."""
    return host.inside(f"cat {NOTES}/uplink-* 2>/dev/null", check=False)


def moves(host: Host) -> int:
    """How often the default route has been given to another uplink."""
    return journal(host).count("the default route is ")


def journal(host: Host) -> str:
    return host.inside(f"journalctl -u {PROGRAM} -o cat")


def default_by(host: Host) -> str:
    """The gateway that the kernel sends to."""
    return host.inside("ip -4 route get 192.0.2.1 | sed -nE 's/.* via ([0-9.]+) .*/\\1/p'")


def test_gateways_with_a_slip_of_the_pen_leave_everything_as_it_is(target: Target, before: list[str]) -> None:
    wrong = [{**one, "gateway": str(one["gateway"]).removesuffix("2") + "77"} for one in target.settings["uplinks"]]
    says = target.with_(uplinks=wrong).fails("uplinks")
    assert "no uplink answers a probe: the default route stays as it was until one does; check gateways" in says
    assert [row for row in routes(target.host) if row in before] == before
    assert "suppress_prefixlength" not in target.host.inside("ip rule"), "no answer is led astray"
    target.with_(uplinks=wrong).run("uplinks", what="undo")
    assert routes(target.host) == before


def test_an_interface_that_is_not_there_is_told(target: Target) -> None:
    wrong = [{**one, "interface": "eno1"} for one in target.settings["uplinks"]]
    assert "there is no interface eno1: this host has " in target.with_(uplinks=wrong).fails("uplinks")


def test_an_operator_whose_answers_would_leave_by_an_uplink_is_told(target: Target) -> None:
    """Over real SSH and sudo: he is answered by the default route of an interface that is no uplink."""
    host = target.host
    device = host.inside("ip -4 route show default | sed -nE 's/.* dev ([^ ]+).*/\\1/p'")
    gateway = host.inside("ip -4 route show default | cut -d ' ' -f 3")
    own = host.inside(f"ip -4 route show dev {device} scope link proto kernel")
    host.inside(f"ip route replace default via {gateway} dev {device} onlink; ip route del {own}")
    try:
        says = target.fails("uplinks")
    finally:
        host.inside(f"ip route add {own} dev {device}; ip route replace default via {gateway} dev {device}")
    assert f"you are answered by the default route of {device}, which is no uplink" in says


def test_the_first_uplink_has_the_default_route(target: Target, world: World) -> None:
    assert f"started {PROGRAM}.service" in target.run("uplinks")
    assert default_by(target.host) == world.gateway(0)
    assert target.run("uplinks").strip() == QUIET


def test_answers_leave_by_the_uplink_that_they_were_asked_by(applied: Target, world: World) -> None:
    soon(lambda: all(world.reaches(world.address(uplink)) for uplink in (0, 1)), "an answer by each")
    assert default_by(applied.host) == world.gateway(0)


def test_an_uplink_dies_and_what_was_dialled_is_back_by_the_other(
    applied: Target, world: World, client: Client, behind: Client
) -> None:
    soon(lambda: client.is_by(world.address(0)) and behind.is_by(world.address(0)), "connections by the first")
    world.kill(0)
    for of, whose in ((client, "the host's"), (behind, "its containers'")):
        took = soon(lambda of=of: of.is_by(world.address(1)), f"{whose} connection by the second")  # type: ignore[misc]
        print(f"{whose} connection was back after {took:.1f} s")
    assert default_by(applied.host) == world.gateway(1)
    assert f"nothing is heard of {', '.join(world.probes)}" in notes(applied.host)
    if applied.host.inside(KERNEL_CAN_END_CONNECTIONS) == "1":
        assert f"ended TCP connections of {world.address(0)}: " in journal(applied.host)


@pytest.mark.campaign
def test_the_mesh_is_back_by_the_first_that_answers(applied: Target, world: World, mesh: Client) -> None:
    """As the test before has left it: by the second. The first answers again, and isn't stable yet."""
    world.mend(0)
    soon(lambda: mesh.last()[0] > time.time() - 1, "a connection in the mesh")
    assert default_by(applied.host) == world.gateway(1)
    world.kill(1)
    killed = time.time()
    soon(lambda: mesh.last()[0] < time.time() - 2, "silence")
    soon(lambda: mesh.last()[0] > time.time() - 1, "the mesh", WITHIN_S - (time.time() - killed))
    print(f"the mesh was back after {time.time() - killed:.1f} s")
    assert default_by(applied.host) == world.gateway(0)


@pytest.mark.campaign
def test_the_preferred_uplink_is_used_again_when_it_is_stable_and_connections_stay(
    both: Target, world: World, client: Client
) -> None:
    world.kill(0)
    soon(lambda: client.is_by(world.address(1)), "a connection by the second")
    port, moved = client.last()[2], moves(both.host)
    for program_dies in (False, True):  # it flaps
        world.mend(0)
        time.sleep(1.5)
        if program_dies:  # what it had counted is gone with it
            both.host.inside(f"systemctl kill -s KILL {PROGRAM}")
            soon(lambda: both.host.inside(f"systemctl show -p NRestarts --value {PROGRAM}") != "0", "another start")
            time.sleep(1.5)
        world.kill(0)
        time.sleep(1.5)
    assert (default_by(both.host), moves(both.host)) == (world.gateway(1), moved)
    world.mend(0)
    soon(lambda: default_by(both.host) == world.gateway(0), "the first again")
    heard = client.last()[0]
    soon(lambda: client.last()[0] > heard + 1, "more of the same connection")
    assert client.last()[1:] == (world.address(1), port)


@pytest.mark.campaign
def test_where_both_are_dead_the_last_is_kept_and_the_first_that_answers_is_taken(both: Target, world: World) -> None:
    world.kill(0)
    soon(lambda: default_by(both.host) == world.gateway(1), "the second")
    world.kill(1)
    soon(lambda: notes(both.host).count("has been dead") == 2, "both dead")
    assert default_by(both.host) == world.gateway(1)
    world.mend(0)
    soon(lambda: default_by(both.host) == world.gateway(0), "the first")


@pytest.mark.campaign
def test_what_another_program_removes_is_there_again(both: Target, world: World) -> None:
    """systemd-networkd does, when it starts: ManageForeignRoutes=, ManageForeignRoutingPolicyRules=."""
    was = routes(both.host)
    both.host.inside(
        f"systemctl kill -s STOP {PROGRAM}; ip rule flush protocol 151; ip route flush table 5102; ip route del default"
    )
    assert not world.reaches(world.address(1))
    both.host.inside(f"systemctl kill -s CONT {PROGRAM}")
    soon(lambda: sorted(routes(both.host)) == sorted(was), "all of it")
    # A DHCP client puts its own in the place of ours.
    both.host.inside(f"ip route replace default via {world.gateway(1)} dev {both.settings['uplinks'][1]['interface']}")
    soon(lambda: default_by(both.host) == world.gateway(0), "ours")


@pytest.mark.campaign
def test_a_reboot_restores_all(both: Target, world: World) -> None:
    both.host.reboot()
    soon(lambda: default_by(both.host) == world.gateway(0), "the first")
    soon(lambda: world.reaches(world.address(1)), "an answer by the second")
    assert both.run("uplinks").strip() == QUIET


@pytest.mark.campaign
def test_undone_routes_and_rules_are_as_before(both: Target, before: list[str]) -> None:
    both.host.inside(f"rm -r /etc/systemd/system/{PROGRAM}.service.d")
    out = both.run("uplinks", what="undo")
    assert "put routes and rules back as they were" in out
    assert sorted(routes(both.host)) == sorted(before)
    assert PROGRAM not in both.host.inside("ls /usr/local/sbin /etc/systemd/system /run")
    assert both.run("uplinks", what="undo").strip() == QUIET
