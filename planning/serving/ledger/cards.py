"""GPUs: what the driver calls them, how much memory it reports, and how much of that vLLM can count on.

vLLM divides the memory that PyTorch reports (`cudaMemGetInfo`), which is less than nvidia-smi's `memory.total`: the
driver keeps some for itself. `reserved_mib` is the largest difference that public logs show for a card.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Card:
    """One GPU: what its host says of it, or a row of the table."""

    name: str
    """The driver's: `NVIDIA L40S`."""
    memory_mib: int
    """Total memory as the driver reports it."""
    capability: float
    """Compute capability: 8.9."""

    @property
    def total(self) -> int:
        """Bytes that PyTorch, and so vLLM, counts as the whole."""
        row = TABLE.get(self.name)
        reserved = row.reserved_mib if row else unknown_reserve_mib(self.memory_mib)
        return (self.memory_mib - reserved) * MIB


@dataclass(frozen=True, kw_only=True)
class Row:
    """A card that was seen."""

    memory_mib: int
    capability: float
    reserved_mib: int
    source: str


def unknown_reserve_mib(memory_mib: int) -> int:
    """What the driver keeps of a card that isn't in the table: more than of any card that is."""
    return max(620, memory_mib * 11 // 1000)


def card(name: str) -> Card:
    """A card of the table. Raises KeyError."""
    row = TABLE[name]
    return Card(name=name, memory_mib=row.memory_mib, capability=row.capability)


def _row(memory_mib: int, capability: float, torch_gib: float, source: str) -> Row:
    return Row(
        memory_mib=memory_mib,
        capability=capability,
        reserved_mib=memory_mib - int(torch_gib * 1024),
        source=f"PyTorch sees {torch_gib} GiB: {source}",
    )


TABLE: Mapping[str, Row] = {
    "NVIDIA A100-SXM4-40GB": _row(40960, 8.0, 39.49, "vLLM 0.15.1 log, 2026-06"),
    "NVIDIA A100-SXM4-80GB": _row(81920, 8.0, 79.15, "out-of-memory message; 79.25 in a vLLM 0.31.0 log, 2026-10"),
    "NVIDIA A100 80GB PCIe": _row(81920, 8.0, 79.15, "as the SXM4 board, whose memory is the same"),
    "NVIDIA B200": _row(183359, 10.0, 178.35, "unslothai/unsloth#3411, torch 2.8"),
    "NVIDIA GeForce RTX 3060": _row(12288, 8.6, 11.63, "lowest of two logs; 11.74 with torch 2.7"),
    "NVIDIA GeForce RTX 3090": _row(
        24576, 8.6, 23.55, "vLLM 0.30 log, 2026-09 (23.56); 23.58 in vllm-project/vllm#10517"
    ),
    "NVIDIA GeForce RTX 4090": _row(24564, 8.9, 23.51, "torch 2.10 log, 2026-02; 23.65 with torch 2.5"),
    "NVIDIA GeForce RTX 5060 Ti": _row(16311, 12.0, 15.46, "vLLM logs of 2026-09 (15.51), less 0.05"),
    "NVIDIA GeForce RTX 5090": _row(32607, 12.0, 31.36, "vLLM 0.30.0 log, 2026-09"),
    "NVIDIA H100 80GB HBM3": _row(
        81559, 9.0, 79.1, "lowest of logs; 79.18 in llm-d-incubation/llm-d-planner, vLLM 0.11.0"
    ),
    "NVIDIA H200": _row(143771, 9.0, 139.7, "torch 2.7 log, 2026-05; 139.8 with torch 2.10"),
    "NVIDIA L4": _row(23034, 8.9, 21.96, "lowest of logs; 22.03 in a vLLM 0.29 log, 2026-09"),
    "NVIDIA L40S": _row(46068, 8.9, 44.39, "torch 2.10 logs, 2026-02 and 2026-10"),
    "NVIDIA RTX A6000": _row(49140, 8.6, 47.4, "torch 2.8 log (47.43); with ECC on, the driver reports less too"),
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": _row(97887, 12.0, 94.97, "torch 2.10 log, 2026-04"),
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": _row(97887, 12.0, 94.97, "vLLM log, 2026-09"),
    "Tesla T4": _row(15360, 7.5, 14.56, "vLLM 0.7 log; 14.74 with torch 2.8"),
    "Tesla V100-SXM2-32GB": _row(32768, 7.0, 31.73, "from vLLM 0.18's figures, 2026-03"),
}
"""Driver's name → what was seen. Sources are public start-up logs unless they name a repository."""

UNIFIED = ("NVIDIA GB10", "NVIDIA Thor", "Orin")
"""Names of machines whose GPU shares the main memory: what is free there depends on everything else that runs."""
