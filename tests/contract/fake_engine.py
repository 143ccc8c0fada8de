"""A stand-in for vLLM's API, standard library only: runs alone in a container and answers for every replica.

Which replica is asked is read from the Host header (`chat-0:8000`). What a request wants is in its last message or
prompt: `tokens=5 delay=0.1`: five tokens, 0.1 s before each; `tokens=5 asked=1`: each token after the first waits for
one `POST /go`. `POST /fail {"chat-0": 500}` makes a replica answer so from now on; `GET /seen` says what came, and how
many answers were cut by clients that left.
"""

import json
import re
import select
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

seen: list[dict[str, Any]] = []
state: dict[str, Any] = {"fail": {}, "cut": 0}
lock = threading.Lock()
go = threading.Semaphore(0)


class Engine(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(200, {"seen": seen, "cut": state["cut"]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.path == "/fail":
            state["fail"] = body
            return self.reply(200, {})
        if self.path == "/forget":
            seen.clear()
            state["cut"] = 0
            return self.reply(200, {})
        if self.path == "/go":
            go.release()
            return self.reply(200, {})
        replica = self.headers["Host"].split(":")[0]
        with lock:
            seen.append({"replica": replica, "path": self.path, "body": body, "headers": dict(self.headers)})
        if status := state["fail"].get(replica):
            if status == 1:  # half an answer, then a broken connection
                return self.stream(body, 4, 0.0, breaks=True)
            text = "no room: " + str(body)[:200]
            return self.reply(status, {"error": {"message": text, "type": "server_error", "code": status}})
        if self.path == "/v1/embeddings":
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
            usage = {"prompt_tokens": 3, "total_tokens": 3}
            return self.reply(200, {"object": "list", "data": data, "model": body["model"], "usage": usage})
        text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        wants = dict(re.findall(r"(tokens|delay|asked)=([\d.]+)", text))
        tokens, delay = int(wants.get("tokens", 3)), float(wants.get("delay", 0))
        if body.get("stream"):
            return self.stream(body, tokens, delay, asked="asked" in wants)
        end = time.monotonic() + tokens * delay
        while time.monotonic() < end:
            if self.client_left(min(0.05, end - time.monotonic())):
                with lock:
                    state["cut"] += 1
                return None
        return self.reply(200, self.answer(body, tokens))

    def client_left(self, wait: float) -> bool:
        ready, _, _ = select.select([self.connection], [], [], max(wait, 0))
        return bool(ready) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def answer(self, body: dict[str, Any], tokens: int) -> dict[str, Any]:
        chat = "messages" in body
        text = "tok " * tokens
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        return {
            "id": "chatcmpl-1" if chat else "cmpl-1",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens},
        }

    def stream(
        self, body: dict[str, Any], tokens: int, delay: float, breaks: bool = False, asked: bool = False
    ) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        head = {"id": "chatcmpl-1", "created": int(time.time()), "model": body["model"]}
        chat = "messages" in body
        head["object"] = "chat.completion.chunk" if chat else "text_completion"
        try:
            for index in range(tokens):
                if self.client_left(delay) or (asked and index and not go.acquire(timeout=60)):
                    raise ConnectionResetError
                last = "stop" if index == tokens - 1 and not breaks else None
                part = {"delta": {"role": "assistant", "content": "tok "}} if chat else {"text": "tok "}
                self.event({**head, "choices": [{"index": 0, **part, "finish_reason": last}]})
            if breaks:
                return
            if (body.get("stream_options") or {}).get("include_usage"):
                usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
                self.event({**head, "choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            with lock:
                state["cut"] += 1

    def event(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    ThreadingHTTPServer(("0.0.0.0", 8000), Engine).serve_forever()
