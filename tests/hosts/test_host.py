"""The test hosts themselves: what the tests beside this one rely on."""

import json
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.hosts.host import Host, bare_host


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with bare_host("a") as made:
        yield made


def answers_on_ssh_port(host: Host, within_s: float) -> str:
    """The first line that the SSH server says; empty where the connection is accepted and nothing follows."""
    with socket.create_connection((host.address, 22), timeout=within_s) as connection:
        try:
            return connection.recv(64).decode().strip()
        except TimeoutError:
            return ""


def test_is_a_bare_debian_that_systemd_has_booted(host: Host) -> None:
    assert host.inside("systemctl is-system-running --wait || true") == "running"
    assert "Debian GNU/Linux 12" in host.ssh("cat /etc/os-release").stdout
    for program in ("docker", "nvidia-smi", "curl", "gpg"):
        assert host.ssh(f"command -v {program}", check=False).returncode != 0, f"{program} is no part of a bare host"


def test_the_user_may_sudo_without_a_password(host: Host) -> None:
    assert host.ssh("sudo -n id -u").stdout.strip() == "0"


def test_a_host_can_have_a_user_without_sudo() -> None:
    with bare_host("nosudo") as host:
        host.forbid_sudo()
        assert host.ssh("sudo -n true", check=False).returncode != 0


def test_each_host_has_a_key_of_its_own_and_another_one_is_refused(host: Host) -> None:
    with bare_host("other") as other:
        real, host.host_key = host.host_key, other.host_key
    assert real != host.host_key
    try:
        refused = host.ssh("true", check=False)
    finally:
        host.host_key = real
    assert refused.returncode == 255
    assert "verification failed" in refused.stderr


def test_a_reboot_gives_a_new_boot_id_and_keeps_address_and_files(host: Host) -> None:
    before, address = host.boot_id(), host.address
    host.ssh("echo kept > ~/note; echo gone > /run/user-note || sudo tee /run/note < ~/note")
    host.reboot()
    assert host.boot_id() != before
    assert host.address == address
    assert host.ssh("cat ~/note").stdout.strip() == "kept"
    assert host.ssh("test -e /run/note", check=False).returncode != 0, "/run is made anew by a boot"


def test_a_cut_host_answers_nothing_and_is_back_when_mended(host: Host) -> None:
    boot = host.boot_id()
    host.cut()
    with pytest.raises(OSError):  # noqa: PT011 (no route, or no answer in time)
        answers_on_ssh_port(host, 3)
    host.mend()
    assert host.boot_id() == boot
    assert answers_on_ssh_port(host, 5).startswith("SSH-2.0")


def test_a_frozen_host_takes_connections_and_stays_silent(host: Host) -> None:
    host.freeze()
    try:
        assert answers_on_ssh_port(host, 3) == ""
    finally:
        host.thaw()
    assert answers_on_ssh_port(host, 10).startswith("SSH-2.0")


def test_connections_can_end_under_a_running_command(host: Host) -> None:
    argv = [*host.ssh_argv(), "echo started; sleep 60"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().strip() == "started"
        host.drop_connections()
        assert running.wait(20) == 255
    assert host.ssh("echo again").stdout.strip() == "again"


def test_a_host_without_power_is_off_until_it_is_switched_on(host: Host) -> None:
    before = host.boot_id()
    host.power_off()
    with pytest.raises(OSError):  # noqa: PT011
        answers_on_ssh_port(host, 3)
    host.power_on()
    assert host.boot_id() != before


def test_all_is_labelled_and_goes_when_the_test_ends() -> None:
    with bare_host("b") as host:
        container = host.container
        shown = json.loads(_docker("container", "inspect", container))[0]
        assert shown["HostConfig"]["PortBindings"] in ({}, None), "test hosts are reached at their own address only"
    assert _docker("ps", "--all", "--quiet", "--filter", f"name={container}") == ""
    assert _docker("volume", "ls", "--quiet", "--filter", f"name={container}") == ""


def _docker(*args: str) -> str:
    return subprocess.run(["docker", *args], capture_output=True, text=True, check=True).stdout.strip()
