"""Hosts prepared by `pulumi up`, as a user runs it: the real program, engine, SSH, apt and systemd, on two hosts.

The tests of this module are one story, told in order: what one leaves is what the next one finds.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml

from tests.deploy.clone import Clone, make_clone
from tests.hosts.card import RTX_4090, Card, loaded_module
from tests.hosts.host import Host, bare_host, bare_hosts, login
from tests.hosts.plugin import end_leftovers, install
from tests.hosts.repository import Repository, driver, toolkit

STACK = "hosts"
OLD, NEW = "580.173.02", "595.71.05"
DEBIANS_DOCKER = {"version": "29.8.2", "distributions": {"debian-13": "26.1.5"}, "source": "tests"}
LOCK = "/run/inference-stack.lock"
"""Of the scripts on a host."""
PREPARE = (
    "from tools.setup import engine, state; from tools.setup.progress import run_step; "
    "state.prepare(run_step('Pulumi', engine.ensure))"
)


@dataclass
class Site:
    """A clone with a stack of two hosts, `one` and `two`, each with a card."""

    clone: Clone
    hosts: dict[str, Host]
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Host → what the stack's file says of it. `write` after a change."""

    def write(self) -> None:
        """The stack's file: each host serves a model."""
        models = {
            f"on-{name}": {
                "source": {
                    "repo": "Qwen/Qwen2.5-0.5B-Instruct",
                    "revision": "7ae557604adf67be50417f59c2c2f167def9a775",
                },
                "replicas": [{"host": name, "gpus": of["gpus"]}],
                "max_model_len": 2048,
                "max_num_seqs": 4,
                "memory_mib": 4096,
            }
            for name, of in self.settings.items()
        }
        gateway = {"host": next(iter(self.settings)), "keys": {"me": {"models": "all", "rpm": 60, "tpm": 40000}}}
        file = {"versions": "2026.11", "hosts": self.settings, "models": models, "gateway": gateway}
        self.clone.spec_file.write_text(yaml.safe_dump(file, sort_keys=False))

    def up(self, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.clone.pulumi("up", "--yes", "--skip-preview", check=check)

    def fails(self) -> str:
        done = self.up(check=False)
        assert done.returncode != 0, "this `up` was to fail"
        return done.stdout + done.stderr

    def resources(self) -> set[str]:
        rows = json.loads(self.clone.pulumi("stack", "export").stdout)["deployment"].get("resources", [])
        return {row["urn"].rsplit("::", 1)[1] for row in rows}


def ran(host: Host) -> Mapping[str, str]:
    """Step → when it last came to its good end."""
    rows = host.inside("cd /var/lib/inference-stack/steps 2>/dev/null && stat -c '%n %y' * || true").splitlines()
    return {row.split()[0]: row for row in rows}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    made = Repository(tmp_path_factory.mktemp("apt"))
    made.publish(*driver(OLD), *driver(NEW), *toolkit())
    return made


def settings_of(host: Host, card: Card) -> dict[str, Any]:
    return {
        "connection": host.connection,
        "lan_address": host.address,
        "gpus": list(card.uuids),
        "driver": {"branch": "580"},
        "reboot": "allowed",
        "engine": "distribution",
        "models_free_gib": 1,
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, repository: Repository) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("hosts")
    cards = (Card.of(RTX_4090), Card.of(RTX_4090))
    clone = make_clone(folder / "clone", stack=STACK, env={"SSH_AUTH_SOCK": str(login().agent)})
    versions = clone.path / "stack_configs" / "versions" / "2026.11.yaml"
    changed = yaml.safe_load(versions.read_text())
    changed["hosts"] = repository.versions(docker=DEBIANS_DOCKER).model_dump(mode="json")
    versions.write_text(yaml.safe_dump(changed, sort_keys=False))
    clone.run(".venv/bin/python", "-c", PREPARE)
    install(clone.path / ".state" / "pulumi")
    config = {"config": {"inference-stack:key-hashes": {"me": "0" * 64}}}
    (clone.path / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump(config))
    clone.pulumi("stack", "init", "--no-select")
    with bare_hosts("one", "two", distribution="debian-13", cards=cards) as hosts:
        for host in hosts:
            repository.copy_to(host)
        made = Site(clone, {host.name: host for host in hosts})
        for host, card in zip(hosts, cards, strict=True):
            made.settings[host.name] = settings_of(host, card)
        made.write()
        try:
            yield made
        finally:
            end_leftovers(clone.path)


def test_from_bare_to_ready(site: Site) -> None:
    planned = site.clone.changes()
    steps = [f"{host}-{step}" for host in site.hosts for step in ("base", "driver", "reboot", "engine")]
    assert set(planned["create"]) >= set(steps)
    assert not any("Docker" in name or name.startswith("on-") for name in planned["create"]), "models wait"
    assert all(ran(host) == {} for host in site.hosts.values()), "a preview changes nothing"
    boots = {name: host.boot_id() for name, host in site.hosts.items()}

    told = site.up().stdout
    for name, host in site.hosts.items():
        assert set(ran(host)) == {"base", "driver", "reboot", "engine"}
        assert loaded_module(host) == OLD
        assert host.boot_id() != boots[name]
        assert "nvidia-open-580" in host.inside("apt-mark showhold")
        assert host.ssh("docker version --format '{{.Server.Version}}'").stdout.strip()
    assert f"rebooted; the driver {OLD} is loaded" in told
    assert set(site.clone.outputs()["waiting"]) == {"one", "two"}


def test_a_second_up_changes_nothing(site: Site) -> None:
    before = {name: ran(host) for name, host in site.hosts.items()}
    assert site.clone.changes() == {}
    site.up()
    assert {name: ran(host) for name, host in site.hosts.items()} == before


def test_facts_end_the_wait_and_change_no_host(site: Site) -> None:
    site.clone.run("make", "facts", f"STACK={STACK}")
    folder = site.clone.path / "stack_configs" / "facts" / STACK
    try:
        facts = json.loads((folder / "one.json").read_text())
        assert facts["driver"]["loaded"] == OLD
        assert [gpu["uuid"] for gpu in facts["gpus"]] == site.settings["one"]["gpus"]
        planned = site.clone.changes()
        assert {"on-one-0", "on-two-0"} <= set(planned["create"])
        assert set(planned) <= {"create"}, planned
    finally:
        for file in folder.glob("*.json"):
            file.unlink()


def test_what_somebody_changed_is_repaired_by_the_next_up_and_the_one_after_is_empty(site: Site) -> None:
    host = site.hosts["one"]
    host.inside("apt-mark unhold libcuda1")
    found = site.clone.run("make", "drift", f"STACK={STACK}", check=False)
    assert found.returncode != 0
    assert "one: 1 difference\n  driver  no longer held: libcuda1\ntwo: as the spec has it\n" in found.stdout
    assert site.clone.changes() == {"update": ["one-driver"]}
    told = site.clone.run("make", "preview", f"STACK={STACK}").stdout
    assert f"Host one: driver runs. It has no facts.\n  driver    {OLD} open, held\n  unknown   what moves, " in told
    assert "\nHost two: not touched. It has no facts.\n  waits     " in told
    site.up()
    assert "libcuda1" in host.inside("apt-mark showhold").split()
    site.clone.run("make", "drift", f"STACK={STACK}")
    assert site.clone.changes() == {}


def test_a_changed_setting_shows_as_that_step_of_that_host_and_runs_it_alone(site: Site) -> None:
    before = {name: ran(host) for name, host in site.hosts.items()}
    site.settings["one"]["models_free_gib"] = 2
    site.write()
    assert site.clone.changes() == {"update": ["one-base"]}
    site.up()
    after = {name: ran(host) for name, host in site.hosts.items()}
    assert [step for step in after["one"] if after["one"][step] != before["one"][step]] == ["base"]
    assert after["two"] == before["two"]
    assert site.clone.changes() == {}


def killed_up(site: Site, when: Callable[[], bool]) -> None:
    """An `up` that is killed as soon as `when` holds, with its lock cleared as Pulumi says."""
    line = f". ./activate && exec pulumi up --yes --skip-preview -s {STACK} --non-interactive --color never"
    running = subprocess.Popen(
        ["bash", "-c", line],
        cwd=site.clone.path,
        env=dict(site.clone.env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not when():
            assert running.poll() is None, "`up` has ended before it could be killed"
            assert time.monotonic() < deadline, "what was waited for did not happen"
            time.sleep(0.05)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    site.clone.pulumi("cancel", "--yes")


def works(host: Host) -> bool:
    """Whether a step's script runs."""
    return host.inside("pgrep -f '^bash -s apply' || true") != ""


def test_a_killed_up_converges(site: Site) -> None:
    site.settings["one"]["driver"] = {"branch": "595"}
    site.write()
    assert set(site.clone.changes()["update"]) == {"one-driver", "one-reboot", "one-engine"}
    host = site.hosts["one"]
    killed_up(site, lambda: works(host))
    site.up()
    assert loaded_module(host) == NEW
    assert "nvidia-open" in host.inside("apt-mark showhold")
    assert site.clone.changes() == {}


def test_another_host_key_is_told_in_one_line_and_the_other_host_is_unharmed(site: Site) -> None:
    a, b = site.settings["one"], site.settings["two"]
    a["connection"] = {**a["connection"], "host_key": b["connection"]["host_key"]}
    b["models_free_gib"] = 2
    site.write()
    try:
        told = site.fails()
    finally:
        a["connection"] = site.hosts["one"].connection
        site.write()
    assert re.search(
        r"one: its host key is not the pinned one: pinned ssh-ed25519 SHA256:\S+, shown ssh-ed25519 SHA256", told
    )
    assert site.clone.changes() == {}, "two was changed all the same, and one is as it was"


def test_a_host_that_is_off_is_told_and_the_other_is_unharmed(site: Site) -> None:
    a, b = site.settings["one"], site.settings["two"]
    a["models_free_gib"] = b["models_free_gib"] = 3
    site.write()
    site.hosts["one"].power_off()
    try:
        told = site.fails()
    finally:
        site.hosts["one"].power_on()
    assert "one: " in told
    assert "can't be reached" in told
    assert site.clone.changes() == {"update": ["one-base"]}
    site.up()
    assert site.clone.changes() == {}


def test_a_host_that_accepts_connections_and_hangs_is_told_and_the_other_is_unharmed(site: Site) -> None:
    a, b = site.settings["one"], site.settings["two"]
    a["models_free_gib"] = b["models_free_gib"] = 4
    site.write()
    site.hosts["one"].freeze()
    try:
        told = site.fails()
    finally:
        site.hosts["one"].thaw()
    assert "accepts connections and stays silent" in told
    assert site.clone.changes() == {"update": ["one-base"]}


def test_a_connection_that_is_cut_under_a_step_is_told_and_the_next_up_goes_on(site: Site) -> None:
    """The step waits for a lock that this test holds, so that it is there to be cut off."""
    host = site.hosts["one"]
    host.inside(f"systemd-run -q --unit=held flock {LOCK} sleep 600; until ! flock -n {LOCK} true; do sleep 0.1; done")
    with ThreadPoolExecutor() as pool:
        failing = pool.submit(site.fails)
        while not works(host):
            assert not failing.done(), failing.result()
            time.sleep(0.1)
        host.drop_connections()
        assert "one-base" in failing.result()
    host.inside("systemctl stop held")
    site.up()
    assert site.clone.changes() == {}


def test_a_host_that_does_not_come_back_from_its_reboot_is_told_and_the_other_is_unharmed(site: Site) -> None:
    a, b = site.settings["one"], site.settings["two"]
    host = site.hosts["one"]
    assert loaded_module(host) == NEW
    # Not so short that the two commands of a dial don't fit in.
    a |= {"driver": {"branch": "580"}, "reboot_within_s": 20}
    b["models_free_gib"] = 5
    site.write()
    with host.without_power_after_shutdown():
        told = site.fails()
    assert "one did not come back within 20 s of its reboot" in told
    assert site.clone.changes() == {"update": ["one-engine"]}, "two was changed all the same"
    site.up()
    assert loaded_module(host) == OLD
    assert site.clone.changes() == {}


def leave_half_replaced(site: Site, name: str) -> None:
    """The state as a replacement leaves it that was cut off before the old one was gone: two rows with one URN."""
    state = json.loads(site.clone.pulumi("stack", "export").stdout)
    rows = state["deployment"]["resources"]
    row = next(row for row in rows if row["urn"].endswith(f"::{name}"))
    rows.append({**row, "delete": True})
    site.clone.pulumi("stack", "import", stdin=json.dumps(state))


def test_a_dead_host_is_forgotten_by_command_and_comes_back_as_a_new_one(site: Site) -> None:
    dead = site.settings.pop("two")
    site.write()
    site.hosts["two"].power_off()
    assert re.search(r"after \d failed attempts: dial tcp", site.fails()), "its address is dialled to undo its steps"
    leave_half_replaced(site, "two-engine")
    kept = {name for name in site.resources() if not name.startswith("two")}
    refused = site.clone.run("make", "forget", f"STACK={STACK}", "HOST=two", check=False, stdin="no\n")
    assert refused.returncode != 0
    assert "two-base" in refused.stdout
    assert "two-base" in site.resources(), "nothing goes without a yes"
    site.clone.run("make", "forget", f"STACK={STACK}", "HOST=two", stdin="yes\n")
    assert site.resources() == kept
    site.up()
    assert site.clone.changes() == {}

    site.hosts["two"].power_on()
    site.settings["two"] = dead
    site.write()
    told = site.up().stdout
    assert "nothing to change" in told, "it is as it was left"
    assert site.clone.changes() == {}


def test_a_host_that_leaves_the_file_is_left_without_our_holds_and_pins(site: Site) -> None:
    del site.settings["two"]
    site.write()
    site.up()
    host = site.hosts["two"]
    assert host.inside("apt-mark showhold") == ""
    assert host.inside("ls /etc/apt/preferences.d /etc/apt/sources.list.d | grep inference || true") == ""
    assert loaded_module(host) == OLD, "driver and data stay"
    assert not any(name.startswith("two") for name in site.resources())
    assert site.clone.changes() == {}


@pytest.mark.campaign
def test_an_up_that_is_killed_in_every_step_converges(site: Site, repository: Repository) -> None:
    """A bare host comes to its end although each of its steps loses the `up` that started it."""
    card = Card.of(RTX_4090)
    with bare_host("three", distribution="debian-13", card=card) as host:
        repository.copy_to(host)
        site.settings["three"] = settings_of(host, card)
        site.write()
        try:
            killed_up(site, lambda: works(host))
            for done in ("base", "driver", "reboot"):
                killed_up(site, lambda done=done: done in ran(host))  # type: ignore[misc]
                host.wait_until_up()
            site.clone.pulumi("refresh", "--yes", "--clear-pending-creates")
            site.up()
            assert set(ran(host)) == {"base", "driver", "reboot", "engine"}
            assert loaded_module(host) == OLD
            assert site.clone.changes() == {}
        finally:
            del site.settings["three"]
            site.write()
            site.up()
