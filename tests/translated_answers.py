"""Answers of both dialects, made up: what the tests of translated answers and streams share."""

import json
from typing import Any

from hypothesis import strategies as st

Body = dict[str, Any]

words = st.text(min_size=1, max_size=12)
counts = st.integers(0, 10**9)
names = st.sampled_from(["get_weather", "search", "f-1"])
objects: st.SearchStrategy[Body] = st.dictionaries(
    words,
    words
    | st.sampled_from([None, True, -1.5, 2**80, "", '"}', "\\", [], {}, [{"a": ["]"]}], "a\\"]),
    max_size=2,
)

FINISHES = ["stop", "length", "tool_calls", "content_filter"]
STOPS = [
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "refusal",
    "model_context_window_exceeded",
]


@st.composite
def chat_usages(draw: st.DrawFn) -> Body:
    read, written, fresh, told = (draw(counts) for _ in range(4))
    usage: Body = {
        "prompt_tokens": read + written + fresh,
        "completion_tokens": told,
        "total_tokens": read + written + fresh + told,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
    }
    if draw(st.booleans()):
        usage["completion_tokens_details"] = {"reasoning_tokens": draw(st.integers(0, told))}
    return usage


@st.composite
def messages_usages(draw: st.DrawFn) -> Body:
    usage: Body = {
        "input_tokens": draw(counts),
        "cache_creation_input_tokens": draw(counts),
        "cache_read_input_tokens": draw(counts),
        "output_tokens": draw(counts),
    }
    if draw(st.booleans()):
        usage["output_tokens_details"] = {"thinking_tokens": draw(counts)}
    return usage


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@st.composite
def chat_answers(draw: st.DrawFn) -> Body:
    """As OpenAI sends them, with `reasoning_content` as others do besides."""
    message: Body = {
        "role": "assistant",
        "content": draw(st.none() | words),
        "refusal": None,
    }
    if draw(st.booleans()):
        message["reasoning_content"] = draw(words)
    calls = draw(st.lists(st.tuples(names, objects), max_size=3))
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{at}",
                "type": "function",
                "function": {"name": name, "arguments": compact(given)},
            }
            for at, (name, given) in enumerate(calls)
        ]
    finish = "tool_calls" if calls else draw(st.sampled_from(["stop", "length", "content_filter"]))
    return {
        "id": "chatcmpl-9f",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "theirs-2026-11-30",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": draw(chat_usages()),
        "service_tier": draw(st.sampled_from(["default", "priority"])),
    }


@st.composite
def messages_answers(draw: st.DrawFn) -> Body:
    """As Anthropic sends them: thinking, texts, calls."""
    thinking = st.just({"type": "thinking", "thinking": "Hm.", "signature": "c2ln"})
    redacted = st.just({"type": "redacted_thinking", "data": "b3BhcXVl"})
    content: list[Body] = [*draw(st.lists(thinking | redacted, max_size=2))]
    content += draw(st.lists(words.map(lambda text: {"type": "text", "text": text}), max_size=2))
    calls = draw(st.lists(st.tuples(names, objects), max_size=3))
    content += [
        {"type": "tool_use", "id": f"toolu_{at}", "name": name, "input": given}
        for at, (name, given) in enumerate(calls)
    ]
    stop = "tool_use" if calls else draw(st.sampled_from(STOPS))
    answer: Body = {
        "id": "msg_9f",
        "type": "message",
        "role": "assistant",
        "model": "theirs-20261130",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": "END" if stop == "stop_sequence" else None,
        "usage": {
            **draw(messages_usages()),
            "service_tier": draw(st.sampled_from(["standard", "priority", "batch"])),
        },
    }
    if stop == "refusal":
        why = draw(st.none() | words)
        answer["stop_details"] = {"type": "refusal", "category": "cyber", "explanation": why}
    return answer
