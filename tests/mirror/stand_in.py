"""In vLLM's place: as much of its API as `make up` asks for, so that no 4 GB go through the registry.

Runs as the program `vllm` in a container, with the standard library only. tests/deploy has the real one.
"""

import argparse
import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SAID = "I stand in for an inference server."


def answer(path: str, model: str) -> dict[str, Any] | None:
    """The body for a path; None where there is nothing."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 7, "total_tokens": 8}
    told: dict[str, Any] = {"id": "1", "created": 0, "model": model, "usage": usage}
    text = {"object": "text_completion", "choices": [{**choice, "text": SAID}]}
    chat = {"object": "chat.completion", "choices": [{**choice, "message": {"role": "assistant", "content": SAID}}]}
    bodies: dict[str, dict[str, Any]] = {
        "/health": {},
        "/v1/models": {"object": "list", "data": [{"id": model, "object": "model"}]},
        "/v1/completions": {**told, **text},
        "/v1/chat/completions": {**told, **chat},
    }
    return bodies.get(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--port", required=True, type=int)
    args, _ = parser.parse_known_args()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            found = answer(self.path, args.served_model_name)
            body = json.dumps(found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # a container's first process has no default for it
    ThreadingHTTPServer(("", args.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
