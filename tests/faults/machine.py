"""A machine to break: network, processes and mounts of its own, and a Docker of its own on a folder of its own.

Linux namespaces, so that a Docker's end, its firewall rules and its full disk are this machine's alone. Ending its
first process ends every process in it at once, containers too, as a power cut does; what it wrote stays.
It has no network but its loopback: images come from the Docker around it.

It ends with the process that made it, however that ends; what a killed one left on disk and in cgroups, the next one
clears away.
"""

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import layers

BOOT = """
set -e
# What the Docker outside has mounted is not ours to hold; some of it goes by itself meanwhile.
awk '$2 ~ "^(/var)?/(lib|run)/docker" {print $2}' /proc/mounts | sort -r | xargs -r umount -l || true
mkdir -p "$DISK/docker" "$DISK/log" "$DISK/etc" "$DISK/etc.work"
mount -t tmpfs tmpfs /run
mkdir /run/lock
mount -t overlay -o "lowerdir=/etc,upperdir=$DISK/etc,workdir=$DISK/etc.work" overlay /etc
mkdir -p /etc/docker
printf '{"cgroup-parent": "/%s"}' "$NAME" > /etc/docker/daemon.json
mkdir -p /var/lib/docker
mount --bind "$DISK/docker" /var/lib/docker
mount --bind "$DISK/log" /var/log
ip link set lo up
echo up
cat > /dev/null  # until whoever made this machine closes its end of the pipe, or is gone
"""
NAME = "inference-faults-"
FOLDER = Path("/var/tmp")
"""Where machines' disks are: not in memory, as /tmp may be."""
CGROUPS = Path("/sys/fs/cgroup")
KINDS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer")
START_S = 60
END_S = 20


def missing() -> str:
    """Why there can be no such machine here; empty when there can."""
    if os.geteuid() != 0:
        return "only root can make a machine out of namespaces"
    for program in ("unshare", "nsenter", "ip", "dockerd", "docker"):
        if shutil.which(program) is None:
            return f"there is no `{program}` on PATH"
    if not all((CGROUPS / kind).is_dir() for kind in KINDS):
        return "the machines of these tests are limited by cgroup v1, which isn't mounted here"
    kind = subprocess.run(["stat", "--file-system", "--format=%T", FOLDER], capture_output=True, text=True, check=True)
    if kind.stdout.strip() == "overlayfs":
        return f"{FOLDER} is an overlay here, as in a container: no Docker can keep images on it"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "--propagation=slave",
         "sh", "-c", "mount -t tmpfs tmpfs /run && ip link set lo up"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"namespaces can't be made here: {tried.stderr.strip()}" if tried.returncode != 0 else ""


