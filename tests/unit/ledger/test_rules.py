"""What a preview refuses and what it warns of, because of memory: where it is told, what is said, what to write."""

import re

import pytest

from planning.serving.ledger.memory import GIB
from planning.serving.ledger.rules import Found, ledger_problems, ledger_warnings
from planning.serving.ledger.stack import ledger
from stack_configs.problems import dotted
from stack_configs.schema.stack import StackSpec
from tests.unit.ledger.stacks import H100, PRO6000, R4090, R5090, T4, one, stack

BESIDE_EACH_OTHER = {
    "large": {"shape": "Qwen3-32B-FP8", "on": [("studio-1", [0, 1])], "max_model_len": 16384, "max_num_seqs": 32},
    "small": {"shape": "Qwen3-8B", "on": [("studio-2", [0])], "max_model_len": 16384, "max_num_seqs": 32},
}
HOSTS = {"studio-1": (R5090, R5090), "studio-2": (R4090,)}


def told(found: tuple[Found, ...]) -> list[str]:
    return [dotted(path) for path, _, _ in found]


def only(found: tuple[Found, ...]) -> Found:
    (single,) = found
    return single


def test_a_stack_that_fits_is_neither_refused_nor_warned_of() -> None:
    spec = stack(BESIDE_EACH_OTHER, HOSTS, fallbacks={"large": ["small"]})
    assert ledger_problems(spec) == ()
    assert ledger_warnings(spec) == ()


def test_a_context_that_is_too_long_is_refused_with_one_that_fits() -> None:
    path, says, write = only(ledger_problems(one("Qwen3-8B", R4090, max_model_len=40960)))
    assert dotted(path) == "models.chat.max_model_len"
    assert re.fullmatch(
        r"one request of 40960 tokens needs 5\.6 GiB of KV cache on each GPU; NVIDIA GeForce RTX 4090 on studio-1 has "
        r"about 4\.\d left for it: vLLM refuses to start",
        says,
    ), says
    fits = re.match(r"write `max_model_len: (\d+)` or less; or a model published in FP8 \(8\.8 GiB", write)
    assert fits, write
    assert ledger_problems(one("Qwen3-8B", R4090, max_model_len=int(fits[1]))) == ()
    assert ledger_warnings(one("Qwen3-8B", R4090, max_model_len=int(fits[1]))) == ()


def test_weights_that_are_too_large_are_refused_with_what_would_fit() -> None:
    path, says, write = only(ledger_problems(one("Qwen3-32B", R5090)))
    assert dotted(path) == "models.chat.replicas[0].gpus"
    assert "before any KV cache, 61." in says
    assert write.startswith("a model published in 4 bits (18.")
    assert "4 GPUs like it in `gpus`" in write
    assert "a card of 80 GiB" in write


@pytest.mark.parametrize(
    ("shape", "cards", "says", "write"),
    [
        ("Qwen2.5-7B", 3, "28 attention heads can't be split between 3 GPUs", "name 1, 2 or 4 GPUs"),
        ("Qwen3-8B", 3, "32 attention heads can't be split between 3 GPUs", "name 1, 2, 4 or 8 GPUs"),
        ("Qwen2.5-0.5B", 4, "14 attention heads can't be split between 4 GPUs", "name 1 or 2 GPUs"),
        ("Qwen2.5-7B", 14, "4 heads of K and V can't be split between 14 GPUs", "name 1, 2 or 4 GPUs"),
        ("Qwen3-32B-FP8", 16, "25600 can't be split in 16 parts of whole blocks", "name 1, 2, 4 or 8 GPUs"),
    ],
)
def test_gpus_that_the_model_cannot_be_split_between(shape: str, cards: int, says: str, write: str) -> None:
    path, said, wrote = only(ledger_problems(one(shape, *[R4090] * cards)))
    assert dotted(path) == "models.chat.replicas[0].gpus"
    assert says in said
    assert wrote == write


def test_a_quantization_that_the_generation_cannot_run() -> None:
    path, says, write = only(ledger_problems(one("gpt-oss-20b", T4)))
    assert dotted(path) == "models.chat.replicas[0].gpus"
    assert "mxfp4 weights need compute capability 8.0 or higher, and Tesla T4 has 7.5" in says
    assert "newer card" in write


