"""A stack's description as Pulumi would read it, for commands that run without Pulumi."""

import json
from pathlib import Path
from typing import Any

import yaml

from planning.hosts.ready import with_waiting
from stack_configs.load import ROOT, load, settings_of
from stack_configs.schema.stack import StackSpec

NAMESPACE = "inference-stack:"


def load_stack(stack: str, root: Path = ROOT) -> StackSpec:
    """The spec by `Pulumi.<stack>.yaml` and `stack_configs/`. Raises SpecError with all problems."""
    file = root / f"Pulumi.{stack}.yaml"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    config = (yaml.safe_load(text) or {}).get("config") or {}
    given = {key.removeprefix(NAMESPACE): _value(value) for key, value in config.items() if key.startswith(NAMESPACE)}
    return with_waiting(load(stack, settings_of(given, stack), root))


def _value(written: Any) -> Any:
    """Without `--path`, `pulumi config set` writes a list as the text that it was given."""
    return json.loads(written) if isinstance(written, str) and written.startswith(("[", "{")) else written
