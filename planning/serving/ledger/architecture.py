"""A model's shape as its memory depends on it, read from its config.json.

Only what is known to be counted right is read; everything else is NotCovered: the ledger then promises nothing. The
layer kinds and their names in config.json follow vLLM 0.31 (vllm/model_executor/models, vllm/v1/kv_cache_interface.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from planning.serving.ledger.quantization import quantization_of
from planning.serving.ledger.shape import Architecture, Attention, Cross, Latent, Layer, Mlp, Parameters, State

Config = Mapping[str, Any]
"""config.json, or the part of it that describes the language model."""


class NotCovered(Exception):
    """The ledger can't count this model. The text says which part."""


def architecture_of(config: Config) -> Architecture:
    """Read config.json. Raises NotCovered, whatever is in it."""
    text = config.get("text_config") or config
    if not isinstance(text, Mapping):
        raise NotCovered("`text_config` of config.json is no object")
    family = str(text.get("model_type") or config.get("model_type"))
    read = FAMILIES.get(family)
    if read is None:
        raise NotCovered(f"models of type {family!r}")
    for key, what in UNCOUNTED.items():
        if text.get(key):
            raise NotCovered(what)
    towers = [key for key in ("vision_config", "audio_config") if config.get(key)]
    try:
        architecture = read(text if text is config else {**config, **text})
        sound = min(architecture.hidden, architecture.heads, architecture.kv_heads, architecture.max_positions) > 0
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise NotCovered(f"a config.json that isn't like those of {family} ({error})") from error
    if not sound:
        raise NotCovered(f"a config.json of {family} without heads, width or positions")
    if architecture.quantization and not architecture.quantization.bits:
        raise NotCovered(f"weights quantized as {architecture.quantization.method}")
    if towers:
        named = " and ".join(key.removesuffix("_config") for key in towers)
        return replace(architecture, unpromised=f"the memory of its {named} encoder isn't counted")
    return architecture


UNCOUNTED: Mapping[str, str] = {
    "index_topk": "sparse attention with an indexer (DeepSeek V3.2)",
    "attention_chunk_size": "chunked local attention (Llama 4)",
    "cross_attention_layers": "image layers inside the language model (Llama 3.2 Vision)",
    "num_kv_shared_layers": "layers that share their KV cache (Gemma 3n, Gemma 4)",
    "block_configs": "layers of differing shape (NemotronH, Nemotron NAS)",
}
"""Keys that, when set, mean memory that isn't counted here."""


LARGEST = 100_000_000
"""Of any number in a config.json: the longest contexts are a tenth of it."""
MOST_LAYERS = 1000


def number(config: Config, *names: str, default: int | None = None) -> int:
    """The first of these keys that is set. Raises NotCovered."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST:
            return value
    if default is None:
        raise NotCovered(f"config.json without {' or '.join(names)}")
    return default


def _count(config: Config, name: str) -> int:
    """Layers. Raises NotCovered."""
    found = number(config, name)
    if not 1 <= found <= MOST_LAYERS:
        raise NotCovered(f"{found} layers")
    return found


def _dtype(config: Config) -> Literal["bfloat16", "float16", "float32"]:
    match config.get("dtype") or config.get("torch_dtype") or "float32":
        case ("bfloat16" | "float16" | "float32") as found:
            return found
        case found:
            raise NotCovered(f"weights of type {found}")


def _decoder(config: Config) -> Architecture:
    """Llama and all that keeps its layout: grouped-query attention, gated MLPs or experts."""
    family = str(config["model_type"])
    hidden, heads = number(config, "hidden_size"), number(config, "num_attention_heads")
    count = _count(config, "num_hidden_layers")
    kv_heads = number(config, "num_key_value_heads", default=heads)
    head_dim = number(config, "head_dim", default=0) or hidden // heads
    windows = _windows(config, family, count)
    states = _states(config, family, count)
    layers: list[Layer] = []
    for index in range(count):
        state = states[index]
        attention = Attention(kv_heads=kv_heads, head_dim=head_dim, value_dim=head_dim, window=windows[index])
        layers.append(state or attention)
    attentions = sum(isinstance(layer, Attention) for layer in layers)
    gate = 2 if states != [None] * count else 1  # these models gate their attention's output: q is twice as wide
    queries = hidden * heads * head_dim * (1 + gate)
    mlp, experts, dense, shared, router = _mlps(config, count)
    recurrent = sum(_state_parameters(layer, hidden) for layer in layers if isinstance(layer, State))
    attention_numbers = attentions * queries + recurrent
    quantization = quantization_of(config)
    plain = number(config, "vocab_size") * hidden * (1 if config.get("tie_word_embeddings", family in TIED) else 2)
    linear = attention_numbers + experts + dense + shared
    kv = attentions * 2 * hidden * kv_heads * head_dim
    if family == "gpt_oss":  # its checkpoints quantize the experts alone
        plain, linear, kv = plain + attention_numbers + kv, experts, 0
    return Architecture(
        name=_name(config),
        kind="generate",
        layers=tuple(layers),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        vocabulary=number(config, "vocab_size"),
        mlp=mlp,
        parameters=Parameters(
            linear=linear,
            kv=kv,
            plain=plain,
            replicated=hidden * (2 * count + 1) + router,
        ),
        dtype=_dtype(config),
        max_positions=_positions(config),
        quantization=quantization,
    )


def _positions(config: Config) -> int:
    """The longest context that the engine takes for this config.json, tokens."""
    own = number(config, "max_position_embeddings")
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if not isinstance(scaling, Mapping) or scaling.get("rope_type", scaling.get("type")) != "yarn":
        return own
    factor, original = scaling.get("factor"), scaling.get("original_max_position_embeddings", own)
    return max(own, int(float(factor) * int(original))) if factor else own


TIED = frozenset({"gemma", "gemma2", "gemma3_text"})
"""Families whose output layer is the embedding when config.json doesn't say."""


