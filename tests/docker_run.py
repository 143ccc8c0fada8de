"""Run a ContainerPlan with the docker command, hardened as `components.containers` does, for tests without Pulumi."""

import io
import json
import subprocess
import tarfile
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest

from images import recipes
from planning.containers import FILES_DIR, ContainerPlan


def docker(*arguments: str, check: bool = True, stdin: bytes | None = None, timeout_s: int = 120) -> str:
    """stdout of a docker command, with stderr behind it. Raises AssertionError when it fails and `check` is set."""
    done = subprocess.run(("docker", *arguments), input=stdin, capture_output=True, check=False, timeout=timeout_s)
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert not check or done.returncode == 0, f"docker {' '.join(arguments)}\n{output}"
    return output


def need_image(recipe: str) -> str:
    """The tag of a built image; skips the test, with the reason, where there is none."""
    tag = recipes.tag(recipe)
    try:
        found = subprocess.run(("docker", "image", "inspect", tag), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no docker command")
    if found.returncode != 0:
        pytest.skip(f"image {tag} is not here: {found.stderr.strip()}")
    return tag


class Sandbox:
    """Two networks and whatever runs on them, all removed by `close`."""

    def __init__(self, part: str) -> None:
        self.name = f"{part}-{uuid4().hex[:6]}"
        self._containers: list[str] = []
        self._volumes: list[str] = []
        docker("network", "create", "--internal", f"{self.name}-inner")
        docker("network", "create", f"{self.name}-edge")

    def close(self) -> None:
        for container in self._containers:
            docker("rm", "-f", "-v", container, check=False)
        for volume in self._volumes:
            docker("volume", "rm", "-f", volume, check=False)
        for network in ("inner", "edge"):
            docker("network", "rm", f"{self.name}-{network}", check=False)

    def container(self, service: str) -> str:
        return f"{self.name}-{service}"

    def run(self, plan: ContainerPlan, *, wait: bool = True, volumes: Mapping[str, str] | None = None) -> str:
        """The container's name once it is healthy; a job's once it has ended. `volumes`: plan's name → Docker's."""
        name = self.container(plan.service)
        options = [
            *("--name", name, "--user", plan.user, "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
            *("--memory", f"{plan.memory_mib}m", "--memory-swap", f"{plan.memory_mib}m"),
            *("--shm-size", f"{plan.shm_mib}m", "--ulimit", f"nproc={plan.max_processes}", "--ulimit", "core=0"),
            *("--stop-signal", plan.stop_signal, "--stop-timeout", str(plan.stop_grace_s)),
        ]
        if "writable" not in plan.exceptions:
            options += ["--read-only"]
        for capability in plan.capabilities:
            options += ["--cap-add", capability]
        for path, how in plan.tmpfs.items():
            options += ["--tmpfs", f"{path}:{how}"]
        for key, value in plan.sysctls.items():
            options += ["--sysctl", f"{key}={value}"]
        for key, value in plan.env.items():
            options += ["--env", f"{key}={value}"]
        for mount in plan.mounts:
            source = (volumes or {}).get(mount.source, mount.source)
            options += ["--volume", f"{source}:{mount.target}:{'ro' if mount.read_only else 'rw'}"]
        for port in plan.ports:
            options += ["--publish", f"127.0.0.1:{port.host}:{port.container}"]
        if plan.files:
            options += ["--volume", f"{self._files(plan)}:{FILES_DIR}:ro"]
        if plan.health:
            health = plan.health
            options += ["--health-cmd", _shell(health.command), "--health-interval", "1s"]
            options += ["--health-timeout", f"{health.timeout_s}s", "--health-retries", str(health.retries)]
            options += ["--health-start-period", f"{health.start_period_s}s"]
        entrypoint, *first = plan.entrypoint or ("",)
        if entrypoint:
            options += ["--entrypoint", entrypoint]
        networks = [f"{self.name}-{network}" for network in plan.networks]
        aliases = [part for alias in (plan.service, *plan.aliases) for part in ("--network-alias", alias)]
        docker("create", *options, "--network", networks[0], *aliases, plan.image, *first, *plan.command)
        self._containers.append(name)
        for network in networks[1:]:
            docker("network", "connect", network, name)
        docker("start", name)
        if wait:
            self.wait_for(name, "exited" if plan.job else "healthy", plan.ready_within_s)
        return name

    def _files(self, plan: ContainerPlan) -> str:
        volume = self.container(f"{plan.service}-{uuid4().hex[:6]}-files")
        docker("volume", "create", volume)
        self._volumes.append(volume)
        carrier = docker("create", "--volume", f"{volume}:{FILES_DIR}", plan.image, "true").strip()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, text in plan.files.items():
                entry = tarfile.TarInfo(name)
                entry.mode, entry.size = 0o444, len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
        docker("cp", "-", f"{carrier}:{FILES_DIR}", stdin=archive.getvalue())
        docker("rm", carrier)
        return volume

    def wait_for(self, name: str, state: str, within_s: float) -> float:
        """Seconds until the container is `healthy` or has `exited`. Its log is in the error when it never is."""
        begun = time.monotonic()
        while time.monotonic() - begun < within_s:
            found = inspect(name)["State"]
            health = found.get("Health", {}).get("Status", "healthy" if found["Running"] else "")
            if state in (found["Status"], health):
                return time.monotonic() - begun
            if found["Status"] == "exited":
                break
            time.sleep(0.2)
        raise AssertionError(f"{name} is not {state} after {within_s} s:\n{docker('logs', '--tail', '40', name)}")

    def address(self, name: str) -> str:
        """Its IP address on the inner network."""
        return str(inspect(name)["NetworkSettings"]["Networks"][f"{self.name}-inner"]["IPAddress"])


def inspect(name: str) -> dict[str, Any]:
    (found,) = json.loads(docker("inspect", name))
    return dict(found)


def _shell(command: tuple[str, ...]) -> str:
    """docker's --health-cmd always goes through a shell."""
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in command)
