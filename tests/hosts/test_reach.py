"""Before each step a host is asked whether it can be worked on: what is told when not, and when that is waited for."""

import threading
from collections.abc import Iterator

import pytest

from planning.hosts.plan import HostPlan
from stack_configs.schema.hosts import SshConnection
from tests.hosts.host import Host, bare_host, login
from tools.reach import UnreachedError, reach


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with bare_host("reached") as made:
        yield made


@pytest.fixture(autouse=True)
def _agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(login().agent))


def plan(host: Host, within_s: int = 120) -> HostPlan:
    connection = SshConnection.model_validate(host.connection)
    return HostPlan(name=host.name, connection=connection, steps=(), reboot_within_s=within_s)


def why(host: Host, *, rebooting: bool = False, within_s: int = 6) -> str:
    with pytest.raises(UnreachedError) as caught:
        reach(plan(host, within_s), rebooting)
    told = str(caught.value)
    assert "\n" not in told
    return told


def test_a_host_that_answers_is_worked_on(host: Host) -> None:
    reach(plan(host), False)


def test_a_hanging_host_is_told(host: Host) -> None:
    host.freeze()
    try:
        assert "accepts connections and stays silent" in why(host)
    finally:
        host.thaw()


def test_a_reboot_is_waited_for(host: Host) -> None:
    boot = host.boot_id()
    host.power_off()
    back = threading.Timer(4, host.power_on)
    back.start()
    try:
        reach(plan(host), True)
    finally:
        back.join()
    assert host.boot_id() != boot


def test_a_host_that_does_not_come_back_is_given_up(host: Host) -> None:
    host.power_off()
    try:
        assert "did not come back within 6 s of its reboot" in why(host, rebooting=True)
        assert "can't be reached" in why(host), "any other host answers at once or not at all"
    finally:
        host.power_on()


def test_what_no_reboot_explains_is_told_at_once(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    with bare_host("another") as another:
        monkeypatch.setattr(host, "host_key", another.host_key)
    assert "not the pinned one" in why(host, rebooting=True, within_s=3600)


def test_without_an_agent_nobody_can_log_in(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert "ssh-add" in why(host)


def test_without_sudo_nothing_can_be_done(host: Host) -> None:
    host.forbid_sudo()
    told = why(host)
    assert "may not sudo there without a password" in told
    assert "/etc/sudoers.d" in told
