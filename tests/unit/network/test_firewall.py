"""The rules that a stack's file leads to, as nftables reads them. What they do is seen in tests/hosts."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from planning.hosts.plan import StepName
from planning.hosts.steps import plan_host, script
from planning.names import FRONT_PORT
from planning.network.firewall import openings, ruleset, summary
from stack_configs.schema.network import Network
from stack_configs.schema.stack import StackSpec
from tests.golden.specs import spec, stack_file

SSH = {"port": 22, "sources": ["192.168.40.0/24"]}
PROD = spec("prod-like", stack_file("prod"))
MESH = {"control": "tailscale", "domain": "tail1234.ts.net", "operators": ["kim@example.org"]}


def with_(*allow: dict[str, Any], **network: Any) -> StackSpec:
    """The prod-like stack: the gateway on studio-1, a front on studio-2."""
    parsed = Network.model_validate({"firewall": {"allow": allow}, **network})
    return PROD.model_copy(update={"file": PROD.file.model_copy(update={"network": parsed})})


def chain(name: str, rules: str) -> list[str]:
    body = rules.split(f"  chain {name} {{\n")[1].split("  }\n")[0]
    return [line.strip() for line in body.splitlines()]


@pytest.mark.parametrize(
    ("host", "of", "says"),
    [
        ("studio-1", with_(SSH), "SSH from 192.168.40.0/24; else nothing"),
        ("studio-2", with_(SSH), "the gateway from 192.168.40.11; SSH from 192.168.40.0/24; else nothing"),
        ("studio-2", with_(mesh=MESH), "mesh; else nothing"),
        (
            "studio-1",
            with_(SSH, {"port": 53, "protocol": "udp", "sources": ["10.0.0.7", "fd00::/8"]}, mesh=MESH),
            "SSH from 192.168.40.0/24; udp 53 from 10.0.0.7/32, fd00::/8; mesh; else nothing",
        ),
        ("studio-1", with_({**SSH, "hosts": ["studio-2"]}, mesh=MESH), "mesh; else nothing"),
    ],
)
def test_a_preview_names_all_that_is_left_open(host: str, of: StackSpec, says: str) -> None:
    assert summary(host, of) == says
    steps = {step.name: step for step in plan_host(host, of).steps}
    assert steps["firewall"].summary == says


def test_without_a_firewall_there_is_no_step() -> None:
    assert not {"firewall", "confirm"} & {step.name for step in plan_host("studio-1", PROD).steps}
    with pytest.raises(ValueError, match="no firewall"):
        openings("studio-1", PROD)


def test_the_gateway_reaches_fronts_and_nothing_else_there() -> None:
    (front,) = (of for of in openings("studio-2", with_(SSH)) if of.port == FRONT_PORT)
    assert (front.sources, front.to) == (("192.168.40.11",), "192.168.40.12")
    rule = chain("allowed", ruleset("studio-2", with_(SSH)))[0]
    assert rule.startswith("ip saddr { 192.168.40.11/32 } ct original ip daddr 192.168.40.12 meta l4proto tcp ")
    assert rule.endswith(f" ct original proto-dst {FRONT_PORT} accept")
    assert FRONT_PORT not in {of.port for of in openings("studio-1", with_(SSH))}
    assert FRONT_PORT not in {of.port for of in openings("studio-2", with_(SSH, mesh=MESH))}, "it comes over the mesh"


def test_with_a_mesh_its_interface_and_wireguard_are_open_and_without_one_neither() -> None:
    meshed, alone = ruleset("studio-1", with_(SSH, mesh=MESH)), ruleset("studio-1", with_(SSH))
    for name in ("input", "forward"):
        assert 'iifname "tailscale0" accept' in chain(name, meshed)
    assert "meta l4proto udp ct original proto-dst 41641 accept" in chain("allowed", meshed)
    assert "tailscale0" not in alone
    assert "41641" not in alone


def test_what_is_not_accepted_is_dropped() -> None:
    rules = ruleset("studio-1", with_(SSH))
    assert chain("input", rules)[0].endswith("policy drop;")
    forward = chain("forward", rules)
    allowed, drop = forward.index("ct status dnat jump allowed"), forward[-3]
    assert drop.startswith("ct status dnat counter drop")
    assert allowed == len(forward) - 4, "nothing between what is allowed and the drop"


def test_networks_within_networks_and_the_whole_internet() -> None:
    """nft refuses a set whose networks overlap."""
    both = {"port": 443, "sources": ["10.0.0.0/8", "10.1.0.0/16", "::/0", "fd00::/8"]}
    assert chain("allowed", ruleset("studio-1", with_(SSH, both)))[-2:] == [
        "ip saddr { 10.0.0.0/8 } meta l4proto tcp ct original proto-dst 443 accept",
        "meta nfproto ipv6 meta l4proto tcp ct original proto-dst 443 accept",
    ]


def test_rules_that_change_are_tried_and_confirmed_anew_on_the_hosts_that_they_concern() -> None:
    before, after = with_(SSH), with_(SSH, {"port": 9100, "sources": ["10.0.0.7"], "hosts": ["studio-2"]})
    changed = {
        (host, old.name)
        for host in ("studio-1", "studio-2")
        for old, new in zip(plan_host(host, before).steps, plan_host(host, after).steps, strict=True)
        if old.digest != new.digest
    }
    assert changed == {("studio-2", "firewall"), ("studio-2", "confirm")}
    again = before.model_copy(update={"repairs": {"studio-1": {"firewall": 1}}})
    raised = [
        old.name
        for old, new in zip(plan_host("studio-1", before).steps, plan_host("studio-1", again).steps, strict=True)
        if old.digest != new.digest
    ]
    assert raised == ["firewall", "confirm"]


def test_a_host_that_joins_a_mesh_lets_it_in_through_rules_from_before(tmp_path: Path) -> None:
    """Every step between `join` and `firewall` comes over the mesh, and one of them may reboot the host."""
    if shutil.which("nft") is None or os.geteuid() != 0:
        pytest.skip("rules are loaded in a network namespace, which wants root and nft")
    kept = tmp_path / "kept"
    kept.write_text(ruleset("studio-1", with_(SSH)))
    load = f"KEPT={kept}; nft -f $KEPT"
    once, twice, booted = _loaded("join", f"{load}; let_mesh_in", f"{load}; let_mesh_in; let_mesh_in", load)
    assert chain("input", once.expandtabs(2))[1] == 'iifname "tailscale0" accept'
    assert once == twice == booted
    (there_already,) = _loaded("join", f"nft -f - <<<'{ruleset('studio-1', with_(mesh=MESH))}'; let_mesh_in")
    assert there_already.count("tailscale0") == 2
    assert _loaded("join", "let_mesh_in") == [""], "no firewall is made where there is none"


def _loaded(step: StepName, *lines: str) -> list[str]:
    """Our table after each of these, run with the step's functions in a network of its own."""
    functions = script(step).removesuffix('main "$@" </dev/null\n')
    found = []
    for line in lines:
        argv = ["unshare", "--net", "bash", "-c", f"{functions}\n({line}) >/dev/null; table"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        found.append(done.stdout)
    return found


@pytest.mark.parametrize(
    "of",
    [
        with_(SSH),
        with_(mesh=MESH),
        with_(SSH, {"port": 443, "protocol": "udp", "sources": ["0.0.0.0/0", "::/0", "10.0.0.0/8", "fd00::1"]}),
    ],
    ids=["the least without a mesh", "the least with one", "all kinds of sources"],
)
def test_nftables_reads_them(of: StackSpec) -> None:
    if shutil.which("nft") is None or os.geteuid() != 0:
        pytest.skip("nft checks rules, and it isn't here or wants root")
    for host in ("studio-1", "studio-2"):
        # In a network namespace of its own: nft looks at what is loaded when it checks.
        argv = ["unshare", "--net", "nft", "--check", "--file", "-"]
        done = subprocess.run(argv, input=ruleset(host, of), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
