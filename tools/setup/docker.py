"""Docker: used when its API answers, else started or installed where we may, else the command to type."""

from __future__ import annotations

from dataclasses import dataclass

from tools.setup.progress import Step


@dataclass(frozen=True)
class DockerInfo:
    """A Docker that answers."""

    version: str
    """Engine version, such as 20.10.24."""
    api: str
    """API version, such as 1.41."""
    way: str
    """How it was got: "answers at …", "started", "installed and started"."""


def ensure(step: Step) -> DockerInfo:
    """Return the Docker at DOCKER_HOST (or the local socket), starting or installing it if need be."""
    raise NotImplementedError
