"""The ledger's refusals and warnings reach whoever runs `pulumi preview`: with the line, before any resource."""

import json
import re
import runpy
import shutil
from pathlib import Path

import pulumi
import pytest

from planning.serving.ledger import rules
from planning.serving.ledger.rules import Found, ledger_problems
from stack_configs import facts_files, lock_files
from stack_configs.load import ROOT, Settings, load, located
from stack_configs.problems import SpecError
from stack_configs.schema.model_lock import ModelLock
from stack_configs.schema.stack import StackSpec
from tests.unit.built import built, fails_with
from tests.unit.hosts.shaped import GPU, facts, gpu
from tests.unit.ledger import shapes

REPO, REVISION = "Qwen/Qwen3-8B", "b968826d9c46dd6066d109eabc6255188de91218"
STACK = f"""\
versions: "2026.11"
hosts:
  studio-1:
    connection:
      kind: ssh
      address: studio-1.mesh.example.org
      user: ops
      host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIumnuqwAbwVxkW3A3ilAXsq50U+4ysZRVQ/mbTSRxUJ
    gpus: [{GPU}]
models:
  chat:
    source: {{repo: {REPO}, revision: {REVISION}}}
    replicas: [{{host: studio-1, gpus: [{GPU}]}}]
    max_model_len: 40960
    memory_mib: 32768
gateway:
  keys:
    me: {{}}
"""


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A repository's stack_configs with one stack `scratch`, its host's facts and its model's lock."""
    folder = tmp_path / "stack_configs"
    shutil.copytree(ROOT / "stack_configs" / "versions", folder / "versions")
    (folder / "scratch.yaml").write_text(STACK)
    facts_files.write("scratch", facts(gpus=(gpu("RTX 4090"),)), tmp_path)
    lock = ModelLock(repo=REPO, revision=REVISION, source="a test", config=shapes.config("Qwen3-8B"))
    lock_files.write(lock, tmp_path)
    return tmp_path


def test_refusals_read_like_those_of_load(scratch: Path) -> None:
    spec = load("scratch", Settings(key_hashes={"me": "0" * 64}), scratch)
    told = str(SpecError(located("scratch", ledger_problems(spec), scratch)))
    assert re.fullmatch(
        "the stack's description can't be used:\n"
        r"stack_configs/scratch\.yaml:14  models\.chat\.max_model_len\n"
        r"    one request of 40960 tokens needs 5\.6 GiB of KV cache on each GPU; NVIDIA GeForce RTX 4090 on studio-1 "
        r"has about 4\.6 left for it: vLLM refuses to start\n"
        r"    write `max_model_len: 20480` or less; or a model published in FP8 \(8\.8 GiB of weights\); or 2 GPUs "
        r"like it in `gpus`; or a card of 32 GiB \(NVIDIA GeForce RTX 5090\)\n"
        r"1 problem\. Nothing was changed\.",
        told,
    ), told


@pytest.fixture
def dev_config() -> None:
    config = {"images": "built", "weights": "random", "key-hashes": json.dumps({"me": "0" * 64})}
    pulumi.runtime.set_all_config({f"inference-stack:{key}": value for key, value in config.items()})


def program() -> None:
    runpy.run_path(str(ROOT / "__main__.py"))


@pytest.mark.usefixtures("dev_config")
def test_the_program_stops_at_a_refusal_before_any_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(spec: StackSpec) -> tuple[Found, ...]:
        return ((("models", "chat", "max_model_len"), f"doesn't fit in {spec.stack}", "write less"),)

    monkeypatch.setattr(rules, "ledger_problems", refuse)
    with fails_with(
        r"stack_configs/dev\.yaml:\d+  models\.chat\.max_model_len\n    doesn't fit in dev\n    write less\n1 problem\."
    ):
        built(program)


@pytest.mark.usefixtures("dev_config")
def test_the_program_says_the_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", said.append)
    monkeypatch.setattr(rules, "ledger_warnings", lambda _spec: ((("models", "chat"), "is tight", "write less"),))
    assert len(built(program)) > 10
    assert said[-1].endswith("  models.chat\n    is tight\n    write less")
