"""Machines that run containers."""

from typing import Annotated, Literal

from pydantic import Field

from stack_configs.schema.base import Frozen, GpuUuid, Port


class LocalConnection(Frozen):
    """The machine that runs Pulumi."""

    kind: Literal["local"] = "local"
    """`local`: containers run in this machine's Docker."""


class SshConnection(Frozen):
    """A host reached over SSH."""

    kind: Literal["ssh"]
    """`ssh`: containers run on the host at `address`."""
    address: str
    """DNS or mesh name, or an IP address."""
    user: str
    """The user to log in as."""
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    """Port of the host's SSH server."""
    host_key: str
    """The host's public key, as `ssh-keyscan` prints it after the name: `ssh-ed25519 AAAA…`."""


class Host(Frozen):
    """A machine that runs containers; with `gpus`, a GPU host."""

    connection: Annotated[LocalConnection | SshConnection, Field(discriminator="kind")]
    """How the host is reached."""
    gpus: tuple[GpuUuid, ...] = ()
    """The NVIDIA GPUs that models may use. In dev, found by `make up` and kept outside this file."""


__all__ = ["Host", "LocalConnection", "Port", "SshConnection"]
