"""A host that was prepared by its plan, in facts: what is not named is exactly as the spec has it."""

from typing import Any

from planning.hosts.steps import plan_host
from planning.hosts.wanted import docker_settings
from stack_configs.schema.facts import Facts
from stack_configs.schema.hosts import Host
from stack_configs.schema.stack import StackSpec
from stack_configs.schema.versions import HostVersions
from tests.unit.hosts import shaped

REPOSITORY = {"url": "https://apt.example/", "suite": "/", "key_url": "https://apt.example/key"}
REPOSITORIES = {
    name: {**REPOSITORY, "key_fingerprint": "A" * 40, "source": "a test"}
    for name in ("nvidia-driver", "nvidia-container-toolkit", "docker")
}
DRIVER, DOCKER, TOOLKIT = "580.105.08-0ubuntu1", "5:28.5.1-1~ubuntu.24.04~noble", "1.18.0-1"
PACKAGES = {
    "nvidia-open-580": DRIVER,
    "nvidia-kernel-open-dkms-580": DRIVER,
    "libnvidia-compute-580": DRIVER,
    "docker-ce": DOCKER,
    "docker-ce-cli": DOCKER,
    "containerd.io": "2.1.4-1",
    "nvidia-container-toolkit": TOOLKIT,
    "nvidia-container-toolkit-base": TOOLKIT,
    "libnvidia-container-tools": TOOLKIT,
    "libnvidia-container1": TOOLKIT,
}
ENGINE: dict[str, Any] = {
    "kind": "docker",
    "version": "28.5.1",
    "running": True,
    "data_root": "/var/lib/docker",
    "cdi": True,
    "live_restore": True,
    "containers": {"prod/chat-0": "registry.example/vllm:1"},
}


def versions(**changes: Any) -> HostVersions:
    return shaped.versions(repositories=REPOSITORIES, **changes)


def spec(host: Host | None = None, **choices: Any) -> StackSpec:
    """One host with one model; `choices` are the spec's own, such as `repairs`."""
    made = shaped.spec(host, pins=choices.pop("pins", None) or versions())
    return made.model_copy(update=choices)


def notes(of: StackSpec) -> dict[str, str]:
    """What the host of `of` has noted when all steps were applied."""
    return {step.name: step.digest for step in plan_host(shaped.HOST, of).steps}


def packages(**versions: str | None) -> dict[str, Any]:
    """Everything held; names with underscores for dashes, `None` takes one away."""
    named = {**PACKAGES, **{name.replace("_", "-"): version for name, version in versions.items()}}
    return {name: shaped.package(version, held=True) for name, version in named.items() if version}


def facts(of: StackSpec, **changes: Any) -> Facts:
    """Of the host after `up`."""
    settings = docker_settings(of.file.hosts[shaped.HOST])
    ready = {
        "packages": packages(),
        "engine": {**ENGINE, "settings": settings, "settings_in_force": settings},
        "cdi_devices": [f"nvidia.com/gpu={shaped.GPU}", "nvidia.com/gpu=all"],
        "steps": notes(of),
    }
    return shaped.facts(**{**ready, **changes})
