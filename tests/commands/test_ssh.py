"""What is told when a host can't be asked, from OpenSSH 9.2's own logs; and the real ssh against what is no SSH server.

Real hosts are in tests/hosts/test_ssh.py.
"""

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from planning.hosts import ssh_config
from stack_configs.schema.hosts import SshConnection
from tools.ssh import SshError, explain, fingerprint, run_script

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIumnuqwAbwVxkW3A3ilAXsq50U+4ysZRVQ/mbTSRxUJ"
BASTION = {"address": "bastion", "user": "ops", "host_key": KEY}
AUTHENTICATED = 'Authenticated to 10.89.29.11 ([10.89.29.11]:22) using "publickey".\n'
HUNG_UP = "kex_exchange_identification: Connection closed by remote host\nConnection closed by UNKNOWN port 65535\n"
"""What ssh says of a host behind a jump, whatever went wrong at the jump."""
CHANGED = """debug1: Server host key: ssh-ed25519 SHA256:QUflOKZvsCdoGeDlp0rjTOsfEEVxg39EWCMcExsmyRk
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
Offending ED25519 key in /run/known_hosts:1
Host key for h has changed and you have requested strict checking.
Host key verification failed.
"""

needs_ssh = pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh program on this machine")


def connection(address: str = "10.89.29.10", port: int = 22, jump: bool = False) -> SshConnection:
    given = {"kind": "ssh", "address": address, "user": "ops", "port": port, "host_key": KEY}
    return SshConnection.model_validate({**given, "jump": BASTION} if jump else given)


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (
            CHANGED,
            "studio-1: its host key is not the pinned one: pinned ssh-ed25519 "
            "SHA256:TVm0a8yPW7dPPPBRTEOaQeYdYHpt7ghc9YV6MOBDXbY, shown ssh-ed25519 "
            "SHA256:QUflOKZvsCdoGeDlp0rjTOsfEEVxg39EWCMcExsmyRk; either the host was installed anew "
            "(compare at its console, then change `host_key`), or something else answers at its address",
        ),
        (
            "Unable to negotiate with 10.89.29.10 port 22: no matching host key type found. Their offer: ssh-rsa\n",
            "studio-1: the server has no key of the pinned kind (ssh-ed25519 "
            "SHA256:TVm0a8yPW7dPPPBRTEOaQeYdYHpt7ghc9YV6MOBDXbY); it has ssh-rsa",
        ),
        (
            "ops@10.89.29.10: Permission denied (publickey).\n",
            "studio-1: ops is not let in with any of your keys; start ssh-agent and load one with `ssh-add`, or add "
            "your public key to ~ops/.ssh/authorized_keys on the host",
        ),
        (
            "Received disconnect from 10.89.29.10 port 22:2: Too many authentication failures\n",
            "studio-1: your SSH agent offered too many keys before the right one; `ssh-add -d` those not needed",
        ),
        (
            "ssh: Could not resolve hostname 10.89.29.10: Name or service not known\n",
            "studio-1: the name 10.89.29.10 is unknown here; is it spelt right? a name in a mesh is known to its nodes "
            "alone, so this machine must be one (`tailscale status`)",
        ),
        (
            "ssh: connect to host 10.89.29.10 port 22: Connection refused\n",
            "studio-1: 10.89.29.10 port 22 refuses connections; is sshd running, is the port right?",
        ),
        (
            "Connection timed out during banner exchange\nConnection to 10.89.29.10 port 22 timed out\n",
            "studio-1: 10.89.29.10 port 22 accepts connections and stays silent; is it an SSH server, does the host "
            "hang?",
        ),
        (
            "ssh: connect to host 10.89.29.10 port 22: No route to host\n",
            "studio-1: 10.89.29.10 port 22 can't be reached (ssh: connect to host 10.89.29.10 port 22: No route to "
            "host); is the host up, is the mesh?",
        ),
        (
            "kex_exchange_identification: Connection closed by remote host\nConnection closed by 10.89.29.10 port 22\n",
            "studio-1: 10.89.29.10 port 22 closes the connection before a login (Connection closed by 10.89.29.10 "
            "port 22); it may be overloaded, or no SSH server",
        ),
        ("", "studio-1: no connection to 10.89.29.10 port 22: ssh gave no reason"),
    ],
)
def test_why_there_is_no_connection(log: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert explain("studio-1", connection(), log) == told


@pytest.mark.parametrize(
    ("log", "jump_log", "told"),
    [
        (
            HUNG_UP,
            "ssh: connect to host bastion port 22: Connection refused\n",
            "studio-1: the jump to it: bastion port 22 refuses connections; is sshd running, is the port right?",
        ),
        (
            HUNG_UP,
            AUTHENTICATED + "channel 0: open failed: connect failed: Connection refused\nstdio forwarding failed\n",
            "studio-1: the jump bastion can't reach 10.89.29.10 port 22 (open failed: connect failed: Connection "
            "refused); see whether the host is up, and its address",
        ),
        (CHANGED, AUTHENTICATED + "Killed by signal 1.\n", "studio-1: its host key is not the pinned one: "),
        (HUNG_UP, CHANGED, "studio-1: the jump to it: its host key is not the pinned one: "),
    ],
)
def test_behind_a_jump_it_is_told_which_of_the_two_failed(log: str, jump_log: str, told: str) -> None:
    assert explain("studio-1", connection(jump=True), log, jump_log).startswith(told)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("Timeout, server 10.89.29.10 not responding.\n", "Timeout, server 10.89.29.10 not responding."),
        ("Transferred: sent 3504, received 3808 bytes\nBytes per second: sent 898.4\n", "ssh gave no reason"),
    ],
)
def test_a_cut_is_told_as_one(log: str, reason: str) -> None:
    told = explain("studio-1", connection(), AUTHENTICATED + log, connected=True)
    assert told == f"studio-1: the connection was cut while the script ran ({reason}); run it again"


