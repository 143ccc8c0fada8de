"""What is decided once for a stack and kept in its config: sources of images and weights, GPUs, keys."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

from tools.setup import images, state
from tools.setup.progress import Step

if TYPE_CHECKING:  # set-up starts before the environment that has pydantic
    from stack_configs.schema.versions import VersionSet

HUB = "https://huggingface.co"
"""What the fetch job asks where the stack's file names no other."""
ASK_S = 5


def image_way(wanted: dict[str, Any], versions: VersionSet, step: Step) -> images.Decision:
    """As chosen before, else what can be reached now."""
    if wanted["images"]:
        return images.Decision(wanted["images"], "as decided before")
    step.say("asking the image registries")
    decision = images.decide(versions)
    step.say(f"images: {decision.way}, {decision.reason}")
    return decision


def make(stack: str, wanted: dict[str, Any], way: str, step: Step, env: dict[str, str]) -> None:
    """Write what isn't decided yet into the stack's config."""
    made: list[str] = []
    if wanted["images"] != way:
        _put(stack, step, env, "images", way)
        made.append(f"images: {way}")
    if not wanted["weights"]:
        weights = "hub" if hub_answers(wanted["hub"], wanted["repos"]) else "random"
        _put(stack, step, env, "weights", weights)
        made.append(f"weights: {weights}")
    if wanted["gpus"] is None:
        found, but = usable_gpus()
        _put(stack, step, env, "gpus", json.dumps(found))
        made.append(f"GPUs: {len(found)}{but}")
    made += make_keys(stack, wanted, step, env)
    step.note = ("decided " + ", ".join(made)) if made else "as decided before"


def make_keys(stack: str, wanted: dict[str, Any], step: Step, env: dict[str, str]) -> list[str]:
    """Make the API keys that the stack has none for yet; what was made, in words. Secrets pass through stdin only."""
    made: list[str] = []
    for name in wanted["keys"]:
        if name not in wanted["key_hashes"]:
            key = f"sk-{secrets.token_urlsafe(32)}"
            _put(stack, step, env, f"keys.{name}", key, "--path", "--secret")
            digest = hashlib.sha256(key.encode()).hexdigest()
            _put(stack, step, env, f"key-hashes.{name}", digest, "--path", "--plaintext")
            made.append(f"key {name}")
    return made


def _put(stack: str, step: Step, env: dict[str, str], key: str, value: str, *flags: str) -> None:
    state.pulumi(step, env, "config", "set", "-s", stack, f"inference-stack:{key}", *flags, stdin=value)


def hub_answers(hub: str | None, repos: list[str]) -> bool:
    """Whether weights can be fetched: the hub that the fetch job will ask knows the first model."""
    if not repos:
        return False
    try:
        with urllib.request.urlopen(f"{hub or HUB}/api/models/{repos[0]}", timeout=ASK_S) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def usable_gpus() -> tuple[list[str], str]:
    """UUIDs of the NVIDIA GPUs that Docker can hand to a container by CDI; and in words, why some are left out."""
    if not shutil.which("nvidia-smi"):
        return [], ""
    smi = subprocess.run(
        ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    if smi.returncode != 0:
        return [], f" (nvidia-smi ends with status {smi.returncode})"
    there = smi.stdout.split()
    if not shutil.which("docker"):  # a preview comes before `up` has got it
        return [], f" ({len(there)} left out: no Docker is here yet to say whether it hands them out by CDI)"
    info = subprocess.run(
        ["docker", "info", "--format", "{{json .CDISpecDirs}}"], capture_output=True, text=True, check=False
    )
    if info.returncode == 0 and info.stdout.strip() not in ("", "null", "[]"):
        return there, ""
    return [], f" ({len(there)} left out: this Docker hands out none by CDI, see docs/add-a-model.md)"
