"""`make plan`: what each GPU's memory is promised to, and how many users that serves.

    python -m tools.fit --stack prod [--json] [--measured URL]                 a stack, by its hosts' facts and locks
    python -m tools.fit --model config.json --gpu "RTX 4090" [--gpus 2] …      a model that isn't deployed

`--model` takes a model's lock or its config.json. Nothing is asked over the network.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from planning.cell import told_of_cell
from planning.serving.ledger.architecture import NotCovered, architecture_of
from planning.serving.ledger.cards import MIB, TABLE, Card, card
from planning.serving.ledger.fit import TYPICAL_TOKENS, Fit, fit_of, refused, splits, variants
from planning.serving.ledger.memory import GIB, Run
from planning.serving.ledger.rules import ledger_problems, ledger_warnings
from planning.serving.ledger.stack import Account, Ledger, Placed, ledger
from stack_configs.load import ROOT, Settings, load, located
from stack_configs.problems import Problem, SpecError
from stack_configs.schema.stack import StackSpec
from tools import measured

COLUMNS = ("", "of", "weights", "KV cache", "activation", "graphs", "engine", "beside", "left")


class Unusable(Exception):
    """What was given can't be counted with. The text says why, and what to give."""


def stack_text(found: Ledger, typical: int) -> str:
    """The ledger of a stack for reading: a table of GPUs, then what each replica serves."""
    if not found.placed:
        return "No model runs on a GPU that this stack names."
    rows: list[tuple[str, ...]] = [COLUMNS]
    for account in found.accounts:
        rows += _account(account)
    lines = ["GiB on each GPU, as CUDA sees it:", "", *_table(rows), ""]
    for placed in found.placed:
        lines += _served(placed, typical)
    return "\n".join(lines)


def _account(account: Account) -> Iterator[tuple[str, ...]]:
    name = account.card.name.removeprefix("NVIDIA ") if account.card else "nobody looked"
    known = account.card is not None
    yield (
        f"{account.host} {account.uuid[:12]} {name}",
        gib(account.card.total) if account.card else "?",
        *[""] * 5,
        gib(account.beside),
        gib(account.left) if known else "?",
    )
    for placed in account.placed:
        title = f"  {placed.model}-{placed.index}  {placed.share:g}"
        yield (title, *(_shares(placed.fit) if placed.fit else ("?",)))


def _shares(fit: Fit) -> tuple[str, ...]:
    memory = fit.memory
    parts = (memory.weights, max(0, memory.kv), memory.activation, memory.graphs, memory.context)
    return (gib(memory.requested), *map(gib, parts))


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    full = [(*row, *[""] * (len(COLUMNS) - len(row))) for row in rows]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in full
    ]


def _served(placed: Placed, typical: int) -> list[str]:
    where = f"{placed.model}-{placed.index} on {len(placed.gpus)} GPU{'s' * (len(placed.gpus) > 1)} of {placed.host}"
    if placed.fit is None:
        return [f"{where}: not counted, because {placed.why_not}"]
    return [f"{where}: {_verdict(placed.fit)}", *(f"  {line}" for line in served(placed.fit, typical))]


def _verdict(fit: Fit) -> str:
    if any(refused(fit.architecture, fit.run, fit.card)):
        return "can't be started"
    unpromised = f", but {fit.architecture.unpromised}" if fit.architecture.unpromised else ""
    return {"fits": f"fits{unpromised}", "tight": "is tight", "no": "doesn't fit"}[fit.verdict]


def served(fit: Fit, typical: int) -> list[str]:
    """What a replica serves, and what it would in other formats."""
    lines = [*refused(fit.architecture, fit.run, fit.card)]
    if not fit.pool.groups:
        lines.append(f"no KV cache: {fit.run.max_num_seqs} requests of up to {fit.run.max_model_len:,} tokens at once")
    else:
        lines.append(
            f"about {fit.tokens:,} tokens of KV cache, {fit.sure_tokens:,} at least, "
            f"{fit.bytes_per_token:,.0f} bytes each on a GPU"
        )
        lines.append(
            f"about {fit.full_requests:.1f} requests of {fit.run.max_model_len:,} tokens at once, "
            f"{fit.users(typical):,} users at {typical:,}"
        )
        lines.append(
            f"longest context that surely fits: {fit.longest:,} tokens of the {fit.architecture.max_positions:,} it can"
        )
    for variant in variants(fit):
        other = variant.fit
        gives = f"about {other.tokens:,} tokens, longest context {other.longest:,}" if other.longest else "no"
        lines.append(f"in {variant.name}: {gib(other.memory.weights)} GiB of weights; {gives}")
    return lines


def gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def stack_data(found: Ledger, typical: int) -> dict[str, Any]:
    """The ledger as JSON has it: MiB of memory, tokens of text."""
    return {
        "gpus": [
            {
                "host": account.host,
                "uuid": account.uuid,
                "name": account.card.name if account.card else None,
                "driver_mib": account.card.memory_mib if account.card else None,
                "cuda_mib": account.card.total // MIB if account.card else None,
                "models": [
                    {"model": placed.model, "replica": placed.index, **(memory_data(placed.fit) if placed.fit else {})}
                    for placed in account.placed
                ],
                "beside_mib": account.beside // MIB,
                "left_mib": account.left // MIB if account.card else None,
            }
            for account in found.accounts
        ],
        "replicas": [
            {
                "model": placed.model,
                "replica": placed.index,
                "host": placed.host,
                "gpus": list(placed.gpus),
                **(served_data(placed.fit, typical) if placed.fit else {"not_counted": placed.why_not}),
            }
            for placed in found.placed
        ],
    }


def memory_data(fit: Fit) -> dict[str, int]:
    memory = fit.memory
    return {
        "requested_mib": memory.requested // MIB,
        "weights_mib": memory.weights // MIB,
        "kv_cache_mib": max(0, memory.kv) // MIB,
        "activation_mib": memory.activation // MIB,
        "cuda_graphs_mib": memory.graphs // MIB,
        "engine_mib": memory.context // MIB,
    }


def served_data(fit: Fit, typical: int) -> dict[str, Any]:
    return {
        "verdict": fit.verdict,
        "refused": list(refused(fit.architecture, fit.run, fit.card)),
        "unpromised": fit.architecture.unpromised,
        "kv_bytes_per_token": fit.bytes_per_token,
        "kv_tokens": fit.tokens,
        "kv_tokens_at_least": fit.sure_tokens,
        "context": fit.run.max_model_len,
        "full_context_requests": round(fit.full_requests, 2) if fit.pool.groups else None,
        "typical_tokens": typical,
        "typical_users": fit.users(typical),
        "longest_context": fit.longest,
        "variants": {
            variant.name: {
                "verdict": variant.fit.verdict,
                "weights_mib": variant.fit.memory.weights // MIB,
                "kv_tokens": variant.fit.tokens,
                "longest_context": variant.fit.longest,
            }
            for variant in variants(fit)
        },
    }


def card_named(text: str) -> Card:
    """The one card of the table that this is part of the name of. Raises Unusable."""
    exact = [name for name in TABLE if text.lower() in (name.lower(), name.lower().removeprefix("nvidia geforce "))]
    found = exact or [name for name in TABLE if text.lower() in name.lower()]
    if len(found) == 1:
        return card(found[0])
    wrong = "is several cards" if found else "is no card that was measured"
    known = ", ".join(found or TABLE)
    raise Unusable(f"{text!r} {wrong}: name one of {known}; or give --gpu-mib and --capability of nvidia-smi")


def asked(given: argparse.Namespace) -> Fit:
    """A model that isn't deployed, on cards that needn't exist. Raises Unusable."""
    try:
        data = json.loads(given.model.read_text(encoding="utf-8"))
        locked = isinstance(data, dict) and "repo" in data
        architecture = architecture_of(data["config"] if locked else data)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise Unusable(f"{given.model} is neither a lock nor a config.json: {error}") from error
    except NotCovered as error:
        raise Unusable(f"{error} can't be counted yet; docs/will-it-fit.md has the kinds that are") from error
    if given.gpu_mib:
        on = Card(name=given.gpu or "the card", memory_mib=given.gpu_mib, capability=given.capability)
    elif given.gpu:
        on = card_named(given.gpu)
    else:
        raise Unusable("name a card: --gpu 'RTX 4090'")
    run = Run(
        tensor_parallel=given.gpus,
        max_model_len=min(given.context or 8192, architecture.max_positions),
        max_num_seqs=given.requests,
        utilization=given.utilization,
        kv_bytes=given.kv_bytes,
    )
    return fit_of(architecture, run, on, data.get("weights_bytes") if locked else None)


