"""Writes what is generated: from the schema, JSON Schemas for editors and docs/reference/settings.md; from the gate's
table, docs/reference/compatibility.md.

python -m tools.docs_reference [--check]
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack_configs.schema.base import Frozen
from stack_configs.schema.network import DOMAIN, LABEL
from stack_configs.schema.stack import StackFile
from stack_configs.schema.versions import VersionSet
from tools import docs_compatibility

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "make docs"
DIFF_LINES = 20

WORDS_OF_PATTERN = {
    "^[a-z][a-z0-9-]{0,38}[a-z0-9]$": "name",
    "^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$": "GPU UUID",
    "^[0-9a-f]{40}$": "commit, 40 hex digits",
    "^[0-9a-f]{32}$": "32 hex digits",
    DOMAIN: "full DNS name",
    f"^{LABEL}$": "DNS label",
    r"^\d{4}\.\d{2}$": "version set, in quotes",
    r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$": "`owner/name`",
}
"""What a text must look like, in words. A pattern that is missing here is shown as it is."""

INTRO = f"""\
# Settings

<!-- Written by `{COMMAND}` from stack_configs/schema: don't edit. -->

Everything that `stack_configs/<stack>.yaml` may contain. An unknown key is an error, and so is a value outside its
bounds; all errors of a file are told at once, with line, path, reason and what to write instead.

In a path, `<name>` is a name of your choice (2 to 40 lower-case letters, digits and dashes, a letter first; below
`hostnames`, a full DNS name), `[]` is an item of a list, and `connection(ssh)` is a connection of `kind: ssh`.
"""


@dataclass(frozen=True)
class Setting:
    """One row of the reference."""

    path: str
    kind: str
    meaning: str
    default: str
    """Empty: it must be given."""
    bounds: str


def json_schema(model: type[StackFile] | type[VersionSet]) -> dict[str, Any]:
    """The model's JSON Schema, as strict as the model: names must match, and `kind` of a connection must be said."""
    schema = model.model_json_schema()
    docs = {kind.__name__: _docstrings(kind) for kind in _descendants(Frozen)}
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        props = part.get("properties", {})
        for key in props.keys() & docs[name].keys():
            props[key] = dict(sorted({**props[key], "description": docs[name][key]}.items()))
        for prop in props.values():
            if "patternProperties" in prop:
                prop["additionalProperties"] = False
            if "discriminator" in prop:
                for option in prop["oneOf"]:
                    arm = _resolved(option, schema)
                    kind = prop["discriminator"]["propertyName"]
                    arm["required"] = sorted({kind, *arm.get("required", [])})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _descendants(kind: type[Frozen]) -> Iterator[type[Frozen]]:
    for child in kind.__subclasses__():
        yield child
        yield from _descendants(child)


def _docstrings(kind: type[Frozen]) -> dict[str, str]:
    """Attribute → the text below it, inherited ones included. Pydantic can read the same (use_attribute_docstrings),
    but does so whenever the models are imported: a fifth of our program's own time in each preview.
    """
    found: dict[str, str] = {}
    for owner in reversed([owner for owner in kind.__mro__ if issubclass(owner, Frozen)]):
        (body,) = (node.body for node in ast.parse(inspect.getsource(owner)).body if isinstance(node, ast.ClassDef))
        for field, text in itertools.pairwise(body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(told))):
                    found[name] = inspect.cleandoc(told)
    return found


def settings(schema: Mapping[str, Any]) -> Iterator[Setting]:
    """Every setting of the schema, depth first, in the order of the models."""
    yield from _inside(schema, "", schema)


def _inside(part: Mapping[str, Any], path: str, schema: Mapping[str, Any]) -> Iterator[Setting]:
    for key, prop in part.get("properties", {}).items():
        here = f"{path}.{key}" if path else key
        required = key in part.get("required", [])
        yield Setting(
            path=here,
            kind=_kind(prop, schema),
            meaning=_meaning(prop, schema),
            default="" if required else _default(prop),
            bounds=_bounds(prop),
        )
        yield from _below(prop, here, schema)