def test_a_fingerprint_is_what_ssh_keygen_prints() -> None:
    assert fingerprint(KEY) == "SHA256:TVm0a8yPW7dPPPBRTEOaQeYdYHpt7ghc9YV6MOBDXbY"


@pytest.mark.parametrize("address", ["-oProxyCommand=touch /tmp/x", "a b", "a\nProxyCommand x", "$(id)"])
@needs_ssh
def test_an_address_that_could_be_an_option_reaches_no_ssh(address: str) -> None:
    with pytest.raises(SshError, match="can't be an address or a user"):
        run_script("studio-1", connection(address), "true", limit_s=5)


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server on the loopback that does `answer` with each connection, and keeps it; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept = []

        def serve() -> None:
            while True:
                try:
                    taken, _ = listening.accept()
                except OSError:
                    return
                kept.append(taken)
                answer(taken)

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        for taken in kept:
            taken.close()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda taken: None, "accepts connections and stays silent"),  # noqa: ARG005
        (lambda taken: taken.close(), "closes the connection before a login"),
        (lambda taken: (taken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), taken.close()), "before a login"),
    ],
    ids=["silent", "closes", "speaks HTTP"],
)
@needs_ssh
def test_a_server_that_is_none_comes_to_an_end(
    answer: Callable[[socket.socket], None], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_config, "CONNECT_S", 2)
    with server(answer) as port, pytest.raises(SshError, match=told):
        run_script("studio-1", connection("127.0.0.1", port), "true", limit_s=30)


@needs_ssh
def test_the_limit_holds_before_a_login_too() -> None:
    with server(lambda taken: None) as port, pytest.raises(SshError, match=r"not done within 1 s \(no login at 127"):  # noqa: ARG005
        run_script("studio-1", connection("127.0.0.1", port), "true", limit_s=1)


@needs_ssh
def test_a_port_where_nobody_listens_is_told() -> None:
    with server(lambda taken: None) as port:  # noqa: ARG005
        pass
    with pytest.raises(SshError, match=f"127.0.0.1 port {port} refuses connections"):
        run_script("studio-1", connection("127.0.0.1", port), "true", limit_s=30)


def test_a_machine_without_ssh_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SshError, match="install openssh-client"):
        run_script("studio-1", connection(), "true", limit_s=5)