@dataclass
class Machine:
    """Use as a context: it is booted, without Docker, and all of it is gone at the end."""

    cores: str = ""
    """CPUs that it may use, such as `0-1`; all by default."""
    memory_bytes: int = 0
    """Of everything in it, page cache too; without a limit by default."""
    docker_bytes: int = 0
    """Size of the disk that Docker keeps its images on, in memory and lost in a reboot; the folder's by default."""
    disk: Path = field(default=Path(), init=False)
    """What a reboot leaves."""
    _first: subprocess.Popen[str] | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> "Machine":
        sweep()
        self.disk = Path(tempfile.mkdtemp(prefix=f"{NAME}{os.getpid()}-", dir=FOLDER))
        self.disk.chmod(0o755)
        try:
            self.boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()
        shutil.rmtree(self.disk)

    @property
    def name(self) -> str:
        return self.disk.name

    def boot(self) -> None:
        """Start it; Docker not yet."""
        self._make_cgroups()
        self._first = subprocess.Popen(
            [*self._limited(), "unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc",
             "--propagation=slave", "sh", "-c", BOOT],
            env={**os.environ, "DISK": str(self.disk), "NAME": self.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        assert self._first.stdout is not None
        assert self._first.stdout.readline() == "up\n"
        if self.docker_bytes:
            self.run("mount", "-t", "tmpfs", "-o", f"size={self.docker_bytes}", "tmpfs", "/var/lib/docker")

    def cut_power(self) -> None:
        """End every process in it at once."""
        if self._first is not None:
            self._first.kill()  # unshare; its child, the first process in there, goes with it, and all below that
            self._first.communicate()
            self._first = None
            _remove_cgroups(self.name)

    def argv(self, *command: str) -> list[str]:
        """How a command is run in the machine."""
        assert self._first is not None
        inner = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text().split()[0]
        return [*self._limited(), "nsenter", "--target", inner, "--net", "--pid", "--mount", *command]

    def run(
        self,
        *command: str,
        check: bool = True,
        cwd: Path = Path("/"),
        env: Mapping[str, str] | None = None,
        timeout_s: int = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end; what it said is shown when it fails."""
        done = subprocess.run(
            self.argv("sh", "-c", f"cd {shlex.quote(str(cwd))} && exec {shlex.join(command)}"),
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{shlex.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def start_docker(self) -> None:
        """As its init system does after a boot."""
        with (self.disk / "dockerd.log").open("ab") as log:
            subprocess.Popen(
                self.argv("dockerd"), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + START_S
        while self.run("docker", "info", check=False).returncode != 0:
            assert time.monotonic() < until, (self.disk / "dockerd.log").read_text(errors="replace")[-3000:]
            time.sleep(0.2)

    def docker(self, *args: str) -> str:
        return self.run("docker", *args).stdout.strip()

    def give(self, images: Sequence[str], *, copy: bool = False) -> None:
        """Have images of the Docker outside, before Docker is started here.

        Linked where its files are on the same disk; else, or with `copy`, copied, for which Docker is started. Memory
        that caches linked files counts as that of whoever read them first.
        """
        if not (copy or self.docker_bytes):
            with contextlib.suppress(layers.NotLinkable):
                layers.link(images, self.disk / "docker")
                return
        self.start_docker()
        saved = subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE)
        subprocess.run(self.argv("docker", "load", "--quiet"), stdin=saved.stdout, check=True, capture_output=True)
        assert saved.wait() == 0

    def memory_stat(self) -> dict[str, int]:
        """What its memory is used for, bytes; names as in memory.stat of cgroup v1."""
        rows = (CGROUPS / "memory" / self.name / "memory.stat").read_text().splitlines()
        return {name: int(value) for name, value in (row.split() for row in rows)}

    def _make_cgroups(self) -> None:
        for folder in (CGROUPS / kind / self.name for kind in KINDS):
            folder.mkdir(exist_ok=True)
        cpuset = CGROUPS / "cpuset"
        for file in ("cpuset.mems", "cpuset.cpus"):  # empty in a new group, which nothing can run in
            (cpuset / self.name / file).write_text((cpuset / file).read_text())
        if self.cores:
            (cpuset / self.name / "cpuset.cpus").write_text(self.cores)
        memory = CGROUPS / "memory" / self.name
        (memory / "memory.use_hierarchy").write_text("1")
        if self.memory_bytes:
            (memory / "memory.limit_in_bytes").write_text(str(self.memory_bytes))

    def _limited(self) -> list[str]:
        """Puts what follows into the machine's cgroups."""
        files = " ".join(str(CGROUPS / kind / self.name / "cgroup.procs") for kind in KINDS)
        return ["sh", "-c", f'for file in {files}; do echo $$ > "$file"; done; exec "$@"', "sh"]


def sweep() -> None:
    """Clear away what machines left whose makers were killed."""
    left = {path.name for path in (*FOLDER.glob(f"{NAME}*"), *CGROUPS.glob(f"*/{NAME}*"))}
    for name in left:
        if not Path("/proc", name.removeprefix(NAME).split("-")[0]).exists():
            _remove_cgroups(name)
            shutil.rmtree(FOLDER / name, ignore_errors=True)


def _remove_cgroups(name: str) -> None:
    """In every hierarchy: Docker has made them in those that we don't limit by, too."""
    until = time.monotonic() + END_S
    for group in CGROUPS.glob(f"*/{name}"):
        below = [Path(path) for path, _, _ in os.walk(group, topdown=False)]
        while True:
            try:
                for folder in below:
                    folder.rmdir()
                break
            except FileNotFoundError:
                below = [folder for folder in below if folder.exists()]
            except OSError:  # busy for a moment after its processes were killed
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
