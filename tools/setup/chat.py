"""The first question: asked through the front door, as any client would."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass

QUESTION = "In one sentence: what does an inference server do?"


@dataclass(frozen=True)
class Answer:
    text: str
    tokens: int


class NoAnswer(Exception):
    """Why the question was not answered."""


def ask(url: str, key: str, model: str, *, timeout_s: float = 180) -> Answer:
    """One chat question to `url` (…/v1). Raises NoAnswer."""
    body = {"model": model, "max_tokens": 48, "messages": [{"role": "user", "content": QUESTION}]}
    request = urllib.request.Request(
        f"{url}/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            said = json.loads(response.read())
    except urllib.error.HTTPError as error:
        raise NoAnswer(f"status {error.code}: {error.read(500).decode(errors='replace')}") from error
    except (OSError, ValueError) as error:
        raise NoAnswer(str(getattr(error, "reason", error))) from error
    return Answer(said["choices"][0]["message"]["content"] or "", said["usage"]["completion_tokens"])
