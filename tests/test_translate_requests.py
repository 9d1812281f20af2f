"""A translated request says what the original said, in words that the other vendor's SDK has.

Held against the types of requests of openai 3.57 (`openai.types.chat.completion_create_params`) and
anthropic 1.17 (`anthropic.types.message_create_params`), strictly (`dialects.py`).
"""

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest
import typing_extensions as te
from hypothesis import given, settings
from hypothesis import strategies as st

from dialects import wrong_in_chat, wrong_in_messages
from laws import examples
from paceline.gateway.translate import chat, messages, requests
from paceline.gateway.translate.arguments import WRITTEN
from paceline.terms.errors import BadField, BadJson, NotTranslatable
from paceline.terms.limits import MESSAGES_ANSWER_TOKENS
from sdks import anthropic, openai

Body = dict[str, Any]

USER: Body = {"role": "user", "content": "?"}
CHAT: Body = {"model": "any", "messages": [USER]}
MESSAGES: Body = {"model": "any", "max_tokens": 9, "messages": [USER]}
PNG = "iVBORw0KGgo="
PDF = "JVBERi0xLjc="


FEW = examples(40)
MANY = settings(max_examples=800, deadline=None)


def to_messages(body: Body) -> Body:
    said: Body = json.loads(requests.to_messages(json.dumps(body).encode(), "theirs"))
    assert wrong_in_messages(said) is None
    return said


def to_chat(body: Body, **options: Any) -> Body:
    said: Body = json.loads(requests.to_chat(json.dumps(body).encode(), "theirs", **options))
    assert wrong_in_chat(said) is None
    return said


def said_in_chat(*conversation: Body) -> list[Body]:
    """These messages in Anthropic's dialect."""
    turns: list[Body] = to_messages({**CHAT, "messages": list(conversation)})["messages"]
    return turns


def said_in_messages(*turns: Body) -> list[Body]:
    """These messages in OpenAI's dialect."""
    conversation: list[Body] = to_chat({**MESSAGES, "messages": list(turns)})["messages"]
    return conversation


# What a request means, read out of each dialect by itself.

Meant = tuple[Any, ...]


