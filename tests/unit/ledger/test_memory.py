"""Where a GPU's memory goes, against what vLLM printed."""

import random

import pytest

from planning.serving.ledger.cards import TABLE, Card, card
from planning.serving.ledger.memory import GIB, MARGIN, Run, captured_graphs, memory_of
from tests.unit.ledger import shapes
from tests.unit.ledger.logs import Log, logs

MEASURED = [log for log in logs() if log.memory is not None]


@pytest.mark.parametrize("log", [log for log in MEASURED if "weights" in log.said], ids=str)
def test_weights_are_vllms_to_a_twentieth_of_a_gib(log: Log) -> None:
    assert log.memory
    assert log.memory.weights / GIB == pytest.approx(log.said["weights"], abs=0.05)


def test_kv_memory_is_within_half_a_gib_of_most_logs() -> None:
    near = [log for log in MEASURED if abs(log.off) <= 0.5]
    assert len(MEASURED) >= 21
    assert len(near) >= len(MEASURED) * 2 / 3, [f"{log}: {log.off:+.2f}" for log in MEASURED]


@pytest.mark.parametrize("log", MEASURED, ids=str)
def test_never_more_than_the_margin_too_much_is_expected(log: Log) -> None:
    assert log.off * GIB < MARGIN


@pytest.mark.parametrize("log", MEASURED, ids=str)
def test_never_so_little_that_a_model_is_refused_that_runs_with_room(log: Log) -> None:
    assert log.off > -1.5


def test_a_start_that_compiles_is_what_is_counted() -> None:
    told = {log.said["start"]: log.off for log in MEASURED if log.said.get("start") and log.engine == (0, 27)}
    assert abs(told["cold"]) < 0.5
    assert told["warm"] < -1, "one that doesn't compile has a GiB more"


def test_graphs_are_those_that_vllm_lists() -> None:
    """`PIECEWISE=51 (largest=512), FULL=35 (largest=256)` in the logs of 256 requests; 3 and 2 for two requests."""
    assert captured_graphs(256) == 51 + 35
    assert captured_graphs(2) == 3 + 2


def test_pytorch_sees_less_than_the_driver_reports() -> None:
    for name, row in TABLE.items():
        assert 0 < row.reserved_mib < 0.06 * row.memory_mib, name
        assert row.reserved_mib * 1024**2 == row.memory_mib * 1024**2 - card(name).total


def test_a_card_that_nobody_saw_keeps_more_for_itself_than_any_of_its_size() -> None:
    for name, row in TABLE.items():
        unknown = Card(name="NVIDIA Unheard Of", memory_mib=row.memory_mib, capability=row.capability)
        assert unknown.total <= card(name).total


@pytest.mark.parametrize("seed", range(200))
def test_what_holds_of_every_run(seed: int) -> None:
    dice = random.Random(seed)
    architecture = shapes.shape(dice.choice(shapes.names()))
    total = card(dice.choice(list(TABLE))).total
    gpus = dice.choice([n for n in (1, 2, 4, 8) if architecture.heads % n == 0])
    length = dice.randrange(128, architecture.max_positions + 1)
    seqs = dice.choice([1, 8, 64, 256])
    plain = Run(tensor_parallel=gpus, max_model_len=length, max_num_seqs=seqs, utilization=0.9)
    base = memory_of(architecture, plain, total)

    def run(**changed: object) -> Run:
        return Run(**{**plain.__dict__, **changed})

    assert base.kv == base.requested - base.weights - base.context - base.activation - base.graphs
    assert memory_of(architecture, run(utilization=0.95), total).kv > base.kv, "a larger share leaves more"
    assert memory_of(architecture, run(eager=True), total).kv >= base.kv, "without graphs more is left"
    assert memory_of(architecture, run(max_num_seqs=2 * seqs), total).kv <= base.kv, "more requests leave no more"
    assert memory_of(architecture, run(max_model_len=length + 1), total).kv <= base.kv, "more context leaves no more"
    assert memory_of(architecture, plain, total + GIB).requested > base.requested
    more = memory_of(architecture, run(batched_tokens=65536), total)
    assert more.activation >= memory_of(architecture, run(batched_tokens=1024), total).activation
    if gpus > 1:
        alone = memory_of(architecture, run(tensor_parallel=1), total)
        assert base.weights < alone.weights, "split weights are smaller"
        assert base.weights * gpus >= alone.weights * 0.999, "and nothing is lost"
