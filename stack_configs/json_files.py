"""Files of JSON that a command writes and that are checked in: facts of hosts, locks of models."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from stack_configs.problems import Problem

T = TypeVar("T", bound=BaseModel)


def write(path: Path, data: dict[str, Any]) -> Path:
    """Replace the file whole; keys stay in their order, so that a diff shows what differs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return new.replace(path)


def read(kind: type[T], name: str, root: Path, again: str) -> T | Problem:
    """The file `name` below `root`. `again`: how it is written anew, for whoever reads the problem."""
    try:
        text = (root / name).read_text(encoding="utf-8")
        json.loads(text)  # for the line of an error
        return kind.model_validate_json(text, strict=True)
    except (OSError, UnicodeDecodeError) as error:
        return Problem(path=(), says=f"can't be read: {error}", write=again, file=name)
    except json.JSONDecodeError as error:
        return Problem(path=(), says=f"is not JSON: {error.msg}", write=again, file=name, line=error.lineno)
    except ValidationError as error:
        first = error.errors()[0]
        says = f"is not what this version reads: {first['msg'].lower()}"
        return Problem(path=first["loc"], says=says, write=again, file=name)
