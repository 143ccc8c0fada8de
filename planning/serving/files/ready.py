"""Health check of a vLLM replica: `python3 ready.py MODEL`, exit code 0 when it can answer.

Ready means that `/health` answers 200, that MODEL is listed, and that one completion has come back since the
start. A note in /tmp, which is empty at every start, remembers the completion: later checks ask for health alone.
Runs inside the container, with the standard library only. Prints one line: why not, or that all is well.
"""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

BASE_URL = "http://127.0.0.1:8000"
ANSWERED = Path("/tmp/answered-a-completion")
HEALTH_TIMEOUT_S = 4
COMPLETION_TIMEOUT_S = 55
"""The first answer warms the engine up; Docker's own time limit for the check lies above the sum of all."""


class NotReadyError(Exception):
    """Why the replica can't answer yet, in one line."""


def ask(path: str, timeout_s: float, body: dict[str, Any] | None = None) -> bytes:
    """The answer's body; POST when there is something to send. Raises NotReadyError on anything but 200."""
    request = urllib.request.Request(
        f"{BASE_URL}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            answer: bytes = response.read()
    except urllib.error.HTTPError as error:
        said = " ".join(error.read(300).decode(errors="replace").split())
        raise NotReadyError(f"{path} answers {error.code}" + (f": {said}" if said else "")) from error
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise NotReadyError(f"{path} does not answer: {reason}") from error
    return answer


def check(model: str) -> None:
    """Raises NotReadyError unless the replica can answer for `model`."""
    ask("/health", HEALTH_TIMEOUT_S)
    if ANSWERED.exists():
        return
    listed = [entry["id"] for entry in json.loads(ask("/v1/models", HEALTH_TIMEOUT_S))["data"]]
    if model not in listed:
        raise NotReadyError(f"model {model} is not listed; /v1/models has {', '.join(listed) or 'none'}")
    answer = ask(
        "/v1/completions",
        COMPLETION_TIMEOUT_S,
        {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0},
    )
    if not json.loads(answer).get("choices"):
        raise NotReadyError("/v1/completions answers without a choice")
    ANSWERED.touch()


def main() -> int:
    try:
        check(sys.argv[1])
    except NotReadyError as error:
        print(f"not ready: {error}")
        return 1
    print("ready")
    return 0


if __name__ == "__main__":
    sys.exit(main())
