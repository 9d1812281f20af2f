"""What api.openai.com answers, as fixtures: shaped like recorded answers, checked against the
models of the `openai` package whenever one is made. Independent of everything in `gateway/`.

Called by `llm_upstream.py`.
"""

import base64
import functools
from array import array
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from paceline.testing.llm_script import (
    Failure,
    Headers,
    Reply,
    Saying,
    Usage,
    fragments,
    words,
)
from paceline.testing.llm_types import answer_faults, error_faults, event_faults

JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")

CREATED = 1792000000
FINGERPRINT = "fp_44709d6fcb"
ID = "CQx7Yb1nD0aV3kTzLm2R"
SNAPSHOT = "-2026-07-18"

FINISH = {
    "stop": "stop",
    "sequence": "stop",
    "length": "length",
    "tools": "tool_calls",
    "filter": "content_filter",
}

Fields = dict[str, Any]

HEADERS: Headers = [
    (b"date", b"Mon, 30 Nov 2026 12:00:00 GMT"),
    (b"openai-organization", b"user-a1b2c3"),
    (b"openai-processing-ms", b"238"),
    (b"openai-version", b"2020-10-01"),
    (b"x-ratelimit-limit-requests", b"10000"),
    (b"x-ratelimit-limit-tokens", b"200000"),
    (b"x-ratelimit-remaining-requests", b"9999"),
    (b"x-ratelimit-remaining-tokens", b"199970"),
    (b"x-ratelimit-reset-requests", b"8.64s"),
    (b"x-ratelimit-reset-tokens", b"9ms"),
    (b"set-cookie", b"__cf_bm=upstream; path=/; HttpOnly; Secure; SameSite=None"),
    (b"server", b"cloudflare"),
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains; preload"),
    (b"alt-svc", b'h3=":443"; ma=86400'),
]


def reply(endpoint: str, asked: Fields, saying: Saying) -> Reply:
    """The answer to a request that is right."""
    if endpoint not in ANSWERS:
        raise LookupError(f"{endpoint} has no fixture: give the answer with raw(...)")
    if asked.get("stream"):
        parts = list(EVENTS_OF[endpoint](asked, saying))
        return Reply(200, [*HEADERS, EVENTS], parts, BROKEN[endpoint])
    body = _whole(endpoint, orjson.dumps(ANSWERS[endpoint](asked, saying)))
    return Reply(200, [*HEADERS, JSON], [body])


@functools.lru_cache(maxsize=512)
def _whole(endpoint: str, body: bytes) -> bytes:
    faults = answer_faults("openai", endpoint, body)
    assert not faults, f"a fixture is wrong: {faults}"
    return body


@functools.lru_cache(maxsize=4096)
def _event(endpoint: str, data: bytes, name: str = "") -> bytes:
    faults = event_faults("openai", endpoint, data)
    assert not faults, f"a fixture is wrong: {faults} in {data.decode()}"
    named = f"event: {name}\n".encode() if name else b""
    return named + b"data: " + data + b"\n\n"


DONE = b"data: [DONE]\n\n"


def _snapshot(model: str) -> str:
    return model if model[-1:].isdigit() and model.count("-") > 3 else f"{model}{SNAPSHOT}"


# --- Chat -----------------------------------------------------------------------------------------


