"""What hosts said of themselves, as files that are checked in: `stack_configs/facts/<stack>/<host>.json`."""

from collections.abc import Iterable
from pathlib import Path

from stack_configs import json_files
from stack_configs.problems import Problem
from stack_configs.schema.facts import Facts

FOLDER = "stack_configs/facts"


def name_of(stack: str, host: str) -> str:
    """Of a host's file, from the repository's root."""
    return f"{FOLDER}/{stack}/{host}.json"


def write(stack: str, facts: Facts, root: Path) -> Path:
    """Write the host's file for every answer, though only the time may differ: previews say how old facts are."""
    return json_files.write(root / name_of(stack, facts.host), facts.model_dump(mode="json"))


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
    facts = json_files.read(Facts, name, root, again)
    if isinstance(facts, Facts) and facts.host != host:
        return Problem(path=("host",), says=f"is the file of another host: {facts.host}", write=again, file=name)
    return facts


__all__ = ["FOLDER", "name_of", "read_all", "write"]