def meant_in_chat(body: Body) -> Body:
    meant: Body = {
        "said": [each for message in body["messages"] for each in _said_in_chat(message)],
        "tools": [
            (
                tool["function"]["name"],
                tool["function"].get("description"),
                tool["function"].get("parameters", {"type": "object", "properties": {}}),
                tool["function"].get("strict") or False,
            )
            for tool in body.get("tools", [])
        ],
        "most": body.get("max_completion_tokens", body.get("max_tokens")),
        "stops": [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or [],
        "effort": body.get("reasoning_effort"),
        "user": body.get("user"),
        "tier": body.get("service_tier"),
        "format": (body.get("response_format") or {}).get("json_schema", {}).get("schema"),
        "single": body.get("parallel_tool_calls") is False,
    }
    choice = body.get("tool_choice", "auto")
    meant["choice"] = choice if isinstance(choice, str) else ("named", choice["function"]["name"])
    return meant | {name: body.get(name) for name in ("temperature", "top_p", "stream")}


def _said_in_chat(message: Body) -> Iterator[Meant]:
    content = message.get("content") or ""
    parts: list[Body] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    role = {"developer": "system"}.get(message["role"], message["role"])
    atoms: list[Meant] = []
    for part in parts:
        if part["type"] == "text" and part["text"]:
            atoms.append((role, "text", part["text"]))
        elif part["type"] == "image_url":
            atoms.append((role, "image", part["image_url"]["url"]))
        elif part["type"] == "file":
            file = part["file"]
            atoms.append((role, "file", file["file_data"], file.get("filename")))
    if role == "tool":
        yield ("result", message["tool_call_id"], tuple(each[2] for each in atoms))
        return
    yield from atoms
    for call in message.get("tool_calls") or []:
        function = call["function"]
        yield ("call", call["id"], function["name"], _frozen(json.loads(function["arguments"])))


def meant_in_messages(body: Body) -> Body:
    thinking = (body.get("thinking") or {}).get("type")
    config = body.get("output_config") or {}
    choice = body.get("tool_choice") or {"type": "auto"}
    kinds = {"auto": "auto", "any": "required", "none": "none"}
    system = {"role": "system", "content": body.get("system") or ""}
    tiers = {"standard_only": "default"}
    return {
        "said": [each for turn in (system, *body["messages"]) for each in _said_in_messages(turn)],
        "tools": [
            (
                tool["name"],
                tool.get("description"),
                tool["input_schema"],
                tool.get("strict") or False,
            )
            for tool in body.get("tools", [])
        ],
        "most": body["max_tokens"],
        "stops": body.get("stop_sequences", []),
        "effort": "none" if thinking == "disabled" else config.get("effort"),
        "user": (body.get("metadata") or {}).get("user_id"),
        "tier": tiers.get(body.get("service_tier", ""), body.get("service_tier")),
        "format": (config.get("format") or {}).get("schema"),
        "single": choice.get("disable_parallel_tool_use", False),
        "choice": kinds.get(choice["type"]) or ("named", choice["name"]),
        **{name: body.get(name) for name in ("temperature", "top_p", "stream")},
    }


def _said_in_messages(turn: Body) -> Iterator[Meant]:
    role, content = turn["role"], turn["content"]
    blocks: list[Body] = (
        [{"type": "text", "text": content}] if isinstance(content, str) else content
    )
    for block in blocks:
        if block["type"] == "text" and block["text"]:
            yield (role, "text", block["text"])
        elif block["type"] == "image":
            source = block["source"]
            data = f"data:{source.get('media_type')};base64,{source.get('data')}"
            yield (role, "image", source.get("url", data))
        elif block["type"] == "document":
            data = f"data:application/pdf;base64,{block['source']['data']}"
            yield (role, "file", data, block.get("title"))
        elif block["type"] == "tool_use":
            yield ("call", block["id"], block["name"], _frozen(block["input"]))
        elif block["type"] == "tool_result":
            inner = {"role": "tool", "content": block.get("content") or ""}
            texts = tuple(each[2] for each in _said_in_messages(inner))
            yield ("result", block["tool_use_id"], texts)


def _frozen(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


# Requests that both dialects can say.

words = st.text(min_size=1, max_size=12)
maybe_empty = st.text(max_size=12)
names = st.sampled_from(["get_weather", "search", "f-1", "A"])
values: st.SearchStrategy[Any] = words | st.sampled_from(
    [None, True, 0, -1.5, 1e300, 2**80, "", [], {}, [None, {"a": []}], {"__not_json__": "x"}]
)
objects = st.dictionaries(words, values, max_size=2)
urls = st.sampled_from(["https://example.com/a.png", f"data:image/png;base64,{PNG}"])
schemas = st.fixed_dictionaries(
    {"type": st.just("object"), "properties": objects}, optional={"description": words}
)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Body]:
    return st.fixed_dictionaries({}, optional=fields)


chat_texts = st.fixed_dictionaries({"type": st.just("text"), "text": maybe_empty})
chat_parts = (
    chat_texts
    | urls.map(lambda url: {"type": "image_url", "image_url": {"url": url, "detail": "auto"}})
    | optional(filename=words).map(
        lambda named: {
            "type": "file",
            "file": {"file_data": f"data:application/pdf;base64,{PDF}", **named},
        }
    )
)


def chat_content(parts: st.SearchStrategy[Body]) -> st.SearchStrategy[Any]:
    return maybe_empty | st.lists(parts, max_size=3)


@st.composite
def chat_exchanges(draw: st.DrawFn) -> list[Body]:
    """A user's message, and what came of it; calls are always answered."""
    exchange: list[Body] = []
    if draw(st.booleans()):
        role = draw(st.sampled_from(["system", "developer"]))
        exchange.append({"role": role, "content": draw(chat_content(chat_texts))})
    exchange.append({"role": "user", "content": draw(chat_content(chat_parts))})
    if draw(st.booleans()):
        answer: Body = {"role": "assistant", "content": draw(chat_content(chat_texts))}
        calls = draw(st.lists(st.tuples(names, objects, chat_content(chat_texts)), max_size=3))
        if calls:
            answer["tool_calls"] = [
                {
                    "id": f"call_{at}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(given)},
                }
                for at, (name, given, _) in enumerate(calls)
            ]
        exchange.append(answer)
        exchange += [
            {"role": "tool", "tool_call_id": f"call_{at}", "content": result}
            for at, (_, _, result) in enumerate(calls)
        ]
    return exchange


chat_tools = st.lists(
    st.builds(
        lambda name, rest: {"type": "function", "function": {"name": name, **rest}},
        names,
        optional(description=words, parameters=schemas, strict=st.booleans()),
    ),
    min_size=1,
    max_size=3,
)

chat_settings = optional(
    max_completion_tokens=st.integers(1, 10**6),
    reasoning_effort=st.sampled_from(["none", "low", "medium", "high", "xhigh", "max"]),
    response_format=st.builds(
        lambda schema: {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        schemas,
    ),
    service_tier=st.sampled_from(["auto", "default"]),
    stop=words | st.lists(words, max_size=3),
    stream=st.booleans(),
    temperature=st.floats(0, 1),
    top_p=st.floats(0, 1),
    user=words,
)

chat_choices: st.SearchStrategy[Body] = (
    st.just({})
    | optional(
        parallel_tool_calls=st.booleans(),
        tool_choice=st.sampled_from(["auto", "required"])
        | names.map(lambda name: {"type": "function", "function": {"name": name}}),
    )
    | st.just({"tool_choice": "none"})
)


@st.composite
def chat_requests(draw: st.DrawFn) -> Body:
    exchanges = draw(st.lists(chat_exchanges(), max_size=3))
    said = [message for exchange in exchanges for message in exchange]
    body: Body = {"model": "any", "messages": [*said, {"role": "user", "content": draw(words)}]}
    if draw(st.booleans()):
        body |= {"tools": draw(chat_tools), **draw(chat_choices)}
    return body | draw(chat_settings)


cached = optional(cache_control=st.just({"type": "ephemeral"}))
blocks_text = st.builds(lambda text, rest: {"type": "text", "text": text, **rest}, words, cached)
blocks_user = (
    blocks_text
    | st.just({"type": "image", "source": {"type": "url", "url": "https://example.com/b.gif"}})
    | st.just(
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    )
    | optional(title=words).map(
        lambda titled: {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
            **titled,
        }
    )
)
results: st.SearchStrategy[Body] = st.just({}) | st.fixed_dictionaries(
    {"content": maybe_empty | st.lists(blocks_text, max_size=2)}
)


@st.composite
def messages_exchanges(draw: st.DrawFn) -> list[Body]:
    turns: list[Body] = [
        {"role": "user", "content": draw(words | st.lists(blocks_user, min_size=1, max_size=3))}
    ]
    if draw(st.booleans()):
        turns.append({"role": "system", "content": draw(words)})
    if draw(st.booleans()):
        calls = draw(st.lists(st.tuples(names, objects, results), max_size=3))
        said: list[Body] = draw(st.lists(blocks_text, max_size=2))
        uses = [
            {"type": "tool_use", "id": f"toolu_{at}", "name": name, "input": given}
            for at, (name, given, _) in enumerate(calls)
        ]
        if said or uses:
            turns.append({"role": "assistant", "content": said + uses})
        if calls:
            content = [
                {"type": "tool_result", "tool_use_id": f"toolu_{at}", **result}
                for at, (_, _, result) in enumerate(calls)
            ]
            turns.append({"role": "user", "content": content})
    return turns


messages_tools = st.lists(
    st.builds(
        lambda name, schema, rest: {"name": name, "input_schema": schema, **rest},
        names,
        schemas,
        optional(description=words, strict=st.booleans(), type=st.just("custom")),
    ),
    min_size=1,
    max_size=3,
)
single = optional(disable_parallel_tool_use=st.booleans())
messages_choices: st.SearchStrategy[Body] = st.just({}) | st.one_of(
    st.builds(
        lambda kind, rest: {"tool_choice": {"type": kind, **rest}},
        st.sampled_from(["auto", "any"]),
        single,
    ),
    st.builds(
        lambda name, rest: {"tool_choice": {"type": "tool", "name": name, **rest}}, names, single
    ),
    st.just({"tool_choice": {"type": "none"}}),
)
messages_settings = optional(
    metadata=optional(user_id=words),
    output_config=optional(
        effort=st.sampled_from(["low", "medium", "high", "xhigh", "max"]),
        format=schemas.map(lambda schema: {"type": "json_schema", "schema": schema}),
    ),
    service_tier=st.sampled_from(["auto", "standard_only"]),
    stop_sequences=st.lists(words, max_size=3),
    stream=st.booleans(),
    system=maybe_empty | st.lists(blocks_text, max_size=2),
    temperature=st.floats(0, 1),
    thinking=st.just({"type": "adaptive"}),
    top_p=st.floats(0, 1),
)


@st.composite
def messages_requests(draw: st.DrawFn) -> Body:
    exchanges = draw(st.lists(messages_exchanges(), max_size=3))
    turns = [turn for exchange in exchanges for turn in exchange]
    body: Body = {
        "model": "any",
        "max_tokens": draw(st.integers(1, 10**6)),
        "messages": [*turns, {"role": "user", "content": draw(words)}],
    }
    if draw(st.booleans()):
        body |= {"tools": draw(messages_tools), **draw(messages_choices)}
    return body | draw(messages_settings)


@FEW
@given(chat_requests())
def test_a_chat_request_means_the_same_in_anthropics_dialect_and_back(body: Body) -> None:
    assert wrong_in_chat(body) is None
    meant = meant_in_chat(body)
    there = to_messages(body)
    assert all(a["role"] != b["role"] for a, b in pairwise(there["messages"]))
    bounded = meant | {"most": meant["most"] or MESSAGES_ANSWER_TOKENS}
    assert meant_in_messages(there) == bounded
    back = to_chat(there)
    assert meant_in_chat(back) == bounded
    assert to_messages(back) == there


@FEW
@given(messages_requests())
def test_a_messages_request_means_the_same_in_openais_dialect_and_back(body: Body) -> None:
    assert wrong_in_messages(body) is None
    meant = meant_in_messages(body)
    there = to_chat(body)
    assert meant_in_chat(there) == meant
    assert bool(there.get("stream_options")) == bool(body.get("stream"))
    back = to_messages(there)
    assert meant_in_messages(back) == meant
    assert to_chat(back) == there


@pytest.mark.slow
@MANY
@given(chat_requests(), messages_requests())
def test_and_so_do_many(of_chat: Body, of_messages: Body) -> None:
    there = to_messages(of_chat)
    assert to_messages(to_chat(there)) == there
    assert meant_in_messages(there)["said"] == meant_in_chat(of_chat)["said"]
    back = to_chat(of_messages)
    assert to_chat(to_messages(back)) == back
    assert meant_in_chat(back)["said"] == meant_in_messages(of_messages)["said"]


# Every field that the SDKs have is translated, dropped or refused; and each as it is said.

CHAT_SAMPLES: Mapping[str, object] = {
    "audio": {"voice": "alloy", "format": "mp3"},
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [{"name": "f"}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "modalities": ["text", "audio"],
    "moderation": {"model": "omni-moderation-latest"},
    "n": 2,
    "presence_penalty": -0.5,
    "seed": 7,
    "store": True,
    "top_logprobs": 3,
    "verbosity": "low",
    "web_search_options": {},
    "temperature": 1.5,
    "reasoning_effort": "minimal",
    "service_tier": "flex",
}
MESSAGES_SAMPLES: Mapping[str, object] = {
    "container": "container_1",
    "diagnostics": {"previous_message_id": None},
    "inference_geo": "eu",
    "speed": "fast",
    "top_k": 5,
    "user_profile_id": "profile",
    "max_tokens": 0,
}
CHAT_DROPPED: Mapping[str, object] = {
    "metadata": {"a": "b"},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_key": "x",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "24h",
    "stream_options": {"include_usage": True, "include_obfuscation": False},
}
MESSAGES_DROPPED: Mapping[str, object] = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}

ELSEWHERE = {"workspace_id"}
"""A header, which the SDK takes among the fields."""


@pytest.mark.parametrize(("field", "value"), CHAT_SAMPLES.items())
def test_what_anthropic_has_no_word_for_is_refused_by_name(field: str, value: object) -> None:
    body = {**CHAT, field: value}
    assert wrong_in_chat(body) is None
    with pytest.raises(NotTranslatable) as refused:
        to_messages(body)
    assert (refused.value.param, refused.value.http) == (field, 400)
    assert field in refused.value.cause


@pytest.mark.parametrize(("field", "value"), MESSAGES_SAMPLES.items())
def test_what_openai_has_no_word_for_is_refused_by_name(field: str, value: object) -> None:
    body = {**MESSAGES, field: value}
    assert wrong_in_messages(body) is None
    with pytest.raises(NotTranslatable) as refused:
        to_chat(body)
    assert (refused.value.param, refused.value.http) == (field, 400)


@pytest.mark.parametrize("field", requests.CHAT)
def test_a_field_that_says_no_more_than_its_absence_is_not_refused(field: str) -> None:
    for value in (None, *requests.CHAT[field].values):
        assert to_messages({**CHAT, field: value}) == to_messages(CHAT)


@pytest.mark.parametrize("field", requests.MESSAGES)
def test_nor_is_it_in_anthropics_dialect(field: str) -> None:
    for value in (None, *requests.MESSAGES[field].values):
        assert to_chat({**MESSAGES, field: value}) == to_chat(MESSAGES)


@pytest.mark.parametrize(("field", "value"), CHAT_DROPPED.items())
def test_what_is_dropped_makes_no_difference(field: str, value: object) -> None:
    assert field in requests.DROPPED["openai"]
    assert wrong_in_chat({**CHAT, field: value}) is None
    assert to_messages({**CHAT, field: value}) == to_messages(CHAT)


@pytest.mark.parametrize(("field", "value"), MESSAGES_DROPPED.items())
def test_what_is_dropped_of_anthropics_makes_no_difference(field: str, value: object) -> None:
    assert field in requests.DROPPED["anthropic"]
    assert to_chat({**MESSAGES, field: value}) == to_chat(MESSAGES)


def test_nor_does_what_is_dropped_further_in() -> None:
    tool = {"name": "f", "input_schema": {"type": "object"}}
    marked = {**tool, "eager_input_streaming": True, "cache_control": {"type": "ephemeral"}}
    assert to_chat({**MESSAGES, "tools": [marked]}) == to_chat({**MESSAGES, "tools": [tool]})
    shown = {"type": "adaptive", "display": "summarized"}
    assert to_chat({**MESSAGES, "thinking": shown}) == to_chat(MESSAGES)

    def formatted(**fields: object) -> Body:
        schema = {"name": "x", "schema": {"type": "object"}, **fields}
        return {**CHAT, "response_format": {"type": "json_schema", "json_schema": schema}}

    assert to_messages(formatted(strict=True)) == to_messages(formatted(name="y", strict=False))
    both = {**CHAT, "user": "a", "safety_identifier": "b"}
    assert to_messages(both)["metadata"] == {"user_id": "b"}

    def called(**fields: object) -> list[Body]:
        call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        result = {"role": "tool", "tool_call_id": "a", "content": "1"}
        return [USER, {"role": "assistant", "tool_calls": [{**call, **fields}]}, result]

    *before, result = called(index=0)
    assert said_in_chat(*before, {**result, "name": "f"}) == said_in_chat(*called())


def test_every_field_of_the_sdks_is_known() -> None:
    """A new one in a new SDK fails here, and is then decided on."""
    of_chat = set(
        te.get_type_hints(
            openai.types.chat.completion_create_params.CompletionCreateParamsNonStreaming
        )
    )
    assert of_chat <= set(chat.Request.__struct_fields__)
    assert set(CHAT_SAMPLES) >= set(requests.CHAT)
    of_messages = set(
        te.get_type_hints(anthropic.types.message_create_params.MessageCreateParamsNonStreaming)
    )
    assert of_messages - ELSEWHERE <= set(messages.Request.__struct_fields__)
    assert set(MESSAGES_SAMPLES) >= set(requests.MESSAGES)


# One by one, what a property does not show.


def test_messages_of_one_role_become_one_turn_with_results_first() -> None:
    calls = [
        {"id": each, "type": "function", "function": {"name": "f", "arguments": "{}"}}
        for each in ("a", "b")
    ]
    assert said_in_chat(
        {"role": "user", "content": "one"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
        {"role": "user", "content": "three"},
    ) == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "a", "name": "f", "input": {}},
                {"type": "tool_use", "id": "b", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "1"},
                {"type": "tool_result", "tool_use_id": "b", "content": "2"},
                {"type": "text", "text": "three"},
            ],
        },
    ]


