"""One JSON line per request, on standard output: who asked what of which replica, and how it went. Runs inside LiteLLM.

Never prompts, answers or keys. Success is told by the attempt that succeeded, failure by LiteLLM's word to the client;
failed attempts in between only count. Refused keys are in nginx's log, with the same request id.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

CONFIG = json.loads((Path(__file__).parent / "keys.json").read_text())


def request_id(headers: dict[str, str]) -> str | None:
    return next((value for name, value in headers.items() if name.lower() == "x-request-id"), None)


def seconds(start: datetime | None, end: datetime | None) -> float | None:
    return round((end - start).total_seconds(), 4) if start and end else None


def status_of(error: Exception) -> int:
    """The HTTP status that the client gets for LiteLLM's exception."""
    return int(getattr(error, "status_code", None) or getattr(error, "code", None) or 500)


def write(entry: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}) + "\n")
    sys.stdout.flush()


def success(kwargs: dict[str, Any], start: datetime, end: datetime) -> dict[str, Any]:
    """The line of an answered request, from what LiteLLM hands its loggers."""
    told = kwargs.get("standard_logging_object") or {}
    request = (kwargs.get("litellm_params") or {}).get("proxy_server_request") or {}
    streaming = bool(kwargs.get("stream"))
    choices = ((told.get("response") or {}) if isinstance(told.get("response"), dict) else {}).get("choices") or []
    reasons = [choice.get("finish_reason") for choice in choices if isinstance(choice, dict)]
    return {
        "request_id": request_id(request.get("headers") or {}),
        "key": (told.get("metadata") or {}).get("user_api_key_alias"),
        "model": told.get("model_group"),
        "replica": told.get("model_id"),
        "tokens_in": told.get("prompt_tokens"),
        "tokens_out": told.get("completion_tokens"),
        "latency_s": seconds(start, end),
        "ttft_s": seconds(start, kwargs.get("completion_start_time")) if streaming else None,
        "stream": streaming,
        "finish_reason": reasons[0] if reasons else None,
        "status": 200,
    }


class RequestLog(CustomLogger):  # type: ignore[misc]
    """LiteLLM calls these; only the last word on a request is written."""

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: datetime, end_time: datetime
    ) -> None:
        entry = success(kwargs, start_time, end_time)
        if entry["finish_reason"] is None:
            chosen = getattr(response_obj, "choices", None) or []
            entry["finish_reason"] = getattr(chosen[0], "finish_reason", None) if chosen else None
        write(entry)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,  # noqa: ARG002
    ) -> None:
        request = request_data.get("proxy_server_request") or {}
        write(
            {
                "request_id": request_id(request.get("headers") or {}),
                "key": getattr(user_api_key_dict, "key_alias", None),
                "model": request_data.get("model"),
                "replica": None,
                "stream": bool(request_data.get("stream")),
                "status": int(
                    getattr(original_exception, "status_code", None) or getattr(original_exception, "code", 500)
                ),
                "error": type(original_exception).__name__,
            }
        )

    async def async_pre_call_hook(
        self,
        user_api_key_dict: Any,
        cache: Any,  # noqa: ARG002
        data: dict[str, Any],
        call_type: str,  # noqa: ARG002
    ) -> dict[str, Any]:
        # A fallback must not lead where the key itself may not go.
        allowed = set(user_api_key_dict.models or [])
        if any(other not in allowed for other in CONFIG["fallbacks"].get(data.get("model"), [])):
            data["disable_fallbacks"] = True
        return data


request_log = RequestLog()
