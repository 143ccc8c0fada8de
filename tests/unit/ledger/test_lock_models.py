"""Model locks: looked up on a hub, verified, written, read by `load`; and every way in which that can't be."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from planning.serving.ledger.architecture import architecture_of
from planning.serving.ledger.memory import Run, weights_on_gpu
from stack_configs import lock_files
from stack_configs.load import ROOT, Settings, load
from stack_configs.problems import SpecError
from stack_configs.schema.model_lock import ModelLock
from stack_configs.schema.models import ModelSource
from tests.unit.ledger import shapes
from tests.unit.ledger.local_hub import REPO, REVISION, LocalHub, safetensors, serving
from tools.hub import Hub
from tools.lock_models import lock_models

SOURCE = ModelSource(repo=REPO, revision=REVISION)
FILES = {
    ".gitattributes": b"*.safetensors filter=lfs",
    "config.json": json.dumps(shapes.config("Qwen3-8B")).encode(),
    "model.safetensors.index.json": json.dumps(
        {
            "metadata": {"total_size": 1},
            "weight_map": {
                "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
                "model.layers.0.mlp.up_proj.weight": "model-00001-of-00002.safetensors",
                "mtp.fc.weight": "model-00002-of-00002.safetensors",
                "lm_head.weight": "model-00002-of-00002.safetensors",
            },
        }
    ).encode(),
    "model-00001-of-00002.safetensors": safetensors(
        {"model.embed_tokens.weight": ("BF16", (100, 8)), "model.layers.0.mlp.up_proj.weight": ("F8_E4M3", (16, 8))}
    ),
    "model-00002-of-00002.safetensors": safetensors(
        {"mtp.fc.weight": ("BF16", (8, 8)), "lm_head.weight": ("BF16", (100, 8))}
    ),
    "tokenizer.json": b'{"version": "1.0"}',
    "pytorch_model.bin": b"the same weights again",
}


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    with serving(FILES) as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one stack, whose two models have one source."""
    folder = tmp_path / "stack_configs"
    shutil.copytree(ROOT / "stack_configs" / "versions", folder / "versions")
    stack = yaml.safe_load((ROOT / "stack_configs" / "dev.yaml").read_text())
    model = stack["models"].pop("chat")
    model["source"] = {"repo": REPO, "revision": REVISION}
    stack["models"] = {"first": model, "second": model}
    (folder / "dev.yaml").write_text(yaml.safe_dump(stack))
    return tmp_path


def run(hub: LocalHub, root: Path, *, check: bool = False, token: str | None = None) -> tuple[int, str]:
    said: list[str] = []
    status = lock_models([root / "stack_configs" / "dev.yaml"], root, check, Hub(hub.url, token), said.append)
    return status, "\n".join(said)


def written(root: Path) -> ModelLock:
    found = lock_files.read_one(SOURCE, root)
    assert isinstance(found, ModelLock), found
    return found


def test_everything_of_the_commit_is_locked(hub: LocalHub, root: Path) -> None:
    assert run(hub, root)[0] == 0
    lock = written(root)
    assert lock.complete
    assert {name: (file.size, file.sha256) for name, file in lock.files.items()} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in FILES.items()
    }
    assert lock.config == shapes.config("Qwen3-8B")
    assert hub.url in lock.source


def test_numbers_are_those_of_the_headers_without_draft_layers(hub: LocalHub, root: Path) -> None:
    run(hub, root)
    lock = written(root)
    assert lock.parameters == {"BF16": 1600, "F8_E4M3": 128}
    assert lock.weights_bytes == 1600 * 2 + 128


def test_no_weights_are_downloaded(hub: LocalHub, root: Path) -> None:
    run(hub, root)
    stored = [asked for asked in hub.asked if asked.host == "store"]
    assert {asked.path.split("?")[0].split("-")[0] for asked in stored} == {"/model"}
    assert all(asked.range for asked in stored)
    assert len([asked for asked in hub.asked if "/api/" in asked.path]) == 1, "one source is asked for once"


def test_the_ledger_counts_with_the_locks_bytes(hub: LocalHub, root: Path) -> None:
    run(hub, root)
    lock = written(root)
    plain = Run(max_model_len=128, max_num_seqs=1, utilization=0.9)
    assert lock.weights_bytes
    assert weights_on_gpu(architecture_of(lock.config), plain, lock.weights_bytes) < 64 * 1024**2


def test_load_hands_the_lock_to_every_model_of_that_source(hub: LocalHub, root: Path) -> None:
    settings = Settings(key_hashes={"me": "0" * 64})
    assert load("dev", settings, root).locks == {}
    run(hub, root)
    assert load("dev", settings, root).locks == {"first": written(root), "second": written(root)}


