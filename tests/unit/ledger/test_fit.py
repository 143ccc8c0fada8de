"""Verdicts against starts that vLLM refused, and that it didn't, as people published them."""

import pytest

from planning.serving.ledger.cards import Card, card
from planning.serving.ledger.fit import Fit, fit_of
from planning.serving.ledger.memory import GIB, Run
from tests.unit.ledger import shapes
from tests.unit.ledger.logs import Log, logs
from tests.unit.ledger.stacks import H100, R5090

R5070TI = Card(name="NVIDIA GeForce RTX 5070 Ti", memory_mib=16303, capability=12.0)
"""Not in the table, so that more is kept back than it keeps for itself."""

REFUSED: dict[str, tuple[str, Card, dict[str, object]]] = {
    "8B in 16 bits on 16 GB, 0.23: no memory for blocks": ("Qwen3-8B", R5070TI, {"max_model_len": 8192}),
    "30B of experts in NVFP4 on 16 GB, 0.23: the same": ("Qwen3-30B-A3B-NVFP4", R5070TI, {"max_model_len": 8192}),
    "30B of experts in FP8 on an RTX 5090, vllm-project/vllm#41695": (
        "Qwen3-30B-A3B-FP8",
        card(R5090),
        {"max_model_len": 16384, "utilization": 0.95},
    ),
    "gpt-oss-120b on an H100 with 1.71 GiB left, vllm-project/vllm#27508": (
        "gpt-oss-120b",
        card(H100),
        {"max_model_len": 131072, "utilization": 0.95, "batched_tokens": 1024, "max_num_seqs": 1024, "engine": (0, 11)},
    ),
    "70B in FP8 on an H100 with all of its context, where 5.11 GiB were left": (
        "Llama-3.1-70B-FP8",
        card(H100),
        {"max_model_len": 131072, "utilization": 0.95, "batched_tokens": 8192, "max_num_seqs": 8, "kv_bytes": 1},
    ),
}


def fit(shape: str, on: Card, changes: dict[str, object]) -> Fit:
    run = Run(**{"max_num_seqs": 256, "utilization": 0.9, **changes})  # type: ignore[arg-type]
    return fit_of(shapes.shape(shape), run, on)


@pytest.mark.parametrize("start", REFUSED)
def test_a_start_that_vllm_refused_is_refused(start: str) -> None:
    assert fit(*REFUSED[start]).verdict == "no"


@pytest.mark.parametrize("log", [log for log in logs() if log.memory], ids=str)
def test_a_start_that_succeeded_is_not_refused(log: Log) -> None:
    on = card(log.said["card"])
    assert fit_of(log.architecture, log.run, on).verdict != "no"


@pytest.mark.parametrize("log", [log for log in logs() if log.memory], ids=str)
def test_what_is_said_to_fit_would_have_fitted(log: Log) -> None:
    """At the longest context that the ledger is sure of, what this start had left is enough."""
    found = fit_of(log.architecture, log.run, card(log.said["card"]))
    assert found.sure <= log.kv * GIB


@pytest.mark.parametrize(("shape", "length", "weights"), [("Qwen3-14B-NVFP4", 8192, 9.97), ("Qwen3-8B-FP8", 8192, 8.8)])
def test_what_started_on_16_gb_is_not_refused(shape: str, length: int, weights: float) -> None:
    found = fit(shape, R5070TI, {"max_model_len": length})
    assert found.memory.weights / GIB == pytest.approx(weights, abs=0.35)
    assert found.verdict != "no"
