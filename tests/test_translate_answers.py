"""A translated answer says what the original said, and the other vendor's SDK reads it.

Held against `anthropic.types.Message` of anthropic 1.17 and `openai.types.chat.ChatCompletion` of
openai 3.57, strictly: no field that they do not know, none that has to be converted.
"""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dialects import ask_anthropic, ask_openai, read_completion, read_message
from laws import examples
from paceline.gateway.translate import answers
from paceline.gateway.translate.arguments import WRITTEN
from paceline.terms.errors import ProviderFailed
from translated_answers import FINISHES, STOPS, Body, chat_answers, messages_answers

FEW = examples(40)

CREATED = 1_795_000_000
MODEL = "ours"


def to_messages(body: object) -> Body:
    there = answers.to_messages(json.dumps(body).encode(), MODEL)
    assert read_message(there).model == MODEL
    told: Body = json.loads(there)
    return told


def to_chat(body: object) -> Body:
    there = answers.to_chat(json.dumps(body).encode(), MODEL, CREATED)
    assert read_completion(there).model == MODEL
    told: Body = json.loads(there)
    return told


def chat(finish: str | None = "stop", **message: object) -> Body:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return {"id": "chatcmpl-1", "choices": [choice]}


def called(*arguments: str) -> list[Body]:
    return [
        {"id": f"call_{at}", "type": "function", "function": {"name": "f", "arguments": each}}
        for at, each in enumerate(arguments)
    ]


def message(stop: str | None, *content: Body, **rest: object) -> Body:
    return {"id": "msg_1", "content": list(content), "stop_reason": stop, **rest}


def said_in_chat(answer: Body) -> Any:
    told = answer["choices"][0]["message"]
    calls = told.get("tool_calls") or []
    return (
        told.get("reasoning_content") or "",
        told["content"] or "",
        [
            (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
            for call in calls
        ],
        answer["usage"],
        answer.get("service_tier"),
    )


def said_in_messages(answer: Body) -> Any:
    def joined(kind: str) -> str:
        return "".join(block[kind] for block in answer["content"] if block["type"] == kind)

    usage = answer["usage"]
    read, written = usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]
    prompt, told = usage["input_tokens"] + read + written, usage["output_tokens"]
    counted: Body = {
        "prompt_tokens": prompt,
        "completion_tokens": told,
        "total_tokens": prompt + told,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
    }
    if details := usage.get("output_tokens_details"):
        counted["completion_tokens_details"] = {"reasoning_tokens": details["thinking_tokens"]}
    uses = [block for block in answer["content"] if block["type"] == "tool_use"]
    tiers = {"standard": "default", "priority": "priority"}
    return (
        joined("thinking"),
        joined("text"),
        [(use["id"], use["name"], use["input"]) for use in uses],
        counted,
        tiers.get(usage.get("service_tier")),
    )


@FEW
@given(chat_answers())
def test_a_chat_completion_says_the_same_as_a_message_and_back(answer: Body) -> None:
    there = to_messages(answer)
    assert said_in_messages(there) == said_in_chat(answer)
    back = to_chat(there)
    assert said_in_chat(back) == said_in_chat(answer)
    assert back["choices"][0]["finish_reason"] == answer["choices"][0]["finish_reason"]
    assert back["id"] == answer["id"]
    assert to_messages(back) == there


@FEW
@given(messages_answers())
def test_a_message_says_the_same_as_a_chat_completion_and_back(answer: Body) -> None:
    there = to_chat(answer)
    assert there["created"] == CREATED
    assert said_in_chat(there) == said_in_messages(answer)
    back = to_messages(there)
    assert back["id"] == answer["id"]
    refusal = there["choices"][0]["message"]["refusal"] or ""
    thought, text, *rest = said_in_messages(answer)
    assert said_in_messages(back) == (thought, text + refusal, *rest)


@pytest.mark.parametrize("stop", STOPS)
def test_each_reason_to_stop_has_a_counterpart(stop: str) -> None:
    finish = to_chat(message(stop))["choices"][0]["finish_reason"]
    assert (
        finish
        == {
            "end_turn": "stop",
            "stop_sequence": "stop",
            "max_tokens": "length",
            "model_context_window_exceeded": "length",
            "pause_turn": "length",
            "tool_use": "tool_calls",
            "refusal": "content_filter",
        }[stop]
    )


