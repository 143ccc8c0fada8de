"""config.json in, a shape out; whatever else stands in it is said not to be covered."""

from typing import Any

import pytest

from planning.serving.ledger.architecture import UNCOUNTED, NotCovered, architecture_of
from planning.serving.ledger.cards import card
from planning.serving.ledger.fit import fit_of, refused
from planning.serving.ledger.memory import Run
from planning.serving.ledger.shape import Attention, Cross, Latent, State
from tests.unit.ledger import shapes
from tests.unit.ledger.stacks import R4090

JUNK: tuple[Any, ...] = (None, 0, -1, 1.5, True, "x", [], {}, [None], 10**30)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Llama-3.1-8B", 8.03),
        ("Llama-3.1-70B", 70.55),
        ("Llama-3.1-405B", 405.85),
        ("Qwen2.5-0.5B", 0.494),
        ("Qwen2.5-7B", 7.62),
        ("Qwen3-8B", 8.19),
        ("Qwen3-32B", 32.76),
        ("Qwen3-30B-A3B-FP8", 30.53),
        ("Qwen3-235B-A22B-FP8", 235.09),
        ("Qwen3-Next-80B-A3B", 79.7),
        ("DeepSeek-V3", 671.0),
        ("gpt-oss-20b", 20.91),
        ("gpt-oss-120b", 116.8),
        ("whisper-large-v3", 1.54),
        ("bge-m3", 0.567),
    ],
)
def test_parameters_are_those_on_the_models_page(name: str, billions: float) -> None:
    assert shapes.shape(name).parameters.total / 1e9 == pytest.approx(billions, rel=0.005)


def test_layers_by_kind() -> None:
    oss = shapes.shape("gpt-oss-20b").layers
    assert [layer.window for layer in oss[:3] if isinstance(layer, Attention)] == [128, None, 128]
    gemma = shapes.shape("gemma-3-4b").layers
    assert [index for index, layer in enumerate(gemma) if isinstance(layer, Attention) and layer.window is None] == [
        5, 11, 17, 23, 29,
    ]  # fmt: skip
    following = shapes.shape("Qwen3-Next-80B-A3B").layers
    assert sum(isinstance(layer, State) for layer in following) == 36
    assert {type(layer) for layer in shapes.shape("DeepSeek-V3").layers} == {Latent}
    assert {type(layer) for layer in shapes.shape("whisper-large-v3").layers} == {Attention, Cross}


def test_what_sees_is_counted_in_part() -> None:
    assert shapes.shape("gemma-3-4b").unpromised == "the memory of its vision encoder isn't counted"
    assert shapes.shape("Qwen3-8B").unpromised is None


@pytest.mark.parametrize("key", UNCOUNTED)
def test_a_key_that_means_other_memory_is_not_covered(key: str) -> None:
    with pytest.raises(NotCovered, match=r"DeepSeek|Llama|Gemma|Nemotron"):
        architecture_of({**shapes.config("Llama-3.1-8B"), key: 2048})


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "fp8"}, ("fp8", 8.0)),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, ("gptq", 8.25)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, ("nvfp4", 4.5)),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8"}}, ("fp8", 8.0)),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
            },
            ("int4", 4.5),
        ),
    ],
)
def test_quantizations(quantization: dict[str, Any], expected: tuple[str, float]) -> None:
    found = architecture_of({**shapes.config("Llama-3.1-8B"), "quantization_config": quantization}).quantization
    assert found
    assert (found.method, found.bits) == expected


@pytest.mark.parametrize(
    "quantization",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"},
        {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {}}, "b": {"weights": {}}}},
        {"quant_method": "compressed-tensors", "config_groups": "x"},
    ],
)
def test_quantizations_that_are_not_covered(quantization: dict[str, Any]) -> None:
    with pytest.raises(NotCovered, match=r"weights quantized as|isn't like those"):
        architecture_of({**shapes.config("Llama-3.1-8B"), "quantization_config": quantization})


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, 131072),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, 131072),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, 262144),
    ],
)
def test_the_longest_context(changes: dict[str, Any], limit: int) -> None:
    assert architecture_of({**shapes.config("Llama-3.1-8B"), **changes}).max_positions == limit


def test_robertas_first_two_positions_are_not_for_text() -> None:
    assert shapes.shape("bge-m3").max_positions == 8192


@pytest.mark.parametrize(
    "name", ["Qwen3-8B", "gpt-oss-20b", "DeepSeek-V3", "Qwen3-Next-80B-A3B", "whisper-large-v3", "bge-m3"]
)
def test_whatever_a_config_holds_it_is_counted_or_not_covered(name: str) -> None:
    """No other exception, from reading or from counting."""
    config = shapes.config(name)
    odd = ("rope_scaling", "quantization_config", "layer_types", "sliding_window", "text_config", "architectures")
    for key in (*config, *odd):
        for value in JUNK:
            try:
                architecture = architecture_of({**config, key: value})
            except NotCovered:
                continue
            run = Run(max_model_len=1024, max_num_seqs=4, utilization=0.9, tensor_parallel=2)
            assert fit_of(architecture, run, card(R4090)).verdict in ("fits", "tight", "no")
            list(refused(architecture, run, card(R4090)))
