"""Who may reach what in the mesh, and what the control plane must prove of it before it takes the policy."""

import json

import pytest

from planning.network.policy import Node, Policy, is_ours, policy, present, rules, stale_nodes, tags, text
from tests.unit.network.mesh import both, prod

GATEWAY, HOST, LAB = "tag:inference-prod-gateway", "tag:inference-prod-host", "tag:inference-lab-gateway"
LAB_HOST = "tag:inference-lab-host"
SSH, API, LAB_SSH, LAB_API, FRONT = 22, 8080, 2222, 8181, 8300
PAGES = {"prometheus": 9090, "alertmanager": 9093, "grafana": 3000}


def granted(made: Policy) -> set[tuple[str, str, str]]:
    return {(s, d, ip) for grant in made["grants"] for s in grant["src"] for d in grant["dst"] for ip in grant["ip"]}


def test_a_node_carries_its_stack_and_whether_it_is_the_gateways() -> None:
    assert {host: tags(host, prod()) for host in ("studio-1", "studio-2")} == {
        "studio-1": (GATEWAY,),
        "studio-2": (HOST,),
    }


def test_nothing_is_let_through_but_what_each_role_needs() -> None:
    tcp = {
        ("kim@", GATEWAY): {SSH, API, *PAGES.values()},
        ("kim@", HOST): {SSH},
        ("ann@", GATEWAY): {API},
        (GATEWAY, HOST): {FRONT},
        # Another stack's: its sshd has a port of its own, it has no Grafana and one host; kim@ is a mere user there.
        ("bo@", LAB): {SSH, LAB_SSH, LAB_API, PAGES["prometheus"], PAGES["alertmanager"]},
        ("kim@", LAB): {LAB_API},
        # Where no such node is, the last one may be about to leave: over the mesh it is undone.
        ("bo@", LAB_HOST): {SSH, LAB_SSH},
        (LAB, LAB_HOST): {FRONT},
    }
    assert granted(policy(both())) == {(s, d, f"tcp:{port}") for (s, d), ports in tcp.items() for port in ports}


def test_everything_else_is_no_word_of_the_policy() -> None:
    """No acls beside the grants, no exit nodes or routes that approve themselves, no attributes."""
    assert set(policy(both())) == {"tagOwners", "grants", "tests"}
    assert not [grant for grant in policy(both())["grants"] if set(grant) != {"src", "dst", "ip"}]


def test_a_tag_is_given_out_by_keys_alone() -> None:
    """Nobody may put one on a laptop: tags are owned by the tag of the client that makes the keys, and it by none."""
    owners = policy(both())["tagOwners"]
    assert owners.pop("tag:inference") == []
    assert owners == {tag: ["tag:inference"] for tag in (LAB, LAB_HOST, GATEWAY, HOST)}


def test_tailscales_ssh_is_for_operators_and_only_when_asked() -> None:
    assert policy(both(ssh=True))["ssh"] == [
        {"action": "accept", "src": ["kim@"], "dst": [GATEWAY, HOST], "users": ["ops"]}
    ]


def test_every_source_is_tested_against_every_port_that_anybody_may_reach() -> None:
    made = policy(both())
    asked = {test["src"]: {*test.get("accept", ()), *test.get("deny", ())} for test in made["tests"]}
    assert set(asked) == {"kim@", "ann@", "bo@", GATEWAY, HOST, LAB, LAB_HOST}
    assert len({frozenset(every) for every in asked.values()}) == 1
    known = {f"{rule.to}:{rule.port}" for rule in rules(both())}
    past_the_front = {f"{to}:{port}" for to in (GATEWAY, HOST, LAB, LAB_HOST) for port in (8000, 9100)}
    assert known | past_the_front <= asked["kim@"]


@pytest.mark.parametrize("source", ["kim@", "ann@", "bo@", GATEWAY, HOST, LAB, LAB_HOST])
def test_what_is_not_granted_is_tested_to_be_denied(source: str) -> None:
    made = policy(both())
    (test,) = (test for test in made["tests"] if test["src"] == source)
    accepted = {f"{d}:{ip.removeprefix('tcp:')}" for s, d, ip in granted(made) if s == source}
    assert set(test.get("accept", ())) == accepted
    assert not accepted & set(test["deny"])
    assert test["proto"] == "tcp"


def test_tests_name_only_who_has_a_node_where_the_control_plane_asks_for_it() -> None:
    made = policy(both(), present=frozenset({"kim@", GATEWAY}))
    assert [test["src"] for test in made["tests"]] == ["kim@", GATEWAY]
    targets = {to.rpartition(":")[0] for test in made["tests"] for to in (*test.get("accept", ()), *test["deny"])}
    assert targets == {GATEWAY}
    assert granted(made) == granted(policy(both()))
    assert "tests" not in policy(both(), present=frozenset())


def test_an_operator_who_is_also_named_a_user_is_granted_things_once() -> None:
    assert granted(policy(prod(users=["kim@"]))) == granted(policy(prod(users=[])))


def test_an_edit_of_a_written_policy_shows() -> None:
    written = text(policy(both()), "prod")
    assert json.loads(written.split("\n", 1)[1]) == policy(both())
    assert is_ours(written, "prod")
    assert not is_ours(written, "lab"), "another stack's"
    assert not is_ours(written.replace("tcp:22", "*"), "prod"), "edited"
    assert not is_ours("{}", "prod"), "somebody else's"


def node(name: str, *tags: str, online: bool = False) -> Node:
    return Node(id=name, name=name, tags=tags, owners=() if tags else ("kim@",), online=online)


@pytest.mark.parametrize(
    ("there", "stale"),
    [
        pytest.param(node("studio-1", GATEWAY), False, id="a-host-of-the-spec"),
        pytest.param(node("studio-9", HOST), True, id="a-host-that-left"),
        pytest.param(node("studio-9", HOST, online=True), True, id="a-host-that-left-and-still-runs"),
        pytest.param(node("lab-1", LAB), False, id="another-stacks-host"),
        pytest.param(node("laptop"), False, id="somebodys-laptop"),
        pytest.param(node("studio-1-1", GATEWAY, online=True), False, id="a-host-that-joined-beside-its-old-self"),
        pytest.param(node("studio-1-1", GATEWAY), True, id="its-old-self-that-is-gone"),
    ],
)
def test_nodes_that_left_the_spec_are_found_by_the_stacks_tags(there: Node, stale: bool) -> None:
    assert bool(stale_nodes(prod(), [there])) is stale


def test_who_is_present_are_owners_and_tags() -> None:
    assert present([node("studio-1", GATEWAY), node("laptop")]) == {GATEWAY, "kim@"}
