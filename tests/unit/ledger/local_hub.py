"""A hub on the loopback with the real one's addresses and answers: files in LFS lie elsewhere, behind a redirect."""

from __future__ import annotations

import hashlib
import json
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPO, REVISION = "someone/small-model", "a" * 40


def safetensors(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> bytes:
    """A file with these tensors: name → type, shape. All numbers are 0."""
    sizes = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1, "I32": 4}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (kind, shape) in tensors.items():
        start = end
        end += sizes[kind] * (shape[0] if len(shape) == 1 else shape[0] * shape[1])
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


@dataclass
class Asked:
    host: str
    path: str
    range: str | None
    token: str | None


@dataclass
class LocalHub:
    """What it has, and what it was asked for. Change `sent` to damage a file on its way."""

    files: dict[str, bytes]
    url: str = ""
    gated: str | None = None
    """The token that opens it; None: everybody may."""
    ranges: bool = True
    sha: str = REVISION
    sent: dict[str, bytes] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    store: str = ""

    def in_lfs(self, name: str) -> bool:
        return name.endswith((".safetensors", ".bin", "tokenizer.json"))

    def info(self) -> dict[str, Any]:
        return {
            "_id": "6",
            "id": REPO,
            "private": False,
            "sha": self.sha,
            "siblings": [*map(self._sibling, self.files)],
        }

    def _sibling(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        if not self.in_lfs(name):
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            return {"rfilename": name, "size": len(content), "blobId": blob}
        lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 135}
        return {"rfilename": name, "size": len(content), "blobId": "f" * 40, "lfs": lfs}


def _handler(hub: LocalHub, elsewhere: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            token = self.headers["authorization"]
            hub.asked.append(Asked("store" if elsewhere else "hub", self.path, self.headers["range"], token))
            if elsewhere:
                self.file(path.removeprefix("/"))
            elif hub.gated and token != f"Bearer {hub.gated}":
                self.answer(401 if token is None else 403, b'{"error":"Access to model is restricted"}')
            elif path == f"/api/models/{REPO}/revision/{REVISION}" and "blobs=true" in self.path:
                self.answer(200, json.dumps(hub.info()).encode())
            elif path.startswith(f"/{REPO}/resolve/{REVISION}/"):
                name = path.split(f"{REVISION}/")[1]
                if hub.in_lfs(name):
                    self.answer(302, b"", {"location": f"{hub.store}/{name}?signature=x"})
                else:
                    self.file(name)
            else:
                self.answer(404, b'{"error":"Repository not found"}')

        def file(self, name: str) -> None:
            content = hub.sent.get(name, hub.files[name])
            if self.headers["range"] and hub.ranges:
                first, last = map(int, self.headers["range"].removeprefix("bytes=").split("-"))
                self.answer(206, content[first : last + 1])
            else:
                self.answer(200, content)

        def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def serving(files: dict[str, bytes], address: str = "127.0.0.1") -> Iterator[LocalHub]:
    hub = LocalHub(dict(files))
    servers = [ThreadingHTTPServer((address, 0), _handler(hub, elsewhere)) for elsewhere in (False, True)]
    hub.url, hub.store = (f"http://{address}:{server.server_port}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