@pytest.mark.parametrize("finish", [*FINISHES, "function_call", "eos", None])
def test_each_reason_to_finish_has_one(finish: str | None) -> None:
    assert to_messages(chat(finish, content="x"))["stop_reason"] == {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "function_call": "tool_use",
        "content_filter": "refusal",
    }.get(finish or "", "end_turn")


def test_a_call_that_was_asked_for_by_name_stops_for_its_use() -> None:
    """OpenAI says `stop` then."""
    told = to_messages(chat("stop", tool_calls=called("{}")))
    assert told["stop_reason"] == "tool_use"
    cut = to_messages(chat("length", tool_calls=called('{"a": 1}')))
    assert cut["stop_reason"] == "max_tokens"


def test_a_refusal_is_told_as_one() -> None:
    told = to_messages(chat("stop", content=None, refusal="I would rather not."))
    assert told["content"] == [{"type": "text", "text": "I would rather not."}]
    assert told["stop_reason"] == "refusal"
    details = {"type": "refusal", "category": None, "explanation": "A policy."}
    refused = to_chat(message("refusal", stop_details=details))["choices"][0]
    assert refused["message"]["refusal"] == "A policy."
    assert refused["finish_reason"] == "content_filter"


def test_arguments_that_are_no_object_are_told_as_they_are() -> None:
    told = to_messages(chat("tool_calls", tool_calls=called('{"city": "Par', "[1]", "")))
    assert [block["input"] for block in told["content"]] == [
        {WRITTEN: '{"city": "Par'},
        {WRITTEN: "[1]"},
        {},
    ]


def test_a_call_without_an_id_gets_one() -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": "{}"}} for _ in range(2)]
    told = to_messages(chat("tool_calls", tool_calls=calls))
    assert len({block["id"] for block in told["content"]} - {""}) == 2


def test_numbers_are_not_touched() -> None:
    exact = '{"n": 123456789012345678901234567890, "x": 1.10}'
    body = json.dumps(chat("tool_calls", tool_calls=called(exact))).encode()
    there = answers.to_messages(body, MODEL)
    assert exact.encode() in there
    back = json.loads(answers.to_chat(there, MODEL, CREATED))
    assert back["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == exact


def test_more_tokens_from_a_cache_than_there_are_make_no_negative_number() -> None:
    usage = {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 9}}
    assert to_messages({**chat(content="x"), "usage": usage})["usage"]["input_tokens"] == 0


def test_no_usage_is_told_as_none_used() -> None:
    usage = to_messages(chat(content="x"))["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (0, 0)


def test_blocks_that_are_not_known_are_left_out() -> None:
    told = to_chat(
        message(
            "end_turn",
            {"type": "text", "text": "a", "citations": [{"type": "char_location"}]},
            {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}},
            {"type": "invented_tomorrow"},
            {"type": "text", "text": "b"},
        )
    )
    assert told["choices"][0]["message"]["content"] == "ab"


def test_the_sdks_hand_them_out() -> None:
    """Through `Anthropic().messages.create` and `OpenAI().chat.completions.create`."""
    body = answers.to_messages(json.dumps(chat(content="Hello.")).encode(), MODEL)
    block = ask_anthropic(body, 200).content[0]
    assert block.type == "text"
    assert block.text == "Hello."
    told = message("end_turn", {"type": "text", "text": "Hello."})
    body = answers.to_chat(json.dumps(told).encode(), MODEL, CREATED)
    assert ask_openai(body, 200).choices[0].message.content == "Hello."


UNREADABLE = [
    b"",
    b"<html>",
    b"[]",
    b"{}",
    b'{"choices": [], "content": 5}',
    b'{"choices": "x", "content": null}',
    b'{"error": {"message": "overloaded"}}',
    b'{"content": [{"type": "tool_use", "input": {"a": "\xff"}}], "choices": [{"message": 1}]}',
    b'{"content":' * 50_000,
]


@pytest.mark.parametrize("body", UNREADABLE, ids=lambda body: repr(body[:20]))
def test_what_is_no_answer_is_the_providers_failure(body: bytes) -> None:
    with pytest.raises(ProviderFailed):
        answers.to_messages(body, MODEL)
    with pytest.raises(ProviderFailed):
        answers.to_chat(body, MODEL, CREATED)


@FEW
@given(st.binary(max_size=30) | st.from_type(int).map(lambda n: str(n).encode()))
def test_no_bytes_are_more_than_that(body: bytes) -> None:
    with pytest.raises(ProviderFailed):
        answers.to_messages(body, MODEL)