def test_results_stay_where_they_are_among_what_else_a_user_says() -> None:
    result = {"type": "tool_result", "tool_use_id": "a", "content": "1"}
    said = said_in_messages(
        {"role": "user", "content": "before"},
        {"role": "user", "content": [result, {"type": "text", "text": "after"}]},
        {"role": "user", "content": "and then"},
    )
    assert [(each["role"], each["content"]) for each in said] == [
        ("user", "before"),
        ("tool", "1"),
        ("user", [{"type": "text", "text": "after"}, {"type": "text", "text": "and then"}]),
    ]


def test_system_messages_lead_or_stay_where_they_are() -> None:
    said = to_messages(
        {
            **CHAT,
            "messages": [
                {"role": "developer", "content": "be brief"},
                {"role": "system", "content": "be kind"},
                USER,
                {"role": "system", "content": "be exact"},
            ],
        }
    )
    assert said["system"] == [
        {"type": "text", "text": "be brief"},
        {"type": "text", "text": "be kind"},
    ]
    assert said["messages"] == [USER, {"role": "system", "content": "be exact"}]


def test_arguments_that_are_no_object_are_told_and_come_back_as_they_were() -> None:
    for arguments in ('{"a": 1', "null", "[1]", "Paris", '{"a": 1} {"b": 2}'):
        call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
        conversation = [
            USER,
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "a", "content": "no JSON"},
        ]
        turns = said_in_chat(*conversation)
        assert turns[1]["content"][0]["input"] == {WRITTEN: arguments}
        assert said_in_messages(*turns) == conversation
    alike = {"type": "tool_use", "id": "a", "name": "f", "input": {WRITTEN: "{}"}}
    said = said_in_messages(USER, {"role": "assistant", "content": [alike]}, USER)
    arguments = said[1]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments) == alike["input"]


