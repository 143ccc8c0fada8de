"""Runs a script on a host through the ssh program: pinned keys, no questions, no surprises from the user's own
configuration, and an end in any case.

    done = run_script("studio-1", connection, text, settings={"DISK_PATHS": "/"}, limit_s=60)

The user's SSH agent, or the default keys in ~/.ssh, log in. Nothing of ~/.ssh/config, ~/.ssh/known_hosts and /etc/ssh
is read: what reaches a host is written in the stack's YAML alone.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from planning.hosts.ssh_config import section
from stack_configs.schema.hosts import SshConnection, SshServer

RC_OF_SSH = 255
PASSING = r"refuses connections|stays silent|can't be reached|closes the connection|can't reach|was cut|not done within"
NO_REASONS = ("debug", "Authenticated to ", "Transferred: ", "Bytes per second: ")
"""Beginnings of lines in ssh's log that don't say why it ended."""


class SshError(Exception):
    """The script could not be run to its end on the host. The text is one line: who, what is wrong, what to do."""

    @property
    def may_pass(self) -> bool:
        """Whether it may end by itself, as while a host boots: the host doesn't answer, or hangs up."""
        return re.search(PASSING, str(self)) is not None


@dataclass(frozen=True, kw_only=True)
class Completed:
    """What a script said."""

    rc: int
    out: str
    err: str


