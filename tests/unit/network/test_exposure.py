"""Who may listen on a host and who may answer outside, by the spec; from what `ss`, `ip` and Docker say."""

import json
from ipaddress import ip_address
from typing import Any

import pytest

from planning.network.exposure import Answer, Finding, Seen, findings, findings_here, targets
from planning.network.listeners import MARKER, BrokenListError, Inside, read_listeners
from stack_configs.schema.stack import StackSpec
from tests.golden.specs import spec, stack_file

GATEWAY, OTHER = "studio-1", "studio-2"
LAN, PUBLIC, PUBLIC6, MESH_IP = "192.168.40.12", "198.51.100.7", "2001:4860::7", "100.64.0.7"
VANTAGE = "ops@203.0.113.9"
OUTSIDE, OUTSIDE6, NEIGHBOUR = "203.0.113.9", "2a00:1450::9", "192.168.40.99"
MESH = {"control": "tailscale", "domain": "tail1234.ts.net", "operators": ["kim@example.org"]}

INTERFACES = [
    ("lo", "127.0.0.1", 8),
    ("lo", "::1", 128),
    ("eth0", LAN, 24),
    ("eth0", "fe80::42", 64),
    ("eth1", PUBLIC, 24),
    ("eth1", PUBLIC6, 64),
    ("tailscale0", MESH_IP, 32),
    ("tailscale0", "fd7a:115c:a1e0::7", 128),
    ("docker0", "172.17.0.1", 16),
    ("br-0123456789ab", "172.18.0.1", 16),
]
SSHD = 'tcp   LISTEN 0      128          0.0.0.0:22        0.0.0.0:*    users:(("sshd",pid=10,fd=3))'
ROGUE = 'tcp   LISTEN 0      5            0.0.0.0:8088      0.0.0.0:*    users:(("python3",pid=11,fd=4))'
UNITS = ["     10 ssh.service", "     11 rogue.service", "     12 tailscaled.service", "     13 -"]


def prod(**network: Any) -> StackSpec:
    return spec("prod", {**stack_file("prod"), "network": network})


def allowing(*allow: dict[str, Any], mesh: bool = False) -> StackSpec:
    return prod(firewall={"allow": list(allow)}, **({"mesh": MESH} if mesh else {}))


def container(name: str, stack: str = "", **ports: list[tuple[str, str]]) -> str:
    bindings = {
        key.replace("_", "/")[1:]: [{"HostIp": ip, "HostPort": port} for ip, port in of] for key, of in ports.items()
    }
    return json.dumps({"name": f"/{name}", "stack": stack, "ports": bindings})


def host(*sockets: str, containers: tuple[str, ...] = (), problems: tuple[str, ...] = ()) -> Inside:
    """What a host with these sockets says of itself."""
    rows = [{"ifname": name, "addr_info": [{"local": ip, "prefixlen": length}]} for name, ip, length in INTERFACES]
    lines = [
        "Welcome!",
        MARKER,
        "ssh\t203.0.113.9 40000 198.51.100.7 22",
        f"address\t{json.dumps(rows)}",
        *(f"socket\t{line}" for line in sockets),
        *(f"unit\t{line}" for line in UNITS),
        *(f"container\t{line}" for line in containers),
        *(f"problem\t{line}" for line in problems),
        "docker\tanswered",
        "end",
    ]
    return read_listeners("\n".join(lines) + "\n")


def seen(*tcp: int, address: str = PUBLIC, source: str = OUTSIDE, **udp: Answer) -> Seen:
    return Seen(
        address=ip_address(address),
        source=ip_address(source),
        tcp_open=tcp,
        tcp_refused=65535 - len(tcp),
        tcp_silent=0,
        udp={int(port.lstrip("_")): answer for port, answer in udp.items()},
    )


def says(of: StackSpec, inside: Inside | None, *outside: Seen, name: str = OTHER) -> list[str]:
    return [f"{one.protocol} {one.port}: {one.says}" for one in findings(name, of, inside, outside, vantage=VANTAGE)]


