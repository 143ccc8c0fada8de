"""What can't run on the GPUs it is given, told before anything is touched. Pure.

`ledger_problems` refuses, `ledger_warnings` only tells. Neither says anything of a replica on the CPU.
"""

from collections.abc import Iterator
from dataclasses import replace

from planning.serving.ledger.cards import TABLE, card
from planning.serving.ledger.fit import Fit, fit_of, refused, splits, variants
from planning.serving.ledger.memory import ACCURACY, GIB, MARGIN
from planning.serving.ledger.quantization import BFLOAT16_FROM, remark
from planning.serving.ledger.stack import Account, Ledger, Placed, ledger
from stack_configs.schema.stack import StackSpec

Found = tuple[tuple[str | int, ...], str, str]
"""YAML path, what is wrong, what to write or do instead."""

BIG = 24 * GIB
"""Weights from here on take minutes to load: who asks meanwhile needs another model."""


def ledger_problems(spec: StackSpec) -> tuple[Found, ...]:
    """Everything that vLLM would refuse at its start, or fail with."""
    if spec.weights == "random":
        return ()
    found = ledger(spec)
    told = [problem for placed in found.placed if placed.fit for problem in _replica(placed, placed.fit)]
    told += [problem for account in found.accounts for problem in _overcommitted(account)]
    # Replicas alike on cards alike have the same problem with the same setting: say it once.
    return tuple({(path, says): (path, says, write) for path, says, write in told}.values())


def ledger_warnings(spec: StackSpec) -> tuple[Found, ...]:
    """What is close, what wasn't counted and why, and what users would feel."""
    if spec.weights == "random":
        return ()
    found = ledger(spec)
    told = [*_uncounted(spec, found)]
    told += [warning for placed in found.placed if placed.fit for warning in _close(placed, placed.fit)]
    told += [warning for account in found.accounts for warning in _crowded(account)]
    told += [*_alone(spec, found)]
    return tuple({(path, says): (path, says, write) for path, says, write in told}.values())


def _replica(placed: Placed, fit: Fit) -> Iterator[Found]:
    at, model = placed.path, ("models", placed.model)
    why = [*refused(fit.architecture, fit.run, fit.card)]
    for reason in why:
        yield ((*at, "gpus"), f"can't be started: {reason}", _otherwise(fit))
    if fit.run.dtype == "bfloat16" and fit.card.capability < BFLOAT16_FROM:
        yield (
            (*model, "dtype"),
            f"bfloat16 needs compute capability {BFLOAT16_FROM} or higher, and {fit.card.name} "
            f"has {fit.card.capability}",
            "write `dtype: float16`, or `auto`",
        )
    limit = fit.architecture.max_positions
    if fit.run.max_model_len > limit:
        yield (
            (*model, "max_model_len"),
            f"{fit.run.max_model_len} tokens are more than the {limit} that the model was made for: vLLM refuses",
            f"write {limit} or less",
        )
    elif not why and fit.verdict == "no":
        yield from _too_little(placed, fit)


def _too_little(placed: Placed, fit: Fit) -> Iterator[Found]:
    memory, name = fit.memory, f"{fit.card.name} on {placed.host}"
    if memory.kv <= 0:
        yield (
            (*placed.path, "gpus"),
            f"needs {gib(memory.requested - memory.kv)} GiB on each GPU before any KV cache, {gib(memory.weights)} "
            f"of it weights; {placed.share:g} of {name} is {gib(memory.requested)} GiB",
            _remedies(fit),
        )
        return
    longest = fit.longest
    yield (
        ("models", placed.model, "max_model_len"),
        f"one request of {fit.run.max_model_len} tokens needs {gib(fit.needed)} GiB of KV cache on each GPU; "
        f"{name} has about {gib(memory.kv)} left for it: vLLM refuses to start",
        (f"write `max_model_len: {_round(longest)}` or less; or " if longest >= 128 else "") + _remedies(fit),
    )


def _remedies(fit: Fit) -> str:
    """Other weights, more GPUs, another card: those that would fit."""
    told = []
    smaller = [v for v in variants(fit) if v.fit.verdict == "fits" and v.fit.memory.weights < fit.memory.weights]
    if smaller:
        best = smaller[0]
        told.append(f"a model published in {best.name} ({gib(best.fit.memory.weights)} GiB of weights)")
    for gpus in splits(fit.architecture, fit.card):
        more = _again(fit, gpus)
        if gpus > fit.run.tensor_parallel and more.verdict == "fits":
            told.append(f"{gpus} GPUs like it in `gpus`")
            break
    for name in sorted(TABLE, key=lambda name: TABLE[name].memory_mib):
        other = card(name)
        if other.total <= fit.card.total or any(refused(fit.architecture, fit.run, other)):
            continue
        if fit_of(fit.architecture, fit.run, other, fit.weights_bytes).verdict == "fits":
            told.append(f"a card of {round(other.memory_mib / 1024)} GiB ({name})")
            break
    return "; or ".join(told) or "a smaller model"


