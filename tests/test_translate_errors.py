"""A translated error raises the class in the other vendor's SDK that the status asks for.

Held against `anthropic._exceptions` and `anthropic.types.ErrorResponse` of anthropic 1.17, and
`openai._exceptions` and `openai.types.shared.ErrorObject` of openai 3.57.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialects import ask_anthropic, ask_openai, strictly
from laws import examples
from paceline.gateway.translate import errors
from paceline.terms.limits import ERROR_MESSAGE_CHARS
from sdks import anthropic, openai

CLASSES: list[tuple[int, str, str, str]] = [
    (400, "invalid_request_error", "BadRequestError", "BadRequestError"),
    (401, "authentication_error", "AuthenticationError", "AuthenticationError"),
    (402, "billing_error", "APIStatusError", "APIStatusError"),
    (403, "permission_error", "PermissionDeniedError", "PermissionDeniedError"),
    (404, "not_found_error", "NotFoundError", "NotFoundError"),
    (409, "invalid_request_error", "ConflictError", "ConflictError"),
    (413, "request_too_large", "RequestTooLargeError", "APIStatusError"),
    (429, "rate_limit_error", "RateLimitError", "RateLimitError"),
    (500, "api_error", "InternalServerError", "InternalServerError"),
    (502, "api_error", "InternalServerError", "InternalServerError"),
    (503, "overloaded_error", "InternalServerError", "InternalServerError"),
    (504, "timeout_error", "InternalServerError", "InternalServerError"),
    (529, "overloaded_error", "OverloadedError", "InternalServerError"),
]
"""Status, Anthropic's type, and the classes of its SDK and of OpenAI's."""


@pytest.mark.parametrize(("status", "type", "theirs", "_"), CLASSES)
def test_anthropics_sdk_raises_its_class(status: int, type: str, theirs: str, _: str) -> None:
    told = {"error": {"message": "No.", "type": "server_error", "param": None, "code": None}}
    body = errors.to_messages(status, json.dumps(told).encode(), "req_1")
    with pytest.raises(anthropic.APIStatusError) as raised:
        ask_anthropic(body, status)
    assert raised.type.__name__ == theirs
    assert str(raised.value.type) == type
    assert json.loads(body) == {
        "type": "error",
        "error": {"type": type, "message": "No."},
        "request_id": "req_1",
    }
    if type != "request_too_large":  # in Anthropic's documents, and not in its SDK's types
        strictly(anthropic.types.ErrorResponse, body)


@pytest.mark.parametrize(("status", "type", "_", "theirs"), CLASSES)
def test_openais_sdk_raises_its_class(status: int, type: str, _: str, theirs: str) -> None:
    told = {"type": "error", "error": {"type": type, "message": "No."}, "request_id": "req_1"}
    body = errors.to_chat(status, json.dumps(told).encode())
    with pytest.raises(openai.APIStatusError) as raised:
        ask_openai(body, status)
    assert raised.type.__name__ == theirs
    assert "No." in raised.value.message
    strictly(openai.types.shared.ErrorObject, json.dumps(json.loads(body)["error"]).encode())


@pytest.mark.parametrize(
    ("told", "type", "code"),
    [
        ({"type": "authentication_error"}, "invalid_request_error", "invalid_api_key"),
        ({"type": "rate_limit_error"}, "requests", "rate_limit_exceeded"),
        ({"type": "overloaded_error"}, "server_error", "overloaded"),
        ({"type": "billing_error"}, "insufficient_quota", "insufficient_quota"),
        (
            {"type": "not_found_error", "message": "model: claude-none"},
            "invalid_request_error",
            "model_not_found",
        ),
        ({"type": "invented_tomorrow"}, "server_error", None),
    ],
)
def test_callers_of_openais_dialect_find_the_code_they_look_for(
    told: dict[str, str], type: str, code: str | None
) -> None:
    body = json.dumps({"type": "error", "error": {"message": "No.", **told}}).encode()
    error = json.loads(errors.to_chat(500, body))["error"]
    assert (error["type"], error["code"]) == (type, code)


def test_a_code_tells_more_than_a_status() -> None:
    told = {"error": {"message": "No.", "type": "insufficient_quota", "code": "insufficient_quota"}}
    body = errors.to_messages(429, json.dumps(told).encode())
    assert json.loads(body)["error"]["type"] == "billing_error"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "as OpenAI"}}', "as OpenAI"),
        (b'{"error": "as some"}', "as some"),
        (b'{"detail": "as FastAPI"}', "as FastAPI"),
        (b'{"object": "error", "message": "as vLLM was", "code": 400}', "as vLLM was"),
        (b"upstream timed out\n", "upstream timed out"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", "the provider answered with status 418"),
        (b"x" * 10_000, "x" * ERROR_MESSAGE_CHARS),
        (b"[" * 100_000, "[" * ERROR_MESSAGE_CHARS),
    ],
)
def test_whatever_a_proxy_says_is_told(body: bytes, message: str) -> None:
    assert json.loads(errors.to_chat(418, body))["error"]["message"] == message
    assert json.loads(errors.to_messages(418, body))["error"]["message"] == message


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["error", "message", "type", "code", "param", "detail"]), inner
        )
    ),
    max_leaves=8,
)


@examples(40)
@given(anything, st.integers(400, 599))
def test_whatever_it_says_there_is_an_error(told: object, status: int) -> None:
    body = json.dumps(told).encode()
    error = json.loads(errors.to_chat(status, body))["error"]
    strictly(openai.types.shared.ErrorObject, json.dumps(error).encode())
    other = json.loads(errors.to_messages(status, body))["error"]
    assert other["message"] == error["message"] != ""
