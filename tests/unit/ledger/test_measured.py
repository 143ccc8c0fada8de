"""What vLLM found, beside what was expected."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from planning.observability.metrics import CACHE_CONFIG
from planning.serving.ledger.stack import ledger
from tests.unit.ledger.stacks import R4090, one
from tools import fit, measured

FOUND = ledger(one("Qwen3-8B", R4090, max_model_len=16384))
FIT = FOUND.placed[0].fit


@contextmanager
def prometheus(*labels: dict[str, str], body: bytes | None = None) -> Iterator[str]:
    """One that has this metric with these labels; other labels are as vLLM 0.31 gives them."""
    common = {"__name__": CACHE_CONFIG.name, "engine": "0"}
    rows = [{"metric": common | row, "value": [0, "1"]} for row in labels]
    answer = body or json.dumps({"status": "success", "data": {"resultType": "vector", "result": rows}}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.path == "/api/v1/query?query=vllm%3Acache_config_info"
            self.send_response(200 if good else 404)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def said(**labels: str) -> tuple[bool, str]:
    with prometheus({"replica": "chat-0", **labels}) as url:
        (one_of,) = measured.compared(FOUND, measured.tokens(url))
    return one_of.short, str(one_of)


def test_as_much_as_was_expected() -> None:
    assert FIT
    assert said(kv_cache_size_tokens=str(FIT.tokens)) == (
        False,
        f"chat-0: vLLM found {FIT.tokens:,} tokens of KV cache, where {FIT.tokens:,} were expected (+0 %)",
    )


def test_less_than_was_sure() -> None:
    assert FIT
    short, text = said(kv_cache_size_tokens=str(FIT.sure_tokens - 16))
    assert short
    assert text.endswith(
        f"and {FIT.sure_tokens:,} were sure: something else holds memory on its GPUs, or the sum is wrong"
    )
    assert said(kv_cache_size_tokens=str(FIT.sure_tokens))[0] is False


def test_an_engine_that_tells_blocks_alone() -> None:
    assert "vLLM found 16,000 tokens" in said(kv_cache_size_tokens="None", num_gpu_blocks="1000", block_size="16")[1]


def test_an_engine_that_has_not_said() -> None:
    assert said(replica="other-0", kv_cache_size_tokens="1") == (False, "chat-0: vLLM hasn't said what it found")


def test_the_smallest_of_several_engines_counts() -> None:
    rows = [{"replica": "chat-0", "kv_cache_size_tokens": count} for count in ("300", "200", "400")]
    with prometheus(*rows) as url:
        assert measured.tokens(url) == {"chat-0": 200}


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"data": {"result": [{"metric": {}}]}}'])
def test_what_is_not_this_stacks_prometheus(body: bytes) -> None:
    with prometheus(body=body) as url, pytest.raises(measured.NoAnswer, match="does not answer like this stack's"):
        measured.tokens(url)


def test_the_command_fails_when_a_replica_has_less(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit, "described", lambda _stack: one("Qwen3-8B", R4090, max_model_len=16384))
    monkeypatch.setattr(fit, "located", lambda _stack, _found: ())
    for count, status in (("16", 1), ("30000", 0)):
        with prometheus({"replica": "chat-0", "kv_cache_size_tokens": count}) as url:
            assert fit.main(["--stack", "prod", "--measured", url]) == status
            assert f"chat-0: vLLM found {int(count):,} tokens" in capsys.readouterr().out
            assert fit.main(["--stack", "prod", "--measured", url, "--json"]) == status
            assert json.loads(capsys.readouterr().out)["measured_tokens"] == {"chat-0": int(count)}
    assert fit.main(["--stack", "prod", "--measured", "http://127.0.0.1:9"]) == 2