def test_a_second_run_changes_nothing(hub: LocalHub, root: Path) -> None:
    run(hub, root)
    before = (root / lock_files.name_of(SOURCE)).read_text()
    assert run(hub, root) == (0, f"ok  {REPO} at {REVISION}: 7 files are as locked")
    assert run(hub, root, check=True)[0] == 0
    assert (root / lock_files.name_of(SOURCE)).read_text() == before


def test_check_writes_nothing_and_names_what_differs(hub: LocalHub, root: Path) -> None:
    assert run(hub, root, check=True)[0] == 1
    assert not (root / lock_files.name_of(SOURCE)).exists()
    run(hub, root)
    hub.files["tokenizer.json"] = b'{"version": "2.0"}'
    status, said = run(hub, root, check=True)
    assert status == 1
    assert "differs from its lock in tokenizer.json" in said
    assert written(root).files["tokenizer.json"].sha256 == hashlib.sha256(FILES["tokenizer.json"]).hexdigest()


def test_the_token_is_for_the_hub_alone(hub: LocalHub, root: Path) -> None:
    hub.gated = "hf_secret"
    status, said = run(hub, root)
    assert status == 1
    assert "HTTP 401): its owner must let you in, and HF_TOKEN must say who you are" in said
    assert run(hub, root, token="hf_secret")[0] == 0
    assert {asked.token for asked in hub.asked if asked.host == "hub"} == {None, "Bearer hf_secret"}
    assert {asked.token for asked in hub.asked if asked.host == "store"} == {None}
    assert "hf_secret" not in (root / lock_files.name_of(SOURCE)).read_text()


def without(name: str) -> dict[str, bytes]:
    return {key: content for key, content in FILES.items() if key != name}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"sent": {"config.json": FILES["config.json"].replace(b"4096", b"4097")}},
            "config.json of someone/small-model",
        ),
        ({"sent": {"config.json": FILES["config.json"][:-2]}}, "is not what the hub says it is"),
        ({"sent": {"model-00001-of-00002.safetensors": b"{" * 400}}, "is no safetensors file"),
        ({"sent": {"model-00001-of-00002.safetensors": b"\2\0\0\0"}}, "4 bytes came where 8 were asked for"),
        ({"files": without("config.json")}, "has no config.json at its top"),
        ({"files": without("model-00002-of-00002.safetensors")}, "names files that aren't there: model-00002"),
        ({"files": {**FILES, "config.json": b"[]"}}, "config.json is no object"),
        ({"files": {**FILES, "config.json": b"{"}}, "config.json is not JSON"),
        ({"sha": "b" * 40}, f"the hub takes {REVISION} of {REPO} for {'b' * 40}"),
        ({"ranges": False}, "sends no parts of files"),
    ],
)
def test_what_cannot_be_trusted_is_not_locked(hub: LocalHub, root: Path, changes: dict[str, Any], says: str) -> None:
    for key, value in changes.items():
        setattr(hub, key, value)
    status, said = run(hub, root)
    assert status == 1
    assert says in said
    assert f"left as they were, because they could not be looked up: {REPO} at {REVISION}" in said
    assert not (root / lock_files.name_of(SOURCE)).exists()


def test_a_model_that_the_hub_has_not(hub: LocalHub, root: Path) -> None:
    path = root / "stack_configs" / "dev.yaml"
    path.write_text(path.read_text().replace(REVISION, "c" * 40))
    assert "the hub has no someone/small-model at cccc" in run(hub, root)[1]


def test_a_hub_that_does_not_answer(root: Path) -> None:
    said: list[str] = []
    assert lock_models([root / "stack_configs" / "dev.yaml"], root, False, Hub("http://127.0.0.1:9"), said.append) == 1
    assert "http://127.0.0.1:9 does not answer: " in said[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[:-20], "is not JSON"),
        (lambda text: text.replace("weights_bytes", "weight_bytes"), "is not what this version reads"),
        (lambda text: text.replace(REPO, "someone/else"), "is the lock of another model: someone/else"),
    ],
    ids=["cut", "an unknown key", "another model's"],
)
def test_a_damaged_lock_is_a_problem_of_its_own_file(hub: LocalHub, root: Path, change: Any, says: str) -> None:
    run(hub, root)
    path = root / lock_files.name_of(SOURCE)
    path.write_text(change(path.read_text()))
    with pytest.raises(SpecError, match=says) as raised:
        load("dev", Settings(key_hashes={"me": "0" * 64}), root)
    (problem,) = raised.value.problems
    assert problem.file == lock_files.name_of(SOURCE)
    assert "python -m tools.lock models" in problem.write
    assert run(hub, root)[0] == 0, "and is written anew"
    assert load("dev", Settings(key_hashes={"me": "0" * 64}), root).locks