def _again(fit: Fit, gpus: int) -> Fit:
    return fit_of(fit.architecture, replace(fit.run, tensor_parallel=gpus), fit.card, fit.weights_bytes)


def _otherwise(fit: Fit) -> str:
    possible = splits(fit.architecture, fit.card)
    if fit.run.tensor_parallel not in possible and possible:
        return f"name {_either([str(n) for n in possible if n <= 8])} GPUs"
    good = [v for v in variants(fit) if v.fit.verdict == "fits"]
    return f"a model published in {good[0].name}, or a newer card" if good else "a newer card"


def _either(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _overcommitted(account: Account) -> Iterator[Found]:
    if account.overcommitted and account.card:
        names = ", ".join(f"{placed.model} {placed.share:g}" for placed in account.placed)
        most = int((account.card.total - account.beside) * 100 / account.card.total) / 100
        yield (
            ("models", account.placed[-1].model, "gpu_memory_utilization"),
            f"{account.uuid} of {account.host} has {gib(account.card.total)} GiB for CUDA, and is promised "
            f"{gib(account.promised)} ({names}) besides what each process holds outside of that: vLLM refuses to start",
            f"lower the shares until they sum to {most:.2f} or less, or use another GPU",
        )


def _crowded(account: Account) -> Iterator[Found]:
    if account.left < 0 and not account.overcommitted and account.card:
        yield (
            ("models", account.placed[-1].model, "gpu_memory_utilization"),
            f"is tight: {account.uuid} of {account.host} is promised {gib(account.promised)} of "
            f"{gib(account.card.total)} GiB, and {len(account.placed)} processes hold up to "
            f"{gib(account.beside)} outside of that",
            "lower the shares a little",
        )


def _close(placed: Placed, fit: Fit) -> Iterator[Found]:
    if any(refused(fit.architecture, fit.run, fit.card)):
        return
    if fit.verdict == "tight":
        yield (
            ("models", placed.model, "max_model_len"),
            f"is tight on {fit.card.name} of {placed.host}: about {gib(fit.memory.kv)} GiB are left for the KV cache "
            f"on each GPU, one request at full length needs {gib(fit.needed)}, and that sum may be "
            f"{gib(ACCURACY)} too low or {gib(MARGIN)} too high",
            f"write `max_model_len: {_round(fit.longest)}` to be sure" if fit.longest >= 128 else _remedies(fit),
        )
    elif fit.verdict == "fits" and fit.architecture.unpromised:
        yield (
            ("models", placed.model),
            f"isn't promised to fit on {fit.card.name} of {placed.host}: {fit.architecture.unpromised}",
            "watch its first start",
        )
    if (slow := remark(fit.architecture.quantization, fit.card.capability)) is not None:
        yield ((*placed.path, "gpus"), f"{fit.card.name} {slow}", "nothing, if it is fast enough")


def _uncounted(spec: StackSpec, found: Ledger) -> Iterator[Found]:
    for placed in found.placed:
        if placed.because == "lock":
            yield (
                ("models", placed.model, "source"),
                f"{placed.why_not}: nobody counted whether it fits, and its files can't be verified",
                f"`python -m tools.lock models --stack {spec.stack}`",
            )
        elif placed.because == "facts":
            yield (
                (*placed.path, "gpus"),
                f"{placed.why_not}: whether it fits wasn't counted",
                f"`make facts STACK={spec.stack} HOST={placed.host}`",
            )
        elif placed.because:
            yield (placed.path, f"{placed.why_not}: whether it fits is unknown", "watch its first start")


def _alone(spec: StackSpec, found: Ledger) -> Iterator[Found]:
    """In a stack of hosts, a big model needs somebody smaller who answers while it loads."""
    if all(host.connection.kind == "local" for host in spec.file.hosts.values()):
        return
    sizes = {placed.model: _whole(placed.fit) for placed in found.placed if placed.fit}
    used = {name: {gpu for placed in found.placed if placed.model == name for gpu in placed.gpus} for name in sizes}
    for name, size in sizes.items():
        others = spec.file.gateway.fallbacks.get(name, ())
        if size < BIG or any(
            other not in sizes or (sizes[other] < size and not used[other] & used[name]) for other in others
        ):
            continue
        why = "no fallback" if not others else "no fallback that is smaller and on GPUs of its own"
        yield (
            ("models", name),
            f"has {gib(size)} GiB of weights and {why}: while it is loaded or replaced nobody answers",
            f"a smaller model beside it, and `gateway.fallbacks: {{{name}: [that model]}}`",
        )


def _whole(fit: Fit) -> int:
    return fit.weights_bytes or fit.memory.weights * fit.run.tensor_parallel


def gib(size: float) -> str:
    return f"{size / GIB:.1f}"


def _round(tokens: int) -> int:
    """Down to what people write."""
    step = 1024 if tokens >= 4096 else 128
    return tokens // step * step
