"""What engines found at their start, as Prometheus has it, beside what the ledger expected.

    make plan STACK=prod MEASURED=http://127.0.0.1:9090     with `ssh -L 9090:127.0.0.1:9090` to the gateway's host

vLLM prints the same figure at its start: `GPU KV cache size`.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from planning.names import replica_service
from planning.observability.metrics import CACHE_CONFIG, KV_TOKENS
from planning.serving.ledger.stack import Ledger, Placed

TIMEOUT_S = 10.0


class NoAnswer(Exception):
    """Prometheus could not be asked. The text says why."""


@dataclass(frozen=True)
class Compared:
    """One replica's KV cache, tokens."""

    placed: Placed
    found: int | None
    """By vLLM; None: it hasn't said."""

    @property
    def short(self) -> bool:
        """Whether vLLM found less than the ledger was sure of."""
        return bool(self.found is not None and self.placed.fit and self.found < self.placed.fit.sure_tokens)

    def __str__(self) -> str:
        name = replica_service(self.placed.model, self.placed.index)
        if self.found is None:
            return f"{name}: vLLM hasn't said what it found"
        if self.placed.fit is None:
            return f"{name}: vLLM found {self.found:,} tokens; nothing was expected"
        expected = self.placed.fit.tokens
        told = f"{name}: vLLM found {self.found:,} tokens of KV cache, where {expected:,} were expected"
        if self.short:
            return (
                f"{told} and {self.placed.fit.sure_tokens:,} were sure: something else holds memory on its GPUs, "
                "or the sum is wrong"
            )
        return f"{told} ({100 * (self.found / expected - 1):+.0f} %)" if expected else told


def tokens(url: str) -> dict[str, int]:
    """Replica → tokens of its KV cache. Raises NoAnswer."""
    query = urllib.parse.urlencode({"query": CACHE_CONFIG.name})
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/api/v1/query?{query}", timeout=TIMEOUT_S) as answer:
            rows = json.load(answer)["data"]["result"]
        said = [(row["metric"]["replica"], _tokens(row["metric"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        raise NoAnswer(f"{url} does not answer like this stack's Prometheus: {reason!r}") from error
    return {replica: min(found for name, found in said if name == replica) for replica, _ in said}


def _tokens(labels: Mapping[str, str]) -> int:
    if labels.get(KV_TOKENS, "None") != "None":
        return int(labels[KV_TOKENS])
    return int(labels["num_gpu_blocks"]) * int(labels["block_size"])


def compared(found: Ledger, said: Mapping[str, int]) -> list[Compared]:
    return [
        Compared(placed, said.get(replica_service(placed.model, placed.index)))
        for placed in found.placed
        if placed.fit is None or placed.fit.pool.groups
    ]
