"""`make plan`: the ledger as a table and as JSON, and a model that isn't deployed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from planning.serving.ledger.memory import GIB
from planning.serving.ledger.stack import ledger
from tests.unit.ledger import shapes
from tests.unit.ledger.stacks import R4090, R5090, one, stack
from tools import fit

PROD = {
    "large": {"shape": "Qwen3-32B-FP8", "on": [("studio-1", [0, 1])], "max_model_len": 16384, "max_num_seqs": 32},
    "small": {"shape": "Qwen3-8B", "on": [("studio-2", [0])], "max_model_len": 16384, "max_num_seqs": 32},
}


def config_file(tmp_path: Path, shape: str) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(shapes.config(shape)))
    return path


def test_a_stack_as_a_table() -> None:
    found = ledger(stack(PROD, {"studio-1": (R5090, R5090), "studio-2": (R4090,)}))
    lines = fit.stack_text(found, 2000).splitlines()
    assert lines[2].split() == ["of", "weights", "KV", "cache", "activation", "graphs", "engine", "beside", "left"]
    assert [line.split()[0] for line in lines[3:9]] == [
        "studio-1",
        "large-0",
        "studio-1",
        "large-0",
        "studio-2",
        "small-0",
    ]
    assert len({len(line) for line in (lines[3], lines[5], lines[7])}) == 1, "columns stand under each other"
    text = "\n".join(lines)
    assert "large-0 on 2 GPUs of studio-1: fits" in text
    assert "about 86,528 tokens of KV cache, 72,192 at least, 131,072 bytes each on a GPU" in text
    assert "about 5.3 requests of 16,384 tokens at once, 32 users at 2,000" in text
    assert "in 4 bits: 9.2 GiB of weights" in text


def test_each_gpus_figures_sum_to_the_card() -> None:
    data = fit.stack_data(ledger(stack(PROD, {"studio-1": (R5090, R5090), "studio-2": (R4090,)})), 2000)
    assert len(data["gpus"]) == 3
    for gpu in data["gpus"]:
        parts = [sum(value for key, value in model.items() if key.endswith("_mib")) for model in gpu["models"]]
        promised = [2 * model["requested_mib"] for model in gpu["models"]]
        assert parts == pytest.approx(promised, abs=6), "weights, KV cache and the rest are what was asked for"
        left = gpu["cuda_mib"] - sum(model["requested_mib"] for model in gpu["models"]) - gpu["beside_mib"]
        assert gpu["left_mib"] == pytest.approx(left, abs=3)


def test_what_is_not_counted_says_why() -> None:
    found = ledger(stack(PROD, {"studio-1": (R5090, R5090), "studio-2": (R4090,)}, unlocked=("large",)))
    assert "large-0 on 2 GPUs of studio-1: not counted, because someone/Qwen3-32B-FP8 is not locked" in fit.stack_text(
        found, 2000
    )
    large, small = fit.stack_data(found, 2000)["replicas"]
    assert large["not_counted"] == "someone/Qwen3-32B-FP8 is not locked"
    assert small["verdict"] == "fits"


def test_a_stack_without_gpus_says_so() -> None:
    assert "No model runs on a GPU" in fit.stack_text(ledger(one("Qwen3-8B")), 2000)


@pytest.mark.parametrize(("flags", "status"), [((), 0), (("--context=40960",), 1)])
def test_a_model_that_is_not_deployed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], status: int
) -> None:
    argv = ["--model", str(config_file(tmp_path, "Qwen3-8B")), "--gpu", "rtx 4090", *flags]
    assert fit.main(argv) == status
    text = capsys.readouterr().out
    assert text.startswith(f"Qwen3ForCausalLM, 8.2e9 parameters: {'doesn' if status else 'fits'}")
    assert fit.main([*argv, "--json"]) == status
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert data["verdict"] == ("no" if status else "fits")
    assert f"{data['kv_tokens']:,} tokens of KV cache" in text
    assert data["typical_users"] == (0 if status else 16)


def test_a_lock_knows_its_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lock.json"
    lock = {"repo": "a/b", "revision": "0" * 40, "source": "a test", "config": shapes.config("Qwen3-8B")}
    path.write_text(json.dumps({**lock, "weights_bytes": 10 * GIB}))
    assert fit.main(["--model", str(path), "--gpu", "RTX 4090", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"]["weights_mib"] == pytest.approx(10 * 1024, abs=64)


def test_a_card_that_nobody_measured_is_counted_by_what_nvidia_smi_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model", str(config_file(tmp_path, "Qwen3-8B")), "--gpu-mib", "16303", "--capability", "12.0"]
    assert fit.main([*argv, "--gpu", "NVIDIA GeForce RTX 5070 Ti"]) == 1
    assert "doesn't fit" in capsys.readouterr().out  # and it didn't: a log of vLLM 0.23 on that card, 2026-06


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--gpu", "RTX"], "'RTX' is several cards: name one of NVIDIA GeForce RTX 3060"),
        (["--gpu", "Voodoo"], "'Voodoo' is no card that was measured"),
        ([], "name a card"),
    ],
)
def test_a_card_must_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], says: str) -> None:
    assert fit.main(["--model", str(config_file(tmp_path, "Qwen3-8B")), *argv]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("no JSON", "neither a lock nor a config.json"),
        ("[]", "neither a lock nor a config.json"),
        ('{"model_type": "mamba2"}', "models of type 'mamba2' can't be counted yet"),
    ],
)
def test_a_file_that_cannot_be_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    assert fit.main(["--model", str(path), "--gpu", "RTX 4090"]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("hosts", "says"),
    [
        (3, None),
        (4, r"4 hosts over SSH: a preview takes about 0\.3 GiB and 3 s of CPU time .* should hold 48 at most"),
        (48, r"one stack should hold 48 at most"),
        (49, r"49 hosts .* split them into 2 stacks of 48 at most"),
    ],
)
def test_what_the_number_of_hosts_costs_whoever_runs_pulumi(
    hosts: int, says: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [(f"studio-{number}", [0]) for number in range(hosts)]
    spec = stack({"chat": {"shape": "Qwen3-8B", "on": places[:1]}}, {name: (R5090,) for name, _ in places})
    monkeypatch.setattr(fit, "described", lambda _stack: spec)
    monkeypatch.setattr(fit, "located", lambda _stack, _found: ())
    fit.main(["--stack", "prod"])
    said = capsys.readouterr().out
    assert ("over SSH" in said) == (says is not None)
    assert re.search(says or "", said)


def test_the_shipped_stack_needs_no_keys_to_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit.main(["--stack", "prod"]) == 0
    assert "large-0 on 2 GPUs of studio-1" in capsys.readouterr().out
