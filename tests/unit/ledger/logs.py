"""Start-up logs of logs.yaml, and what the ledger says of the same runs."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from planning.serving.ledger.cards import card
from planning.serving.ledger.kv import Batch, Pool, blocks_in, bytes_per_token, pool_of, tokens_in
from planning.serving.ledger.memory import ENGINE, GIB, Memory, Run, batch_of, memory_of
from planning.serving.ledger.shape import Architecture
from tests.unit.ledger import shapes

FILE = Path(__file__).with_name("logs.yaml")
SINCE_TOKENS = (0, 21)
"""Before it, the printed tokens were blocks, divided by the groups, times the block size."""


@dataclass(frozen=True)
class Log:
    """One log. Fields that it doesn't tell are vLLM's defaults."""

    said: dict[str, Any]

    @property
    def architecture(self) -> Architecture:
        return shapes.shape(self.said["model"])

    @property
    def engine(self) -> tuple[int, int]:
        major, minor = (int(part) for part in self.said.get("engine", "0.31").split("."))
        return major, minor

    @property
    def run(self) -> Run:
        return Run(
            tensor_parallel=self.said.get("gpus", 1),
            max_model_len=self.said["max_model_len"],
            max_num_seqs=self.said.get("max_num_seqs", 256),
            utilization=self.said.get("utilization", 0.9),
            eager=self.said.get("eager", False),
            batched_tokens=self.said.get("batch"),
            kv_bytes=self.said.get("kv_bytes", 2),
            engine=self.engine if "engine" in self.said else ENGINE,
        )

    @property
    def pool(self) -> Pool:
        return pool_of(self.architecture, tensor_parallel=self.run.tensor_parallel, kv_bytes=self.run.kv_bytes)

    @property
    def batch(self) -> Batch:
        return batch_of(self.architecture, self.run, 0)

    @property
    def memory(self) -> Memory | None:
        """What the ledger expects; None where the log doesn't say enough to ask it."""
        if not {"card", "utilization"} <= self.said.keys():
            return None
        return memory_of(self.architecture, self.run, card(self.said["card"]).total, self.said["card"])

    @property
    def kv(self) -> float:
        """GiB that vLLM gave to the KV cache."""
        return float(self.said.get("kv") or self.said["tokens"] * bytes_per_token(self.pool) / GIB)

    @property
    def off(self) -> float:
        """GiB of KV cache that the ledger expects beyond what vLLM had. Asked of logs with `memory` only."""
        assert self.memory
        return self.memory.kv / GIB - self.kv

    def tokens(self, gib: float) -> int:
        """What this version of vLLM prints for so much KV memory."""
        blocks = blocks_in(self.pool, int(gib * GIB))
        if self.engine < SINCE_TOKENS:
            return blocks // len(self.pool.groups) * self.pool.groups[0].block_tokens
        return tokens_in(self.pool, blocks, self.run.max_model_len, self.batch)

    def __str__(self) -> str:
        on = f" on {self.said.get('gpus', 1)}x {self.said['card']}" if "card" in self.said else ""
        start = f", {self.said['start']}" if "start" in self.said else ""
        return f"{self.said['model']}{on}, {self.said.get('engine', '?')}{start}"


@cache
def logs() -> tuple[Log, ...]:
    return tuple(Log(said) for said in yaml.safe_load(FILE.read_text()))