def _below(prop: Mapping[str, Any], here: str, schema: Mapping[str, Any]) -> Iterator[Setting]:
    """The settings under one that is an object, a mapping of names, a list, or one of several objects."""
    for value in (prop, *prop.get("anyOf", [])):
        yield from _inside(_resolved(value, schema), here, schema)
        for option in value.get("oneOf", []):
            tag = value["discriminator"]["propertyName"]
            arm = _resolved(option, schema)
            kind = arm["properties"][tag]["const"]
            yield from _inside(arm, f"{here}({kind})", schema)
        if "items" in value:
            yield from _inside(_resolved(value["items"], schema), f"{here}[]", schema)
        for entry in value.get("patternProperties", {}).values():
            yield from _inside(_resolved(entry, schema), f"{here}.<name>", schema)


def _resolved(value: Any, schema: Mapping[str, Any]) -> Any:
    reference = value.get("$ref")
    return schema["$defs"][reference.rsplit("/", 1)[1]] if reference else value


def _kind(prop: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "anyOf" in prop:
        return " or ".join(_kind(option, schema) for option in prop["anyOf"])
    if "oneOf" in prop:
        return "object: one of " + ", ".join(f"`{kind}`" for kind in prop["discriminator"]["mapping"])
    if "$ref" in prop or "properties" in prop:
        return "object"
    if "const" in prop:
        return f"`{prop['const']}`"
    if "enum" in prop:
        return " or ".join(f"`{choice}`" for choice in prop["enum"])
    if "patternProperties" in prop:
        (entry,) = prop["patternProperties"].values()
        return f"names, each with: {_kind(entry, schema)}"
    if prop.get("type") == "array":
        return f"list of: {_kind(prop['items'], schema)}"
    if "pattern" in prop:
        return WORDS_OF_PATTERN.get(prop["pattern"], f"text like `{prop['pattern']}`")
    names = {"integer": "whole number", "string": "text", "boolean": "`true` or `false`", "null": "`null`"}
    return names.get(prop["type"], str(prop["type"]))


def _meaning(prop: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The attribute's docstring, or its class's."""
    text = prop.get("description") or _resolved(prop, schema).get("description", "")
    return " ".join(text.split()).replace("|", "\\|")


def _default(prop: Mapping[str, Any]) -> str:
    if "$ref" in prop or any("$ref" in option for option in prop.get("anyOf", [])):
        return "see below"
    return f"`{json.dumps(prop['default'])}`"


def _bounds(prop: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}
    signs |= {"minItems": "at least {}", "minProperties": "at least {}"}
    parts = [prop, *prop.get("anyOf", [])]
    return ", ".join(sign.format(part[key]) for part in parts for key, sign in signs.items() if key in part)


def reference(schema: Mapping[str, Any]) -> str:
    """The text of settings.md: a table for each top-level key."""
    lines = [INTRO]
    top = ""
    for setting in settings(schema):
        if "." not in setting.path:
            top = setting.path
            lines += [
                f"\n## {top}\n",
                "| path | type | default | bounds | meaning |",
                "| --- | --- | --- | --- | --- |",
            ]
        default = setting.default or "must be given"
        lines.append(
            f"| `{setting.path}` | {setting.kind} | {default} | {setting.bounds.replace('|', chr(92) + '|')} | "
            f"{setting.meaning} |"
        )
    return "\n".join(lines) + "\n"


def rendered() -> dict[str, str]:
    """Path in the repository → text of every generated file."""
    stack = json_schema(StackFile)
    return {
        "stack_configs/stack.schema.json": json.dumps(stack, indent=2) + "\n",
        "stack_configs/schema/versions.schema.json": json.dumps(json_schema(VersionSet), indent=2) + "\n",
        "docs/reference/settings.md": reference(stack),
        "docs/reference/compatibility.md": docs_compatibility.page(COMMAND),
    }


def outdated(root: Path = ROOT) -> dict[str, str]:
    """Path → the first lines of the difference, of every generated file that is not as the schema wants it."""
    found = {}
    for name, text in rendered().items():
        path = root / name
        old = path.read_text() if path.exists() else ""
        if old != text:
            diff = difflib.unified_diff(old.splitlines(), text.splitlines(), name, "generated", lineterm="", n=1)
            found[name] = "\n".join(list(diff)[:DIFF_LINES])
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.docs_reference", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a file is out of date")
    check = parser.parse_args(argv).check
    found = outdated()
    if check and found:
        print("\n".join(found.values()))
        print(f"{', '.join(found)}: out of date. `{COMMAND}` writes it anew.", file=sys.stderr)
        return 1
    texts = rendered()
    for name in found:
        path = ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[name])
        print(f"wrote {name}")
    if not found:
        print("all up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
