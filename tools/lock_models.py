"""Locks models: `stack_configs/models/<owner>--<name>/<commit>.json`, from the hub at the pinned commit.

Large files are hashed by the hub; small ones are read, and compared with git's id of them. Weights are not downloaded:
their headers say how many numbers of which type they hold. `docs/reference/model-lock.md` has the fields.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stack_configs import lock_files
from stack_configs.schema.model_lock import LockedFile, ModelLock
from stack_configs.schema.models import ModelSource
from tools.hub import Absent, Damaged, Hub, HubFile, Unreachable

AT_ONCE = 8
CONFIG, INDEX = "config.json", "model.safetensors.index.json"


def sources(paths: Iterable[Path]) -> dict[str, ModelSource]:
    """Every model source that these stacks name, by `repo at commit`. What `load` refuses is left to it."""
    found: dict[str, ModelSource] = {}
    for path in paths:
        models = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("models") or {}
        for model in models.values():
            try:
                source = ModelSource.model_validate(model["source"])
            except (ValidationError, KeyError, TypeError):
                continue
            found[f"{source.repo} at {source.revision}"] = source
    return found


def locked(hub: Hub, source: ModelSource, today: datetime.date) -> ModelLock:
    """Look everything up. Raises Unreachable, Absent, Damaged."""
    repo, revision = source.repo, source.revision
    files = hub.files(repo, revision)
    by_path = {file.path: file for file in files}
    if CONFIG not in by_path:
        raise Absent(f"{repo} has no {CONFIG} at its top: it isn't a model that vLLM reads")
    small = {file.path: file for file in files if file.sha256 is None}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        contents = dict(
            zip(small, pool.map(lambda file: hub.content(repo, revision, file), small.values()), strict=True)
        )
        config = _json(CONFIG, contents.get(CONFIG) or hub.content(repo, revision, by_path[CONFIG]))
        index = _json(INDEX, contents[INDEX]) if INDEX in contents else None
        weights = _weights(by_path, index)
        headers = list(pool.map(lambda file: hub.tensors(repo, revision, file), weights))
    numbers, size = _numbers(headers, config)
    quantization = (config.get("quantization_config") or {}).get("quant_method")
    return ModelLock(
        repo=repo,
        revision=revision,
        source=f"{hub.url}, asked on {today}",
        files={
            path: LockedFile(
                size=by_path[path].size,
                sha256=by_path[path].sha256 or hashlib.sha256(contents[path]).hexdigest(),
            )
            for path in sorted(by_path)
        },
        complete=True,
        config=config,
        parameters=numbers,
        weights_bytes=size or None,
        quantization=quantization,
    )


def _json(name: str, content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise Damaged(f"{name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Damaged(f"{name} is no object")
    return found


def _weights(files: Mapping[str, HubFile], index: Mapping[str, Any] | None) -> list[HubFile]:
    """The files that the engine loads: those of the index, or all safetensors at the top but Mistral's own layout."""
    if index is not None:
        names = sorted(set(index.get("weight_map", {}).values()))
        if missing := [name for name in names if name not in files]:
            raise Damaged(f"{INDEX} names files that aren't there: {', '.join(missing)}")
        return [files[name] for name in names]
    top = [name for name in sorted(files) if "/" not in name and name.endswith(".safetensors")]
    return [files[name] for name in [n for n in top if not n.startswith("consolidated")] or top]


def _numbers(headers: Iterable[Mapping[str, Any]], config: Mapping[str, Any]) -> tuple[dict[str, int], int]:
    """Numbers by type, and bytes of all tensors, without draft layers."""
    numbers: Counter[str] = Counter()
    size = 0
    for header in headers:
        for name, tensor in header.items():
            if _is_draft(name, config):
                continue
            start, end = tensor["data_offsets"]
            size += end - start
            count = 1
            for length in tensor["shape"]:
                count *= length
            numbers[tensor["dtype"]] += count
    return dict(sorted(numbers.items())), size


def _is_draft(name: str, config: Mapping[str, Any]) -> bool:
    """Multi-token prediction: layers beyond the model's own, loaded for speculative decoding only."""
    if re.search(r"(^|\.)mtp\.", name):
        return True
    layer = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    last = config.get("num_hidden_layers")
    drafts = config.get("num_nextn_predict_layers") or 0
    return bool(layer and isinstance(last, int) and drafts and int(layer[1]) >= last)


def lock_models(stacks: Iterable[Path], root: Path, check: bool, hub: Hub, say: Callable[[str], None] = print) -> int:
    """Lock what these stacks name; write what differs unless `check`. 0 when nothing is left to do."""
    today = datetime.datetime.now(datetime.UTC).date()
    wanted = sources(stacks)
    written, differing, unknown = 0, 0, []
    for name, source in wanted.items():
        try:
            new = locked(hub, source, today)
        except (Unreachable, Absent, Damaged) as error:
            say(f"!!  {name}: {error}")
            unknown.append(name)
            continue
        old = lock_files.read_one(source, root) if (root / lock_files.name_of(source)).exists() else None
        if isinstance(old, ModelLock) and old.model_copy(update={"source": new.source}) == new:
            say(f"ok  {name}: {len(new.files)} files are as locked")
            continue
        differing += 1
        if old is None:
            what = "has no lock yet"
        else:
            what = f"differs from its lock in {_differences(old, new)}" if isinstance(old, ModelLock) else old.says
        say(f"!!  {name}: {what}; {len(new.files)} files, {(new.weights_bytes or 0) / 1e9:.1f} GB of weights")
        if not check:
            lock_files.write(new, root)
            written += 1
    if written:
        say(f"wrote {written} of {len(wanted)} locks below {lock_files.FOLDER}/; read `git diff` before you trust them")
    if unknown:
        say(f"left as they were, because they could not be looked up: {', '.join(unknown)}")
    if differing and check:
        say("`python -m tools.lock models` writes what the hub says")
    return 1 if unknown or (check and differing) else 0


def _differences(old: ModelLock, new: ModelLock) -> str:
    files = [path for path in sorted({*old.files, *new.files}) if old.files.get(path) != new.files.get(path)]
    rest = [
        key
        for key in ModelLock.model_fields
        if key not in ("files", "source") and getattr(old, key) != getattr(new, key)
    ]
    return ", ".join([*files, *rest])