def test_ssh_loopback_and_the_dhcp_client_are_everybodys() -> None:
    inside = host(
        SSHD,
        'tcp LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=10,fd=4))',
        'tcp LISTEN 0 5 127.0.0.1:9000 0.0.0.0:* users:(("python3",pid=11,fd=4))',
        'tcp LISTEN 0 5 [::1]:9000 [::]:* users:(("python3",pid=11,fd=5))',
        "udp UNCONN 0 0 127.0.0.53%lo:53 0.0.0.0:*",
        'udp UNCONN 0 0 192.168.40.12%eth0:68 0.0.0.0:* users:(("systemd-network",pid=13,fd=9))',
        'udp UNCONN 0 0 [fe80::42]%eth0:546 [::]:* users:(("systemd-network",pid=13,fd=9))',
    )
    assert len(inside.listeners) == 7
    assert says(prod(), inside) == []


def test_what_nobody_declared_is_told_with_its_program_and_unit_and_what_to_do() -> None:
    remedy = "; stop it, bind it to loopback, or declare the port under network.firewall.allow"
    every = "tcp 8088: python3 (rogue.service) listens on every IPv4 address, and nobody declared it"
    assert says(prod(), host(SSHD, ROGUE)) == [every + remedy]
    assert says(prod(), host(SSHD, ROGUE), seen(22, 8088)) == [f"{every}; it answers {VANTAGE} at {PUBLIC}{remedy}"]
    assert says(prod(), host(SSHD, ROGUE), seen(22)) == [f"{every}; {VANTAGE} doesn't reach it{remedy}"]


@pytest.mark.parametrize(
    ("socket", "told"),
    [
        ("tcp LISTEN 0 5 *:8088 *:*", "tcp 8088: {nameless} listens on every address, and"),
        ("tcp LISTEN 0 5 [::]:8088 [::]:*", "tcp 8088: {nameless} listens on every IPv6 address, and"),
        ("tcp LISTEN 0 5 172.17.0.1:8088 0.0.0.0:*", "tcp 8088: {nameless} listens on 172.17.0.1, and"),
        ("udp UNCONN 0 0 1.2.3.4%eth0:161 0.0.0.0:*", "udp 161: {nameless} listens on 1.2.3.4 of eth0, and"),
        ('tcp LISTEN 0 5 *:80 *:* users:(("tmux: server",pid=13,fd=4))', "tcp 80: tmux: server listens on every addr"),
    ],
)
def test_every_kind_of_address_is_read(socket: str, told: str) -> None:
    (found,) = says(prod(), host(socket))
    nameless = "the kernel, or a program whose name can't be read,"
    assert found.startswith(told.format(nameless=nameless))


def test_one_program_on_one_port_is_one_finding() -> None:
    both = host(ROGUE, 'tcp LISTEN 0 5 [::]:8088 [::]:* users:(("python3",pid=11,fd=5))')
    (found,) = says(prod(), both)
    assert "every IPv4 address and every IPv6 address" in found


def test_what_docker_publishes_is_told_by_its_container_and_its_proxy_is_not() -> None:
    proxies = ['tcp LISTEN 0 0 0.0.0.0:8089 0.0.0.0:* users:(("docker-proxy",pid=13,fd=4))']
    published = container("web", _80_tcp=[("0.0.0.0", "8089"), ("::", "8089")], _81_tcp=[("127.0.0.1", "8090")])
    (found,) = says(prod(), host(*proxies, containers=(published,)), seen(8089))
    assert found.startswith("tcp 8089: container web is published on every IPv4 address and every IPv6 address, and no")
    assert f"it answers {VANTAGE} at {PUBLIC}" in found


def test_the_proxy_of_another_docker_is_told() -> None:
    """Whose containers the host's own doesn't list."""
    proxy = 'tcp LISTEN 0 0 0.0.0.0:8089 0.0.0.0:* users:(("docker-proxy",pid=11,fd=4))'
    (found,) = says(prod(), host(proxy, containers=(container("web", _80_tcp=[("127.0.0.1", "8090")]),)))
    assert found.startswith("tcp 8089: docker-proxy (rogue.service) listens on every IPv4 address, and nobody declared")


def test_a_published_port_without_a_proxy_is_seen() -> None:
    (found,) = says(prod(), host(containers=(container("web", _80_udp=[("", "8089")]),)))
    assert found.startswith("udp 8089: container web is published on every address, and nobody declared it; publish it")


def test_a_container_without_ports_is_nothing() -> None:
    assert host(containers=('{"name":"/web","stack":null,"ports":{"80/tcp":null}}', "{}")).listeners == ()


