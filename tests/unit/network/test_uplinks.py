"""Which uplink gets the default route after which rounds of probes; what a host and a preview are told.

On a host, with real routes and probes, the program runs in tests/network/test_uplinks.py.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from planning.hosts import steps
from planning.hosts.drift import Difference, differences, repairs
from planning.hosts.steps import SCRIPTS
from planning.network import uplinks
from stack_configs import uplink_rules
from stack_configs.schema.hosts import Host
from tests.unit.hosts import prepared, shaped

PROBES = ("192.0.2.53", "198.51.100.53")
TWO = [
    {"interface": "eth0", "gateway": "10.0.0.1", "probes": PROBES},
    {"interface": "lan.5", "gateway": "10.0.1.1", "probes": PROBES[:1]},
]
CONNECTION = {"kind": "ssh", "address": "192.0.2.1", "user": "ops", "host_key": "ssh-ed25519 AAAA"}
ROUNDS = """
ip() { :; }
rules() { :; }
end_connections() { :; }
ours() { echo "$HAS"; }
begin
for answers in "$@"; do
  count "$(fold -w 1 <<<"${answers//-/}")"
  choose
  echo "${ACTIVE:--}"
done
"""


INTERFACES = """
for n in 0 1 2; do
  ip link add eth$n type veth peer name peer$n
  ip address add 10.0.$n.5/24 dev eth$n
  ip link set peer$n up
  ip link set eth$n up
done
"""
BESIDE = f"{INTERFACES}ip route add default via 10.0.2.1 dev eth2"
ASIDE = f"""{INTERFACES}
ip route append default via 10.0.1.1 dev eth1 proto static
ip route append default via 10.0.0.1 dev eth0 proto static
mkdir -p "$RUN/aside"
begin
ip route show default
echo --
ACTIVE=0
default_route
ip route show default
echo --
release
ip route show default
"""
ENV = {"UPLINKS": "eth0=10.0.0.1=1.1.1.1 eth1=10.0.1.1=1.1.1.1", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def watch(folder: Path, instead: str) -> str:
    """The program, with notes in `folder`, and `instead` of its main loop."""
    (folder / "pending").mkdir(exist_ok=True)
    text = (SCRIPTS / "uplinks_watch.sh").read_text().replace('main "$@"\n', instead)
    return text.replace("/var/lib/inference-stack", str(folder)).replace("/run/inference", f"{folder}/inference")


def routes(folder: Path, rounds: str, has: str = "") -> str:
    """Who has the default route after each round: `01` are two that answer, `-` is silence. `has`: who had it."""
    argv = ["bash", "-c", watch(folder, ROUNDS), "watch", *rounds.split()]
    done = subprocess.run(argv, env={**ENV, "HAS": has}, capture_output=True, text=True, check=True)
    return "".join(row for row in done.stdout.splitlines() if not row.startswith("<4>"))


STABLE = 15


@pytest.mark.parametrize(
    ("rounds", "after", "has"),
    [
        pytest.param(["01"], "0", "", id="at a boot the preferred one"),
        pytest.param(["1", "01"], "1", "", id="at a boot the first that answers"),
        pytest.param(["-", "-"], "-", "", id="none at all: nothing is touched"),
        pytest.param(["-", "0", "0"], "0", "", id="none at first, then one that answers twice"),
        pytest.param(["01", "1", "1"], "0", "", id="two rounds lost are nothing"),
        pytest.param(["01", "1", "1", "1"], "1", "", id="three are"),
        pytest.param(["01", "0", "0", "0", "0"], "0", "", id="the other one's death changes nothing"),
        pytest.param(["01", "1", "1", "1", *["01"] * (STABLE - 1)], "1", "", id="not stable yet"),
        pytest.param(["01", "1", "1", "1", *["01"] * STABLE], "0", "", id="stable"),
        pytest.param(["01", *[*["1"] * 3, *["01"] * (STABLE - 1)] * 4], "1", "", id="it flaps"),
        pytest.param(["01", "1", "1", "1", *["-"] * 9], "1", "", id="both are dead: the last"),
        pytest.param(["01", *["-"] * 9, "1", "1"], "1", "", id="both dead, then the second answers"),
        pytest.param(["01", *["-"] * 9, "0"], "0", "", id="both dead, then the last answers"),
        pytest.param(["01", "1", "1", "1", "01", "01", "0", "0", "0"], "0", "", id="one that isn't stable, for none"),
        pytest.param(["01"] * (STABLE - 1), "1", "1", id="started again, the first not known to be stable"),
        pytest.param(["01"] * STABLE, "0", "1", id="started again, the first stable"),
        pytest.param(["0", "0", "0"], "0", "1", id="started again, its own dead"),
    ],
)
def test_who_gets_the_default_route(tmp_path: Path, rounds: list[str], after: str, has: str) -> None:
    assert routes(tmp_path, " ".join(rounds), has)[-1] == after


def test_an_uplink_that_is_dead_is_noted_until_it_is_alive(tmp_path: Path) -> None:
    note = tmp_path / "pending" / "uplink-eth0"
    routes(tmp_path, "01 1 1 1 01")
    assert "the uplink eth0 has been dead since " in note.read_text()
    assert note.read_text().endswith("by 10.0.0.1, nothing is heard of 1.1.1.1\n")
    routes(tmp_path, " ".join(["1", *["01"] * STABLE]))
    assert not note.exists()


def test_what_is_no_uplink_any_more_is_not_noted_as_dead(tmp_path: Path) -> None:
    note = tmp_path / "pending" / "uplink-eth7"
    note.parent.mkdir()
    note.write_text("the uplink eth7 has been dead since 2026-11-01 00:00 UTC")
    routes(tmp_path, "01")
    assert not note.exists()


def test_a_note_that_cant_be_written_keeps_no_route_at_a_dead_uplink(tmp_path: Path) -> None:
    """As where the disk is full, or has become read-only."""
    note = tmp_path / "pending" / "uplink-eth0"
    note.parent.mkdir()
    note.symlink_to("/nowhere/note")
    assert routes(tmp_path, "01 1 1 1 1")[-2:] == "11"


def test_all_default_routes_of_the_host_come_back_in_their_order(tmp_path: Path) -> None:
    """Two of one metric, as systemd-networkd makes them for two interfaces with a gateway: the first is in force."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("routes are set in a network namespace, which wants root and iproute2")
    done = subprocess.run(
        ["unshare", "--net", "bash", "-ec", watch(tmp_path, ASIDE)], env=ENV, capture_output=True, text=True, check=True
    )
    before, during, after = done.stdout.split("--\n")
    assert before == "default via 10.0.1.1 dev eth1 proto static \ndefault via 10.0.0.1 dev eth0 proto static \n"
    assert during.splitlines()[-1].startswith("default via 10.0.0.1 dev eth0 proto 151 ")
    assert (after, done.stderr) == (before, "")


@pytest.mark.parametrize(
    ("connection", "route", "stays"),
    [
        pytest.param("203.0.113.9 40000 10.0.2.5 22", "", False, id="by the default route of another interface"),
        pytest.param("203.0.113.9 40000 10.0.2.5 22", "203.0.113.0/24 via 10.0.2.1", True, id="by a route of its own"),
        pytest.param("10.0.2.77 40000 10.0.2.5 22", "", True, id="a neighbour"),
        pytest.param("203.0.113.9 40000 10.0.0.5 22", "", True, id="to an uplink's address"),
        pytest.param("fd00::9 40000 fd00::5 22", "", True, id="by IPv6"),
        pytest.param("", "", True, id="no SSH at all"),
    ],
)
def test_an_operator_whose_answers_would_leave_by_an_uplink_is_told(connection: str, route: str, stays: bool) -> None:
    """He comes from beyond the router of an interface that is no uplink and has the default route."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("routes are set in a network namespace, which wants root and iproute2")
    functions = steps.script("uplinks").removesuffix('main "$@" </dev/null\n')
    text = f"{functions}\n{BESIDE}\nip route add {route or 'blackhole 192.0.2.0/24'}\nmust_not_cut_this_connection"
    argv = ["unshare", "--net", "bash", "-c", text]
    env = {**ENV, "STEP": "uplinks", "SSH_CONNECTION": connection}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    told = "uplinks: you are answered by the default route of eth2, which is no uplink: the default route goes to an "
    assert (done.returncode, done.stderr[: len(told)]) == ((0, "") if stays else (1, told))


def test_a_dead_uplink_is_drift_that_a_person_mends() -> None:
    host = Host.model_validate({"connection": CONNECTION, "uplinks": TWO})
    spec = prepared.spec(host)
    facts = shaped.facts(pending={"uplink-eth0": "the uplink eth0 has been dead since then"})
    assert Difference(step="uplinks", says=facts.pending["uplink-eth0"], by_step=False) in differences(
        shaped.HOST, spec, facts
    )
    assert "uplinks" not in repairs(shaped.HOST, spec, facts)


def test_a_host_with_uplinks_has_the_step_and_others_do_not() -> None:
    plans = [
        steps.plan_host(shaped.HOST, prepared.spec(Host.model_validate({"connection": CONNECTION, "uplinks": given})))
        for given in ([], TWO)
    ]
    assert [step.name for step in plans[0].steps if step.name == "uplinks"] == []
    (step,) = (step for step in plans[1].steps if step.name == "uplinks")
    assert step.summary == "eth0, then lan.5; by 3 probes"
    assert step.settings["UPLINKS"] == "eth0=10.0.0.1=192.0.2.53,198.51.100.53 lan.5=10.0.1.1=192.0.2.53"
    assert (SCRIPTS / "uplinks_watch.sh").read_text().splitlines()[1] in step.script


def test_a_preview_says_how_many_probes_each_has() -> None:
    host = Host.model_validate({"connection": CONNECTION, "uplinks": [TWO[0], {**TWO[1], "probes": PROBES}]})
    assert uplinks.summary(host) == "eth0, then lan.5; by 2 probes each"


def test_the_host_has_as_many_tables_as_the_rules_allow() -> None:
    assert f"\nMOST={uplink_rules.MOST} " in (SCRIPTS / "uplinks_watch.sh").read_text()
