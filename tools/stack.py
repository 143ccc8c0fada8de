"""A stack's description as Pulumi would read it, for commands that run without Pulumi."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from planning.hosts.ready import with_waiting
from stack_configs.load import ROOT, load, settings_of
from stack_configs.schema.stack import StackSpec
from stack_configs.source import parse

NAMESPACE = "inference-stack:"


def load_stack(stack: str, root: Path = ROOT, config_file: Path | None = None) -> StackSpec:
    """The spec by `stack_configs/` and `Pulumi.<stack>.yaml` (or `config_file`). Raises SpecError with all problems."""
    config = _read(config_file or root / f"Pulumi.{stack}.yaml").get("config") or {}
    given = {key.removeprefix(NAMESPACE): _value(value) for key, value in config.items() if key.startswith(NAMESPACE)}
    return with_waiting(load(stack, settings_of(given, stack), root))


def with_new_keys(stack: str, folder: Path, root: Path = ROOT) -> tuple[Path, list[str]]:
    """A copy of `Pulumi.<stack>.yaml` in `folder` with a hash for every API key of the stack's file, as after the next
    `make up`; and the keys that have none yet. No key at all is new where none has been made: then more is undecided.
    """
    written = _read(root / f"Pulumi.{stack}.yaml")
    config = written.get("config") or {}
    hashes = _value(config.get(f"{NAMESPACE}key-hashes")) or {}
    file = parse((root / "stack_configs" / f"{stack}.yaml").read_text(encoding="utf-8"), stack).data
    new = [name for name in file["gateway"]["keys"] if name not in hashes] if hashes else []
    made = {name: hashlib.sha256(name.encode()).hexdigest() for name in new}
    changed = {**written, "config": {**config, f"{NAMESPACE}key-hashes": {**hashes, **made}}}
    copy = folder / f"Pulumi.{stack}.yaml"
    copy.write_text(yaml.safe_dump(changed), encoding="utf-8")
    return copy, new


def _read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8") if file.exists() else "") or {}


def _value(written: Any) -> Any:
    """Without `--path`, `pulumi config set` writes a list as the text that it was given."""
    return json.loads(written) if isinstance(written, str) and written.startswith(("[", "{")) else written