def test_the_front_is_the_stacks_own_on_its_address_alone() -> None:
    own = host(containers=(container("prod-front", "prod", _8300_tcp=[(LAN, "8300"), ("127.0.0.1", "8300")]),))
    assert says(prod(), own, seen(8300, address=LAN, source=NEIGHBOUR)) == []
    (found,) = says(prod(), own, name=GATEWAY)
    assert found.endswith("which the plan has on loopback; `make up STACK=prod` makes it anew")
    wide = host(containers=(container("prod-front", "prod", _8300_tcp=[("0.0.0.0", "8300")]),))
    assert len(says(prod(), wide)) == 1


def test_the_meshs_own_listeners_are_declared_where_there_is_a_mesh() -> None:
    inside = host(
        f'tcp LISTEN 0 5 {MESH_IP}:8300 0.0.0.0:* users:(("tailscaled",pid=12,fd=4))',
        'udp UNCONN 0 0 0.0.0.0:41641 0.0.0.0:* users:(("tailscaled",pid=12,fd=5))',
    )
    assert says(prod(mesh=MESH), inside) == []
    assert len(says(prod(), inside)) == 2
    past_the_mesh = host('tcp LISTEN 0 5 0.0.0.0:443 0.0.0.0:* users:(("tailscaled",pid=12,fd=4))')
    assert len(says(prod(mesh=MESH), past_the_mesh)) == 1
    other = host(f'tcp LISTEN 0 5 {MESH_IP}:8300 0.0.0.0:* users:(("python3",pid=11,fd=4))')
    assert len(says(prod(mesh=MESH), other)) == 1


def test_what_the_firewall_allows_may_listen_and_answers_whom_it_names() -> None:
    entry = {"port": 8088, "sources": [f"{OUTSIDE}/32"], "hosts": [OTHER]}
    ssh = {"port": 22, "sources": ["203.0.113.0/24"]}
    of, inside = allowing(entry, ssh), host(SSHD, ROGUE)
    assert says(of, inside, seen(22, 8088)) == []
    assert says(of, inside, seen(22, 8088), name=GATEWAY) != []
    (found,) = says(of, inside, seen(22, 8088, source="203.0.113.10"))
    assert found == (
        f"tcp 8088: python3 (rogue.service) answers {VANTAGE} at {PUBLIC}, which network.firewall doesn't let in; "
        "`make up STACK=prod` applies it, or the vantage point belongs to the `sources` of an entry"
    )


def test_sources_are_of_both_versions() -> None:
    of, inside = allowing({"port": 22, "sources": ["203.0.113.0/24"]}), host("tcp LISTEN 0 5 *:22 *:*")
    assert says(of, inside, seen(22)) == []
    (found,) = says(of, inside, seen(22), seen(22, address=PUBLIC6, source=OUTSIDE6))
    assert f"answers {VANTAGE} at {PUBLIC6}, which" in found


def test_an_entry_for_tcp_is_none_for_udp() -> None:
    of = allowing({"port": 22, "sources": ["0.0.0.0/0"]}, {"port": 8088, "protocol": "udp", "sources": ["0.0.0.0/0"]})
    assert len(says(of, host(SSHD, ROGUE))) == 1


def test_with_a_mesh_and_a_firewall_not_even_ssh_answers_outside() -> None:
    of = allowing(mesh=True)
    assert says(of, host(SSHD), seen(_41641="silent")) == []
    (found,) = says(of, host(SSHD), seen(22))
    assert found.startswith(f"tcp 22: sshd (ssh.service) answers {VANTAGE} at {PUBLIC}, which network.firewall")


def test_without_a_firewall_what_may_listen_may_answer() -> None:
    assert says(prod(mesh=MESH), host(SSHD), seen(22)) == []
    assert says(prod(), host(SSHD), seen(22, _41641="open"))[0].startswith("udp 41641: somebody answers")


def test_behind_nat_the_hosts_see_another_source() -> None:
    of = allowing({"port": 22, "sources": ["203.0.113.0/24"]})
    behind = seen(22, address="8.8.8.8", source="192.168.1.5")
    assert behind.translated
    assert says(of, host(SSHD), behind) == []
    assert not seen(address=LAN, source=NEIGHBOUR).translated


def test_who_answers_though_nobody_listens_is_told() -> None:
    (found,) = says(prod(), host(SSHD), seen(22, 8443))
    assert found == (
        f"tcp 8443: somebody answers {VANTAGE} at {PUBLIC}, and nothing on the host listens there: something before "
        "it does, such as a router that hands the port on"
    )