def asked_text(fit: Fit, typical: int) -> str:
    title = f"{fit.architecture.name}, {fit.architecture.parameters.total / 1e9:.1f}e9 parameters"
    rows: list[tuple[str, ...]] = [
        COLUMNS[:7],
        (f"{fit.run.tensor_parallel} x {fit.card.name}, {fit.run.utilization:g}", *_shares(fit)),
    ]
    possible = ", ".join(map(str, splits(fit.architecture, fit.card)))
    lines = [f"{title}: {_verdict(fit)}", "", "GiB on each GPU:", *_table(rows), "", *served(fit, typical)]
    return "\n".join([*lines, f"can be split between {possible} GPUs of that kind" if possible else ""]).rstrip()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.fit", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--stack", help="a stack of stack_configs/")
    parser.add_argument("--model", type=Path, help="a model's lock or its config.json")
    parser.add_argument("--gpu", help="part of a card's name")
    parser.add_argument("--gpus", type=int, default=1, help="how many of them, by tensor parallelism")
    parser.add_argument("--gpu-mib", type=int, help="memory as nvidia-smi reports it, of a card that isn't known")
    parser.add_argument("--capability", type=float, default=9.0, help="its compute capability")
    parser.add_argument("--context", type=int, help="longest prompt and answer, tokens (8192)")
    parser.add_argument("--requests", type=int, default=32, help="computed at once at the most")
    parser.add_argument("--utilization", type=float, default=0.9)
    parser.add_argument(
        "--kv-bytes", type=int, choices=(1, 2), default=2, help="of an element: 1 for --kv-cache-dtype=fp8"
    )
    parser.add_argument("--typical", type=int, default=TYPICAL_TOKENS, help="tokens of a user's request")
    parser.add_argument("--measured", metavar="URL", help="the stack's Prometheus: compare with what vLLM found")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(argv)
    if bool(given.stack) == bool(given.model):
        parser.error("give --stack, or --model and --gpu")
    try:
        return _stack(given) if given.stack else _model(given)
    except (Unusable, SpecError, measured.NoAnswer) as error:
        print(error, file=sys.stderr)
        return 2


def described(stack: str, root: Path = ROOT) -> StackSpec:
    """The stack as its file has it; memory needs none of the keys that its Pulumi config has. Raises SpecError."""
    try:
        data = yaml.safe_load((root / "stack_configs" / f"{stack}.yaml").read_text(encoding="utf-8"))
        names = [str(name) for name in data["gateway"]["keys"]]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        names = []  # what is wrong is told by `load`
    return load(stack, Settings(key_hashes={name: sha256(name.encode()).hexdigest() for name in names}), root)


def _stack(given: argparse.Namespace) -> int:
    spec = described(given.stack)
    found = ledger(spec)
    problems: tuple[Problem, ...] = located(given.stack, ledger_problems(spec))
    warnings = located(given.stack, ledger_warnings(spec))
    after = measured.compared(found, measured.tokens(given.measured)) if given.measured else []
    if given.json:
        told: dict[str, Any] = {"problems": [*map(_told, problems)], "warnings": [*map(_told, warnings)]}
        if given.measured:
            told["measured_tokens"] = {f"{one.placed.model}-{one.placed.index}": one.found for one in after}
        print(json.dumps({**stack_data(found, given.typical), **told}, indent=2))
    else:
        print("\n".join([stack_text(found, given.typical), *([""] if after else []), *map(str, after)]))
        if cell := told_of_cell(spec):
            print(f"\n{cell}")
        for kind, group in (("problem", problems), ("warning", warnings)):
            for one in group:
                print(f"\n{kind}: {one}")
    return 1 if problems or any(one.short for one in after) else 0


def _told(problem: Problem) -> dict[str, Any]:
    return {"path": list(problem.path), "says": problem.says, "write": problem.write}


def _model(given: argparse.Namespace) -> int:
    fit = asked(given)
    if given.json:
        print(json.dumps({"memory": memory_data(fit), **served_data(fit, given.typical)}, indent=2))
    else:
        print(asked_text(fit, given.typical))
    return 0 if fit.verdict != "no" and not any(refused(fit.architecture, fit.run, fit.card)) else 1


if __name__ == "__main__":
    sys.exit(main())
