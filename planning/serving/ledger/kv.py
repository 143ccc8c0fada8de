"""The KV cache as vLLM 0.31 lays it out: layers in groups, one pool of blocks, block ids shared between groups.

Follows vllm/v1/core/kv_cache_utils.py (get_kv_cache_groups, get_kv_cache_config_from_groups,
get_max_concurrency_for_kv_cache_config) and vllm/v1/kv_cache_interface.py; tests/contract/test_vllm_ledger.py compares
the two. Bytes throughout, per GPU.
"""

from collections import Counter
from dataclasses import dataclass

from planning.serving.ledger.shape import Architecture, Attention, Cross, Latent, Layer, State

BLOCK_TOKENS = 16
"""Tokens of a block where nothing asks for more."""
LATENT_BLOCK_TOKENS = 64
"""The same for latent attention: what FlashMLA and FlashInfer's kernels take."""

RESIDENT_STATES = 2
"""States a request holds in each group of state layers, with prefix caching on (`mamba_cache_mode: align`)."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Layers that share their block tables: a request takes blocks of the pool for each group."""

    layer: Layer
    """One of them; they are alike in what decides the number of blocks."""
    layers: int
    block_tokens: int
    page_bytes: int
    """All layers of the group together, for one block."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    groups: tuple[Group, ...]
    block_bytes: int
    """What one block takes in the pool: the largest group's page. 0 without any cache."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What the number of blocks of a request depends on, besides its length. Tokens."""

    in_flight: int
    """Scheduled and not yet done: the batch, times the batches at once (asynchronous scheduling: 2)."""
    encoder: int = 0
    """What the encoder may put in; vLLM plans with the batch."""


def ceil_div(number: int, by: int) -> int:
    return -(-number // by)


def pool_of(architecture: Architecture, *, tensor_parallel: int, kv_bytes: int, block_tokens: int = 0) -> Pool:
    """The pool of one GPU. `kv_bytes`: per element of K and V; `block_tokens`: 0 takes vLLM's own."""
    layers = architecture.layers
    if not layers:
        return Pool(groups=(), block_bytes=0)
    model_bytes = 4 if architecture.dtype == "float32" else 2
    latent = any(isinstance(layer, Latent) for layer in layers)
    block = block_tokens or (LATENT_BLOCK_TOKENS if latent else BLOCK_TOKENS)
    states = [_state_bytes(layer, tensor_parallel, model_bytes) for layer in layers if isinstance(layer, State)]
    if states:
        per_token = max(
            _token_bytes(layer, tensor_parallel, kv_bytes) for layer in layers if isinstance(layer, Attention)
        )
        block *= ceil_div(max(states), block * per_token)
    pages = {
        layer: _token_bytes(layer, tensor_parallel, kv_bytes) * block
        for layer in set(layers)
        if type(layer) is not State
    }
    counts = Counter(layers)
    kinds = {(type(layer), getattr(layer, "window", None)) for layer in counts}
    if len(kinds) == 1:
        # Alike in all that decides the number of blocks: one group, whatever their widths.
        total = sum(pages[layer] * count for layer, count in counts.items())
        group = Group(layer=layers[0], layers=len(layers), block_tokens=block, page_bytes=total)
        return Pool(groups=(group,), block_bytes=total)
    return _grouped(counts, pages, block)


def _grouped(counts: Counter[Layer], pages: dict[Layer, int], block: int) -> Pool:
    """Layers of several kinds: each group has as many as there are of the rarest kind; the last is padded."""
    page = max(pages.values())
    size = min(counts.values())
    if max(counts.values()) < size * 1.5:
        size = max(counts.values())
    groups: list[Group] = []
    for layer, count in counts.items():
        tokens = block
        if layer in pages and page % pages[layer] == 0:
            tokens *= page // pages[layer]
        one = Group(layer=layer, layers=size, block_tokens=tokens, page_bytes=page * size)
        groups += [one] * ceil_div(count, size)
    return Pool(groups=tuple(groups), block_bytes=page * size)


def _token_bytes(layer: Layer, tensor_parallel: int, kv_bytes: int) -> int:
    """One token in one layer on one GPU. Heads are split, and repeated where there are fewer than GPUs."""
    match layer:
        case Attention():
            return max(1, layer.kv_heads // tensor_parallel) * (layer.head_dim + layer.value_dim) * kv_bytes
        case Cross():
            return max(1, layer.kv_heads // tensor_parallel) * 2 * layer.head_dim * kv_bytes
        case Latent():
            return layer.width * kv_bytes
        case State():
            return 0


def _state_bytes(layer: State, tensor_parallel: int, model_bytes: int) -> int:
    conv = ceil_div(layer.conv_dim, tensor_parallel) * layer.conv_length * model_bytes
    return conv + layer.heads // tensor_parallel * layer.key_dim * layer.value_dim * layer.element_bytes


def bytes_per_token(pool: Pool) -> float:
    """What a token costs in layers that keep every token; 0 without such layers."""
    full = [group for group in pool.groups if not isinstance(group.layer, State | Cross) and _window(group) is None]
    return sum(group.page_bytes / group.block_tokens for group in full)


def _window(group: Group) -> int | None:
    return group.layer.window if isinstance(group.layer, Attention) else None


def blocks_per_request(pool: Pool, tokens: int, batch: Batch) -> int:
    """Blocks of a request of this length, prompt and answer together."""
    return sum(_blocks(group, tokens, batch) for group in pool.groups)


def _blocks(group: Group, tokens: int, batch: Batch) -> int:
    window = _window(group)
    if isinstance(group.layer, State):
        return RESIDENT_STATES
    if isinstance(group.layer, Cross):
        return ceil_div(batch.encoder, group.block_tokens)
    if window is not None:
        held = min(window - 1 + batch.in_flight, tokens)
        # A window seldom begins where a block does.
        return ceil_div(held, group.block_tokens) + 1
    return ceil_div(tokens, group.block_tokens)


def blocks_in(pool: Pool, available: int) -> int:
    """Blocks that this many bytes hold."""
    return max(0, available) // pool.block_bytes if pool.block_bytes else 0


def requests_at_once(pool: Pool, blocks: int, tokens: int, batch: Batch) -> float:
    """Requests of this length that the pool holds: vLLM's "maximum concurrency"."""
    needed = blocks_per_request(pool, tokens, batch)
    return blocks / needed if needed else float("inf")


def tokens_in(pool: Pool, blocks: int, max_model_len: int, batch: Batch) -> int:
    """vLLM's "GPU KV cache size", as it counts since 0.21: requests at full length, times that length."""
    return int(requests_at_once(pool, blocks, max_model_len, batch) * max_model_len) if pool.groups else 0


def holds_one(pool: Pool, available: int, tokens: int, batch: Batch) -> bool:
    """Whether vLLM starts: one request at full length, and one block that it keeps for itself."""
    return not pool.groups or (blocks_per_request(pool, tokens, batch) + 1) * pool.block_bytes <= available


def longest_context(pool: Pool, available: int, limit: int, batch: Batch) -> int:
    """The longest `max_model_len` up to `limit` that vLLM starts with; 0 when none."""
    if holds_one(pool, available, limit, batch):
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        if holds_one(pool, available, middle, batch):
            low = middle
        else:
            high = middle
    return low
