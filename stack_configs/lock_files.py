"""What is locked of models, as files that are checked in: `stack_configs/models/<owner>--<name>/<commit>.json`."""

from collections.abc import Mapping
from pathlib import Path

from stack_configs import json_files
from stack_configs.problems import Problem
from stack_configs.schema.model_lock import ModelLock
from stack_configs.schema.models import Model, ModelSource

FOLDER = "stack_configs/models"


def name_of(source: ModelSource) -> str:
    """Of a model's lock, from the repository's root."""
    return f"{FOLDER}/{source.repo.replace('/', '--')}/{source.revision}.json"


def write(lock: ModelLock, root: Path) -> Path:
    """Write the lock's file."""
    path = root / name_of(ModelSource(repo=lock.repo, revision=lock.revision))
    return json_files.write(path, lock.model_dump(mode="json", exclude_defaults=True))


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
    lock = json_files.read(ModelLock, name, root, again)
    if isinstance(lock, ModelLock) and (lock.repo, lock.revision) != (source.repo, source.revision):
        says = f"is the lock of another model: {lock.repo} at {lock.revision}"
        return Problem(path=("repo",), says=says, write=again, file=name)
    return lock