def _name(config: Config) -> str:
    names = config.get("architectures") or []
    return str(names[0]) if names else str(config.get("model_type"))


def _windows(config: Config, family: str, count: int) -> list[int | None]:
    """Each layer's window in tokens, None for full attention."""
    window = config.get("sliding_window")
    if window is None or config.get("use_sliding_window") is False:
        return [None] * count
    if family in ("qwen2", "qwen3", "qwen3_moe"):
        raise NotCovered("Qwen with `use_sliding_window`")
    kinds = config.get("layer_types")
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != count:
            raise NotCovered("`layer_types` that don't match the layers")
        return [int(window) if kind == "sliding_attention" else None for kind in kinds]
    if family == "gemma3_text":
        pattern = number(config, "sliding_window_pattern", default=6)
        return [None if (index + 1) % pattern == 0 else int(window) for index in range(count)]
    if family in ("gemma2", "gpt_oss"):
        return [int(window) if index % 2 == 0 else None for index in range(count)]
    return [int(window)] * count


def _states(config: Config, family: str, count: int) -> list[State | None]:
    """Gated delta layers of Qwen3-Next and Qwen3.5."""
    if family not in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"):
        return [None] * count
    kinds = config.get("layer_types")
    if kinds is None:
        every = number(config, "full_attention_interval", default=4)
        kinds = ["full_attention" if (index + 1) % every == 0 else "linear_attention" for index in range(count)]
    key_heads, heads = number(config, "linear_num_key_heads"), number(config, "linear_num_value_heads")
    key_dim, value_dim = number(config, "linear_key_head_dim"), number(config, "linear_value_head_dim")
    state = State(
        conv_dim=2 * key_heads * key_dim + heads * value_dim,
        conv_length=number(config, "linear_conv_kernel_dim") - 1,
        heads=heads,
        key_dim=key_dim,
        value_dim=value_dim,
        element_bytes=4 if config.get("mamba_ssm_dtype") == "float32" else 2,
    )
    return [state if kind == "linear_attention" else None for kind in kinds]


def _state_parameters(state: State, hidden: int) -> int:
    values = state.heads * state.value_dim
    return hidden * (state.conv_dim + values) + 2 * hidden * state.heads + values * hidden


def _mlps(config: Config, count: int) -> tuple[Mlp, int, int, int, int]:
    """The MLP's shape, and the parameters of experts, dense blocks, shared experts and routers of all layers."""
    hidden = number(config, "hidden_size")
    experts = number(config, "num_experts", "num_local_experts", "n_routed_experts", default=0)
    if not experts:
        width = number(config, "intermediate_size")
        return Mlp(width=width), 0, count * 3 * hidden * width, 0, 0
    width = number(config, "moe_intermediate_size", "intermediate_size")
    dense_layers = number(config, "first_k_dense_replace", default=0)
    if config.get("mlp_only_layers") or number(config, "decoder_sparse_step", "moe_layer_freq", default=1) != 1:
        raise NotCovered("experts in some layers only, by a pattern of their own")
    sparse = count - dense_layers
    dense_width = number(config, "intermediate_size", default=0) if dense_layers else 0
    shared = number(config, "shared_expert_intermediate_size", default=0)
    shared = shared or number(config, "n_shared_experts", default=0) * width
    return (
        Mlp(
            width=max(dense_width, shared),
            expert_width=width,
            experts_per_token=number(config, "num_experts_per_tok", "experts_per_token"),
        ),
        sparse * experts * 3 * hidden * width,
        dense_layers * 3 * hidden * dense_width,
        sparse * 3 * hidden * shared,
        sparse * hidden * experts,
    )


