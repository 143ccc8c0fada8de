"""A model's lock: what one commit of a model's repository holds, looked up once.

`stack_configs/models/<owner>--<name>/<commit>.json`, written by `python -m tools.lock models`.
"""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from stack_configs.schema.base import CommitSha, Frozen

HubRepository = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
"""`owner/name` on a hub."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class LockedFile(Frozen):
    """One file of the repository at that commit."""

    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: Sha256 | None = None
    """Of its content. None: nobody could look it up, so a download of it can't be verified."""


class ModelLock(Frozen):
    """What the ledger computes with, and what a download is verified against."""

    repo: HubRepository
    """Repository on the hub."""
    revision: CommitSha
    """The commit that all below is true of."""
    source: str
    """Where it was seen: the hub's address, or which public files proved it."""
    files: dict[str, LockedFile] = {}
    """Path → file. All files of the repository when `complete`, otherwise those that are known."""
    complete: bool = False
    """Whether `files` holds every file of the commit, each with its sha256."""
    config: dict[str, Any]
    """config.json as it is at that commit."""
    parameters: dict[str, int] = {}
    """Numbers in the weights by type, as safetensors name it: `BF16` → 8190735360. Empty: not known."""
    weights_bytes: Annotated[int, Field(gt=0)] | None = None
    """Bytes of the tensors that the engine loads, without draft layers.

    None: not known; they are counted from `config` instead.
    """
    quantization: str | None = None
    """`quant_method` of config.json; None for plain weights."""
