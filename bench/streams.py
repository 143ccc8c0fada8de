"""Streamed chats, many at once, and what the client sees of them."""

import json
import statistics
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

MODEL = "chat"


@dataclass(frozen=True)
class Seen:
    """Streams that ran side by side."""

    tokens_s: float
    """Chunks with content per second, of all streams together, from the first request to the last answer's end."""
    ttft_s: float
    """Median time to the first chunk with content, seconds."""


def run(url: str, key: str, streams: int, tokens: int) -> Seen:
    """Ask `url` (…/v1) for answers of so many tokens. Raises OSError on an error, RuntimeError on an empty answer."""
    start = time.perf_counter()
    with ThreadPoolExecutor(streams) as pool:
        runs = list(pool.map(lambda _: _stream(url, key, tokens), range(streams)))
    lasted = time.perf_counter() - start
    return Seen(sum(chunks for _, chunks in runs) / lasted, statistics.median(first for first, _ in runs))


def _stream(url: str, key: str, tokens: int) -> tuple[float, int]:
    """Seconds to the first chunk with content, and how many there were."""
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
            # Cheaper than reading the JSON, so that the client doesn't become the limit.
            if line.startswith(b"data: {") and (b'"content":"' in line or b'"content": "' in line):
                if b'"content":""' in line:  # LiteLLM's and vLLM's first chunk, which has the role alone
                    continue
                chunks += 1
                first = first or time.perf_counter() - start
    if not chunks:
        raise RuntimeError(f"an empty answer from {url}")
    return first, chunks