def test_numbers_in_arguments_and_schemas_are_not_touched() -> None:
    exact = '{"n": 123456789012345678901234567890, "x": 1.10, "e": 1E2}'
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": exact}}
    tool = f'{{"type": "function", "function": {{"name": "f", "parameters": {{"type": {exact}}}}}}}'
    body = json.dumps(
        {**CHAT, "messages": [USER, {"role": "assistant", "tool_calls": [call]}, USER]}
    )
    body = f'{body[:-1]}, "tools": [{tool}]}}'
    there = requests.to_messages(body.encode(), "theirs")
    assert there.count(exact.encode()) == 2
    assert json.dumps(exact).encode() in requests.to_chat(there, "theirs")


def test_ids_that_the_other_vendor_does_not_take_are_replaced_alike_in_call_and_result() -> None:
    call = {"id": "functions.f:0", "type": "function", "function": {"name": "f", "arguments": ""}}
    turns = said_in_chat(
        USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "functions.f:0", "content": "1"},
    )
    id = turns[1]["content"][0]["id"]
    assert id.replace("_", "").isalnum()
    assert turns[2]["content"][0]["tool_use_id"] == id
    long = "toolu_" + 40 * "x"
    conversation = said_in_messages(
        USER,
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": long, "name": "f", "input": {}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": long}]},
    )
    assert len(conversation[1]["tool_calls"][0]["id"]) <= 40
    assert conversation[2]["tool_call_id"] == conversation[1]["tool_calls"][0]["id"]