def test_a_quantization_that_the_card_runs_in_16_bits_is_warned_of() -> None:
    spec = one("Qwen3-8B-FP8", "NVIDIA GeForce RTX 3090")
    assert ledger_problems(spec) == ()
    path, says, _ = only(ledger_warnings(spec))
    assert dotted(path) == "models.chat.replicas[0].gpus"
    assert "computes in 16 bits: fp8 arithmetic begins at compute capability 8.9" in says


def test_bfloat16_on_a_card_without() -> None:
    path, says, write = only(ledger_problems(one("Qwen2.5-0.5B", T4, dtype="bfloat16")))
    assert dotted(path) == "models.chat.dtype"
    assert "Tesla T4 has 7.5" in says
    assert "float16" in write


def test_a_context_that_the_model_was_not_made_for() -> None:
    path, says, write = only(ledger_problems(one("Qwen3-8B", H100, max_model_len=65536)))
    assert dotted(path) == "models.chat.max_model_len"
    assert "more than the 40960" in says
    assert write == "write 40960 or less"


def shared(*shares: float) -> StackSpec:
    models = {
        f"model-{index}": {
            "shape": "Qwen2.5-0.5B",
            "on": [("studio-1", [0])],
            "gpu_memory_utilization": share,
            "max_num_seqs": 8,
        }
        for index, share in enumerate(shares)
    }
    return stack(models, {"studio-1": (R4090,)})


def test_a_gpu_that_is_promised_beyond_its_memory() -> None:
    spec = shared(0.5, 0.4, 0.1)
    path, says, write = next(found for found in ledger_problems(spec) if found[0][-1] == "gpu_memory_utilization")
    assert dotted(path) == "models.model-2.gpu_memory_utilization"
    assert "has 23.5 GiB for CUDA, and is promised 23.5 (model-0 0.5, model-1 0.4, model-2 0.1)" in says
    most = re.match(r"lower the shares until they sum to (0\.\d+) or less", write)
    assert most
    third = float(most[1]) / 3 - 0.001
    assert ledger_problems(shared(third, third, third)) == ()
    assert ledger_warnings(shared(third, third, third)) == ()


def test_a_gpu_that_is_promised_nearly_all_is_warned_of() -> None:
    spec = shared(0.6, 0.36)
    assert ledger_problems(spec) == ()
    path, says, _ = only(ledger_warnings(spec))
    assert dotted(path) == "models.model-1.gpu_memory_utilization"
    assert "is tight" in says


def test_what_is_left_is_the_whole_less_all_promises() -> None:
    (account,) = ledger(shared(0.4, 0.3)).accounts
    assert account.card
    assert account.left + account.promised + account.beside == account.card.total
    assert [placed.model for placed in account.placed] == ["model-0", "model-1"]


@pytest.mark.parametrize("beyond", ["what is sure", "what is expected"])
def test_a_context_that_may_or_may_not_start_is_tight(beyond: str) -> None:
    found = ledger(one("Qwen3-8B", R4090, max_model_len=128)).placed[0].fit
    assert found
    length = (found.longest if beyond == "what is sure" else found.tokens) + 128
    spec = one("Qwen3-8B", R4090, max_model_len=length)
    assert ledger_problems(spec) == ()
    path, says, write = only(ledger_warnings(spec))
    assert dotted(path) == "models.chat.max_model_len"
    assert "is tight" in says
    assert "may be 0.5 too low or 1.8 too high" in says
    assert write == f"write `max_model_len: {found.longest // 1024 * 1024}` to be sure"


