"""What api.anthropic.com answers, as fixtures: shaped like recorded answers, checked against the
models of the `anthropic` package whenever one is made. Independent of everything in `gateway/`.

Called by `llm_upstream.py`.
"""

import functools
from collections.abc import Iterator
from typing import Any

import orjson

from paceline.testing.llm_script import Failure, Headers, Reply, Saying, Usage, fragments, words
from paceline.testing.llm_types import answer_faults, error_faults, event_faults

JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")

ID = "01XFDUDYJgAACzvnptvVoYEL"

STOP = {
    "stop": "end_turn",
    "sequence": "stop_sequence",
    "length": "max_tokens",
    "tools": "tool_use",
    "filter": "refusal",
}

Fields = dict[str, Any]

HEADERS: Headers = [
    (b"date", b"Mon, 30 Nov 2026 12:00:00 GMT"),
    (b"anthropic-organization-id", b"0f9c2b1e-0000-4000-8000-3b1d5a7c9e11"),
    (b"anthropic-ratelimit-requests-limit", b"4000"),
    (b"anthropic-ratelimit-requests-remaining", b"3999"),
    (b"anthropic-ratelimit-requests-reset", b"2026-11-30T12:00:00Z"),
    (b"anthropic-ratelimit-input-tokens-limit", b"400000"),
    (b"anthropic-ratelimit-input-tokens-remaining", b"400000"),
    (b"anthropic-ratelimit-input-tokens-reset", b"2026-11-30T12:00:00Z"),
    (b"anthropic-ratelimit-output-tokens-limit", b"80000"),
    (b"anthropic-ratelimit-output-tokens-remaining", b"80000"),
    (b"anthropic-ratelimit-output-tokens-reset", b"2026-11-30T12:00:00Z"),
    (b"set-cookie", b"_cfuvid=upstream; path=/; HttpOnly; Secure; SameSite=None"),
    (b"server", b"cloudflare"),
    (b"x-robots-tag", b"none"),
]


def reply(endpoint: str, asked: Fields, saying: Saying) -> Reply:
    """The answer to a request that is right."""
    if endpoint == "count_tokens":
        body = _whole(endpoint, orjson.dumps({"input_tokens": saying.usage.read}))
        return Reply(200, [*HEADERS, JSON], [body])
    if endpoint != "messages":
        raise LookupError(f"{endpoint} has no fixture: give the answer with raw(...)")
    if asked.get("stream"):
        return Reply(200, [*HEADERS, EVENTS], list(_events(asked, saying)), BROKEN)
    whole = _message(asked, saying)
    return Reply(200, [*HEADERS, JSON], [_whole("messages", orjson.dumps(whole))])


@functools.lru_cache(maxsize=512)
def _whole(endpoint: str, body: bytes) -> bytes:
    faults = answer_faults("anthropic", endpoint, body)
    assert not faults, f"a fixture is wrong: {faults}"
    return body


@functools.lru_cache(maxsize=4096)
def _event(data: bytes, name: str) -> bytes:
    faults = event_faults("anthropic", "messages", data)
    assert not faults, f"a fixture is wrong: {faults} in {data.decode()}"
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def _message(asked: Fields, saying: Saying) -> Fields:
    return {**_begun(asked, saying), "content": _blocks(saying), **_ended(saying)} | {
        "usage": _usage(saying.usage, saying.usage.written)
    }


def _begun(asked: Fields, saying: Saying) -> Fields:
    return {
        "model": asked["model"],
        "id": f"msg_{ID}",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "usage": _usage(saying.usage, 1),
    }


def _ended(saying: Saying) -> Fields:
    refused = saying.refusal is not None
    details = {"type": "refusal", "category": None, "explanation": saying.refusal}
    return {
        "stop_reason": "refusal" if refused else STOP[saying.ended],
        "stop_sequence": saying.sequence,
        "stop_details": details if refused else None,
    }


