"""Errors as the SDKs of the two vendors expect them: status, headers and body, or an event.

An SDK raises its class by the status alone, except in streams, and decides whether to try again by
status and headers. So an error of ours has the status and the words of the vendor's own; with
`x-should-retry` it says what the gateway knows better: false where it has tried again itself, or
where trying again cannot help, true where waiting does. What a provider answers is passed on as it
came where its dialect is the caller's, and by `translate/errors.py` where it is not.

Pure; called by `web/llm.py`, `relay.py` and `hearing.py`.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import orjson

from paceline.gateway.call import Dialect, Endpoint, Headers
from paceline.gateway.sse import Event, write
from paceline.net.answers import RETRY_AFTER_S, error_headers
from paceline.terms.errors import BadField, PacelineError

# --- What it is called ----------------------------------------------------------------------------

OPENAI_TYPE: Mapping[int, str] = {403: "permission_error", 429: "requests"}
INVALID = "invalid_request_error"
SERVER = "server_error"

OPENAI_CODE: Mapping[str, str | None] = {
    "internal": None,
    "bad_request": None,
    "bad_json": None,
    "bad_field": "invalid_value",
    "missing_field": "missing_required_parameter",
    "wrong_type": "invalid_type",
    "key_required": None,
    "wrong_key": "invalid_api_key",
    "not_allowed": "insufficient_permissions",
    "not_found": "not_found",
    "unknown_model": "model_not_found",
    "limit_reached": "rate_limit_exceeded",
}
"""Of our codes, those for which the API has one of its own, or none; others are told as ours."""

ANTHROPIC_TYPE: Mapping[int, str] = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
API = "api_error"

ANTHROPIC_STATUS: Mapping[int, int] = {503: 529}
"""What is a 503 elsewhere. Its SDK has a class for the vendor's own number alone."""

RETRY: Mapping[str, bool] = {
    "internal": False,
    "conflict": False,
    "not_offered": False,
    "provider_failed": False,
    "event_too_long": False,
    "unreachable": False,
    "deadline_exceeded": False,
    "limit_reached": True,
    "unavailable": True,
    "draining": True,
    "overloaded": True,
    "owner_gone": True,
}
"""Where an SDK would otherwise guess from the status. A limit that does not pass with time, such as
a length, is no `limit_reached` of an LLM call."""


REQUEST_ID: Mapping[Dialect, bytes] = {"openai": b"x-request-id", "anthropic": b"request-id"}


class Reply(NamedTuple):
    status: int
    headers: Headers
    body: bytes


def refused(
    dialect: Dialect,
    error: PacelineError,
    request_id: str,
    *,
    after_s: float | None = None,
    retry: bool | None = None,
) -> Reply:
    """An error of ours as a whole answer. `request_id` is empty where it has none; `after_s`: from
    when on it may go better; `retry`: whether the SDK shall try again, where the error alone does
    not say it."""
    status = status_of(dialect, error)
    body = orjson.dumps(_said(dialect, error, request_id))
    headers = [each for each in error_headers(error, body) if each[0] != b"retry-after"]
    if request_id:
        headers.append((REQUEST_ID[dialect], request_id.encode()))
    if retry is None:
        retry = RETRY.get(error.code)
    if after_s is None and retry:
        after_s = RETRY_AFTER_S
    return Reply(status, headers + retry_headers(retry, after_s), body)


def broken(
    dialect: Dialect, endpoint: Endpoint, error: PacelineError, request_id: str, sequence: int = 0
) -> bytes:
    """An error of ours as the last event of a stream. Nothing follows it, no mark of the end least
    of all. `sequence` is what `Passing` says."""
    if dialect == "anthropic":
        return write(orjson.dumps(_said(dialect, error, request_id)), b"error")
    told = openai_error(error)
    if endpoint != "responses":
        return write(orjson.dumps({"error": told}))
    # The documented form is flat, and the SDK hands it out as any other event; at the inner error
    # it raises, so that nobody takes what came before for an answer.
    event = {
        "type": "error",
        "sequence_number": sequence,
        "code": told["code"],
        "message": told["message"],
        "param": told["param"],
        "error": told,
    }
    return write(orjson.dumps(event), b"error")


def status_of(dialect: Dialect, error: PacelineError) -> int:
    return ANTHROPIC_STATUS.get(error.http, error.http) if dialect == "anthropic" else error.http


