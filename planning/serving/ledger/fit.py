"""Whether one replica fits its GPUs, and what it then serves. Pure.

`memory` is what is expected, and less `MARGIN` of it is sure. `fits` means that what is sure holds a request at full
length, so that vLLM starts; `no` that even `ACCURACY` more than what is expected doesn't; `tight` is between them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from planning.serving.ledger.cards import Card
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
    tokens_in,
)
from planning.serving.ledger.memory import ACCURACY, MARGIN, Memory, Run, batch_of, memory_of
from planning.serving.ledger.quantization import Quantization, refusal
from planning.serving.ledger.shape import Architecture

TYPICAL_TOKENS = 2000
"""Prompt and answer of a user's request: a few pages in, a page out."""

Verdict = Literal["fits", "tight", "no"]

VARIANTS: tuple[tuple[str, Quantization | None], ...] = (
    ("16 bits", None),
    ("FP8", Quantization(method="fp8", bits=8.0)),
    ("4 bits", Quantization(method="awq", bits=4.25, block=128)),
)
"""The quantizations that most models are published in."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One replica on cards of one kind."""

    architecture: Architecture
    run: Run
    card: Card
    """The smallest of its cards: the KV cache has as many blocks as that one holds."""
    memory: Memory
    """Expected, on each GPU."""
    pool: Pool
    batch: Batch
    weights_bytes: int | None = None
    """Of all tensors, where they are known."""

    @property
    def sure(self) -> int:
        """KV cache that is there on each GPU in any case, bytes."""
        return max(0, self.memory.kv - MARGIN)

    @property
    def verdict(self) -> Verdict:
        length = self.run.max_model_len
        if self.memory.kv > MARGIN and holds_one(self.pool, self.sure, length, self.batch):
            return "fits"
        if self.memory.kv + ACCURACY > 0 and holds_one(self.pool, self.memory.kv + ACCURACY, length, self.batch):
            return "tight"
        return "no"

    @property
    def bytes_per_token(self) -> float:
        """Of the KV cache, on each GPU."""
        return bytes_per_token(self.pool)

    @property
    def expected(self) -> int:
        """KV cache that is likely there on each GPU, bytes."""
        return max(0, self.memory.kv)

    @property
    def tokens(self) -> int:
        """What the KV cache is expected to hold."""
        return self._tokens(self.expected)

    @property
    def sure_tokens(self) -> int:
        """What it holds in any case."""
        return self._tokens(self.sure)

    def _tokens(self, available: int) -> int:
        return tokens_in(self.pool, blocks_in(self.pool, available), self.run.max_model_len, self.batch)

    @property
    def full_requests(self) -> float:
        """Requests at full length expected at once: vLLM's "maximum concurrency"."""
        return self._requests(self.run.max_model_len)

    def users(self, tokens: int) -> int:
        """Requests of this length that are expected to be computed at once; others wait."""
        if self.verdict == "no":
            return 0
        return int(min(self._requests(min(tokens, self.run.max_model_len)), self.run.max_num_seqs))

    def _requests(self, tokens: int) -> float:
        return requests_at_once(self.pool, blocks_in(self.pool, self.expected), tokens, self.batch)

    @property
    def longest(self) -> int:
        """The longest context that surely fits and that the model takes, tokens; 0: none."""
        limit = self.architecture.max_positions
        # A longer context makes the transient peak of some models larger, and so the KV cache smaller.
        for length in _lengths(limit):
            fit = fit_of(self.architecture, replace(self.run, max_model_len=length), self.card, self.weights_bytes)
            if fit.memory.kv <= MARGIN:
                continue
            if not self.pool.groups:
                return length
            return longest_context(self.pool, fit.sure, length, fit.batch)
        return 0

    @property
    def needed(self) -> int:
        """KV cache of one request at full length, with the block that vLLM keeps, bytes on each GPU."""
        if not self.pool.groups:
            return 0
        return (blocks_per_request(self.pool, self.run.max_model_len, self.batch) + 1) * self.pool.block_bytes


def _lengths(limit: int) -> Iterator[int]:
    while limit >= 128:
        yield limit
        limit //= 2


def fit_of(architecture: Architecture, run: Run, card: Card, weights_bytes: int | None = None) -> Fit:
    """`weights_bytes`: of all tensors of the model; None counts them from config.json."""
    pool = pool_of(
        architecture, tensor_parallel=run.tensor_parallel, kv_bytes=run.kv_bytes, block_tokens=run.block_tokens
    )
    return Fit(
        architecture=architecture,
        run=run,
        card=card,
        memory=memory_of(architecture, run, card.total, card.name, weights_bytes),
        pool=pool,
        batch=batch_of(architecture, run, card.total, card.name),
        weights_bytes=weights_bytes,
    )


def refused(architecture: Architecture, run: Run, card: Card) -> Iterator[str]:
    """Why vLLM wouldn't start this, whatever memory there is."""
    gpus, quantization = run.tensor_parallel, architecture.quantization
    if architecture.heads % gpus:
        yield f"{architecture.heads} attention heads can't be split between {gpus} GPUs"
    elif architecture.kv_heads % gpus and gpus % architecture.kv_heads:
        yield f"{architecture.kv_heads} heads of K and V can't be split between {gpus} GPUs, nor repeated evenly"
    elif quantization:
        widths = (architecture.mlp.width, architecture.mlp.expert_width)
        for width in widths:
            if width % gpus or width // gpus % quantization.block:
                yield (
                    f"the {quantization.method} weights have blocks of {quantization.block}, "
                    f"and {width} can't be split in {gpus} parts of whole blocks"
                )
    if (why := refusal(quantization, card.capability)) is not None:
        yield f"{why}, and {card.name} has {card.capability}"


def splits(architecture: Architecture, card: Card, most: int = 16) -> list[int]:
    """Numbers of GPUs that the model can be split between."""
    run = Run(max_model_len=1, max_num_seqs=1, utilization=0.9)
    return [n for n in range(1, most + 1) if not any(refused(architecture, replace(run, tensor_parallel=n), card))]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The same model in another quantization."""

    name: str
    fit: Fit


def variants(fit: Fit) -> Iterator[Variant]:
    """What other quantizations that this card runs would give."""
    own = fit.architecture.quantization
    for name, quantization in VARIANTS:
        if _alike(own, quantization):
            continue
        other = replace(fit.architecture, quantization=quantization)
        if not any(refused(other, fit.run, fit.card)):
            yield Variant(name=name, fit=fit_of(other, fit.run, fit.card))


def _alike(one: Quantization | None, other: Quantization | None) -> bool:
    """Whether their weights are about as large."""
    return round((one.bits if one else 16.0) / 4) == round((other.bits if other else 16.0) / 4)