def _chat(asked: Fields, saying: Saying) -> Fields:
    message: Fields = {"role": "assistant", "content": saying.text or None, "refusal": None}
    if saying.refusal is not None:
        message["refusal"] = saying.refusal
    if saying.uses:
        message["tool_calls"] = [
            {
                "id": f"call_{use.id}",
                "type": "function",
                "function": {"name": use.name, "arguments": use.arguments},
            }
            for use in saying.uses
        ]
    message["annotations"] = []
    if saying.text == "" and not saying.uses and saying.refusal is None:
        message["content"] = ""
    choices = [
        {
            "index": at,
            "message": message,
            "logprobs": _logprobs(asked, words(saying.text)),
            "finish_reason": FINISH[saying.ended],
        }
        for at in range(asked.get("n") or 1)
    ]
    return {
        "id": f"chatcmpl-{ID}",
        "object": "chat.completion",
        "created": CREATED,
        "model": _snapshot(asked["model"]),
        "choices": choices,
        "usage": _usage(saying.usage),
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def _chat_events(asked: Fields, saying: Saying) -> Iterator[bytes]:
    options = asked.get("stream_options") or {}
    with_usage = bool(options.get("include_usage"))

    def chunk(choices: list[Fields], usage: Fields | None = None) -> bytes:
        fields: Fields = {
            "id": f"chatcmpl-{ID}",
            "object": "chat.completion.chunk",
            "created": CREATED,
            "model": _snapshot(asked["model"]),
            "service_tier": "default",
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }
        if with_usage:
            fields["usage"] = usage
        if options.get("include_obfuscation") is not False:
            fields["obfuscation"] = "mZ7tQ4"[: 1 + len(choices)]
        return _event("chat", orjson.dumps(fields))

    def choice(at: int, delta: Fields, word: str = "", finish: str | None = None) -> Fields:
        logprobs = _logprobs(asked, [word]) if word else None
        return {"index": at, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    several = range(asked.get("n") or 1)
    first: Fields = {"role": "assistant", "content": None if saying.uses else "", "refusal": None}
    for at in several:
        yield chunk([choice(at, first)])
    for delta, word in _chat_deltas(saying):
        for at in several:
            yield chunk([choice(at, delta, word)])
    for at in several:
        yield chunk([choice(at, {}, finish=FINISH[saying.ended])])
    if with_usage:
        yield chunk([], _usage(saying.usage))
    yield DONE


def _chat_deltas(saying: Saying) -> Iterator[tuple[Fields, str]]:
    for word in words(saying.text) if saying.text else ():
        yield {"content": word}, word
    for word in words(saying.refusal) if saying.refusal else ():
        yield {"refusal": word}, ""
    for at, use in enumerate(saying.uses):
        begin = {"name": use.name, "arguments": ""}
        call = {"index": at, "id": f"call_{use.id}", "type": "function", "function": begin}
        yield {"tool_calls": [call]}, ""
        for part in fragments(use.arguments):
            yield {"tool_calls": [{"index": at, "function": {"arguments": part}}]}, ""


def _logprobs(asked: Fields, parts: list[str]) -> Fields | None:
    if not asked.get("logprobs"):
        return None
    content = []
    for part in parts:
        one = {"token": part, "logprob": -0.25, "bytes": list(part.encode())}
        others = [one] * min(asked.get("top_logprobs") or 0, 2)
        content.append({**one, "top_logprobs": others})
    return {"content": content, "refusal": None}


def _usage(usage: Usage) -> Fields:
    return {
        "prompt_tokens": usage.read,
        "completion_tokens": usage.written,
        "total_tokens": usage.read + usage.written,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached,
            "cache_write_tokens": usage.cache_written,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoned,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


# --- Text completions -----------------------------------------------------------------------------


def _completion(asked: Fields, saying: Saying) -> Fields:
    prompts = asked.get("prompt")
    several = len(prompts) if isinstance(prompts, list) and isinstance(prompts[0], str) else 1
    return {
        "id": f"cmpl-{ID}",
        "object": "text_completion",
        "created": CREATED,
        "model": asked["model"],
        "choices": [
            {
                "text": saying.text,
                "index": at,
                "logprobs": None,
                "finish_reason": FINISH[saying.ended],
            }
            for at in range(several * (asked.get("n") or 1))
        ],
        "usage": {
            "prompt_tokens": saying.usage.read,
            "completion_tokens": saying.usage.written,
            "total_tokens": saying.usage.read + saying.usage.written,
        },
    }


def _completion_events(asked: Fields, saying: Saying) -> Iterator[bytes]:
    whole = _completion(asked, saying)
    with_usage = bool((asked.get("stream_options") or {}).get("include_usage"))
    usage = whole.pop("usage")

    def chunk(text: str, finish: str | None) -> bytes:
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
        fields = {**whole, "choices": [choice]}
        if with_usage:
            fields["usage"] = None
        return _event("completions", orjson.dumps(fields))

    for word in words(saying.text):
        yield chunk(word, None)
    yield chunk("", FINISH[saying.ended])
    if with_usage:
        yield _event("completions", orjson.dumps({**whole, "choices": [], "usage": usage}))
    yield DONE


# --- Embeddings, moderations, models --------------------------------------------------------------


def _embeddings(asked: Fields, saying: Saying) -> Fields:
    given = asked["input"]
    texts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    size = asked.get("dimensions") or 8
    data = []
    for at, _ in enumerate(texts):
        numbers = [round(0.125 * (at + 1), 6)] * size
        vector: Any = numbers
        if asked.get("encoding_format") == "base64":
            vector = base64.b64encode(array("f", numbers).tobytes()).decode()
        data.append({"object": "embedding", "index": at, "embedding": vector})
    usage = {"prompt_tokens": saying.usage.read, "total_tokens": saying.usage.read}
    return {"object": "list", "data": data, "model": asked["model"], "usage": usage}


CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


def _moderation(asked: Fields, saying: Saying) -> Fields:
    given = asked["input"]
    several = len(given) if isinstance(given, list) and isinstance(given[0], str) else 1
    result: Fields = {
        "flagged": False,
        "categories": dict.fromkeys(CATEGORIES, False),
        "category_scores": dict.fromkeys(CATEGORIES, 0.00042),
        "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
    }
    model = asked.get("model") or "omni-moderation-latest"
    return {"id": f"modr-{ID}", "model": model, "results": [result] * several}


def models() -> Reply:
    data = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "system"}
        for name in ("gpt-5.6-mini", "text-embedding-3-small")
    ]
    for each in data:
        _whole("model", orjson.dumps(each))
    return Reply(200, [*HEADERS, JSON], [orjson.dumps({"object": "list", "data": data})])


# --- Responses ------------------------------------------------------------------------------------


def _response(asked: Fields, saying: Saying) -> Fields:
    cut = saying.ended == "length"
    usage = saying.usage
    return {
        **_response_begun(asked),
        "status": "incomplete" if cut else "completed",
        "completed_at": None if cut else CREATED + 1,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "output": _items(saying),
        "usage": {
            "input_tokens": usage.read,
            "input_tokens_details": {
                "cached_tokens": usage.cached,
                "cache_write_tokens": usage.cache_written,
            },
            "output_tokens": usage.written,
            "output_tokens_details": {"reasoning_tokens": usage.reasoned},
            "total_tokens": usage.read + usage.written,
        },
    }


def _response_begun(asked: Fields) -> Fields:
    tools = [
        {"description": None, "strict": True, "parameters": {}, **tool}
        if tool["type"] == "function"
        else tool
        for tool in asked.get("tools") or ()
    ]
    return {
        "id": f"resp_{ID}",
        "object": "response",
        "created_at": CREATED,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "max_output_tokens": asked.get("max_output_tokens"),
        "max_tool_calls": None,
        "metadata": asked.get("metadata") or {},
        "model": _snapshot(asked["model"]),
        "output": [],
        "parallel_tool_calls": asked.get("parallel_tool_calls") is not False,
        "previous_response_id": asked.get("previous_response_id"),
        "prompt_cache_key": asked.get("prompt_cache_key"),
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "temperature": 1.0,
        "text": asked.get("text") or {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": asked.get("tool_choice") or "auto",
        "tools": tools,
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


def _items(saying: Saying) -> list[Fields]:
    state = "incomplete" if saying.ended == "length" else "completed"
    items: list[Fields] = []
    if saying.text or saying.refusal is not None:
        part: Fields = {"type": "output_text", "annotations": [], "logprobs": []}
        part["text"] = saying.text
        if saying.refusal is not None:
            part = {"type": "refusal", "refusal": saying.refusal}
        items.append(
            {
                "id": f"msg_{ID}",
                "type": "message",
                "status": state,
                "content": [part],
                "role": "assistant",
            }
        )
    for use in saying.uses:
        items.append(
            {
                "id": f"fc_{use.id}",
                "type": "function_call",
                "status": state,
                "arguments": use.arguments,
                "call_id": f"call_{use.id}",
                "name": use.name,
            }
        )
    return items


def _response_events(asked: Fields, saying: Saying) -> Iterator[bytes]:
    number = iter(range(1_000_000))

    def event(name: str, **fields: Any) -> bytes:
        data = {"type": name, "sequence_number": next(number), **fields}
        return _event("responses", orjson.dumps(data), name)

    begun, done = _response_begun(asked), _response(asked, saying)
    yield event("response.created", response=begun)
    yield event("response.in_progress", response=begun)
    for at, item in enumerate(done["output"]):
        nothing: Fields = {"content": []} if item["type"] == "message" else {"arguments": ""}
        empty = {**item, "status": "in_progress", **nothing}
        yield event("response.output_item.added", output_index=at, item=empty)
        place = {"item_id": item["id"], "output_index": at}
        if item["type"] == "message":
            yield from _part_events(event, place, item["content"][0])
        else:
            for part in fragments(item["arguments"]):
                yield event("response.function_call_arguments.delta", **place, delta=part)
            arguments = item["arguments"]
            yield event("response.function_call_arguments.done", **place, arguments=arguments)
        yield event("response.output_item.done", output_index=at, item=item)
    yield event(f"response.{done['status']}", response=done)


def _part_events(event: Any, place: Fields, part: Fields) -> Iterator[bytes]:
    key = "text" if part["type"] == "output_text" else "refusal"
    name = f"response.{part['type']}"
    more: Fields = {"logprobs": []} if key == "text" else {}
    place = {**place, "content_index": 0}
    yield event("response.content_part.added", **place, part={**part, key: ""})
    for word in words(part[key]):
        yield event(f"{name}.delta", **place, delta=word, **more)
    yield event(f"{name}.done", **place, **{key: part[key]}, **more)
    yield event("response.content_part.done", **place, part=part)


ANSWERS: Mapping[str, Callable[[Fields, Saying], Fields]] = {
    "chat": _chat,
    "completions": _completion,
    "embeddings": _embeddings,
    "moderations": _moderation,
    "responses": _response,
}
EVENTS_OF: Mapping[str, Callable[[Fields, Saying], Iterator[bytes]]] = {
    "chat": _chat_events,
    "completions": _completion_events,
    "responses": _response_events,
}


# --- Errors ---------------------------------------------------------------------------------------

KINDS = {403: "request_forbidden", 429: "requests"}
CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


def failed(failure: Failure) -> Reply:
    status = failure.status
    otherwise = "server_error" if status >= 500 else "invalid_request_error"
    error = {
        "message": failure.message,
        "type": failure.kind or KINDS.get(status, otherwise),
        "param": failure.param,
        "code": failure.code or CODES.get(status),
    }
    body = orjson.dumps({"error": error})
    faults = error_faults("openai", body)
    assert not faults, f"a fixture is wrong: {faults}"
    headers = [*HEADERS, JSON]
    wait_s = failure.retry_after_s
    if wait_s is None and status in (429, 503):
        wait_s = 0.02
    if wait_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(wait_s))))
        headers.append((b"retry-after-ms", b"%d" % round(1000 * wait_s)))
    if failure.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if failure.should_retry else b"false"))
    return Reply(status, headers, [body])


def _broken(endpoint: str) -> bytes:
    message = "The server had an error while processing your request."
    if endpoint == "responses":
        fields: Fields = {"type": "error", "sequence_number": 3, "code": "server_error"}
        fields |= {"message": message, "param": None}
        return b"event: error\ndata: " + orjson.dumps(fields) + b"\n\n"
    error = {"message": message, "type": "server_error", "param": None, "code": None}
    return b"data: " + orjson.dumps({"error": error}) + b"\n\n"


BROKEN = {endpoint: _broken(endpoint) for endpoint in EVENTS_OF}
