"""The fetch job with the image's own hub client, against a server with the hub's paths."""

import hashlib
import json
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from planning.serving.weights import SCRIPTS, locked_files
from stack_configs.schema.model_lock import LockedFile
from tests.docker_run import docker, need_image

REPO, REVISION = "someone/small-model", "a" * 40
WEIGHTS = random.Random(1).randbytes(3_000_000)
FILES = {
    "model.safetensors": WEIGHTS,
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"the same weights again",
    "onnx/model.onnx": b"and again",
    "README.md": b"words",
}
WANTED = {"model.safetensors", "config.json", "tokenizer.json"}


@dataclass
class Asked:
    path: str
    range: str | None


@dataclass
class Hub:
    """What the server does, and what it was asked for."""

    url: str = ""
    cut_after: int | None = None
    """Bytes of the weights after which the connection breaks."""
    corrupt: bool = False
    asked: list[Asked] = field(default_factory=list)


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            hub.asked.append(Asked(path, self.headers["range"]))
            if path == f"/api/models/{REPO}/revision/{REVISION}":
                self.answer(200, json.dumps(info()).encode(), {"content-type": "application/json"})
            elif path.startswith(f"/{REPO}/resolve/{REVISION}/"):
                self.file(path.split(f"{REVISION}/")[1])
            elif path.startswith(f"/api/models/{REPO}/"):
                self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif "gated" in path:
                self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
            else:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def file(self, name: str) -> None:
            content = FILES[name]
            start = int((self.headers["range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            part = content[start:]
            if hub.corrupt and name == "model.safetensors":
                part = bytes(len(part))
            self.send_response(206 if self.headers["range"] else 200)
            self.send_header("content-length", str(len(part)))
            self.end_headers()
            if hub.cut_after is not None and name == "model.safetensors":
                self.wfile.write(part[: hub.cut_after])
                self.close_connection = True
            else:
                self.wfile.write(part)

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def info() -> dict[str, Any]:
    def sibling(name: str, content: bytes) -> dict[str, Any]:
        lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        known = {"rfilename": name, "size": len(content), "blobId": "0" * 40}
        return known | ({"lfs": lfs} if name.endswith(".safetensors") else {})

    return {"id": REPO, "sha": REVISION, "siblings": [sibling(name, content) for name, content in FILES.items()]}


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    made.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


@dataclass
class Job:
    hub: Hub
    models: Path

    @property
    def folder(self) -> Path:
        return self.models / "it"

    def run(
        self,
        repo: str = REPO,
        revision: str = REVISION,
        *,
        url: str | None = None,
        lock: dict[str, str] | None = None,
        room: str = "",
    ) -> str:
        """All that the job prints, its exit code last. `lock`: file → SHA-256. `room`: the size of its disk."""
        locked: tuple[str, ...] = ()
        if lock is not None:
            files = {name: LockedFile(size=len(FILES[name]), sha256=digest) for name, digest in lock.items()}
            (self.models / "lock.json").write_text(locked_files(files))
            locked = ("--lock", "/var/tmp/lock.json")
        said = docker(
            *("run", "--rm", "--network", "host", "--user", "23456:23456", "--read-only", "--tmpfs", "/tmp"),
            *("--cap-drop", "ALL", "--env", "HOME=/tmp", "--env", f"HF_ENDPOINT={url or self.hub.url}"),
            *("--volume", f"{SCRIPTS}/fetch_hub.py:/config/fetch.py:ro"),
            *(("--tmpfs", f"/var/tmp:size={room},mode=1777") if room else ("--volume", f"{self.models}:/var/tmp")),
            *("--entrypoint", "sh", need_image("vllm"), "-c", 'python3 /config/fetch.py "$@"; echo "code $?"', "sh"),
            *("--repo", repo, "--revision", revision, "--into", "/var/tmp/it"),
            *locked,
        )
        return said.strip()

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def job(hub: Hub, tmp_path: Path) -> Job:
    models = tmp_path / "models"
    models.mkdir()
    models.chmod(0o1777)
    return Job(hub, models)


def test_it_takes_one_format_readable_by_all_and_asks_nobody_the_second_time(job: Job) -> None:
    assert "code 0" in job.run()
    assert job.names() == WANTED
    assert (job.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert {path.stat().st_mode & 0o777 for path in job.folder.iterdir()} == {0o644}
    asked = len(job.hub.asked)
    again = job.run()
    assert "is already there" in again
    assert "code 0" in again
    assert len(job.hub.asked) == asked


def test_a_cut_download_goes_on_where_it_was_cut(job: Job) -> None:
    job.hub.cut_after = 1_000_000
    said = job.run()
    assert "code 0" in said
    ranges = [asked.range for asked in job.hub.asked if asked.path.endswith("model.safetensors")]
    assert ranges == [None, "bytes=1000000-", "bytes=2000000-"]
    assert (job.folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_later_run_goes_on_too(job: Job) -> None:
    job.hub.cut_after = 100_000
    begun = time.monotonic()
    said = job.run()
    assert "code 1" in said
    assert "the connection broke" in said
    assert time.monotonic() - begun < 60
    assert job.names() == {"model.safetensors.part", "config.json", "tokenizer.json"}
    job.hub.cut_after = None
    before = len(job.hub.asked)
    assert "code 0" in job.run()
    (asked,) = [asked for asked in job.hub.asked[before:] if asked.path.endswith("model.safetensors")]
    assert asked.range == "bytes=400000-"
    assert (job.folder / "model.safetensors").read_bytes() == WEIGHTS


def digest(name: str) -> str:
    return hashlib.sha256(FILES[name]).hexdigest()


RIGHT = {name: digest(name) for name in WANTED}


def fetched(job: Job) -> list[str]:
    """Files that the hub was asked for."""
    return [asked.path for asked in job.hub.asked if "/resolve/" in asked.path]


def test_what_was_locked_is_what_is_fetched(job: Job) -> None:
    assert "code 0" in job.run(lock=RIGHT)
    assert "is already there" in job.run(lock=RIGHT)
    assert "is already there" in job.run()


def test_a_hub_that_has_another_file_than_was_locked_is_asked_for_none(job: Job) -> None:
    said = job.run(lock={**RIGHT, "model.safetensors": "0" * 64})
    assert "error: model.safetensors on the hub is not the file that was locked" in said
    assert "code 1" in said
    assert fetched(job) == []


def test_a_file_whose_sum_the_hub_does_not_tell_is_held_to_the_lock(job: Job) -> None:
    said = job.run(lock={**RIGHT, "config.json": "0" * 64})
    assert "error: config.json differs from what was locked; it was removed" in said
    assert "code 1" in said
    assert job.names() == WANTED - {"config.json"}


def test_weights_from_before_the_lock_are_verified_once_and_not_fetched_again(job: Job) -> None:
    assert "code 0" in job.run()
    before = fetched(job)
    assert "code 0" in job.run(lock=RIGHT)
    asked = len(job.hub.asked)
    assert "is already there" in job.run(lock=RIGHT)
    assert fetched(job) == before
    assert len(job.hub.asked) == asked


def test_wrong_content_is_refused_and_removed(job: Job) -> None:
    job.hub.corrupt = True
    said = job.run()
    assert "error: model.safetensors differs from what the hub says" in said
    assert "code 1" in said
    job.hub.corrupt = False
    assert "code 0" in job.run()


def test_a_disk_without_room_is_told_before_anything_is_fetched(job: Job) -> None:
    said = job.run(room="64m")
    assert "error: the disk is too small: 0.003 GB are missing and 0.067 GB are free" in said
    assert "code 1" in said
    assert fetched(job) == []


@pytest.mark.parametrize(
    ("repo", "revision", "says"),
    [
        (REPO, "b" * 40, f"error: {REPO} has no commit {'b' * 40}; check `source.revision`"),
        ("someone/else", REVISION, "error: the hub has no public model someone/else; check `source.repo`"),
        ("someone/gated", REVISION, "error: someone/gated is gated"),
    ],
)
def test_what_the_hub_lacks_is_told_in_one_line(job: Job, repo: str, revision: str, says: str) -> None:
    said = job.run(repo, revision).splitlines()
    assert "code 1" in said
    (error,) = [line for line in said if line != "code 1"]
    assert error.startswith(says)


def test_without_a_network_it_says_so_in_one_line(job: Job) -> None:
    said = job.run(url="http://127.0.0.1:9").splitlines()
    assert "code 1" in said
    (error,) = [line for line in said if line != "code 1"]
    assert error.startswith("error: the hub could not be reached")