def test_an_answer_that_is_sent_back_whole_is_read() -> None:
    answer: Body = {
        "role": "assistant",
        "content": None,
        "refusal": "I would rather not.",
        "annotations": [],
        "audio": None,
        "function_call": None,
        "tool_calls": None,
        "reasoning_content": "Hm.",
    }
    assert said_in_chat(USER, answer, USER)[1]["content"] == "I would rather not."


def test_thinking_is_kept_from_models_it_is_not_signed_for() -> None:
    thought = [
        {"type": "thinking", "thinking": "Hm.", "signature": "x"},
        {"type": "redacted_thinking", "data": "y"},
    ]
    answer = [*thought, {"type": "text", "text": "Yes."}]
    said = said_in_messages(USER, {"role": "assistant", "content": answer}, USER)
    assert said[1] == {"role": "assistant", "content": "Yes."}
    only = said_in_messages(USER, {"role": "assistant", "content": thought}, USER)
    assert [message["role"] for message in only] == ["user", "user"]


def test_that_a_tool_failed_is_said_in_words() -> None:
    def told(**result: object) -> object:
        block = {"type": "tool_result", "tool_use_id": "a", "is_error": True, **result}
        return said_in_messages({"role": "user", "content": [block]})[0]["content"]

    assert told(content="no such city") == "Error: no such city"
    assert told() == "Error:"
    two = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert told(content=two) == [{"type": "text", "text": "Error: a"}, two[1]]


