"""Machines to prepare: a bare Debian with systemd and a real sshd in a container, reached over real SSH.

    with bare_host("a", distribution="debian-13") as host:
        host.ssh("sudo apt-get update")
        host.reboot()

Each has an address of its own that stays over reboots, a host key known beforehand, a boot id that each boot makes
anew, the user `ops` who may sudo without a password, and room for Docker inside. All is removed at the end; what a
killed run left is removed by the next one.
"""

import atexit
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.hosts.card import Card
from tests.hosts.image import Distribution, host_image

LABEL = "inference-stack.test-host"
"""On everything that is made here; its value names the process of the test run."""
USER = "ops"
BOOTS_WITHIN_S = 90
PRIVILEGES = (
    # `--privileged` is refused where the machine itself lacks a capability.
    *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--security-opt", "seccomp=unconfined"),
    *("--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined", "--cgroupns=private"),
    *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec", "--stop-signal", "SIGRTMIN+3"),
)


@dataclass(frozen=True)
class Login:
    """A key pair of this test run, held by an SSH agent of its own."""

    folder: Path
    private_key: Path
    public_key: str
    agent: Path
    """The agent's socket."""

    @property
    def env(self) -> dict[str, str]:
        """This process's environment, with the agent."""
        return {**os.environ, "SSH_AUTH_SOCK": str(self.agent)}


