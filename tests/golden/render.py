"""A plan as text: one YAML file a container, and each of its files beside it; one a step of a host.

Files that are sources of this repository are named and not repeated.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from planning.containers import ContainerPlan
from planning.plans import StackPlan
from planning.stack import plan_stack
from stack_configs.load import ROOT
from tests.golden.specs import all_specs

FOLDER = Path(__file__).parent
COMMAND = "make golden"


def golden() -> dict[str, str]:
    """Path below tests/golden → text, for all specs."""
    return {path: text for spec in all_specs() for path, text in rendered(plan_stack(spec)).items()}


def rendered(plan: StackPlan) -> dict[str, str]:
    texts: dict[str, str] = {}
    for host in plan.hosts:
        for step in host.steps:
            # The script is a source of this repository; digests of its text stand in the settings of later steps.
            settings = {key: value for key, value in step.settings.items() if key != "AFTER"}
            if "RULES" in settings:
                texts[f"{plan.stack}/{host.name}-firewall.nft"] = settings.pop("RULES") + "\n"
            described = {"summary": step.summary, "timeout_s": step.timeout_s, "settings": _plain(settings)}
            texts[f"{plan.stack}/{host.name}-{step.name}.yaml"] = _yaml(described)
    if plan.ingress:
        described = {field.name: _plain(getattr(plan.ingress, field.name)) for field in fields(plan.ingress)}
        del described["connector"]  # a container like the others
        texts[f"{plan.stack}/ingress.yaml"] = _yaml(described)
    if plan.policy:
        texts[f"{plan.stack}/policy.json"] = json.dumps(plan.policy.policy, indent=2) + "\n"
    for container in plan.containers:
        at = f"{plan.stack}/{container.service}"
        texts[f"{at}.yaml"] = _yaml(_described(container))
        for name, text in container.files.items():
            if text not in SOURCES:
                texts[f"{at}/{name}"] = text
    return texts


def stored() -> dict[str, str]:
    """What is in the repository: like `golden`."""
    return {
        path.relative_to(FOLDER).as_posix(): path.read_text()
        for path in sorted(FOLDER.glob("*/**/*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, width=110, allow_unicode=True))


def _described(plan: ContainerPlan) -> dict[str, Any]:
    """All fields, but those at their defaults: what is absent is the hardened default."""
    described = {
        field.name: _plain(getattr(plan, field.name))
        for field in fields(plan)
        if field.name != "files" and getattr(plan, field.name) != field.default
    }
    if plan.files:
        described["files"] = {
            name: f"is {SOURCES[text]}" if text in SOURCES else f"{plan.service}/{name}"
            for name, text in plan.files.items()
        }
    return {key: value for key, value in described.items() if value not in ({}, [])}


def _plain(value: Any) -> Any:
    """Dataclasses, tuples and mappings as YAML has them."""
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, str) and value in SOURCES:
        return f"the text of {SOURCES[value]}"
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


SOURCES = {
    path.read_text(): path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "planning").rglob("files/*.py"))
}
"""Text → where it lies."""
