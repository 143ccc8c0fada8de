"""Rules of thumb that people publish, as the ledger sees them. docs/will-it-fit.md has the same rows."""

import pytest

from planning.serving.ledger.architecture import FAMILIES
from planning.serving.ledger.cards import TABLE
from planning.serving.ledger.fit import TYPICAL_TOKENS, Fit
from planning.serving.ledger.rules import ledger_problems, ledger_warnings
from planning.serving.ledger.stack import ledger
from stack_configs.load import ROOT
from stack_configs.schema.model_lock import ModelLock
from tests.unit.ledger.stacks import H100, PRO6000, R4090, R5090, one, stack
from tools.fit import gib, stack_text

PAGE = ROOT / "docs" / "will-it-fit.md"
R3060, R5060TI = "NVIDIA GeForce RTX 3060", "NVIDIA GeForce RTX 5060 Ti"

CASES = {
    "7B in 16 bits on 24 GB": ("Qwen2.5-7B", (R4090,), 16384, "fits"),
    "8B in 16 bits on 24 GB": ("Qwen3-8B", (R4090,), 16384, "fits"),
    "8B in 16 bits on 32 GB": ("Llama-3.1-8B", (R5090,), 32768, "fits"),
    "14B in 16 bits on 32 GB": ("Qwen3-14B", (R5090,), 4096, "no"),
    "32B in FP8 on two of 24 GB": ("Qwen3-32B-FP8", (R4090, R4090), 8192, "fits"),
    "70B in FP8 on 96 GB": ("Llama-3.1-70B-FP8", (PRO6000,), 32768, "fits"),
    "gpt-oss-20b on 16 GB": ("gpt-oss-20b", (R5060TI,), 8192, "no"),
    "gpt-oss-20b on 24 GB": ("gpt-oss-20b", (R4090,), 131072, "fits"),
    "gpt-oss-120b on 80 GB": ("gpt-oss-120b", (H100,), 131072, "no"),
    "embeddings on 12 GB": ("bge-m3", (R3060,), 8192, "fits"),
}
"""Rule → shape, cards, context, what is true at 0.9 of the card and 32 requests at once."""


def fit_for(rule: str) -> Fit:
    shape, cards, context, _ = CASES[rule]
    found = ledger(one(shape, *cards, max_model_len=context, max_num_seqs=32)).placed[0].fit
    assert found
    return found


def row(rule: str, fit: Fit) -> str:
    """As the page has it."""
    cards = f"{len(CASES[rule][1])} x " if len(CASES[rule][1]) > 1 else ""
    kv = f"{fit.tokens:,}, {fit.sure_tokens:,} at least" if fit.pool.groups else "none needed"
    return (
        f"| {rule} | {CASES[rule][0]}, {cards}{fit.card.name.removeprefix('NVIDIA ').removeprefix('GeForce ')} | "
        f"{gib(fit.memory.weights)} of {gib(fit.memory.requested)} GiB | {kv} | {fit.longest:,} | "
        f"{'yes' if fit.verdict == 'fits' else 'no'}, at {fit.run.max_model_len:,} |"
    )


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_of_thumb(rule: str) -> None:
    assert fit_for(rule).verdict == CASES[rule][3]


@pytest.mark.parametrize("rule", CASES)
def test_the_page_has_the_same_figures(rule: str) -> None:
    assert row(rule, fit_for(rule)) in PAGE.read_text()


def test_whisper_beside_a_language_model_on_32_gb() -> None:
    models = {
        "chat": {
            "shape": "Llama-3.1-8B",
            "on": [("studio-1", [0])],
            "gpu_memory_utilization": 0.73,
            "max_model_len": 16384,
        },
        "speech": {
            "shape": "whisper-large-v3",
            "on": [("studio-1", [0])],
            "gpu_memory_utilization": 0.22,
            "max_model_len": 448,
        },
    }
    spec = stack(models, {"studio-1": (R5090,)})
    assert ledger_problems(spec) == ledger_warnings(spec) == ()
    assert [placed.fit.verdict for placed in ledger(spec).placed if placed.fit] == ["fits", "fits"]


def test_the_page_names_every_card_that_was_measured() -> None:
    text = PAGE.read_text()
    assert [name for name in TABLE if name.removeprefix("NVIDIA ") not in text] == []


def test_the_page_names_every_kind_that_is_counted() -> None:
    text = PAGE.read_text()
    assert [family for family in FAMILIES if f"`{family}`" not in text] == []


def test_the_page_shows_what_make_plan_prints() -> None:
    models = {
        "large": {"shape": "Qwen3-32B-FP8", "on": [("studio-1", [0, 1])], "max_model_len": 16384, "max_num_seqs": 32},
        "small": {"shape": "Qwen3-8B", "on": [("studio-2", [0])], "max_model_len": 16384, "max_num_seqs": 32},
    }
    found = ledger(stack(models, {"studio-1": (R5090, R5090), "studio-2": (R4090,)}))
    assert f"```\n{stack_text(found, TYPICAL_TOKENS)}\n```" in PAGE.read_text()


def test_the_reference_names_every_field_of_a_lock() -> None:
    text = (ROOT / "docs" / "reference" / "model-lock.md").read_text()
    assert [field for field in ModelLock.model_fields if f"| `{field}` |" not in text] == []