def test_a_listener_on_another_address_doesnt_excuse_who_answers() -> None:
    front = container("prod-front", "prod", _8300_tcp=[(LAN, "8300")])
    (found,) = says(prod(), host(containers=(front,)), seen(8300, address=LAN, source=NEIGHBOUR), seen(8300))
    assert found.startswith(f"tcp 8300: somebody answers {VANTAGE} at {PUBLIC}, and nothing on the host listens there")


def test_an_undeclared_listener_doesnt_hide_who_answers_at_another_address() -> None:
    inside = host(f'tcp LISTEN 0 5 {LAN}:8443 0.0.0.0:* users:(("python3",pid=11,fd=4))')
    listens, answers = says(prod(), inside, seen(8443, address=LAN, source=NEIGHBOUR), seen(8443))
    assert listens.startswith(
        f"tcp 8443: python3 (rogue.service) listens on {LAN}, and nobody declared it; it answers "
    )
    assert answers.startswith(
        f"tcp 8443: somebody answers {VANTAGE} at {PUBLIC}, and nothing on the host listens there"
    )


def test_hosts_behind_one_router_have_their_ssh_servers_there() -> None:
    file = stack_file("prod")
    for port, name in ((2201, GATEWAY), (2202, OTHER)):
        file["hosts"][name]["connection"] |= {"address": PUBLIC, "port": port}
    assert says(spec("prod", file), host(SSHD), seen(2201, 2202)) == []
    (found,) = says(spec("prod", file), host(SSHD), seen(2201, 2202, 2203))
    assert found.startswith("tcp 2203: somebody answers")
    (found,) = says(spec("prod", file), host(SSHD, ROGUE.replace("8088", "2201")))
    assert found.startswith("tcp 2201: python3")


def test_a_host_that_cant_be_asked_is_judged_by_what_answers() -> None:
    (found,) = says(prod(), None, seen(22, 8443))
    assert found.startswith(f"tcp 8443: somebody answers {VANTAGE} at {PUBLIC}, which the spec doesn't allow; see who")


def test_on_this_machine_only_the_stacks_own_containers_are_judged() -> None:
    dev = spec("dev", stack_file("dev"))
    good = container("dev-nginx", "dev", _8080_tcp=[("127.0.0.1", "8080")])
    other = container("web", _80_tcp=[("0.0.0.0", "80")])
    assert findings_here(dev, host(ROGUE, containers=(good, other))) == ()
    bad = container("dev-nginx", "dev", _8080_tcp=[("0.0.0.0", "8080")])
    (found,) = findings_here(dev, host(containers=(bad,)))
    assert (found.protocol, found.port) == ("tcp", 8080)
    assert "container dev-nginx is published on every IPv4 address" in found.says
    assert isinstance(found, Finding)


def test_all_addresses_past_the_mesh_are_scanned_private_ones_from_their_own_network() -> None:
    inside = host(SSHD, "udp UNCONN 0 0 0.0.0.0:5000 0.0.0.0:*", "udp UNCONN 0 0 127.0.0.1:5001 0.0.0.0:*")
    wanted = targets(OTHER, prod(), inside)
    assert [(of.target, of.network) for of in wanted] == [
        ("studio-2.mesh.example.org", None),
        (LAN, "192.168.40.0/24"),
        (PUBLIC, "198.51.100.0/24"),  # of a range for documents, which is private by name
        (PUBLIC6, None),
    ]
    assert all({5000, 53, 41641} <= set(of.udp) and 5001 not in of.udp for of in wanted)
    assert [of.target for of in targets(OTHER, prod(), None)] == ["studio-2.mesh.example.org"]


def test_an_answer_that_is_cut_off_is_none() -> None:
    with pytest.raises(BrokenListError, match="cut off"):
        read_listeners(f"{MARKER}\nsocket\t{ROGUE}\n")
    with pytest.raises(BrokenListError, match="cut off"):
        read_listeners("bash: ss: command not found\n")


def test_what_cant_be_read_is_told() -> None:
    inside = host("tcp LISTEN nonsense", containers=("Error: No such object: 1",), problems=("docker: no",))
    assert inside.problems == (
        "docker: no",
        "ss: this line can't be read: tcp LISTEN nonsense",
        "docker: this line can't be read: Error: No such object: 1",
    )
