"""Who may call which model: LiteLLM's `custom_auth`, and a hook that holds each request to it.

Runs inside LiteLLM with what its image has. `/config/keys.json` holds SHA-256 hashes of keys, never a key; a change of
it replaces the container, so it is read once.

Why two places: `authenticate` runs before the body is taken apart, and LiteLLM (1.103.2) does not hold a custom key to
its `models`. The hook sees the very data that the router will use.
"""

# ruff: noqa: ARG002  (LiteLLM's signatures)

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import ProxyException, UserAPIKeyAuth

KEYS_FILE = Path(os.environ.get("GATEWAY_KEYS", str(Path(__file__).parent / "keys.json")))

CONTROLS = frozenset(
    {
        "allowed_model_region",
        "api_base",
        "api_key",
        "api_version",
        "base_url",
        "cache",
        "caching",
        "content_policy_fallbacks",
        "context_window_fallbacks",
        "cooldown_time",
        "custom_llm_provider",
        "default_fallbacks",
        "disable_fallbacks",
        "extra_headers",
        "fallbacks",
        "guardrails",
        "headers",
        "litellm_metadata",
        "max_retries",
        "model_info",
        "model_list",
        "no-log",
        "num_retries",
        "request_timeout",
        "router_settings_override",
        "specific_deployment",
        "stream_timeout",
        "tags",
        "timeout",
        "user_config",
    }
)
"""Fields of a request by which LiteLLM lets a client steer the gateway. The stack's file decides these; a request that
has one is refused, not silently changed."""
CONTROL_PREFIXES = ("litellm_", "mock_")


@dataclass(frozen=True)
class Key:
    id: str
    models: tuple[str, ...]
    rpm: int | None
    tpm: int | None


@dataclass(frozen=True)
class Access:
    """keys.json."""

    keys: dict[str, Key]
    """By the key's SHA-256, so looking one up takes time that depends on a hash, not on the key."""
    models: tuple[str, ...]
    fallbacks: dict[str, tuple[str, ...]]

    @classmethod
    def read(cls, path: Path) -> "Access":
        data = json.loads(path.read_text())
        return cls(
            keys={
                digest: Key(id=key["id"], models=tuple(key["models"]), rpm=key["rpm"], tpm=key["tpm"])
                for digest, key in data["keys"].items()
            },
            models=tuple(data["models"]),
            fallbacks={model: tuple(targets) for model, targets in data["fallbacks"].items()},
        )

    def key_of(self, token: str) -> Key | None:
        """The key that `token` is, with or without `Bearer `."""
        secret = token.removeprefix("Bearer ").strip()
        return self.keys.get(hashlib.sha256(secret.encode()).hexdigest()) if secret else None

    def refusal(self, models: tuple[str, ...], model: object) -> "Refusal | None":
        """Why a key for `models` may not call `model`; None if it may."""
        if model in models:
            return None
        if not isinstance(model, str) or not model:
            return Refusal(400, "missing_model", "The request names no model. Send `model`; /v1/models lists them.")
        if model in self.models:
            return Refusal(
                403, "model_not_allowed", f"This key may not use the model {model!r}. It may use: {_list(models)}."
            )
        return Refusal(404, "model_not_found", f"There is no model {model!r} here. This key may use: {_list(models)}.")

    def fallbacks_for(self, models: tuple[str, ...], model: str) -> tuple[str, ...]:
        """The model's fallbacks that a key for `models` may use: a fallback opens no door that the key doesn't."""
        return tuple(target for target in self.fallbacks.get(model, ()) if target in models)


@dataclass(frozen=True)
class Refusal:
    status: int
    code: str
    message: str

    def error(self) -> ProxyException:
        kind = "authentication_error" if self.status == 401 else "invalid_request_error"
        return ProxyException(
            message=self.message, type=kind, param="model" if "model" in self.code else None, code=self.status,
            openai_code=self.code,
        )  # fmt: skip


def controls_in(body: dict[str, Any]) -> list[str]:
    """The fields of a request that steer the gateway."""
    return sorted(key for key in body if key in CONTROLS or key.startswith(CONTROL_PREFIXES))


def _list(models: tuple[str, ...]) -> str:
    return ", ".join(models) or "none"


access = Access.read(KEYS_FILE) if KEYS_FILE.exists() else Access({}, (), {})


ROUTES = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"]
"""All that a key opens in LiteLLM; the last one covers /v1/models/<model> too."""


async def authenticate(request: Request, api_key: str) -> UserAPIKeyAuth:
    """The key's record, or 401. LiteLLM counts rpm and tpm by `api_key`, and answers 429 with retry-after."""
    key = access.key_of(api_key or "")
    if key is None:
        text = "No such API key." if api_key else "No API key was sent: use the header `Authorization: Bearer <key>`."
        error = Refusal(401, "invalid_api_key", text).error()
        # All that request_log.py can see of a request without a key.
        error.gateway_request_id = request.headers.get("x-request-id")
        raise error
    return UserAPIKeyAuth(
        api_key=key.id,
        key_alias=key.id,
        user_id=key.id,
        models=list(key.models),
        allowed_routes=ROUTES,
        rpm_limit=key.rpm,
        tpm_limit=key.tpm,
    )


class Policy(CustomLogger):  # type: ignore[misc]
    """Holds each request to its key's models."""

    async def async_pre_call_hook(
        self, user_api_key_dict: UserAPIKeyAuth, cache: object, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:  # fmt: skip
        models = tuple(user_api_key_dict.models)
        body = (data.get("proxy_server_request") or {}).get("body") or {}
        if names := controls_in(body):
            text = f"The gateway decides these itself: {', '.join(names)}. Leave them out of the request."
            raise Refusal(400, "unsupported_parameter", text).error()
        if refusal := access.refusal(models, data.get("model")):
            raise refusal.error()
        allowed = access.fallbacks_for(models, data["model"])
        if allowed != access.fallbacks.get(data["model"], ()):
            data["fallbacks"] = [{data["model"]: list(allowed)}] if allowed else []
        return data


policy = Policy()
