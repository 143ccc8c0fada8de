"""KV cache: bytes per token, tokens of a given memory, and what vLLM printed for the same."""

import random

import pytest

from planning.serving.ledger.kv import (
    Batch,
    Pool,
    blocks_in,
    blocks_per_request,
    bytes_per_token,
    holds_one,
    longest_context,
    pool_of,
    requests_at_once,
)
from planning.serving.ledger.memory import GIB
from planning.serving.ledger.shape import Architecture, Attention
from tests.unit.ledger import shapes
from tests.unit.ledger.logs import Log, logs

BATCH = Batch(in_flight=2048, encoder=2048)
PRINTED = 0.005
"""vLLM rounds GiB to 0.01."""


def pool(name: str, tensor_parallel: int = 1, kv_bytes: int = 2) -> Pool:
    return pool_of(shapes.shape(name), tensor_parallel=tensor_parallel, kv_bytes=kv_bytes)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Llama-3.1-8B", 131_072),
        ("Llama-3.1-70B", 327_680),
        ("Llama-3.1-405B", 516_096),
        ("Qwen3-32B", 262_144),
        ("Qwen2.5-7B", 57_344),
        ("DeepSeek-V3", 70_272),
    ],
)
def test_bytes_of_a_token(name: str, expected: int) -> None:
    assert bytes_per_token(pool(name)) == expected


def test_a_window_costs_nothing_per_token() -> None:
    """Half of gpt-oss' layers keep 128 tokens: 73,728 bytes would be all of them."""
    assert bytes_per_token(pool("gpt-oss-120b")) == 73_728 / 2


@pytest.mark.parametrize("log", [log for log in logs() if {"kv", "tokens"} <= log.said.keys()], ids=str)
def test_tokens_are_vllms_to_a_block(log: Log) -> None:
    least, most = log.tokens(log.kv - PRINTED), log.tokens(log.kv + PRINTED)
    if log.said.get("loose"):  # the line names the memory of one GPU, the tokens are those of the fullest
        assert least * 0.98 <= log.said["tokens"] <= most
    else:
        assert least <= log.said["tokens"] <= most


@pytest.mark.parametrize("log", [log for log in logs() if "concurrency" in log.said], ids=str)
def test_requests_at_once_are_vllms(log: Log) -> None:
    least, most = (
        requests_at_once(log.pool, blocks_in(log.pool, int(gib * GIB)), log.run.max_model_len, log.batch)
        for gib in (log.kv - PRINTED, log.kv + PRINTED)
    )
    assert least - 0.005 <= log.said["concurrency"] <= most + 0.005


def test_blocks_and_concurrency_of_a_first_log() -> None:
    assert round(requests_at_once(pool("Llama-3.1-70B"), 1381, 2048, BATCH), 2) == 10.79  # vllm-project/vllm#12569


def test_a_latent_is_the_same_on_every_gpu() -> None:
    assert pool("DeepSeek-V3", 8).block_bytes == pool("DeepSeek-V3").block_bytes


def test_heads_are_repeated_where_there_are_fewer_than_gpus() -> None:
    assert bytes_per_token(pool("Qwen2.5-7B", 4)) == 57_344 / 4
    assert bytes_per_token(pool("Qwen2.5-7B", 8)) == 57_344 / 4


def test_embedders_have_no_kv_cache() -> None:
    none = pool("bge-m3")
    assert (none.groups, none.block_bytes) == ((), 0)
    assert holds_one(none, 0, 8192, BATCH)


def test_one_block_is_vllms_own() -> None:
    one = pool("Llama-3.1-8B")
    full = blocks_per_request(one, 4096, BATCH) * one.block_bytes
    assert not holds_one(one, full, 4096, BATCH)
    assert holds_one(one, full + one.block_bytes, 4096, BATCH)


def drawn(seed: int) -> tuple[Architecture, int, int, Batch]:
    """Some model, tensor parallelism, free memory and batch."""
    dice = random.Random(seed)
    name = dice.choice([name for name in shapes.names() if shapes.shape(name).layers])
    architecture = shapes.shape(name)
    divisors = [n for n in (1, 2, 4, 8) if architecture.heads % n == 0]
    batch = Batch(in_flight=dice.choice([512, 2048, 8192, 16384]), encoder=2048)
    return architecture, dice.choice(divisors), dice.randrange(64 * 1024**2, 200 * GIB), batch


@pytest.mark.parametrize("seed", range(200))
def test_what_holds_of_every_model(seed: int) -> None:
    architecture, gpus, available, batch = drawn(seed)
    dice = random.Random(-seed)
    wide, narrow = (pool_of(architecture, tensor_parallel=gpus, kv_bytes=size) for size in (2, 1))
    short, long = sorted(dice.randrange(1, architecture.max_positions + 1) for _ in range(2))
    assert blocks_per_request(wide, short, batch) <= blocks_per_request(wide, long, batch), "longer needs no less"
    assert blocks_in(narrow, available) >= blocks_in(wide, available), "half the bytes hold no fewer blocks"
    assert blocks_in(wide, available) * wide.block_bytes <= available, "no block beyond the memory"
    assert blocks_in(wide, available) <= blocks_in(wide, available + GIB), "more memory holds no fewer"
    longest = longest_context(wide, available, architecture.max_positions, batch)
    if longest:
        assert holds_one(wide, available, longest, batch)
    if longest < architecture.max_positions:
        assert not holds_one(wide, available, longest + 1, batch), "the longest is the longest"
    if holds_one(wide, available, long, batch):
        assert requests_at_once(wide, blocks_in(wide, available), long, batch) >= 1
    if any(isinstance(layer, Attention) for layer in architecture.layers) and gpus > 1:
        whole = pool_of(architecture, tensor_parallel=1, kv_bytes=2)
        assert wide.block_bytes <= whole.block_bytes, "more GPUs hold no more each"