def retry_headers(retry: bool | None, after_s: float | None) -> Headers:
    headers: Headers = []
    if after_s is not None:
        headers.append((b"retry-after", b"%d" % math.ceil(after_s)))
        headers.append((b"retry-after-ms", b"%d" % math.ceil(after_s * 1e3)))
    if retry is not None:
        headers.append((b"x-should-retry", b"true" if retry else b"false"))
    return headers


def _said(dialect: Dialect, error: PacelineError, request_id: str) -> dict[str, Any]:
    if dialect == "openai":
        return {"error": openai_error(error)}
    kind = ANTHROPIC_TYPE.get(error.http, API if error.http >= 500 else INVALID)
    told = {"type": kind, "message": str(error)}
    return {"type": "error", "error": told, "request_id": request_id}


def openai_error(error: PacelineError) -> dict[str, Any]:
    kind = OPENAI_TYPE.get(error.http, SERVER if error.http >= 500 else INVALID)
    param = "model" if error.code == "unknown_model" else None
    code = OPENAI_CODE.get(error.code, error.code)
    if isinstance(error, BadField):
        param = error.param
    return {"message": str(error), "type": kind, "param": param, "code": code}


# --- What providers say ---------------------------------------------------------------------------

STATUS: Mapping[str, int] = {
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "requests": 429,
    "tokens": 429,
    "server_error": 500,
    "api_error": 500,
    "service_unavailable": 503,
    "overloaded": 503,
    "timeout_error": 504,
    "timeout": 504,
    "overloaded_error": 529,
}
"""Of an error that came as an event, by its code, or else its type. The rest are 500."""


class _Error(msgspec.Struct):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None
    param: str | None = None


class _Failed(msgspec.Struct):
    error: _Error | None = None


class _Event(msgspec.Struct):
    """As both vendors send it; flat, or within a response, as `/responses` has it."""

    error: _Error | str | None = None
    response: _Failed | None = None
    code: str | None = None
    message: str | None = None
    param: str | None = None


_event = msgspec.json.Decoder(_Event).decode


def answered(dialect: Dialect, event: Event) -> tuple[int, bytes]:
    """Status and body of an error that came as an event, before any content: as if its provider had
    not begun a stream."""
    try:
        told = _event(event.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        told = _Event(message="the provider sent an event that cannot be read")
    error = told.error or (told.response and told.response.error)
    if isinstance(error, str):
        error = _Error(error)
    if not error:
        error = _Error(told.message, None, told.code, told.param)
    status = _status(error)
    message = error.message or "the provider says that it failed, and not why"
    if dialect == "anthropic":
        if status == 503:
            status = 529
        kind = error.type or ANTHROPIC_TYPE.get(status, API)
        said: dict[str, Any] = {"type": "error", "error": {"type": kind, "message": message}}
    else:
        kind = error.type or OPENAI_TYPE.get(status, SERVER if status >= 500 else INVALID)
        inner = {"message": message, "type": kind, "param": error.param, "code": error.code}
        said = {"error": inner}
    return status, orjson.dumps(said)


def _status(error: _Error) -> int:
    code = error.code
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3:
        code = int(code)
    if isinstance(code, int):
        return code if 400 <= code <= 599 else 500
    return STATUS.get(code or "") or STATUS.get(error.type or "") or 500


# --- Headers of answers ---------------------------------------------------------------------------

PASSED = frozenset(
    {
        b"content-type",
        b"content-encoding",
        b"retry-after",
        b"retry-after-ms",
        b"x-should-retry",
        b"x-request-id",
        b"request-id",
        b"openai-processing-ms",
        b"openai-version",
        b"openai-model",
        b"x-paceline-simulated",
        b"x-ratelimit-limit-requests",
        b"x-ratelimit-limit-tokens",
        b"x-ratelimit-remaining-requests",
        b"x-ratelimit-remaining-tokens",
        b"x-ratelimit-reset-requests",
        b"x-ratelimit-reset-tokens",
    }
)
LIMITS = (b"x-ratelimit-", b"anthropic-ratelimit-")
"""Whose organization or project it was, cookies and the like are ours and not the caller's."""


def passed(headers: Headers, *, retry: bool | None = None) -> Headers:
    """Those of a provider's answer that go on to the caller; with `retry`, what the gateway says of
    trying again in the place of what the provider said."""
    kept = [each for each in headers if each[0] in PASSED or each[0].startswith(LIMITS)]
    if retry is None:
        return kept
    kept = [each for each in kept if each[0] != b"x-should-retry"]
    return kept + retry_headers(retry, None)
