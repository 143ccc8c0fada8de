"""What is locked of models, as files that are checked in: `stack_configs/models/<owner>--<name>/<commit>.json`."""

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from stack_configs.problems import Problem
from stack_configs.schema.model_lock import ModelLock
from stack_configs.schema.models import Model, ModelSource

FOLDER = "stack_configs/models"


def name_of(source: ModelSource) -> str:
    """Of a model's lock, from the repository's root."""
    return f"{FOLDER}/{source.repo.replace('/', '--')}/{source.revision}.json"


def write(lock: ModelLock, root: Path) -> Path:
    """Replace the lock's file whole, files in the order of their names, so that a diff shows what differs."""
    path = root / name_of(ModelSource(repo=lock.repo, revision=lock.revision))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    data = lock.model_dump(mode="json", exclude_defaults=True)
    new.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return new.replace(path)


def read_all(models: Mapping[str, Model], root: Path) -> tuple[dict[str, ModelLock], list[Problem]]:
    """Locks of the models that have one, and what is wrong with files."""
    found: dict[str, ModelLock] = {}
    problems: dict[str, Problem] = {}
    for name, model in models.items():
        if (root / name_of(model.source)).exists():
            read = read_one(model.source, root)
            if isinstance(read, ModelLock):
                found[name] = read
            else:
                problems[read.file] = read
    return found, list(problems.values())


def read_one(source: ModelSource, root: Path) -> ModelLock | Problem:
    name, again = name_of(source), "write it anew: `python -m tools.lock models`"
    try:
        text = (root / name).read_text(encoding="utf-8")
        json.loads(text)  # for the line of an error
        lock = ModelLock.model_validate_json(text, strict=True)
    except (OSError, UnicodeDecodeError) as error:
        return Problem(path=(), says=f"can't be read: {error}", write=again, file=name)
    except json.JSONDecodeError as error:
        return Problem(path=(), says=f"is not JSON: {error.msg}", write=again, file=name, line=error.lineno)
    except ValidationError as error:
        first = error.errors()[0]
        says = f"is not what this version reads: {first['msg'].lower()}"
        return Problem(path=first["loc"], says=says, write=again, file=name)
    if (lock.repo, lock.revision) != (source.repo, source.revision):
        says = f"is the lock of another model: {lock.repo} at {lock.revision}"
        return Problem(path=("repo",), says=says, write=again, file=name)
    return lock
