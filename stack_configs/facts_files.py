"""What hosts said of themselves, as files that are checked in: `stack_configs/facts/<stack>/<host>.json`."""

import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from stack_configs.problems import Problem
from stack_configs.schema.facts import Facts

FOLDER = "stack_configs/facts"


def name_of(stack: str, host: str) -> str:
    """Of a host's file, from the repository's root."""
    return f"{FOLDER}/{stack}/{host}.json"


def write(stack: str, facts: Facts, root: Path) -> Path:
    """Replace the host's file whole. The order of keys is fixed, so that a diff shows what differs on the host.

    It is written for every answer, though only the time may differ: previews say how old facts are.
    """
    path = root / name_of(stack, facts.host)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(facts.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return new.replace(path)


def read_all(stack: str, hosts: Iterable[str], root: Path) -> tuple[dict[str, Facts], list[Problem], list[str]]:
    """Facts of the hosts that have a file; what is wrong with files; warnings about files of no host."""
    found: dict[str, Facts] = {}
    problems: list[Problem] = []
    known = set(hosts)
    for host in sorted(known):
        if (root / name_of(stack, host)).exists():
            read = _read(stack, host, root)
            if isinstance(read, Facts):
                found[host] = read
            else:
                problems.append(read)
    others = sorted(path.stem for path in (root / FOLDER / stack).glob("*.json") if path.stem not in known)
    warnings = [f"{name_of(stack, other)} is of no host over SSH in this stack; remove it" for other in others]
    return found, problems, warnings


def _read(stack: str, host: str, root: Path) -> Facts | Problem:
    name, again = name_of(stack, host), f"write it anew: `make facts STACK={stack} HOST={host}`"
    try:
        text = (root / name).read_text(encoding="utf-8")
        json.loads(text)  # for the line of an error
        facts = Facts.model_validate_json(text, strict=True)
    except (OSError, UnicodeDecodeError) as error:
        return Problem(path=(), says=f"can't be read: {error}", write=again, file=name)
    except json.JSONDecodeError as error:
        return Problem(path=(), says=f"is not JSON: {error.msg}", write=again, file=name, line=error.lineno)
    except ValidationError as error:
        first = error.errors()[0]
        says = f"is not what this version reads: {first['msg'].lower()}"
        return Problem(path=first["loc"], says=says, write=again, file=name)
    if facts.host != host:
        return Problem(path=("host",), says=f"is the file of another host: {facts.host}", write=again, file=name)
    return facts


__all__ = ["FOLDER", "name_of", "read_all", "write"]
