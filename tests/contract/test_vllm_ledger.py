"""The ledger's KV cache against vLLM's own code in the image: same blocks, same tokens, same refusals.

vLLM's functions run on the CPU with the layers that the ledger read from config.json. No engine is started.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from planning.serving.ledger.kv import Batch, Pool, blocks_in, holds_one, longest_context, pool_of, tokens_in
from planning.serving.ledger.shape import Attention, Cross, Latent, Layer, State
from tests.docker_run import docker, need_image
from tests.unit.ledger import shapes

ASK = """
import json, sys
from types import SimpleNamespace as Box
import torch
from vllm.v1.core import kv_cache_utils as utils
from vllm.v1 import kv_cache_interface as kinds
TYPES = {1: torch.float8_e4m3fn, 2: torch.bfloat16, 4: torch.float32}

def spec(layer, block, kv):
    if layer["kind"] == "State":
        page = layer["page"]
        return kinds.MambaSpec(
            block_size=block, shapes=tuple(map(tuple, layer["shapes"])), mamba_cache_mode="align",
            dtypes=tuple(TYPES[n] for n in layer["types"]), page_size_padded=page)
    common = dict(block_size=block, dtype=TYPES[kv], num_kv_heads=layer["heads"], head_size=layer["width"])
    if layer["kind"] == "Latent":
        return kinds.MLAAttentionSpec(**common)
    if layer["kind"] == "Cross":
        return kinds.CrossAttentionSpec(**common)
    if layer["window"]:
        return kinds.SlidingWindowSpec(sliding_window=layer["window"], **common)
    return kinds.FullAttentionSpec(**common)

answers = []
for case in json.loads(open(sys.argv[1]).read()):
    layers = {f"layer.{i}": spec(layer, case["block"], case["kv"]) for i, layer in enumerate(case["layers"])}
    layout = Box(is_block_outermost=False, is_block_compact=False, is_layer_compact=True, name="test")
    config = Box(
        model_config=Box(max_model_len=case["length"]),
        cache_config=Box(
            num_gpu_blocks_override=None, mamba_cache_mode="align", prefix_cache_retention_interval=None,
            get_resolved_kv_cache_layout=lambda: layout, enable_prefix_caching=True),
        scheduler_config=Box(
            disable_hybrid_kv_cache_manager=False, max_num_encoder_input_tokens=case["encoder"],
            max_num_batched_tokens=case["in_flight"]),
        parallel_config=Box(decode_context_parallel_size=1, prefill_context_parallel_size=1),
        attention_config=Box(hisparse_config=None), speculative_config=None,
        max_in_flight_tokens=case["in_flight"],
    )
    groups = utils.get_kv_cache_groups(config, dict(layers))
    size = utils._pool_bytes_per_block(groups)
    blocks = case["available"] // size
    pool = kinds.KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=groups)
    tokens, concurrency = utils.get_kv_cache_capacity(config, pool)
    needed = utils._max_memory_usage_bytes_from_groups(config, groups)
    longest = utils._estimate_max_model_len_from_groups(config, groups, case["available"] - size)
    answers.append({
        "blocks": blocks, "block_bytes": size, "groups": len(groups), "tokens": tokens,
        "fits": needed <= case["available"] - size, "longest": longest})
print("ANSWERS " + json.dumps(answers))
"""
"""Runs inside the image, for all cases at once. What is asked of vLLM's configuration stands in the boxes."""

GIB = 1024**3
CASES = [
    (name, gpus, kv_bytes, gib, length, in_flight)
    for name, gpus, kv_bytes in (
        ("Llama-3.1-8B", 1, 2),
        ("Llama-3.1-70B", 4, 1),
        ("Qwen2.5-7B", 2, 2),
        ("Qwen3-235B-A22B-FP8", 8, 2),
        ("DeepSeek-V3", 8, 2),
        ("gpt-oss-20b", 1, 2),
        ("gpt-oss-120b", 2, 1),
        ("gemma-3-4b", 1, 2),
        ("gemma-3-4b", 2, 1),
        ("Qwen3-Next-80B-A3B", 2, 2),
        ("Qwen3-Next-80B-A3B", 4, 1),
        ("whisper-large-v3", 1, 2),
    )
    for gib, share, in_flight in ((0.7, 1.0, 4096), (3.3, 0.25, 4096), (11.17, 1.0, 16384))
    for length in (int(share * shapes.shape(name).max_positions),)
]


def asked(case: tuple[str, int, int, float, int, int]) -> tuple[Pool, Batch, dict[str, Any]]:
    name, gpus, kv_bytes, gib, length, in_flight = case
    pool = pool_of(shapes.shape(name), tensor_parallel=gpus, kv_bytes=kv_bytes)
    batch = Batch(in_flight=in_flight, encoder=in_flight // 2)
    block = min(group.block_tokens for group in pool.groups if not isinstance(group.layer, State))
    return (
        pool,
        batch,
        {
            "layers": [_layer(layer, gpus, pool) for layer in shapes.shape(name).layers],
            "block": block,
            "kv": kv_bytes,
            "length": length,
            "encoder": batch.encoder,
            "in_flight": in_flight,
            "available": int(gib * GIB),
        },
    )


def _layer(layer: Layer, gpus: int, pool: Pool) -> dict[str, Any]:
    """As the model's own layers tell vLLM."""
    kind = type(layer).__name__
    match layer:
        case Attention():
            heads = max(1, layer.kv_heads // gpus)
            return {"kind": kind, "heads": heads, "width": layer.head_dim, "window": layer.window}
        case Cross():
            return {"kind": kind, "heads": max(1, layer.kv_heads // gpus), "width": layer.head_dim}
        case Latent():
            return {"kind": kind, "heads": 1, "width": layer.width}
        case State():
            shapes_here = [
                [layer.conv_dim // gpus, layer.conv_length],
                [layer.heads // gpus, layer.key_dim, layer.value_dim],
            ]
            types = [2, layer.element_bytes]
            # The platform pads states to the attention's page before vLLM groups the layers.
            page = pool.groups[0].page_bytes // pool.groups[0].layers
            return {"kind": kind, "shapes": shapes_here, "types": types, "page": page}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ask")
    (folder / "ask.py").write_text(ASK)
    (folder / "cases.json").write_text(json.dumps([asked(case)[2] for case in CASES]))
    said = docker(
        *("run", "--rm", "--network", "none", "--env", "HOME=/tmp", "--entrypoint", "python3"),
        *("--volume", f"{folder}:/ask:ro", need_image("vllm"), "/ask/ask.py", "/ask/cases.json"),
        timeout_s=300,
    )
    (line,) = [line for line in said.splitlines() if line.startswith("ANSWERS ")]
    found: list[dict[str, Any]] = json.loads(line.removeprefix("ANSWERS "))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_blocks_tokens_and_refusals_are_vllms(
    answers: list[dict[str, Any]], case: tuple[str, int, int, float, int, int]
) -> None:
    pool, batch, given = asked(case)
    said = answers[CASES.index(case)]
    blocks = blocks_in(pool, given["available"])
    length = given["length"]
    assert (pool.block_bytes, blocks, len(pool.groups)) == (said["block_bytes"], said["blocks"], said["groups"])
    assert tokens_in(pool, blocks, length, batch) == said["tokens"]
    assert holds_one(pool, given["available"], length, batch) == said["fits"]
    assert longest_context(pool, given["available"], length, batch) == said["longest"]


def test_cases_fit_and_do_not_fit(answers: list[dict[str, Any]]) -> None:
    assert {answer["fits"] for answer in answers} == {True, False}
    assert {answer["groups"] for answer in answers} >= {1, 2, 4}
