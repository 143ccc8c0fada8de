"""What a Hugging Face hub has at one commit of a model: the part of its API that locking takes.

The endpoints are those of huggingface_hub's `model_info(files_metadata=True)` and `hf_hub_url`, so that a mirror which
serves the fetch job serves this too. `HF_ENDPOINT` names another hub, `HF_TOKEN` lets into gated models.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPMessage
from typing import IO, Any

HUB = "https://huggingface.co"
TIMEOUT_S = 30.0
SMALL_FILES = 64 * 1024 * 1024
"""The most of one file outside of LFS that is read to be hashed, bytes; hubs keep larger ones in LFS."""
HEADER_LIMIT = 100 * 1024 * 1024
"""safetensors' own bound for a header, bytes."""


class Unreachable(Exception):
    """The hub did not answer, or not as one. The text says why."""


class Absent(Exception):
    """The hub answered: it has no such thing, or does not show it to us."""


class Damaged(Exception):
    """What came is not what the hub says it has."""


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a commit."""

    path: str
    size: int
    sha256: str | None
    """Of a file in LFS."""
    blob: str | None
    """Git's id of any other file's content."""


@dataclass(frozen=True)
class Hub:
    """A hub, and who asks."""

    url: str
    token: str | None = None

    @classmethod
    def from_environment(cls) -> Hub:
        return cls(os.environ.get("HF_ENDPOINT", HUB).rstrip("/"), os.environ.get("HF_TOKEN") or None)

    def files(self, repo: str, revision: str) -> list[HubFile]:
        """Every file of that commit. Raises Unreachable, Absent."""
        with self._open(f"/api/models/{repo}/revision/{revision}?blobs=true", what=f"{repo} at {revision}") as answer:
            try:
                info = json.load(answer)
                if info["sha"] != revision:
                    raise Absent(f"the hub takes {revision} of {repo} for {info['sha']}")
                return [_file(sibling) for sibling in info["siblings"]]
            except (ValueError, KeyError, TypeError) as error:
                raise Unreachable(f"{self.url} does not answer like a hub: {error!r}") from error

    def content(self, repo: str, revision: str, file: HubFile) -> bytes:
        """A small file, verified. Raises Unreachable, Absent, Damaged."""
        if file.size > SMALL_FILES:
            raise Damaged(f"{file.path} of {repo} is {file.size} bytes large, and the hub tells no SHA-256 of it")
        with self._open(_path(repo, revision, file.path), what=file.path) as answer:
            found: bytes = answer.read(SMALL_FILES + 1)
        if file.sha256 is not None:
            good = hashlib.sha256(found).hexdigest() == file.sha256
        else:
            git = hashlib.sha1(f"blob {len(found)}\0".encode() + found, usedforsecurity=False)
            good = file.blob is None or git.hexdigest() == file.blob
        if len(found) != file.size or not good:
            raise Damaged(f"{file.path} of {repo} is not what the hub says it is: it was changed on its way")
        return found

    def tensors(self, repo: str, revision: str, file: HubFile) -> dict[str, Any]:
        """A safetensors file's header: tensor → type, shape, place. Two short requests. Raises as `content`."""
        path = _path(repo, revision, file.path)
        (length,) = struct.unpack("<Q", self._part(path, 0, 8, file.path))
        if not 2 <= length <= min(HEADER_LIMIT, file.size - 8):
            raise Damaged(f"{file.path} of {repo} is no safetensors file")
        try:
            header: dict[str, Any] = json.loads(self._part(path, 8, length, file.path))
        except ValueError as error:
            raise Damaged(f"{file.path} of {repo} has no readable header: {error}") from error
        header.pop("__metadata__", None)
        return header

    def _part(self, path: str, start: int, length: int, what: str) -> bytes:
        with self._open(path, {"Range": f"bytes={start}-{start + length - 1}"}, what) as answer:
            if answer.status != 206:
                raise Unreachable(f"{self.url} sends no parts of files; use the hub, or a mirror that does")
            found: bytes = answer.read(length + 1)
        if len(found) != length:
            raise Damaged(f"{what}: {len(found)} bytes came where {length} were asked for")
        return found

    def _open(self, path: str, headers: Mapping[str, str] | None = None, what: str = "") -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}", headers={"Accept-Encoding": "identity", **(headers or {})}
        )
        if self.token:
            # Not sent on to where large files lie: those addresses are signed, and the token is for the hub alone.
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            return _OPENER.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                way = "its owner must let you in, and HF_TOKEN must say who you are"
                raise Absent(f"the hub doesn't show us {what} (HTTP {error.code}): {way}") from error
            if error.code == 404:
                raise Absent(f"the hub has no {what}") from error
            raise Unreachable(f"{self.url} answered HTTP {error.code}") from error
        except (OSError, ValueError) as error:
            raise Unreachable(f"{self.url} does not answer: {getattr(error, 'reason', error)}") from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Keeps the token for addresses of the hub itself."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and urllib.parse.urlsplit(newurl).netloc == urllib.parse.urlsplit(req.full_url).netloc:
            # A renamed repository: still the hub.
            for name, value in req.unredirected_hdrs.items():
                if name.lower() == "authorization":
                    made.add_unredirected_header(name, value)
        return made


_OPENER = urllib.request.build_opener(_Redirects)


def _file(sibling: Mapping[str, Any]) -> HubFile:
    lfs = sibling.get("lfs") or {}
    return HubFile(
        path=str(sibling["rfilename"]),
        size=int(lfs.get("size", sibling["size"])),
        sha256=lfs.get("sha256"),
        blob=None if lfs else sibling.get("blobId"),
    )


def _path(repo: str, revision: str, name: str) -> str:
    return f"/{repo}/resolve/{revision}/{urllib.parse.quote(name)}"
