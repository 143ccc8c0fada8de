"""A stack's description as Pulumi would read it, for commands that run without Pulumi."""

from pathlib import Path

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
    given = {key.removeprefix(NAMESPACE): value for key, value in config.items() if key.startswith(NAMESPACE)}
    return with_waiting(load(stack, settings_of(given, stack), root))