def _usage(usage: Usage, written: int) -> Fields:
    """Without what was read from the cache, or written to it: this vendor counts that apart."""
    return {
        "input_tokens": usage.read - usage.cached - usage.cache_written,
        "cache_creation_input_tokens": usage.cache_written,
        "cache_read_input_tokens": usage.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_written,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": written,
        "service_tier": "standard",
        "inference_geo": "global",
    }


def _blocks(saying: Saying) -> list[Fields]:
    blocks: list[Fields] = []
    if saying.thought is not None:
        blocks.append({"type": "thinking", "thinking": saying.thought, "signature": SIGNATURE})
    if saying.text:
        blocks.append({"type": "text", "text": saying.text})
    for use in saying.uses:
        given = orjson.loads(use.arguments)
        block = {"type": "tool_use", "id": f"toolu_{use.id}", "name": use.name, "input": given}
        blocks.append(block)
    return blocks


SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3hGgxBdjrkzLoky3dl1pkiMOYds"


def _events(asked: Fields, saying: Saying) -> Iterator[bytes]:
    def event(name: str, **fields: Any) -> bytes:
        return _event(orjson.dumps({"type": name, **fields}), name)

    yield event("message_start", message=_begun(asked, saying))
    for at, (begin, deltas) in enumerate(_parts(saying)):
        yield event("content_block_start", index=at, content_block=begin)
        if not at:
            yield event("ping")
        for delta in deltas:
            yield event("content_block_delta", index=at, delta=delta)
        yield event("content_block_stop", index=at)
    usage = _usage(saying.usage, saying.usage.written)
    for name in ("cache_creation", "service_tier", "inference_geo"):
        del usage[name]
    yield event("message_delta", delta=_ended(saying), usage=usage)
    yield event("message_stop")


def _parts(saying: Saying) -> Iterator[tuple[Fields, list[Fields]]]:
    """Each block as it begins, and what is then added to it."""
    if saying.thought is not None:
        deltas: list[Fields] = [
            {"type": "thinking_delta", "thinking": word} for word in words(saying.thought)
        ]
        deltas.append({"type": "signature_delta", "signature": SIGNATURE})
        yield {"type": "thinking", "thinking": "", "signature": ""}, deltas
    if saying.text:
        deltas = [{"type": "text_delta", "text": word} for word in words(saying.text)]
        yield {"type": "text", "text": ""}, deltas
    for use in saying.uses:
        parts = ["", *fragments(use.arguments)]
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
        begin = {"type": "tool_use", "id": f"toolu_{use.id}", "name": use.name, "input": {}}
        yield begin, deltas


def models() -> Reply:
    model = {
        "type": "model",
        "id": "claude-sonnet-5-5",
        "display_name": "Claude Sonnet 5.5",
        "created_at": "2026-09-29T00:00:00Z",
        "lifecycle": "active",
    }
    _whole("model", orjson.dumps(model))
    fields = {"data": [model], "has_more": False, "first_id": model["id"], "last_id": model["id"]}
    return Reply(200, [*HEADERS, JSON], [orjson.dumps(fields)])


# --- Errors ---------------------------------------------------------------------------------------

KINDS = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def failed(failure: Failure) -> Reply:
    status = failure.status
    otherwise = "api_error" if status >= 500 else "invalid_request_error"
    error = {"type": failure.kind or KINDS.get(status, otherwise), "message": failure.message}
    body = orjson.dumps({"type": "error", "error": error, "request_id": f"req_{ID}"})
    faults = error_faults("anthropic", body)
    assert not faults, f"a fixture is wrong: {faults}"
    headers = [*HEADERS, JSON]
    if failure.retry_after_s is not None or status == 429:
        wait_s = 1.0 if failure.retry_after_s is None else failure.retry_after_s
        headers.append((b"retry-after", b"%d" % max(0, round(wait_s))))
    retry = failure.should_retry
    if retry is None:
        retry = status in (408, 409, 429) or status >= 500
    headers.append((b"x-should-retry", b"true" if retry else b"false"))
    return Reply(status, headers, [body])


BROKEN = (
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error",'
    b'"message":"Overloaded"}}\n\n'
)
