"""A policy in force, as somebody may have written it, against what a stack needs."""

import json

import pytest

from planning.network.compare import access, beyond, difference, lacking, read
from planning.network.picture import mermaid, table
from planning.network.policy import Policy, policy, rules, text
from tests.unit.network.mesh import both, prod

GATEWAY, HOST = "tag:inference-prod-gateway", "tag:inference-prod-host"


@pytest.mark.parametrize(
    ("written", "means"),
    [
        pytest.param('{"a": 1} // the end', {"a": 1}, id="a-comment-at-the-end"),
        pytest.param('// first\n{/* in\nlines */ "a": [1, 2, ], }', {"a": [1, 2]}, id="last-commas"),
        pytest.param('{"a": [1, // one\n /* two */ ]}', {"a": [1]}, id="a-last-comma-before-comments"),
        pytest.param('{"a": "http://x, ]", "b\\"//": 1}', {"a": "http://x, ]", 'b"//': 1}, id="inside-strings"),
    ],
)
def test_hujson_is_read(written: str, means: Policy) -> None:
    assert read(written) == means


@pytest.mark.parametrize("written", ["", "[]", "{", '{"a": 1 "b": 2}'])
def test_what_is_no_policy_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read(written)


def test_the_same_policy_in_another_order_and_form_is_no_difference() -> None:
    made = policy(both())
    assert difference(made, read(text(made, "prod"))) == []
    assert difference(made, dict(reversed(made.items()))) == []
    assert difference(made, {**made, "tests": [], "groups": {}}) == []


def test_a_difference_shows_both_sides() -> None:
    found = json.loads(json.dumps(policy(prod())).replace('"tcp:22"', '"*"', 1))
    lines = difference(policy(prod()), found)
    assert any(line.startswith("-") and '"*"' in line for line in lines)
    assert any(line.startswith("+") and '"tcp:22"' in line for line in lines)


def opened(*grants: tuple[str, str, str]) -> Policy:
    return {"grants": [{"src": [source], "dst": [to], "ip": [ip]} for source, to, ip in grants]}


def acl(source: str, to: str, proto: str = "") -> Policy:
    return {"acls": [{"action": "accept", "src": [source], "dst": [to], **({"proto": proto} if proto else {})}]}


FRONT = [rule for rule in rules(prod()) if rule.role == "gateway"]


@pytest.mark.parametrize(
    ("found", "enough"),
    [
        pytest.param(opened((GATEWAY, HOST, "tcp:8300")), True, id="exactly"),
        pytest.param(opened((GATEWAY, HOST, "8300")), True, id="any-protocol"),
        pytest.param(opened((GATEWAY, HOST, "22,8300")), True, id="a-list"),
        pytest.param(opened((GATEWAY, HOST, "tcp:8000-9000")), True, id="a-range"),
        pytest.param(opened(("*", "*", "*")), True, id="everything"),
        pytest.param(opened(("autogroup:tagged", HOST, "*")), True, id="all-tagged-nodes"),
        pytest.param(acl(GATEWAY, f"{HOST}:8300"), True, id="an-acl"),
        pytest.param(acl(GATEWAY, f"{HOST}:*", "tcp"), True, id="an-acl-of-tcp"),
        pytest.param({}, True, id="no-rules-at-all-let-everything-through"),
        pytest.param({"groups": {"group:g": [GATEWAY]}, **acl("group:g", f"{HOST}:8300")}, True, id="a-group"),
        pytest.param(opened((GATEWAY, HOST, "udp:8300")), False, id="another-protocol"),
        pytest.param(opened((GATEWAY, HOST, "tcp:22")), False, id="another-port"),
        pytest.param(opened((HOST, GATEWAY, "tcp:8300")), False, id="the-other-way"),
        pytest.param(opened(("autogroup:member", HOST, "*")), False, id="people-are-no-nodes"),
        pytest.param(acl(GATEWAY, f"{HOST}:8300", "udp"), False, id="an-acl-of-udp"),
        pytest.param({"grants": []}, False, id="nothing"),
        pytest.param(opened((GATEWAY, HOST, "gre")), False, id="a-protocol-without-ports"),
    ],
)
def test_whether_a_policy_lets_the_gateway_to_the_hosts(found: Policy, enough: bool) -> None:
    (rule,) = FRONT
    dropped = [line for line in lacking(prod(), found) if line.startswith(rule.source)]
    assert (dropped == []) is enough
    assert enough or dropped == [f"{GATEWAY} can't reach {HOST}, port 8300: engines and exporters"]


