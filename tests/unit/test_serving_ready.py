"""The health check of an engine, against a server that counts."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from planning.serving.files import ready


class Engine(ThreadingHTTPServer):
    """Answers as vLLM does, or as `statuses` says."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.statuses: dict[str, int] = {}
        self.models = ["chat"]
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        answers: dict[str, Any] = {
            "/health": None,
            "/v1/models": {"data": [{"id": model} for model in self.server.models]},
            "/v1/completions": {"choices": [{"text": "!"}]},
        }
        self.rfile.read(int(self.headers.get("content-length", 0)))
        status = self.server.statuses.get(self.path, 200)
        body = b"" if answers[self.path] is None else json.dumps(answers[self.path]).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Engine]:
    server = Engine()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(ready, "BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(ready, "ANSWERED", tmp_path / "answered")
    monkeypatch.setattr("sys.argv", ["ready.py", "chat"])
    yield server
    server.shutdown()
    server.server_close()


def test_one_completion_is_asked_for_and_then_only_health(engine: Engine) -> None:
    assert [ready.main() for _ in range(3)] == [0, 0, 0]
    assert engine.asked == ["/health", "/v1/models", "/v1/completions", "/health", "/health"]


def test_an_engine_that_dies_after_its_completion_is_not_ready(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ready.main() == 0
    engine.statuses["/health"] = 503
    capsys.readouterr()
    assert ready.main() == 1
    assert capsys.readouterr().out == "not ready: /health answers 503\n"


def test_a_model_under_another_name_is_not_ready(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    engine.models = ["other"]
    assert ready.main() == 1
    assert capsys.readouterr().out == "not ready: model chat is not listed; /v1/models has other\n"
    assert "/v1/completions" not in engine.asked


def test_a_refused_completion_is_not_ready_and_tried_again(engine: Engine) -> None:
    engine.statuses["/v1/completions"] = 503
    assert ready.main() == 1
    engine.statuses.clear()
    assert ready.main() == 0
    assert engine.asked.count("/v1/completions") == 2


@pytest.mark.usefixtures("engine")
def test_nobody_listening_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Port 9 belongs to no service, and nobody listens there.
    monkeypatch.setattr(ready, "BASE_URL", "http://127.0.0.1:9")
    assert ready.main() == 1
    said = capsys.readouterr().out
    assert said.startswith("not ready: /health does not answer: ")
    assert said.count("\n") == 1
