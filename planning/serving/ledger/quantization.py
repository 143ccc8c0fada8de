"""Quantized weights: how many bits they take, and which cards run them.

Capabilities are vLLM 0.31's own (`get_min_capability` of the classes in vllm/model_executor/layers/quantization):
below the first figure it refuses to start, below the second it computes in 16 bits and only stores fewer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Quantization:
    method: str
    """`fp8`, `awq`, `gptq`, `mxfp4`, `nvfp4`, `int8`, `int4`; anything else is not counted."""
    bits: float
    """Per number of a quantized layer, scales included."""
    block: int = 1
    """Numbers that share a scale, in a row: a GPU's part of a layer must be a multiple of it."""


@dataclass(frozen=True, kw_only=True)
class Support:
    runs_from: float
    """Lowest compute capability."""
    native_from: float
    """From here on the card computes in this format; below, weights alone are small."""


SUPPORT: Mapping[str, Support] = {
    "fp8": Support(runs_from=7.5, native_from=8.9),
    "awq": Support(runs_from=7.5, native_from=7.5),
    "gptq": Support(runs_from=6.0, native_from=6.0),
    "int4": Support(runs_from=7.5, native_from=7.5),
    "int8": Support(runs_from=7.5, native_from=7.5),
    "mxfp4": Support(runs_from=8.0, native_from=10.0),
    "nvfp4": Support(runs_from=7.5, native_from=10.0),
}

BFLOAT16_FROM = 8.0
"""vllm/platforms/cuda.py: an explicit `bfloat16` is refused below; `auto` becomes float16."""


def quantization_of(config: Mapping[str, Any]) -> Quantization | None:
    """From config.json's `quantization_config`; None for plain weights. An unknown method has 0 bits."""
    found = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(found, Mapping):
        return None
    method = str(found.get("quant_method", "")).lower().replace("_", "-")
    group = found.get("group_size", 128)
    # A 16-bit scale and a zero point, which the kernels unpack: 5.38 and 9.44 GiB of Qwen2.5-7B and Qwen3-14B in logs.
    per_group = 32 / group if isinstance(group, int) and group > 0 else 0.0
    match method:
        case "fp8" | "fbgemm-fp8":
            blocks = found.get("weight_block_size") or [1]
            return Quantization(method="fp8", bits=8.0, block=int(max(blocks)))
        case "awq" | "gptq":
            bits = found.get("bits", found.get("w_bit", 4))
            block = group if per_group else 1
            return Quantization(method=method, bits=float(bits) + per_group, block=int(block))
        case "mxfp4":
            return Quantization(method="mxfp4", bits=4.25)
        case "compressed-tensors":
            return _compressed_tensors(found)
        case "modelopt" | "modelopt-fp4":
            algorithm = str(found.get("quant_algo") or (found.get("quantization") or {}).get("quant_algo")).upper()
            known = {"FP8": Quantization(method="fp8", bits=8.0), "NVFP4": Quantization(method="nvfp4", bits=4.5)}
            return known.get(algorithm, Quantization(method=f"modelopt/{algorithm}", bits=0.0))
    return Quantization(method=method or "unknown", bits=0.0)


def _compressed_tensors(found: Mapping[str, Any]) -> Quantization:
    groups = [group for group in (found.get("config_groups") or {}).values() if isinstance(group, Mapping)]
    weights = [group.get("weights") or {} for group in groups]
    if len(weights) != 1:
        return Quantization(method="compressed-tensors of several formats", bits=0.0)
    (one,) = weights
    size = one.get("group_size")
    scales = 16 / size if isinstance(size, int) and size > 0 else 0.0
    match one.get("type"), one.get("num_bits"):
        case "float", 8:
            return Quantization(method="fp8", bits=8.0 + scales)
        case "float", 4:
            return Quantization(method="nvfp4", bits=4.5)
        case "int", (4 | 8) as bits:
            block = size if isinstance(size, int) and size > 0 else 1
            return Quantization(method=f"int{bits}", bits=float(bits) + scales, block=block)
    return Quantization(method="compressed-tensors of an unknown format", bits=0.0)


def refusal(quantization: Quantization | None, capability: float) -> str | None:
    """Why a card of this compute capability can't run these weights; None when it can, or when nobody knows."""
    support = SUPPORT.get(quantization.method) if quantization else None
    if support is None or quantization is None or capability >= support.runs_from:
        return None
    return f"{quantization.method} weights need compute capability {support.runs_from} or higher"


def remark(quantization: Quantization | None, capability: float) -> str | None:
    """What is lost on a card that runs these weights, but not in their own format."""
    support = SUPPORT.get(quantization.method) if quantization else None
    if support is None or quantization is None or capability >= support.native_from:
        return None
    return f"computes in 16 bits: {quantization.method} arithmetic begins at compute capability {support.native_from}"
