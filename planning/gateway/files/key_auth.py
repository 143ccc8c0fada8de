"""Who may call: LiteLLM's custom_auth. Runs inside LiteLLM.

Keys are known by their SHA-256 alone (keys.json beside this file). Refuses unknown keys with 401, and with 403
models that the key does not name, which LiteLLM by itself would let pass. LiteLLM counts requests and tokens.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from fastapi import Request
from litellm.proxy._types import ProxyException, UserAPIKeyAuth

CONFIG = json.loads((Path(__file__).parent / "keys.json").read_text())
KEYS: dict[str, dict[str, Any]] = CONFIG["keys"]


def digest(key: str) -> str:
    """SHA-256 in hex. Looking the digest up leaks nothing useful about the key by its timing."""
    return hashlib.sha256(key.removeprefix("Bearer ").encode()).hexdigest()


def refusal(may: dict[str, Any], model: object) -> str | None:
    """Why this key may not use `model`; None when it may. Requests without a model (lists) pass."""
    if model is None or model in may["models"]:
        return None
    return f"this key may not use the model {model!r}; it may use: {', '.join(may['models'])}"


async def requested_model(request: Request) -> object:
    """The model that the request's JSON body names, if any."""
    if request.method != "POST":
        return None
    try:
        body = json.loads(await request.body())
    except ValueError:
        return None
    return body.get("model") if isinstance(body, dict) else None


async def check_key(request: Request, api_key: str) -> UserAPIKeyAuth:
    """The key's holder and limits. Raises ProxyException: 401 for an unknown key, 403 for a forbidden model."""
    hashed = digest(api_key)
    may = KEYS.get(hashed)
    if may is None:
        raise ProxyException(message="unknown API key", type="authentication_error", param="api_key", code=401)
    why_not = refusal(may, await requested_model(request))
    if why_not:
        raise ProxyException(message=why_not, type="permission_error", param="model", code=403)
    return UserAPIKeyAuth(
        api_key=hashed,
        key_alias=may["id"],
        user_id=may["id"],
        models=may["models"],
        rpm_limit=may["rpm"],
        tpm_limit=may["tpm"],
    )
