"""tools/ssh.py against a real sshd with a pinned key."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack_configs.schema.hosts import SshConnection
from tests.hosts.host import Host, bare_host, login
from tools.ssh import SshError, run_script


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with bare_host("ssh") as made:
        yield made


@pytest.fixture(autouse=True)
def agent(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    monkeypatch.setenv("SSH_AUTH_SOCK", str(login().agent))


def connection(host: Host, **changed: object) -> SshConnection:
    return SshConnection.model_validate({**host.connection, **changed})


@pytest.fixture
def another_key(tmp_path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    return " ".join((tmp_path / "key.pub").read_text().split()[:2])


def test_a_script_is_run_and_its_end_is_the_callers_to_judge(host: Host) -> None:
    done = run_script(
        "studio-1",
        connection(host),
        'echo "$NAME"; echo b >&2; exit 255\n',
        settings={"NAME": 'it\'s "$x"'},
        limit_s=30,
    )
    assert (done.rc, done.out, done.err) == (255, 'it\'s "$x"\n', "b\n")


def test_nothing_runs_where_the_host_key_is_another(host: Host, another_key: str) -> None:
    with pytest.raises(SshError, match="host key is not the pinned one"):
        run_script("studio-1", connection(host, host_key=another_key), "sudo touch /ran\n", limit_s=30)
    assert host.inside("ls /ran", check=False) == ""


def test_ssh_keyscan_prints_the_key_as_the_stacks_file_takes_it(host: Host) -> None:
    argv = ["ssh-keyscan", "-t", "ed25519", host.address]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"{host.address} {host.connection['host_key']}" in shown.splitlines()


def test_a_jump_is_held_to_its_key_too(host: Host, another_key: str) -> None:
    jump = {key: value for key, value in host.connection.items() if key != "kind"}
    done = run_script("studio-1", connection(host, address="127.0.0.1", jump=jump), "hostname\n", limit_s=30)
    assert done.out == "ssh\n"
    with pytest.raises(SshError, match="the jump to it: its host key is not the pinned one"):
        run_script("studio-1", connection(host, jump={**jump, "host_key": another_key}), "hostname\n", limit_s=30)


def test_a_user_who_is_not_let_in_is_told_what_to_do(host: Host) -> None:
    with pytest.raises(SshError, match=r"root is not let in .* ~root/.ssh/authorized_keys"):
        run_script("studio-1", connection(host, user="root"), "true\n", limit_s=30)


def test_a_user_without_a_shell_is_told(host: Host) -> None:
    host.inside("usermod -s /usr/sbin/nologin ops")
    try:
        with pytest.raises(SshError, match=r"ops can't run bash there \(This account is currently not available"):
            run_script("studio-1", connection(host), "true\n", limit_s=30)
    finally:
        host.inside("usermod -s /bin/bash ops")


def test_a_script_that_takes_too_long_is_left(host: Host) -> None:
    with pytest.raises(SshError, match=r"not done within 3 s \(the script was still running\)"):
        run_script("studio-1", connection(host), "sleep 60\n", limit_s=3)


def test_a_cut_in_the_middle_is_told(host: Host) -> None:
    started = threading.Timer(2, lambda: host.inside("pkill -KILL -u ops sshd"))
    started.start()
    with pytest.raises(SshError, match="the connection was cut while the script ran"):
        run_script("studio-1", connection(host), "sleep 60\n", limit_s=30)
    started.join()