def test_images_in_results_are_kept_where_they_can_be() -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/jpg;base64,{PNG}"}}
    result = {"role": "tool", "tool_call_id": "a", "content": [image]}
    source = {"type": "base64", "media_type": "image/jpeg", "data": PNG}
    block = said_in_chat(USER, result)[0]["content"][1]
    assert block["content"] == [{"type": "image", "source": source}]
    with pytest.raises(NotTranslatable) as refused:
        said_in_messages({"role": "user", "content": [block]})
    assert refused.value.param == "messages[0].content[0].content[0]"


def test_marks_of_a_cache_pass_where_the_provider_knows_them() -> None:
    part = {"type": "text", "text": "long", "prompt_cache_breakpoint": {"mode": "explicit"}}
    blocks = said_in_chat({"role": "user", "content": [part]})[0]["content"]
    assert blocks == [{"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]
    body = {**MESSAGES, "messages": [{"role": "user", "content": blocks}]}
    assert to_chat(body, breakpoints=True)["messages"][0]["content"] == [part]
    assert to_chat(body)["messages"][0]["content"] == "long"
    hour = {"type": "ephemeral", "ttl": "1h"}
    blocks[0]["cache_control"] = hour
    lasting = to_chat(body, breakpoints=True)["messages"][0]["content"]
    assert lasting[0]["prompt_cache_breakpoint"] == {"mode": "explicit", "ttl": "12h"}
    assert said_in_chat({"role": "user", "content": lasting})[0]["content"] == blocks


def test_tools_that_are_allowed_are_all_there_are() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("f", "g")]
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    said = to_messages({**CHAT, "tools": tools, "tool_choice": choice})
    assert [tool["name"] for tool in said["tools"]] == ["g"]
    assert said["tool_choice"] == {"type": "any"}


def test_the_bound_of_the_answer_has_the_name_that_the_provider_knows() -> None:
    assert to_chat(MESSAGES)["max_completion_tokens"] == 9
    assert to_chat(MESSAGES, tokens_field="max_tokens")["max_tokens"] == 9
    assert to_messages({**CHAT, "max_tokens": 5})["max_tokens"] == 5
    with pytest.raises(BadField, match="contradict"):
        to_messages({**CHAT, "max_tokens": 5, "max_completion_tokens": 6})


def test_what_a_schema_is_for_is_told() -> None:
    schema = {"type": "object", "properties": {}}
    given = {"name": "x", "description": "the answer", "schema": schema}
    said = to_messages({**CHAT, "response_format": {"type": "json_schema", "json_schema": given}})
    assert said["output_config"]["format"]["schema"] == {"description": "the answer", **schema}


def test_an_answer_that_is_begun_is_gone_on_with_or_refused() -> None:
    """OpenAI's models would begin another."""
    begun = {"role": "assistant", "content": "The answer is ("}
    assert said_in_chat(USER, begun) == [USER, begun]
    with pytest.raises(NotTranslatable) as refused:
        said_in_messages(USER, begun)
    assert refused.value.param == "messages[1]"


REFUSED_IN_CHAT: list[tuple[str, Body]] = [
    ("messages[0].role", {"messages": [{"role": "function", "name": "f", "content": ""}]}),
    ("messages[0].name", {"messages": [{**USER, "name": "Ada"}]}),
    (
        "messages[0].content[0].type",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_audio", "input_audio": {"data": "", "format": "mp3"}}
                    ],
                }
            ]
        },
    ),
    (
        "messages[0].content[0].image_url.detail",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image_url",
                            "image_url": {"url": "https://a.example", "detail": "low"},
                        }
                    ],
                }
            ]
        },
    ),
    (
        "messages[0].content[0].file.file_id",
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
    ),
    ("messages", {"messages": [{"role": "system", "content": "be nice"}]}),
    ("messages", {"messages": []}),
    ("tools[0].type", {"tools": [{"type": "custom", "custom": {"name": "f"}}]}),
    ("tool_choice.type", {"tool_choice": {"type": "custom", "custom": {"name": "f"}}}),
    ("response_format.type", {"response_format": {"type": "json_object"}}),
    ("frobnicate", {"frobnicate": 1}),
    ("messages[0].foo", {"messages": [{**USER, "foo": 1}]}),
]


