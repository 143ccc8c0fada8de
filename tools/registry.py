"""What an image registry has under a name: the part of the OCI distribution API that asking takes. No Docker."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
"""Indexes before single manifests: without these a registry answers with a platform's manifest, or an old form."""
TIMEOUT_S = 5.0


class Unreachable(Exception):
    """The registry did not answer, or not as one. The text says why."""


class Absent(Exception):
    """The registry answered: it has no such manifest, or does not show it to us."""


@dataclass(frozen=True)
class Repository:
    """`docker.io/grafana/grafana` taken apart."""

    host: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Repository:
        """Docker's own rules: without a host it is Docker Hub, whose official images are below `library/`."""
        host, slash, path = text.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            host, path = "docker.io", text
        if host == "docker.io" and "/" not in path:
            path = f"library/{path}"
        return cls(host, path)

    @property
    def url(self) -> str:
        """Where its API is. Plain HTTP on the loopback only, as Docker has it."""
        host = "registry-1.docker.io" if self.host == "docker.io" else self.host
        loopback = host.split(":")[0] in {"localhost", "127.0.0.1"}
        return f"{'http' if loopback else 'https'}://{host}/v2/{self.path}"


def digest_of(repository: str, reference: str, timeout_s: float = TIMEOUT_S) -> str:
    """The digest of the manifest under a tag or digest. Raises Unreachable, Absent."""
    found, _ = _manifest(repository, reference, "HEAD", timeout_s)
    if found is None:
        _, body = _manifest(repository, reference, "GET", timeout_s)
        found = f"sha256:{hashlib.sha256(body).hexdigest()}"
    return found


def size_of(repository: str, reference: str, arch: str, timeout_s: float = TIMEOUT_S) -> int:
    """Bytes of an image's layers as the registry sends them, packed. `arch` as Go names it: amd64. Raises Unreachable,
    Absent."""
    _, body = _manifest(repository, reference, "GET", timeout_s)
    try:
        told = json.loads(body)
        if "manifests" not in told:
            return sum(int(layer["size"]) for layer in told["layers"])
        fits = [one["digest"] for one in told["manifests"] if one.get("platform", {}).get("architecture") == arch]
    except (ValueError, KeyError, TypeError) as error:
        raise Unreachable(f"what {repository} {reference} has is no manifest: {error}") from error
    if not fits:
        raise Absent(f"{repository} {reference} has nothing for {arch}")
    return size_of(repository, fits[0], arch, timeout_s)


def _manifest(repository: str, reference: str, method: str, timeout_s: float) -> tuple[str | None, bytes]:
    """The digest that the registry tells, if it does, and the manifest's text for GET. Raises Unreachable, Absent."""
    where = Repository.parse(repository)
    url = f"{where.url}/manifests/{reference}"
    headers = {"Accept": ACCEPT}
    try:
        try:
            answer = _open(url, headers, method, timeout_s)
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            challenge = error.headers.get("WWW-Authenticate", "")
            headers["Authorization"] = f"Bearer {_token(challenge, timeout_s)}"
            answer = _open(url, headers, method, timeout_s)
        with answer:
            return answer.headers.get("Docker-Content-Digest"), answer.read()
    except urllib.error.HTTPError as error:
        if error.code in {401, 403, 404}:
            raise Absent(f"{where.host} has no {where.path} {reference} for us (HTTP {error.code})") from error
        raise Unreachable(f"{where.host} answered HTTP {error.code}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(f"{where.host} does not answer: {reason}") from error


def _token(challenge: str, timeout_s: float) -> str:
    """A token for anybody, from where the registry's challenge says. Raises ValueError for another challenge."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if not challenge.lower().startswith("bearer ") or "realm" not in fields:
        raise ValueError(f"asks for a login that we don't know: {challenge[:80]!r}")
    query = urllib.parse.urlencode({k: v for k, v in fields.items() if k in {"service", "scope"}})
    with _open(f"{fields['realm']}?{query}", {}, "GET", timeout_s) as answer:
        body = json.load(answer)
    return str(body.get("token") or body["access_token"])


def _open(url: str, headers: dict[str, str], method: str, timeout_s: float) -> Any:
    request = urllib.request.Request(url, headers=headers, method=method)
    return urllib.request.urlopen(request, timeout=timeout_s)