def run_script(
    name: str, connection: SshConnection, script: str, *, settings: Mapping[str, str] | None = None, limit_s: float
) -> Completed:
    """Run `script` in bash on the host, with `settings` as shell variables. Both travel through stdin.

    `limit_s`: seconds for all of it. Raises SshError where it did not run to its end; an exit status other than 0 is
    the caller's to judge.
    """
    ssh = shutil.which("ssh")
    if ssh is None:
        raise SshError(f"{name}: there is no ssh program here; install openssh-client")
    text = "".join(f"{key}={shlex.quote(value)}\n" for key, value in sorted((settings or {}).items())) + script
    with tempfile.TemporaryDirectory(prefix="inference-stack-ssh-") as folder:
        files = _Files(Path(folder))
        files.write(name, connection, ssh)
        argv = [ssh, "-F", str(files.config), "-E", str(files.log), "-T", name, "exec bash -s"]
        # A group of its own, so that the end of time ends the jump's process too.
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            out, err = process.communicate(text.encode(), timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise SshError(_too_slow(name, connection, limit_s, files.logged())) from None
        finally:
            _end(process)
        said, complaint = out.decode(errors="replace"), err.decode(errors="replace")
        connected = "Authenticated to" in files.logged()
        if not connected or (process.returncode == RC_OF_SSH and _was_cut(files.logged())):
            raise SshError(explain(name, connection, files.logged(), files.jump_logged(), connected=connected))
        if process.returncode in (1, 126, 127) and (reason := _no_bash(said + complaint)):
            raise SshError(
                f"{name}: {connection.user} can't run bash there ({reason}); give the user a shell, and install bash"
            )
        return Completed(rc=process.returncode, out=said, err=complaint)


@dataclass(frozen=True)
class _Files:
    """ssh's configuration for one run, and what ssh itself says, apart from what the host says."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def logged(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def jump_logged(self) -> str:
        path = self.folder / "jump-log"
        return path.read_text(errors="replace") if path.exists() else ""

    def write(self, name: str, connection: SshConnection, ssh: str) -> None:
        known = self.folder / "known_hosts"
        known.write_text(f"{name} {connection.host_key}\n")
        text = _section(name, connection, known)
        if connection.jump is not None:
            jump = f"jump-to-{name}"
            with known.open("a") as file:
                file.write(f"{jump} {connection.jump.host_key}\n")
            words = [ssh, "-F", str(self.config), "-E", str(self.folder / "jump-log"), "-W", "[%h]:%p", jump]
            # ssh fills in what follows a % in a ProxyCommand, and hands it to a shell.
            proxy = " ".join(shlex.quote(word if word == "[%h]:%p" else word.replace("%", "%%")) for word in words)
            text += f"ProxyCommand {proxy}\n" + _section(jump, connection.jump, known)
        self.config.write_text(text)


def _section(alias: str, server: SshServer, known: Path) -> str:
    for value in (server.address, server.user):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:@\\-]*", value):
            raise SshError(f"{alias}: {value!r} can't be an address or a user of an SSH server")
    quoted = f'"{str(known).replace("%", "%%")}"'
    # Which key the server showed, and that it let us in, are told at this level only.
    return section(alias, server, quoted, ConnectionAttempts=1, LogLevel="DEBUG1")


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def fingerprint(host_key: str) -> str:
    """`SHA256:…` of a public key, as ssh prints it."""
    blob = base64.b64decode(host_key.split()[1])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def explain(name: str, connection: SshConnection, log: str, jump_log: str = "", *, connected: bool = False) -> str:
    """In one line, why ssh gave up, from what it logged. Where there is a jump, its failure is the reason."""
    if connection.jump is not None and "Authenticated to" not in jump_log:
        return _explain(f"{name}: the jump to it", connection.jump, jump_log)
    if connection.jump is not None and (match := re.search(r"open failed: .*", jump_log)):
        reached = f"the jump {connection.jump.address} can't reach {connection.address} port {connection.port}"
        return f"{name}: {reached} ({match[0]}); see whether the host is up, and its address"
    if connected:
        return f"{name}: the connection was cut while the script ran ({_last(log)}); run it again"
    return _explain(name, connection, log)


def _explain(who: str, server: SshServer, log: str) -> str:
    at = f"{server.address} port {server.port}"
    if "Host key verification failed" in log or "host key type found" in log:
        return _wrong_key(who, server, log)
    if "Permission denied" in log:
        return f"{who}: {server.user} is not let in with any of your keys; {_keys_hint(server)}"
    if "Too many authentication failures" in log:
        return f"{who}: your SSH agent offered too many keys before the right one; `ssh-add -d` those not needed"
    if "Could not resolve hostname" in log:
        nodes_alone = "a name in a mesh is known to its nodes alone, so this machine must be one (`tailscale status`)"
        return f"{who}: the name {server.address} is unknown here; is it spelt right? {nodes_alone}"
    if "Connection refused" in log:
        return f"{who}: {at} refuses connections; is sshd running, is the port right?"
    if "during banner exchange" in log:
        return f"{who}: {at} accepts connections and stays silent; is it an SSH server, does the host hang?"
    if re.search(r"No route to host|Network is unreachable|timed out", log):
        return f"{who}: {at} can't be reached ({_last(log)}); is the host up, is the mesh?"
    if re.search(r"Connection (closed|reset)|kex_exchange_identification", log):
        return (
            f"{who}: {at} closes the connection before a login ({_last(log)}); it may be overloaded, or no SSH server"
        )
    return f"{who}: no connection to {at}: {_last(log)}"


def _wrong_key(who: str, server: SshServer, log: str) -> str:
    pinned = f"{server.host_key.split()[0]} {fingerprint(server.host_key)}"
    shown = re.search(r"Server host key: (\S+ \S+)", log)
    if shown is None:
        offer = re.search(r"Their offer: (\S+)", log)
        return f"{who}: the server has no key of the pinned kind ({pinned}); it has {offer[1] if offer else 'others'}"
    return (
        f"{who}: its host key is not the pinned one: pinned {pinned}, shown {shown[1]}; either the host was installed "
        "anew (compare at its console, then change `host_key`), or something else answers at its address"
    )


def _keys_hint(server: SshServer) -> str:
    agent = os.environ.get("SSH_AUTH_SOCK")
    mine = "load one with `ssh-add`" if agent else "start ssh-agent and load one with `ssh-add`"
    return f"{mine}, or add your public key to ~{server.user}/.ssh/authorized_keys on the host"


def _was_cut(log: str) -> bool:
    """ssh ends with 255 for failures of its own; a script can do so too."""
    return not re.search(r"Exit status \d+", log)


def _too_slow(name: str, connection: SshConnection, limit_s: float, log: str) -> str:
    where = "the script was still running" if "Authenticated to" in log else f"no login at {connection.address}"
    return f"{name}: not done within {limit_s:g} s ({where}); is the host overloaded, or does a disk or a GPU hang?"


def _no_bash(said: str) -> str | None:
    match = re.search(r".*(bash: (command )?not found|not available|No such file.*bash|nologin).*", said, re.IGNORECASE)
    return match[0].strip() if match else None


def _last(log: str) -> str:
    """The last line that tells of a failure."""
    told = [line.strip() for line in log.splitlines() if line.strip() and not line.startswith(NO_REASONS)]
    return told[-1] if told else "ssh gave no reason"


__all__ = ["Completed", "SshError", "explain", "fingerprint", "run_script"]