@pytest.mark.parametrize(("param", "asked"), REFUSED_IN_CHAT, ids=lambda each: str(each)[:40])
def test_the_place_of_what_is_refused_is_told(param: str, asked: Body) -> None:
    with pytest.raises(NotTranslatable) as refused:
        to_messages({**CHAT, **asked})
    assert refused.value.param == param


def _user(*blocks: Body) -> Body:
    return {"messages": [{"role": "user", "content": list(blocks)}]}


def _assistant(*blocks: Body) -> Body:
    return {"messages": [USER, {"role": "assistant", "content": list(blocks)}, USER]}


REFUSED_IN_MESSAGES: list[tuple[str, Body]] = [
    ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": 2048}}),
    ("thinking.type", {"thinking": {"type": "between_tools"}}),
    (
        "output_config.effort",
        {"thinking": {"type": "disabled"}, "output_config": {"effort": "low"}},
    ),
    ("tools[0].type", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
    (
        "tools[0].defer_loading",
        {"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]},
    ),
    ("mcp_servers", {"mcp_servers": []}),
    (
        "messages[0].content[0].source.type",
        _user({"type": "image", "source": {"type": "file", "file_id": "f"}}),
    ),
    (
        "messages[0].content[0].citations",
        _user(
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                "citations": {"enabled": True},
            }
        ),
    ),
    ("messages[0].content[0].type", _user({"type": "search_result"})),
    (
        "messages[1].content[0].toolset_name",
        _assistant({"type": "tool_use", "id": "a", "name": "f", "input": {}, "toolset_name": "b"}),
    ),
    (
        "messages[1].content[0]",
        _assistant({"type": "tool_result", "tool_use_id": "a", "content": "x"}),
    ),
]


@pytest.mark.parametrize(("param", "asked"), REFUSED_IN_MESSAGES, ids=lambda each: str(each)[:40])
def test_and_of_what_openai_has_no_word_for(param: str, asked: Body) -> None:
    with pytest.raises(NotTranslatable) as refused:
        to_chat({**MESSAGES, **asked})
    assert refused.value.param == param


WRONG: list[tuple[str | None, object]] = [
    ("messages", {"model": "any"}),
    ("messages", {**CHAT, "messages": "hello"}),
    ("messages[0].content", {**CHAT, "messages": [{"role": "user", "content": 3}]}),
    ("messages[0].role", {**CHAT, "messages": [{"content": "?"}]}),
    ("max_tokens", {**CHAT, "max_tokens": "many"}),
    (None, []),
    (None, "hello"),
    (
        "messages[0].content[0].image_url.url",
        {
            **CHAT,
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}
            ],
        },
    ),
]


