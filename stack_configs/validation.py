"""One part of a stack's file against its model, and what pydantic says of it in plain words."""

import difflib
import json
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from stack_configs.problems import Path as YamlPath
from stack_configs.problems import Problem
from stack_configs.schema.base import Frozen
from stack_configs.schema.network import DOMAIN
from stack_configs.source import Source

T = TypeVar("T", bound=Frozen)


def validated(source: Source, path: YamlPath, kind: type[T], entry: object, problems: list[Problem]) -> T | None:
    """The part of the file at `path` as its model; None where it is wrong, and `problems` gets all that is."""
    try:
        # As JSON, since pydantic's strict mode takes a list for a tuple only there. Strict: `yes` is no number.
        return kind.model_validate_json(json.dumps(entry, default=str), strict=True)
    except ValidationError as error:
        details = error.errors()
        inner = {detail["loc"][:n] for detail in details for n in range(len(detail["loc"]))}
        # A list whose items are wrong counts as too short as well: say it once.
        told = [d for d in details if not (d["type"] == "too_short" and d["loc"] in inner)]
        problems += [_translated(source, path, kind, detail) for detail in told]
        return None


def _translated(source: Source, path: YamlPath, kind: type[Frozen], detail: ErrorDetails) -> Problem:
    """Pydantic's error in plain words."""
    # A tagged union adds its tag to the location; the YAML has no such key.
    inside = tuple(
        part for part in detail["loc"] if part not in ("local", "ssh", "literal['all']") and not _is_union_arm(part)
    )
    at = (*path, *inside)
    if at[:2] == ("gateway", "keys") and len(at) == 3 and detail["type"] == "model_type":
        # Never shown: it may be the key.
        return source.problem(
            at, "is not a mapping of limits", "write `{}` or limits; keys are made by `make up`, and never stand here"
        )
    context = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return unknown(source, at, _model_at(kind, detail["loc"][:-1]))
        case "missing":
            return source.problem(
                at, "is missing", f"add `{inside[-1] if inside else at[-1]}:`; see docs/reference/settings.md"
            )
        case "union_tag_not_found" | "union_tag_invalid":
            return source.problem((*at, "kind"), "says neither local nor ssh", "write `kind: local` or `kind: ssh`")
        case "string_pattern_mismatch":
            return _pattern(source, at, str(detail["input"]), str(context.get("pattern")))
        case "literal_error":
            return source.problem(at, f"{detail['input']!r} is none of the choices", f"write {context.get('expected')}")
        case _:
            says = detail["msg"][0].lower() + detail["msg"][1:]
            return source.problem(
                at,
                f"{says} (it is {short(detail['input'])})",
                "see docs/reference/settings.md for what fits",
            )


def _is_union_arm(part: object) -> bool:
    return isinstance(part, str) and ("[" in part or part in ("LocalConnection", "SshConnection"))


def short(value: object) -> str:
    """A value as it is shown in a problem."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def _pattern(source: Source, at: YamlPath, given: str, pattern: str) -> Problem:
    if "{40}" in pattern:
        return source.problem(
            at,
            f"{given!r} is not a full commit: a branch or tag can move under a running service",
            "write the 40 hex digits that the model's page shows under Files → History",
        )
    if "GPU-" in pattern:
        return source.problem(at, f"{given!r} is not a GPU's UUID", "write what `nvidia-smi -L` prints: GPU-…")
    if pattern == DOMAIN:
        return source.problem(
            at, f"{given!r} is no full DNS name", "write one in lower case, such as `llm.example.org`"
        )
    return source.problem(at, f"{given!r} does not have the form {pattern}", "see docs/reference/settings.md")


def unknown(source: Source, at: YamlPath, kind: type[Frozen] | None) -> Problem:
    """A key that `kind` does not have, with those that it has."""
    known = list(kind.model_fields) if kind else []
    near = difflib.get_close_matches(str(at[-1]), known, n=1)
    write = (
        f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(known) or 'see docs/reference/settings.md'}"
    )
    return source.problem(at, "is not a setting", write)


def _model_at(kind: type[Frozen], loc: tuple[str | int, ...]) -> type[Frozen] | None:
    """The model that holds the keys at pydantic's location `loc`, or None where that is not one plain model."""
    current: Any = kind
    for index, part in enumerate(loc):
        info = getattr(current, "model_fields", {}).get(part)
        if info is None:
            continue
        tag = loc[index + 1] if index + 1 < len(loc) else None
        arms = _models_in(info.annotation)
        tagged = [arm for arm in arms if tag in get_args(getattr(arm.model_fields.get("kind"), "annotation", None))]
        found = tagged or arms
        if not found:
            return None
        current = found[0]
    return current if isinstance(current, type) and issubclass(current, Frozen) else None


def _models_in(annotation: Any) -> list[type[Frozen]]:
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return [annotation]
    return [model for arm in get_args(annotation) for model in _models_in(arm)]