@pytest.mark.parametrize(
    ("missing", "path", "says", "write"),
    [
        (
            {"unlocked": ("small",)},
            "models.small.source",
            "someone/Qwen3-8B is not locked",
            "`python -m tools.lock models --stack prod`",
        ),
        (
            {"unknown": ("studio-2",)},
            "models.small.replicas[0].gpus",
            "whether it fits wasn't counted",
            "`make facts STACK=prod HOST=studio-2`",
        ),
    ],
)
def test_what_nobody_looked_up_is_told_and_not_refused(
    missing: dict[str, tuple[str, ...]], path: str, says: str, write: str
) -> None:
    spec = stack(BESIDE_EACH_OTHER, HOSTS, fallbacks={"large": ["small"]}, **missing)
    assert ledger_problems(spec) == ()
    where, said, wrote = only(ledger_warnings(spec))
    assert dotted(where) == path
    assert says in said
    assert wrote == write


@pytest.mark.parametrize(
    "changes",
    [
        {"extra_args": ("--speculative-config={}",)},
        {"extra_args": ("--kv-cache-dtype=turboquant_4bit",)},
        {"extra_args": ("--enable-lora",)},
    ],
)
def test_arguments_that_change_memory_in_other_ways_are_told(changes: dict[str, tuple[str, ...]]) -> None:
    spec = one("Qwen3-8B", R4090, **changes)
    assert ledger_problems(spec) == ()
    assert "can't be counted yet" in only(ledger_warnings(spec))[1]


def test_arguments_that_are_counted() -> None:
    plain = ledger(one("Qwen3-8B", R4090)).placed[0].fit
    bent = ledger(
        one("Qwen3-8B", R4090, extra_args=("--kv-cache-dtype=fp8", "--max-num-batched-tokens=16384", "--block-size=32"))
    )
    fit = bent.placed[0].fit
    assert plain
    assert fit
    assert fit.bytes_per_token * 2 == plain.bytes_per_token
    assert fit.pool.groups[0].block_tokens == 32
    assert fit.memory.activation > plain.memory.activation


def test_memory_that_the_gpu_shares_with_its_machine_is_not_counted() -> None:
    found = only(ledger_warnings(one("Qwen3-8B", "NVIDIA GB10")))
    assert "doesn't say how much memory is its own" in found[1]


def test_two_replicas_alike_have_their_problem_told_once() -> None:
    model = {"shape": "Qwen3-8B", "on": [("studio-1", [0]), ("studio-1", [1])], "max_model_len": 40960}
    assert told(ledger_problems(stack({"chat": model}, {"studio-1": (R4090, R4090)}))) == ["models.chat.max_model_len"]


def test_the_smallest_card_of_a_replica_counts() -> None:
    fit = ledger(one("Qwen3-8B", R4090, R5090)).placed[0].fit
    assert fit
    assert fit.card.name == R4090


def test_random_weights_are_not_counted() -> None:
    spec = one("Qwen3-32B", R4090).model_copy(update={"weights": "random"})
    assert ledger_problems(spec) == ledger_warnings(spec) == ()


@pytest.mark.parametrize(
    ("fallbacks", "where", "warned"),
    [
        ({}, [("studio-2", [0])], "no fallback"),
        ({"large": ["small"]}, [("studio-2", [0])], None),
        ({"large": ["small"]}, [("studio-1", [0])], "no fallback that is smaller and on GPUs of its own"),
    ],
    ids=["none", "warm and elsewhere", "on the same cards"],
)
def test_a_big_model_wants_a_smaller_one_beside_it(
    fallbacks: dict[str, list[str]], where: list[tuple[str, list[int]]], warned: str | None
) -> None:
    models = {
        "large": {**BESIDE_EACH_OTHER["large"], "gpu_memory_utilization": 0.4},
        "small": {**BESIDE_EACH_OTHER["small"], "on": where, "gpu_memory_utilization": 0.4},
    }
    spec = stack(models, {"studio-1": (PRO6000, PRO6000), "studio-2": (PRO6000,)}, fallbacks=fallbacks)
    assert ledger_problems(spec) == ()
    about = [says for path, says, _ in ledger_warnings(spec) if path == ("models", "large")]
    assert [warned in says if warned else says for says in about] == ([True] if warned else [])


def test_a_small_model_needs_no_fallback() -> None:
    spec = one("Qwen3-8B", PRO6000, max_model_len=8192)
    fit = ledger(spec).placed[0].fit
    assert fit
    assert fit.memory.weights < 24 * GIB
    assert ledger_warnings(spec) == ()
