"""What every part of the spec shares: a frozen base that refuses unknown keys, and named types."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Frozen(BaseModel):
    """Base of every spec model: immutable, and a key it does not know is an error.

    Built at first use: most are only parts of others, and building each by itself takes 10 ms in every Pulumi run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)


Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,38}[a-z0-9]$")]
"""A name that is also a DNS label: lower-case letters, digits and dashes, 2 to 40 characters."""

Port = Annotated[int, Field(ge=1024, le=65535)]
"""A TCP port that needs no privilege."""

GpuUuid = Annotated[str, StringConstraints(pattern=r"^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
"""A GPU as `nvidia-smi -L` names it; an index would mean another card after a reboot."""

CommitSha = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
"""A full git commit: a branch or tag can move."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
