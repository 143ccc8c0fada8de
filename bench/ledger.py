"""How far the ledger is from what vLLM found: every start-up log of tests/unit/ledger/logs.yaml, and the sums.

    .venv/bin/python -m bench.ledger

`KV` is the KV cache's memory on a GPU, GiB: what the ledger expects from config.json and the card's name, what the log
says, and the difference. Above the margin a positive one would be a promise that vLLM breaks. `tokens`: of
the log's own KV memory, which is printed to 0.01 GiB. Goals: within 0.5 GiB for most logs, tokens exact to a block.
"""

from planning.serving.ledger.memory import GIB, MARGIN
from tests.unit.ledger.logs import Log, logs

HEAD = ("log", "KV here", "in the log", "off", "tokens")


def row(log: Log) -> tuple[str, ...]:
    memory = log.memory
    return (
        str(log),
        f"{memory.kv / GIB:.2f}" if memory else "-",
        f"{log.kv:.2f}",
        f"{log.off:+.2f}" if memory else "-",
        exact(log),
    )


def exact(log: Log) -> str:
    """Whether the tokens that vLLM printed are among those that its printed memory holds."""
    if not {"kv", "tokens"} <= log.said.keys():
        return "-"
    least, most, said = log.tokens(log.kv - 0.005), log.tokens(log.kv + 0.005), log.said["tokens"]
    return "exact" if least <= said <= most else f"{100 * (said / least - 1):+.1f} %"


def main() -> None:
    rows = [HEAD, *map(row, logs())]
    widths = [max(len(line[index]) for line in rows) for index in range(len(HEAD))]
    for line in rows:
        print(
            "  ".join(
                [line[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(line[1:], widths[1:], strict=True))]
            )
        )
    measured = [log for log in logs() if log.memory]
    near = [log for log in measured if abs(log.off) <= 0.5]
    tokens = [exact(log) for log in logs()]
    print(f"\nwithin 0.5 GiB: {len(near)} of {len(measured)}; a start that needn't compile has about 1 GiB more")
    print(
        f"most that was expected too much: {max(log.off for log in measured):.2f} GiB; {MARGIN / GIB:.2f} are kept back"
    )
    print(f"tokens exact to a block: {tokens.count('exact')} of {len(tokens) - tokens.count('-')}")


if __name__ == "__main__":
    main()