@functools.cache
def login() -> Login:
    """The key pair and agent of this test run; both go when the run ends, however it ends."""
    folder = Path(tempfile.mkdtemp(prefix="test-hosts-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    key, agent = folder / "id_ed25519", folder / "agent"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "tests", "-f", str(key))
    # The agent lives as long as the command below it, which reads a pipe that nobody but this process holds open.
    holder = subprocess.Popen(
        ["ssh-agent", "-a", str(agent), "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
    )
    atexit.register(holder.terminate)
    _until(agent.exists, 10, "the SSH agent to listen")
    made = Login(folder, key, (folder / "id_ed25519.pub").read_text().strip(), agent)
    _run("ssh-add", "-q", str(key), env=made.env)
    return made


@dataclass
class Host:
    """A test host that runs, or did until the test switched it off."""

    name: str
    container: str
    network: str
    address: str
    host_key: str
    """`ssh-ed25519 AAAA…`, read past the network."""

    @property
    def connection(self) -> dict[str, Any]:
        """`connection:` of this host in a stack's YAML."""
        return {"kind": "ssh", "address": self.address, "user": USER, "host_key": self.host_key}

    def ssh_argv(self) -> list[str]:
        """`ssh` to this host, for a command to follow."""
        known = login().folder / f"known_hosts-{self.container}"
        known.write_text(f"{self.address} {self.host_key}\n")
        options = {
            "UserKnownHostsFile": known,
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": 10,
            "ServerAliveInterval": 10,
            "IdentityAgent": login().agent,
            "LogLevel": "ERROR",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "none", *words, f"{USER}@{self.address}"]

    def ssh(
        self, command: str, *, stdin: str | None = None, check: bool = True, timeout_s: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as `ops`. Raises AssertionError with what it printed when it fails and `check` is set."""
        return _run(*self.ssh_argv(), command, stdin=stdin, check=check, timeout_s=timeout_s)

    def inside(self, command: str, *, check: bool = True) -> str:
        """What a shell command prints that root runs past the network: to set a scene, or to look at one."""
        return _run("docker", "exec", self.container, "bash", "-c", command, check=check).stdout.strip()

    def put(self, path: str, text: str, mode: str = "0644") -> None:
        """Write a file as root, past the network."""
        _run(
            *("docker", "exec", "-i", self.container, "install", "-D", "-m", mode, "/dev/stdin", path),
            stdin=text,
        )

    def boot_id(self) -> str:
        return self.inside("cat /proc/sys/kernel/random/boot_id")

    def reboot(self) -> None:
        """`systemctl reboot`, and wait until it is back."""
        before = self.boot_id()
        self.ssh("sudo systemctl reboot", check=False)
        self.wait_until_up(after=before)

    def wait_until_up(self, *, after: str = "") -> None:
        """Wait until SSH answers; with `after`, in another boot than that."""

        deadline = time.monotonic() + BOOTS_WITHIN_S
        while True:
            done = self.ssh("cat /proc/sys/kernel/random/boot_id", check=False, timeout_s=20)
            if done.returncode == 0 and done.stdout.strip() != after:
                return
            assert time.monotonic() < deadline, f"{self.name} is not up after {BOOTS_WITHIN_S} s: {done.stderr}"
            time.sleep(0.2)

    def power_off(self) -> None:
        """The plug is pulled: no address, no answer."""
        _run("docker", "update", "--restart", "no", self.container)
        _run("docker", "kill", self.container)

    def power_on(self) -> None:
        _run("docker", "update", "--restart", "unless-stopped", self.container)
        _run("docker", "start", self.container)
        self.wait_until_up()

    @contextmanager
    def without_power_after_shutdown(self) -> Iterator[None]:
        """A reboot meanwhile ends in the dark; at the end somebody presses the button."""
        _run("docker", "update", "--restart", "no", self.container)
        yield
        self.power_on()

    def cut(self) -> None:
        """The network cable is pulled, under connections that last: they hear nothing more, not even an end."""
        _run("docker", "network", "disconnect", "--force", self.network, self.container)

    def mend(self) -> None:
        _run("docker", "network", "connect", "--ip", self.address, self.network, self.container)
        self.wait_until_up()

    def freeze(self) -> None:
        """The host hangs: its kernel accepts connections, and nothing answers on them."""
        _run("docker", "pause", self.container)

    def thaw(self) -> None:
        _run("docker", "unpause", self.container)

    def forbid_sudo(self) -> None:
        """From now on sudo asks for a password, which the user doesn't have."""
        self.inside("rm -f /etc/sudoers.d/ops")

    def drop_connections(self) -> None:
        """Every SSH connection ends; new ones are taken."""
        self.inside(f"pkill -KILL -f '^sshd(-session)?: {USER}' || true")


@contextmanager
def bare_host(name: str, *, distribution: Distribution = "debian-12", card: Card | None = None) -> Iterator[Host]:
    """A host that has booted and answers over SSH. `card`: the GPUs in it; None: there are none."""
    image, owner, network = host_image(distribution), _owner(), _network()
    container = f"test-host-{name}-{uuid4().hex[:6]}"
    address = _free_address()
    _run(
        *("docker", "create", "--name", container, "--hostname", name, "--label", f"{LABEL}={owner}", *PRIVILEGES),
        *("--restart", "unless-stopped", "--network", network, "--ip", address),
        *("--volume", f"{container}:/var/lib/docker", "--device", "/dev/net/tun", "--device", "/dev/fuse"),
        *(image, "/usr/local/sbin/boot"),
    )
    host = Host(name, container, network, address, "")
    try:
        if card is not None:
            card.plug_into(container)
        _run("docker", "start", container)
        _until(lambda: "ssh-ed25519" in _host_key(container), 30, f"{name}'s host key")
        host.host_key = " ".join(_host_key(container).split()[:2])
        host.put(f"/home/{USER}/.ssh/authorized_keys", login().public_key + "\n")
        host.inside(f"chown -R {USER}: /home/{USER}/.ssh")
        host.wait_until_up()
        yield host
    finally:
        _remove(container)


@contextmanager
def bare_hosts(
    *names: str, distribution: Distribution = "debian-12", cards: Sequence[Card | None] = ()
) -> Iterator[list[Host]]:
    """Several at once, which takes about as long as one."""
    host_image(distribution), login(), _network()  # what all share is made once
    made = [
        bare_host(name, distribution=distribution, card=card)
        for name, card in zip(names, [*cards, *([None] * (len(names) - len(cards)))], strict=True)
    ]
    with ExitStack() as stack, ThreadPoolExecutor(len(names)) as pool:
        yield list(pool.map(stack.enter_context, made))


def neighbour() -> tuple[str, list[str]]:
    """An address in the hosts' network, and `docker run`'s options for a container that has it and goes with them."""
    address = _free_address()
    return address, ["--label", f"{LABEL}={_owner()}", "--network", _network(), "--ip", address]


def _host_key(container: str) -> str:
    argv = ("docker", "exec", container, "cat", "/etc/ssh/this-host.pub")
    return _run(*argv, check=False).stdout


@functools.cache
def _owner() -> str:
    """Names this process, once what killed runs left is gone. Skips the test where there is no Docker."""
    if shutil.which("docker") is None or _run("docker", "version", check=False).returncode != 0:
        pytest.skip("test hosts are containers, and there is no Docker that answers")
    for kind in ("container", "volume", "network"):
        every = ["--all"] if kind == "container" else []
        show = "{{.Names}}" if kind == "container" else "{{.Name}}"
        rows = _run("docker", kind, "ls", *every, "--filter", f"label={LABEL}", "--format", show).stdout.split()
        where = ".Config.Labels" if kind == "container" else ".Labels"
        for row in rows:
            label = _run("docker", kind, "inspect", "--format", f'{{{{index {where} "{LABEL}"}}}}', row, check=False)
            if not _runs(label.stdout.strip()):
                _run("docker", kind, "rm", *(["--force", "--volumes"] if every else []), row, check=False)
                if every:
                    _run("docker", "volume", "rm", "--force", row, check=False)
    return f"{os.getpid()}-{_started(os.getpid())}"


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks: a pid alone can be another's by now."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def _runs(owner: str) -> bool:
    pid, _, started = owner.partition("-")
    try:
        return _started(int(pid)) == started
    except (OSError, ValueError):
        return False


@functools.cache
def _network() -> str:
    """A network of this test run, in a subnet that no other one has; removed when the run ends."""
    name = f"test-hosts-{uuid4().hex[:6]}"
    for number in range(256):
        subnet = f"10.89.{(os.getpid() + number) % 256}.0/24"
        done = _run(
            *("docker", "network", "create", "--label", f"{LABEL}={_owner()}", "--subnet", subnet, name), check=False
        )
        if done.returncode == 0:
            atexit.register(_run, "docker", "network", "rm", name, check=False)
            return name
        assert "overlap" in done.stderr, done.stderr
    raise AssertionError("all subnets for test hosts are taken")


_numbers = iter(range(10, 250))


def _free_address() -> str:
    subnet = _run("docker", "network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", _network()).stdout
    return subnet.strip().rsplit(".", 1)[0] + f".{next(_numbers)}"


def _remove(container: str) -> None:
    _run("docker", "rm", "--force", "--volumes", container, check=False)
    _run("docker", "volume", "rm", "--force", container, check=False)


def _until(condition: Any, within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s for {what}"
        time.sleep(0.2)


def _run(
    *argv: str,
    stdin: str | None = None,
    check: bool = True,
    timeout_s: float = 120,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=env,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        if check:
            raise AssertionError(f"{' '.join(argv)} did not end within {timeout_s:.0f} s") from error
        return subprocess.CompletedProcess(argv, -signal.SIGKILL, "", f"no end within {timeout_s:.0f} s")
    assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


__all__ = ["USER", "Host", "Login", "bare_host", "bare_hosts", "login", "neighbour"]
