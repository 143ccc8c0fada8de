"""The version set: versions tested together."""

from typing import Annotated, Literal

from pydantic import Field

from stack_configs.schema.base import Digest, Frozen

ImageName = Literal[
    "vllm-cpu",
    "vllm-cuda",
    "litellm",
    "nginx",
    "prometheus",
    "alertmanager",
    "node-exporter",
    "dcgm-exporter",
    "grafana",
]


class BuiltImage(Frozen):
    """The stand-in for machines that reach no image registry, built from `images/<recipe>/`."""

    recipe: str
    version: str
    """Of the program inside it."""


class ImagePin(Frozen):
    """One image: where registries have it and, where we can build one, what we build instead."""

    repository: str
    tag: str
    digest: Digest | None = None
    """None: nobody could verify it. Dev warns and runs it; prod refuses it until `tools/lock` resolved it."""
    source: str
    """Where tag and digest were seen."""
    built: BuiltImage | None = None
    starts_in_s: Annotated[int, Field(ge=0)] = 1
    """Seconds from start to healthy, measured with the built image on 4 cores. For the preview report."""


class VersionSet(Frozen):
    """`stack_configs/versions/YYYY.MM.yaml`."""

    images: dict[ImageName, ImagePin]