@pytest.mark.parametrize(("param", "body"), WRONG, ids=lambda each: str(each)[:40])
def test_a_wrong_form_is_told_with_its_place(param: str | None, body: object) -> None:
    with pytest.raises(BadField) as wrong:
        requests.to_messages(json.dumps(body).encode(), "theirs")
    assert wrong.value.param == param
    assert wrong.value.http == 400


UNREAD = b'{"tools": [{"name": "f", "input_schema": {"a": "\xff"}}]}'
"""What is wrong stands in what is carried over unread."""


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"model": "\xff"}', UNREAD])
def test_what_is_no_json_is_told(body: bytes) -> None:
    for translate in (requests.to_messages, requests.to_chat):
        with pytest.raises(BadJson):
            translate(body, "theirs")


def test_what_is_nested_too_deeply_is_told() -> None:
    with pytest.raises(BadJson):
        requests.to_messages(b'{"metadata":' + b"[" * 100_000, "theirs")
    with pytest.raises(BadJson):
        requests.to_chat(b'{"container":' + b"[" * 100_000, "theirs")


broken_values: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, -1, 1.5, "", "auto", [], {}, [{}], [""], {"type": "text"}, {"type": "tool"}]
)


@st.composite
def broken(draw: st.DrawFn, requests: st.SearchStrategy[Body]) -> Body:
    """Such a request, with something wrong in one place or two."""
    body = draw(requests)
    for _ in range(draw(st.integers(1, 2))):
        inside: Any = body
        while True:
            places = list(inside) if isinstance(inside, dict) else list(range(len(inside)))
            if not places:
                break
            place = draw(st.sampled_from(places))
            if isinstance(inside[place], dict | list) and draw(st.integers(0, 3)):
                inside = inside[place]
            elif isinstance(inside, dict) and draw(st.booleans()):
                del inside[place]
                break
            else:
                inside[place] = draw(broken_values)
                break
    return body


@FEW
@given(broken(chat_requests()), broken(messages_requests()))
def test_whatever_is_asked_is_translated_or_refused(of_chat: Body, of_messages: Body) -> None:
    for translate, body in ((requests.to_messages, of_chat), (requests.to_chat, of_messages)):
        told: dict[str, object] = {}
        try:
            told = json.loads(translate(json.dumps(body).encode(), "theirs"))
        except BadField as refused:
            told = {"model": "theirs"} if (refused.param or "") in refused.cause else {}
        assert told["model"] == "theirs"