def _latent(config: Config) -> Architecture:
    """DeepSeek V2 and V3, Kimi K2: multi-head latent attention and experts."""
    hidden, heads = number(config, "hidden_size"), number(config, "num_attention_heads")
    count = _count(config, "num_hidden_layers")
    rank, rope = number(config, "kv_lora_rank"), number(config, "qk_rope_head_dim")
    nope, value = number(config, "qk_nope_head_dim"), number(config, "v_head_dim")
    q_rank = number(config, "q_lora_rank", default=0)
    mlp, experts, dense, shared, router = _mlps(config, count)
    queries = (q_rank or hidden) * heads * (nope + rope)
    split = count * (queries + rank * heads * (nope + value) + heads * value * hidden)
    return Architecture(
        name=_name(config),
        kind="generate",
        layers=(Latent(width=rank + rope),) * count,
        hidden=hidden,
        heads=heads,
        kv_heads=1,
        vocabulary=number(config, "vocab_size"),
        mlp=mlp,
        parameters=Parameters(
            linear=split + experts + dense + shared,
            kv=0,
            plain=number(config, "vocab_size") * hidden * (1 if config.get("tie_word_embeddings") else 2),
            replicated=count * hidden * (q_rank + rank + rope) + hidden * (2 * count + 1) + router,
        ),
        dtype=_dtype(config),
        max_positions=_positions(config),
        quantization=quantization_of(config),
    )


def _encoder(config: Config) -> Architecture:
    """BERT and RoBERTa: embeddings, no KV cache at all."""
    hidden, count = number(config, "hidden_size"), _count(config, "num_hidden_layers")
    heads, width = number(config, "num_attention_heads"), number(config, "intermediate_size")
    positions = number(config, "max_position_embeddings")
    tables = number(config, "vocab_size") + positions + 2
    # RoBERTa counts positions from 2.
    usable = positions - 2 if "roberta" in str(config["model_type"]) else positions
    return Architecture(
        name=_name(config),
        kind="embed",
        layers=(),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        vocabulary=number(config, "vocab_size"),
        mlp=Mlp(width=width),
        parameters=Parameters(
            linear=count * (4 * hidden * hidden + 2 * hidden * width),
            kv=0,
            plain=tables * hidden,
            replicated=count * 6 * hidden,
        ),
        dtype=_dtype(config),
        max_positions=usable,
        quantization=quantization_of(config),
    )


def _whisper(config: Config) -> Architecture:
    """Whisper: an encoder, and a decoder that attends to itself and to the encoder."""
    hidden, heads = number(config, "d_model"), number(config, "decoder_attention_heads")
    count, width = _count(config, "decoder_layers"), number(config, "decoder_ffn_dim")
    encoder = _count(config, "encoder_layers")
    encoder_width = number(config, "encoder_ffn_dim")
    head_dim = hidden // heads
    own = Attention(kv_heads=heads, head_dim=head_dim, value_dim=head_dim)
    square = hidden * hidden
    positions = number(config, "max_target_positions")
    return Architecture(
        name=_name(config),
        kind="transcribe",
        layers=(own,) * count + (Cross(kv_heads=heads, head_dim=head_dim),) * count,
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        vocabulary=number(config, "vocab_size"),
        mlp=Mlp(width=max(width, encoder_width)),
        parameters=Parameters(
            linear=count * (8 * square + 2 * hidden * width) + encoder * (4 * square + 2 * hidden * encoder_width),
            kv=0,
            plain=number(config, "vocab_size") * hidden,
            replicated=3 * hidden * (hidden + number(config, "num_mel_bins")) + hidden * (1500 + positions),
        ),
        dtype=_dtype(config),
        max_positions=positions,
        quantization=quantization_of(config),
    )


FAMILIES: Mapping[str, Callable[[Config], Architecture]] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "phi3", "granite", "gemma", "gemma2", "gemma3_text"), _decoder
    ),
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"), _decoder),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _decoder),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "kimi_k2"), _latent),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta"), _encoder),
    "whisper": _whisper,
}
"""`model_type` of config.json → its reader. What is missing here isn't covered."""
