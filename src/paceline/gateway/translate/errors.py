"""Errors of providers from one dialect into the other: the words are kept, and the type is mapped.

The status stays what it is, so that an SDK raises the class it would have raised, and tries again
or not, as the provider means it. Bodies of neither dialect (a proxy's page, a framework's `detail`)
become errors all the same. Not errors of our own; those are written by the dialects (`openai.py`,
`anthropic.py`). Called by `hearing.py`, and by `streams.py` for errors within a stream, which have
no status of their own.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from paceline.terms.limits import ERROR_MESSAGE_CHARS

CHAT: Mapping[str, tuple[str, str | None]] = {
    "invalid_request_error": ("invalid_request_error", None),
    "authentication_error": ("invalid_request_error", "invalid_api_key"),
    "permission_error": ("permission_error", "insufficient_permissions"),
    "not_found_error": ("invalid_request_error", "not_found"),
    "request_too_large": ("invalid_request_error", "request_too_large"),
    "billing_error": ("insufficient_quota", "insufficient_quota"),
    "rate_limit_error": ("requests", "rate_limit_exceeded"),
    "timeout_error": ("server_error", "timeout"),
    "overloaded_error": ("server_error", "overloaded"),
    "api_error": ("server_error", None),
}
"""OpenAI's type and code for each of Anthropic's types."""

MODEL: tuple[str, str] = ("model:", "model_not_found")
"""How Anthropic's words begin where no model has the name, and OpenAI's code for that."""

STATUS: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "invalid_request_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""Anthropic's type for each status. Types of OpenAI's dialect differ from provider to provider."""

CODES: Mapping[str, str] = {
    "insufficient_quota": "billing_error",
    "invalid_api_key": "authentication_error",
    "model_not_found": "not_found_error",
    "rate_limit_exceeded": "rate_limit_error",
    "invalid_request_error": "invalid_request_error",
    "authentication_error": "authentication_error",
    "permission_error": "permission_error",
    "not_found_error": "not_found_error",
    "rate_limit_error": "rate_limit_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
    "tokens": "rate_limit_error",
    "requests": "rate_limit_error",
}
"""And for codes and types that tell more than a status, or stand where there is none."""

OTHER = "api_error"


class Failure(msgspec.Struct, frozen=True):
    """What a body says, in whichever dialect; empty where it says nothing."""

    message: str
    type: str = ""
    code: str = ""
    param: str = ""
    request_id: str = ""


def to_chat(status: int, body: bytes) -> bytes:
    """An error's body in OpenAI's dialect."""
    return msgspec.json.encode(chat_error(read(status, body), status))


def to_messages(status: int, body: bytes, request_id: str | None = None) -> bytes:
    """An error's body in Anthropic's dialect."""
    return msgspec.json.encode(messages_error(read(status, body), status, request_id))


def chat_error(failure: Failure, status: int | None = None) -> dict[str, Any]:
    known = failure.type if failure.type in CHAT else STATUS.get(status or 0, OTHER)
    kind, code = CHAT[known]
    if known == "not_found_error" and failure.message.startswith(MODEL[0]):
        code = MODEL[1]
    error = {
        "message": failure.message,
        "type": kind,
        "param": failure.param or None,
        "code": code,
    }
    return {"error": error}


def messages_error(
    failure: Failure, status: int | None = None, request_id: str | None = None
) -> dict[str, Any]:
    kind = CODES.get(failure.code) or (
        STATUS.get(status, OTHER) if status is not None else CODES.get(failure.type, OTHER)
    )
    return {
        "type": "error",
        "error": {"type": kind, "message": failure.message},
        "request_id": request_id or failure.request_id or None,
    }


def read(status: int, body: bytes) -> Failure:
    """What the body of an answer of this status says of an error."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = None
    text = body[: 4 * ERROR_MESSAGE_CHARS].decode("utf-8", "replace").strip()
    return said(told, text[:ERROR_MESSAGE_CHARS] or f"the provider answered with status {status}")


def said(told: Any, otherwise: str) -> Failure:
    """What decoded JSON says of an error, wherever it stands."""
    body = told if isinstance(told, dict) else {}
    inner = body.get("error")
    error = inner if isinstance(inner, dict) else body
    messages = (error.get("message"), inner, body.get("message"), body.get("detail"))
    message = next((each for each in messages if each and isinstance(each, str)), otherwise)
    return Failure(
        message,
        _text(error.get("type")),
        _text(error.get("code")),
        _text(error.get("param")),
        _text(body.get("request_id")),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
