"""What providers say when they do not answer, as our problems: pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from actors.errors import ProviderFailed
from schemas.runs import ErrorKind, Problem

_AGAIN_MS = 1000
"""When to come again where a provider broke off and does not say: it tells that coming again may help."""
_LONGEST_WAIT_MS = 86_400_000
_LONGEST = 1000
"""Characters of what a provider says."""
_TOO_LONG = re.compile(
    r"context.{0,3}length|context.{0,3}window|maximum context|prompt is too long|input is too long|too many tokens"
    r"|token count.{0,40}exceeds|reduce the length",
    re.IGNORECASE,
)
_NO_CREDIT = re.compile(r"insufficient_quota|exceeded your current quota|credit balance|billing", re.IGNORECASE)

_TYPES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "api_error": 500,
    "server_error": 500,
    "overloaded_error": 529,
    "timeout_error": 504,
    "vector_store_timeout": 504,
    "insufficient_quota": 429,
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "invalid_image": 400,
    "invalid_image_url": 400,
    "failed_to_download_image": 400,
    "image_content_policy_violation": 400,
    "misalignment_policy_violation": 400,
    "bio_policy": 400,
    "validationException": 400,
    "throttlingException": 429,
    "modelStreamErrorException": 502,
    "internalServerException": 500,
    "serviceUnavailableException": 503,
    "modelTimeoutException": 504,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "INTERNAL": 500,
    "DEADLINE_EXCEEDED": 504,
    "INVALID_ARGUMENT": 400,
}
"""Kinds of errors that come in a stream, and the status that they have elsewhere."""


def broken(model: str, what: str) -> ProviderFailed:
    """Say that an answer came to no end, or is not to be read; another attempt may fare better."""
    return ProviderFailed(Problem(kind="engine", message=f"{model}: {what}", retry_after_ms=_AGAIN_MS), elsewhere=True)


def unreachable(model: str, what: str) -> ProviderFailed:
    """Say that a provider cannot be reached."""
    message = f"{model}: its provider cannot be reached: {what}"
    return ProviderFailed(Problem(kind="overloaded", message=message, retry_after_ms=_AGAIN_MS), elsewhere=True)


def late(model: str, what: str) -> ProviderFailed:
    """Say that a provider took too long."""
    return ProviderFailed(Problem(kind="timeout", message=f"{model}: {what}"), elsewhere=True)


def unheeded(model: str, field: str, why: str) -> ProviderFailed:
    """Say that what is asked for cannot be asked of this provider."""
    message = f"{field}: {model} {why}"
    return ProviderFailed(Problem(kind="invalid", message=message, field=field), elsewhere=False)


def refused(model: str, status: int, headers: Mapping[str, str], body: bytes, now: int) -> ProviderFailed:
    """Say what an answer with an error status means; `now` is in microseconds, for dates to come again at."""
    error = _object(body)
    said, code = _message(error) or body.decode("utf-8", "replace").strip(), _code(error)
    wait = retry_after_ms(headers, error, now)
    return _failed(model, status, said, code, wait, again=headers.get("x-should-retry") != "false")


def in_stream(model: str, error: Any) -> ProviderFailed:
    """Say what an error in the middle of a stream means."""
    code = _code(error)
    number = error.get("code") if isinstance(error, dict) else None
    status = number if isinstance(number, int) and 400 <= number < 600 else _TYPES.get(code, 0)
    if not status:
        status = next((_TYPES[word] for word in code.split() if word in _TYPES), 500)
    return _failed(model, status, _message({"error": error}), code, retry_after_ms({}, {"error": error}, 0), again=True)


def retry_after_ms(headers: Mapping[str, str], error: Any, now: int) -> int:
    """Read when a provider wants to be asked again, in all the ways that they say it; 0 where it does not.

    More than a day is a day.
    """
    try:
        return max(0, min(_wanted_ms(headers, error, now), _LONGEST_WAIT_MS))
    except (ValueError, OverflowError):
        return 0


def _wanted_ms(headers: Mapping[str, str], error: Any, now: int) -> int:
    if "retry-after-ms" in headers:
        return int(float(headers["retry-after-ms"]))
    if "retry-after" in headers:
        value = headers["retry-after"]
        if re.fullmatch(r"\s*\d+(\.\d+)?\s*", value):
            return int(float(value) * 1000)
        return int(parsedate_to_datetime(value).timestamp() * 1000) - now // 1000
    details = _inner(error).get("details")
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and re.fullmatch(r"\d+(\.\d+)?s", delay):
            return int(float(delay[:-1]) * 1000)
    return 0


def _failed(model: str, status: int, said: str, code: str, wait: int, again: bool) -> ProviderFailed:
    kind = _kind(status, f"{code} {said}")
    if kind in {"overloaded", "engine"} and again:
        wait = wait or _AGAIN_MS
    if kind in {"key", "invalid", "too_long", "unknown_model", "budget"} or not again:
        wait = 0
    message = f"{model}: its provider answered {status}: {said[:_LONGEST] or 'nothing'}"
    elsewhere = status in {402, 408, 409, 425, 429} or status >= 500
    return ProviderFailed(Problem(kind=kind, message=message, retry_after_ms=wait), elsewhere)


def _kind(status: int, said: str) -> ErrorKind:
    if status in {402, 429} and _NO_CREDIT.search(said):
        return "budget"
    if status in {400, 413, 422} and _TOO_LONG.search(said):
        return "too_long"
    known: dict[int, ErrorKind] = {
        401: "key", 402: "budget", 403: "key", 404: "unknown_model", 408: "timeout", 409: "overloaded",
        413: "too_long", 425: "overloaded", 429: "overloaded", 503: "overloaded", 504: "timeout", 529: "overloaded",
    }  # fmt: skip
    return known.get(status) or ("engine" if status >= 500 else "invalid")


def _object(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None


def _inner(error: Any) -> dict[str, Any]:
    """Give the object that tells of an error, wherever it lies."""
    if isinstance(error, list) and error:
        error = error[0]
    if not isinstance(error, dict):
        return {}
    inner = error.get("error")
    return inner if isinstance(inner, dict) else error


def _message(error: Any) -> str:
    inner = _inner(error)
    for name in ("message", "Message", "detail", "error"):
        said = inner.get(name)
        if isinstance(said, str) and said:
            return said
        if said and name == "detail":
            return msgspec.json.encode(said).decode()
    return ""


def _code(error: Any) -> str:
    inner = _inner(error)
    named = (inner.get(name) for name in ("type", "code", "status"))
    return " ".join(value for value in named if isinstance(value, str))
