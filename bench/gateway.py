"""What nginx and LiteLLM cost: streamed tokens per second and time to first token, through them and without them.

    make up && .venv/bin/python -m bench.gateway

Both ways are taken in the same run against the same replica, in turns; the direct one goes to the engine's address on
Docker's inner network, which this machine can reach. Ratios are through/direct. On a CPU the engine and the gateway
share the cores, so the ratio says what a user of this machine gets, not what the gateway alone could do.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.preview import REPO, activated

MODEL = "chat"


@dataclass(frozen=True)
class Run:
    """One streamed answer."""

    ttft_s: float
    tokens: int


def stream(url: str, key: str, tokens: int) -> Run:
    body = {
        "model": MODEL,
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    request = urllib.request.Request(
        f"{url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    start, first, chunks = time.perf_counter(), 0.0, 0
    with urllib.request.urlopen(request, timeout=300) as response:
        for line in response:
            if line.startswith(b"data: {") and b'"content":"' in line.replace(b'"content": "', b'"content":"'):
                chunks += 1
                first = first or time.perf_counter() - start
    return Run(first, chunks)


def measure(url: str, key: str, streams: int, tokens: int) -> tuple[float, float]:
    """Tokens per second of all streams together, and the median time to first token in seconds."""
    start = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        runs = list(pool.map(lambda _: stream(url, key, tokens), range(streams)))
    return sum(run.tokens for run in runs) / (time.perf_counter() - start), statistics.median(r.ttft_s for r in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--stack", default="dev")
    args = parser.parse_args()
    env = activated()
    out = subprocess.run(
        ["pulumi", "stack", "output", "url", "-s", args.stack],
        cwd=REPO,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    key = subprocess.run(
        ["make", "-s", "key", f"STACK={args.stack}"], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout.strip()
    form = f'{{{{(index .NetworkSettings.Networks "inference-{args.stack}-inner").IPAddress}}}}'
    address = subprocess.run(
        ["docker", "inspect", "--format", form, f"inference-{args.stack}-{MODEL}-0"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    ways = {"through": out.stdout.strip(), "direct": f"http://{address}:8000/v1"}
    for url in ways.values():
        measure(url, key, 2, args.tokens)
    print(f"{os.cpu_count()} cores, one LiteLLM worker, {args.tokens} tokens an answer, median of {args.rounds} rounds")
    for streams in (1, 8, 32):
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, url in ways.items():
                seen[name].append(measure(url, key, streams, args.tokens))
        rate = {name: statistics.median(r for r, _ in runs) for name, runs in seen.items()}
        ttft = {name: statistics.median(t for _, t in runs) for name, runs in seen.items()}
        print(
            f"{streams:>3} streams: tokens/s {rate['through']:.0f} through, {rate['direct']:.0f} direct, "
            f"ratio {rate['through'] / rate['direct']:.2f}; TTFT {1000 * ttft['through']:.0f} ms through, "
            f"{1000 * ttft['direct']:.0f} ms direct, ratio {ttft['through'] / ttft['direct']:.2f}"
        )


if __name__ == "__main__":
    main()