@pytest.mark.parametrize(
    ("found", "told"),
    [
        pytest.param(opened((GATEWAY, HOST, "tcp:8300")), [], id="what-is-needed"),
        pytest.param(opened(("ann@", HOST, "tcp:22")), [f"ann@ may reach {HOST}, port 22"], id="somebody-more"),
        pytest.param(
            opened((GATEWAY, HOST, "tcp:8300-8301")), [f"{GATEWAY} may reach {HOST}, ports 8300 to 8301"], id="a-port"
        ),
        pytest.param(
            opened(("ann@", "*", "tcp:1")), [f"ann@ may reach {t}, port 1" for t in (GATEWAY, HOST)], id="all-nodes"
        ),
        pytest.param(opened(("ann@", "tag:printer", "*")), [], id="nodes-of-others"),
        pytest.param(opened(("ann@", HOST, "udp:53")), [], id="no-tcp"),
        pytest.param({}, ["everything: a policy without `grants` lets every node reach every other"], id="no-rules"),
    ],
)
def test_what_a_policy_opens_beyond_need(found: Policy, told: list[str]) -> None:
    assert beyond(prod(), found) == told


@pytest.mark.parametrize(
    ("shells", "told"),
    [
        pytest.param([], ["gateway", "host"], id="none"),
        pytest.param([{"src": ["kim@"], "dst": [GATEWAY, HOST], "users": ["ops"]}], [], id="exactly"),
        pytest.param([{"src": ["group:g"], "dst": [GATEWAY], "users": ["autogroup:nonroot"]}], ["host"], id="a-group"),
        pytest.param([{"src": ["ann@"], "dst": [GATEWAY, HOST], "users": ["ops"]}], ["gateway", "host"], id="another"),
        pytest.param([{"src": ["kim@"], "dst": [HOST], "users": ["root"]}], ["gateway", "host"], id="as-root"),
    ],
)
def test_tailscales_own_ssh_is_needed_where_the_file_says_so(shells: list[Policy], told: list[str]) -> None:
    """It has rules of its own, beside a grant of port 22: https://tailscale.com/docs/features/tailscale-ssh."""
    found = {**policy(prod()), "groups": {"group:g": ["kim@"]}, "ssh": [{"action": "accept", **one} for one in shells]}
    assert lacking(prod(), found) == []
    expected = [f"kim@ can't use Tailscale's SSH to tag:inference-prod-{to} as ops" for to in told]
    assert lacking(prod(ssh=True), found) == expected


def test_what_a_policy_grants_is_told_line_by_line() -> None:
    plain, shells = access(policy(prod())), access(policy(prod(ssh=True)))
    assert f"kim@ → {HOST} tcp:22" in plain
    assert set(shells) - set(plain) == {f"kim@ → {to} Tailscale's SSH as ops" for to in (GATEWAY, HOST)}
    app = {"src": ["*"], "dst": ["*"], "app": {"tailscale.com/cap/drive": [{}]}}
    assert access({"grants": [app]}) == [], "an edit of somebody's, after a refresh"


def test_the_owners_policy_is_neither_too_narrow_nor_too_wide_for_its_neighbour() -> None:
    assert lacking(both(), policy(both())) == []
    assert beyond(both(), policy(both())) == []


def test_the_picture_has_an_arrow_for_every_rule() -> None:
    drawn = mermaid(rules(both()))
    assert drawn.startswith("flowchart LR\n")
    lines = table(rules(both()))
    assert drawn.count(" -->|") == len(lines)
    assert f"operators of prod (kim@) → {HOST}: SSH (22)" in lines
    assert f"{GATEWAY} → {HOST}: engines and exporters (8300)" in lines
    assert "users of lab (kim@) → tag:inference-lab-gateway: the API (8181)" in lines
    for rule in rules(both()):
        assert f"({rule.port})" in "".join(lines)
        assert f": {rule.port}" in drawn
