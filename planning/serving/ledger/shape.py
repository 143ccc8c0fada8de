"""A model's shape, as its memory depends on it. planning.serving.ledger.architecture reads it from config.json."""

from dataclasses import dataclass
from typing import Literal

from planning.serving.ledger.quantization import Quantization


@dataclass(frozen=True, kw_only=True)
class Attention:
    """A layer that keeps K and V of tokens: of all, or of the last `window`."""

    kv_heads: int
    head_dim: int
    value_dim: int
    window: int | None = None


@dataclass(frozen=True, kw_only=True)
class Latent:
    """A layer of multi-head latent attention (DeepSeek): one vector a token, the same on every GPU."""

    width: int
    """kv_lora_rank + qk_rope_head_dim, elements."""


@dataclass(frozen=True, kw_only=True)
class State:
    """A layer with a state of fixed size for each request (gated delta net)."""

    conv_dim: int
    conv_length: int
    heads: int
    key_dim: int
    value_dim: int
    element_bytes: int
    """Of the recurrent state; the convolution's has the model's type."""


@dataclass(frozen=True, kw_only=True)
class Cross:
    """A decoder's attention to the encoder's output (Whisper)."""

    kv_heads: int
    head_dim: int


Layer = Attention | Latent | State | Cross
"""A layer with a cache. Layers without one, such as BERT's, aren't listed."""


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """The widths that decide a layer's transient memory, elements."""

    width: int
    """Of the widest dense block; 0 where all blocks are experts."""
    expert_width: int = 0
    experts_per_token: int = 0


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers in the weights, by how they are stored and split between GPUs."""

    linear: int
    """In layers that tensor parallelism splits and quantization shrinks."""
    kv: int
    """K and V projections: the same, but split no finer than their heads."""
    plain: int
    """Embeddings and output layer, and what a quantized checkpoint leaves as it is: split, not shrunk."""
    replicated: int
    """Norms, routers, latent projections: whole on every GPU."""

    @property
    def total(self) -> int:
        return self.linear + self.kv + self.plain + self.replicated


@dataclass(frozen=True, kw_only=True)
class Architecture:
    name: str
    """`architectures` of config.json: `Qwen3ForCausalLM`."""
    kind: Literal["generate", "embed", "transcribe"]
    layers: tuple[Layer, ...]
    hidden: int
    heads: int
    kv_heads: int
    vocabulary: int
    mlp: Mlp
    parameters: Parameters
    dtype: Literal["bfloat16", "float16", "float32"]
    """What the weights are stored in."""
    max_positions: int
    quantization: Quantization | None = None
    unpromised: str | None = None
    """Why the KV cache can be counted and the rest can't, for models that are covered in part."""
