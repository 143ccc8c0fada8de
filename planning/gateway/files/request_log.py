"""Follows each client request through LiteLLM: its retries go elsewhere, a client whom no replica could answer is told
when to ask again, and each request leaves one JSON line on stdout.

Prompts, answers and keys are never in that line. Runs inside LiteLLM with what its image has. LiteLLM tells a callback
of every attempt: attempts are only counted, and the line is printed when the client has its answer (the one success)
or its error (`post_call_failure`).
"""

# ruff: noqa: ARG002  (LiteLLM's signatures)

import json
import sys
from collections import OrderedDict
from datetime import UTC, datetime
from time import time
from typing import Any
from uuid import uuid4

from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger

MARK = "gateway_request"
"""Our id of a client request, in the metadata that LiteLLM carries through retries and fallbacks. A client's
X-Request-Id may come twice, so it can't serve."""
REMEMBERED = 20_000
"""Requests in flight that are remembered at most; about 300 bytes each."""

RETRY_AFTER_S = 10
"""As long as LiteLLM leaves a replica alone that failed."""
UNANSWERED = frozenset(
    (
        "APIConnectionError",
        "BadGatewayError",
        "InternalServerError",
        "RouterRateLimitError",
        "RouterRateLimitErrorBasic",
        "ServiceUnavailableError",
    )
)
"""Classes of LiteLLM's: no replica was left to ask, or the last one could not be reached, is full, drains or failed."""


class RequestLog(CustomLogger):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self._open: OrderedDict[str, dict[str, Any]] = OrderedDict()

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: object, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:  # fmt: skip
        mark = uuid4().hex
        for name in ("metadata", "litellm_metadata"):
            if isinstance(data.get(name), dict):
                data[name][MARK] = mark
        self._open[mark] = {"started": time(), "attempts": 0, "replica": None, "tried": set()}
        while len(self._open) > REMEMBERED:
            self._open.popitem(last=False)
        return data

    def log_pre_api_call(self, model: str, messages: Any, kwargs: dict[str, Any]) -> None:
        """An attempt begins. (LiteLLM does not report every failed attempt: retries hide behind the first.)"""
        params = kwargs.get("litellm_params") or {}
        request = self._open.get(_mark(params))
        if request is not None:
            request["attempts"] += 1
            request["replica"] = (params.get("model_info") or {}).get("id")
            request["tried"].add(request["replica"])

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[dict[str, Any]],
        messages: Any,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: Any = None,
    ) -> list[dict[str, Any]]:
        """A retry goes to a replica that has not failed this request, if there is one: LiteLLM picks at random."""
        request = self._open.get(_mark(request_kwargs or {}))
        if request is None:
            return healthy_deployments
        left = [d for d in healthy_deployments if d["model_info"]["id"] not in request["tried"]]
        return left or healthy_deployments

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """The attempt that answered."""
        request = self._open.pop(_mark(kwargs.get("litellm_params") or {}), None)
        payload = kwargs.get("standard_logging_object")
        if request is None or payload is None:
            return
        params = kwargs.get("litellm_params") or {}
        first_token = payload.get("completionStartTime")
        streamed = bool(payload.get("stream"))
        _print(
            request_id=_request_id(params),
            key=(payload.get("metadata") or {}).get("user_api_key_alias"),
            requested_model=_requested(params) or payload.get("model_group"),
            model=payload.get("model_group"),
            replica=payload.get("model_id"),
            tokens_in=payload.get("prompt_tokens"),
            tokens_out=payload.get("completion_tokens"),
            latency_s=_seconds(payload.get("endTime"), request["started"]),
            ttft_s=_seconds(first_token, request["started"]) if streamed else None,
            stream=streamed,
            finish_reason=_finish_reason(response_obj),
            status=200,
            attempts=request["attempts"],
            error=None,
        )

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: Any,
        traceback_str: str | None = None,
    ) -> HTTPException | None:
        """The client gets an error: refused here, or all attempts failed. Returns what to tell it instead."""
        instead = None
        if type(original_exception).__name__ in UNANSWERED:
            text = "No replica of this model can answer now: it starts, is replaced, or is overloaded. Try again."
            instead = HTTPException(503, text, {"Retry-After": str(RETRY_AFTER_S)})
        mark = _mark(request_data)
        request = self._open.pop(mark, None)
        if mark and request is None:
            return instead  # this request has its line
        request = request or {"started": None, "attempts": 0, "replica": None}
        model = request_data.get("model")
        _print(
            request_id=_request_id(request_data) or getattr(original_exception, "gateway_request_id", None),
            key=getattr(user_api_key_dict, "key_alias", None),
            requested_model=model if isinstance(model, str) else None,
            model=None,
            replica=request["replica"],
            tokens_in=None,
            tokens_out=None,
            latency_s=_seconds(time(), request["started"]),
            ttft_s=None,
            stream=bool(request_data.get("stream")),
            finish_reason=None,
            status=_status(instead or original_exception),
            attempts=request["attempts"],
            # The class alone: messages of engines can quote the prompt.
            error=type(original_exception).__name__,
        )
        return instead


def _print(**fields: Any) -> None:
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "log": "request", **fields}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _mark(holder: dict[str, Any]) -> str:
    for name in ("metadata", "litellm_metadata"):
        metadata = holder.get(name)
        if isinstance(metadata, dict) and metadata.get(MARK):
            return str(metadata[MARK])
    return ""


def _request_id(holder: dict[str, Any]) -> str | None:
    headers = (holder.get("proxy_server_request") or {}).get("headers") or {}
    return next((value for name, value in headers.items() if name.lower() == "x-request-id"), None)


def _requested(params: dict[str, Any]) -> str | None:
    model = ((params.get("proxy_server_request") or {}).get("body") or {}).get("model")
    return model if isinstance(model, str) else None


def _seconds(end: float | None, start: float | None) -> float | None:
    return None if end is None or start is None else round(end - start, 4)


def _finish_reason(response: Any) -> str | None:
    choices = getattr(response, "choices", None) or (response.get("choices") if isinstance(response, dict) else None)
    if not choices:
        return None
    choice = choices[0]
    return choice.get("finish_reason") if isinstance(choice, dict) else getattr(choice, "finish_reason", None)


def _status(error: Exception) -> int:
    for name in ("status_code", "code"):
        try:
            return int(getattr(error, name))
        except (AttributeError, TypeError, ValueError):
            continue
    return 500


log = RequestLog()
