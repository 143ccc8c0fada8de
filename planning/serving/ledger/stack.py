"""The ledger of a stack: every replica on its GPUs, and what each GPU's memory is promised to. Pure.

GPUs are known by their hosts' facts, models by their locks. Where one of them is missing, or the model is of a kind
that isn't counted, a replica has a reason instead of figures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from planning.serving.ledger.architecture import NotCovered, architecture_of
from planning.serving.ledger.cards import UNIFIED, Card
from planning.serving.ledger.fit import Fit, fit_of
from planning.serving.ledger.memory import BESIDE, BESIDE_AT_LEAST, Run
from stack_configs.schema.facts import Gpu
from stack_configs.schema.models import Model
from stack_configs.schema.stack import StackSpec

COUNTED_ARGS = ("--max-num-batched-tokens", "--kv-cache-dtype", "--block-size")
"""Arguments beyond the fields that change memory, and are counted."""
UNCOUNTED_ARGS = (
    "--calculate-kv-scales",
    "--compilation-config",
    "--cpu-offload-gb",
    "--data-parallel-size",
    "--disable-hybrid-kv-cache-manager",
    "--enable-lora",
    "--hf-overrides",
    "--kv-transfer-config",
    "--limit-mm-per-prompt",
    "--mamba-cache-dtype",
    "--num-gpu-blocks-override",
    "--pipeline-parallel-size",
    "--quantization",
    "--rope-scaling",
    "--speculative-config",
)
"""Arguments that change memory, and aren't counted."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One replica, and what is known of it."""

    model: str
    index: int
    host: str
    gpus: tuple[str, ...]
    share: float
    """`gpu_memory_utilization`."""
    fit: Fit | None
    why_not: str = ""
    """Why there is no fit."""
    because: str = ""
    """What is missing: `lock`, `facts`, or `kind` of model, card or argument."""

    @property
    def path(self) -> tuple[str | int, ...]:
        return ("models", self.model, "replicas", self.index)


@dataclass(frozen=True, kw_only=True)
class Account:
    """One GPU: who is promised what."""

    host: str
    uuid: str
    card: Card | None
    """None: nobody knows it."""
    placed: tuple[Placed, ...]

    @property
    def promised(self) -> int:
        """What the engines on it take, bytes."""
        return int(sum(placed.share for placed in self.placed) * (self.card.total if self.card else 0))

    @property
    def beside(self) -> int:
        """What CUDA and the driver hold outside of these shares: once for each process."""
        return BESIDE * len(self.placed)

    @property
    def left(self) -> int:
        """Negative when the processes on it can't all have what they are promised."""
        return self.card.total - self.promised - self.beside if self.card else 0

    @property
    def overcommitted(self) -> bool:
        """Whether they surely can't."""
        at_least = BESIDE_AT_LEAST * len(self.placed)
        return self.card is not None and self.promised + at_least > self.card.total


@dataclass(frozen=True, kw_only=True)
class Ledger:
    placed: tuple[Placed, ...]
    """Replicas on GPUs."""
    accounts: tuple[Account, ...]
    """GPUs that replicas use, in the order of the hosts."""


def ledger(spec: StackSpec) -> Ledger:
    placed = tuple(_placed(spec))
    accounts = tuple(
        Account(
            host=name,
            uuid=uuid,
            card=card_of(gpu) if (gpu := _gpu(spec, name, uuid)) else None,
            placed=tuple(one for one in placed if uuid in one.gpus),
        )
        for name, host in spec.file.hosts.items()
        for uuid in host.gpus
    )
    return Ledger(placed=placed, accounts=tuple(account for account in accounts if account.placed))


def _placed(spec: StackSpec) -> Iterator[Placed]:
    for name, model in spec.file.models.items():
        for index, replica in enumerate(model.replicas):
            if not replica.gpus:
                continue
            fit, why, because = _fit(spec, name, model, replica.host, replica.gpus)
            yield Placed(
                model=name,
                index=index,
                host=replica.host,
                gpus=replica.gpus,
                share=model.gpu_memory_utilization,
                fit=fit,
                why_not=why,
                because=because,
            )


def _fit(spec: StackSpec, name: str, model: Model, host: str, gpus: tuple[str, ...]) -> tuple[Fit | None, str, str]:
    lock = spec.locks.get(name)
    if lock is None:
        return None, f"{model.source.repo} is not locked", "lock"
    cards: list[Card] = []
    for uuid in gpus:
        gpu = _gpu(spec, host, uuid)
        if gpu is None:
            return None, f"nobody looked what {uuid} is", "facts"
        card = card_of(gpu)
        if card is None:
            return None, f"{gpu.name or uuid} doesn't say how much memory is its own", "kind"
        cards.append(card)
    try:
        return (
            fit_of(architecture_of(lock.config), run_of(model, len(gpus)), _smallest(cards), lock.weights_bytes),
            "",
            "",
        )
    except NotCovered as error:
        return None, f"{error} can't be counted yet", "kind"


def run_of(model: Model, gpus: int) -> Run:
    """Raises NotCovered."""
    given = {flag: value for flag, _, value in (arg.partition("=") for arg in model.extra_args)}
    for flag in given:
        if flag in UNCOUNTED_ARGS:
            raise NotCovered(f"memory with {flag}")
    kv_type = given.get("--kv-cache-dtype", "auto")
    if not (kv_type in ("auto", "bfloat16", "float16") or kv_type.startswith("fp8")):
        raise NotCovered(f"a KV cache of type {kv_type}")
    return Run(
        tensor_parallel=gpus,
        max_model_len=model.max_model_len,
        max_num_seqs=model.max_num_seqs,
        utilization=model.gpu_memory_utilization,
        eager=model.enforce_eager,
        batched_tokens=_whole(given.get("--max-num-batched-tokens")),
        kv_bytes=1 if kv_type.startswith("fp8") else 4 if model.dtype == "float32" else 2,
        block_tokens=_whole(given.get("--block-size")) or 0,
        dtype=model.dtype,
    )


def _whole(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal():
        raise NotCovered(f"an argument of {text!r}")
    return int(text)


def _gpu(spec: StackSpec, host: str, uuid: str) -> Gpu | None:
    facts = spec.facts.get(host)
    return next((gpu for gpu in facts.gpus if gpu.uuid == uuid), None) if facts else None


def card_of(gpu: Gpu) -> Card | None:
    """None where the memory isn't the card's own, or the driver doesn't say."""
    if gpu.name is None or gpu.memory_mib is None or gpu.compute_capability is None:
        return None
    if any(name in gpu.name for name in UNIFIED) or gpu.mig == "on":
        return None
    return Card(name=gpu.name, memory_mib=gpu.memory_mib, capability=float(gpu.compute_capability))


def _smallest(cards: list[Card]) -> Card:
    least = min(cards, key=lambda card: card.total)
    return Card(name=least.name, memory_mib=least.memory_mib, capability=min(card.capability for card in cards))
