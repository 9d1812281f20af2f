"""What the simulated provider answers, checked against the types that the vendors publish, and
what it makes up of JSON schemas, against a validator."""

import base64
import json
import math
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.gateway.call import Dialect
from paceline.gateway.providers.simulated import Simulation
from paceline.gateway.providers.simulated.embeddings import vector
from paceline.gateway.providers.simulated.saying import tokens_in, tokens_of
from paceline.gateway.providers.simulated.schema import instance
from paceline.testing.llm_types import answer_faults, error_faults, event_faults
from test_simulated_provider import Heard, heard

AT_ONCE = Simulation(latency_ms=0, token_ms=0)

PATHS = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "embeddings": "/embeddings",
    "moderations": "/moderations",
    "responses": "/responses",
    "messages": "/messages",
    "count_tokens": "/messages/count_tokens",
}

PARIS = "What is the weather in Paris?"
HI: Any = [{"role": "user", "content": "Hi"}]
ASKS: Any = [{"role": "user", "content": PARIS}]
SCHEMA: Any = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer", "minimum": 2, "maximum": 9},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
FLAT_TOOL: Any = {"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": None}
CLAUDE_TOOL: Any = {"name": "get_weather", "input_schema": SCHEMA}
PIXEL = "data:image/png;base64,iVBORw0KGgo="
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "w", "schema": SCHEMA}}


def tell(endpoint: str, **fields: Any) -> Heard:
    dialect: Dialect = "anthropic" if endpoint in ("messages", "count_tokens") else "openai"
    body = {"model": "sim-small", **fields}
    told = heard(dialect, PATHS[endpoint], body, AT_ONCE)
    assert told.status == 200, told.json
    assert told.headers[b"x-paceline-simulated"] == b"true"
    if fields.get("stream"):
        for data in data_of(told):
            assert not (faults := event_faults(dialect, endpoint, data)), (faults, data)
    else:
        body_bytes = b"".join(told.pieces)
        assert not (faults := answer_faults(dialect, endpoint, body_bytes)), (faults, body_bytes)
    return told


def data_of(told: Heard) -> list[bytes]:
    """The data of each event, but for the last one of OpenAI's."""
    whole = b"".join(told.pieces)
    assert whole.endswith(b"\n\n")
    data = []
    for event in whole[:-2].split(b"\n\n"):
        *name, line = event.split(b"\n")
        assert line.startswith(b"data: ")
        if name:
            kind = json.loads(line[6:])["type"].encode()
            assert name == [b"event: " + kind]
        data.append(line[6:])
    return [each for each in data if each != b"[DONE]"]


def events(told: Heard) -> list[Any]:
    return [json.loads(data) for data in data_of(told)]


# --- OpenAI's -------------------------------------------------------------------------------------


def test_a_chat_says_that_it_is_simulated_and_what_was_asked() -> None:
    answer = tell("chat", messages=ASKS).json
    text = answer["choices"][0]["message"]["content"]
    assert "simulated" in text
    assert PARIS in text
    assert "OPENAI_API_KEY" in text
    assert (answer["model"], answer["system_fingerprint"]) == ("sim-small", "fp_simulated")
    assert len(tell("chat", model="sim-large", messages=ASKS).pieces[0]) > len(text)


@pytest.mark.parametrize("endpoint", ["chat", "completions", "responses", "messages"])
@pytest.mark.parametrize("most", [1, 7, 10_000])
def test_a_stream_says_what_a_whole_answer_says(endpoint: str, most: int) -> None:
    ask = {
        "chat": {"messages": ASKS, "max_completion_tokens": most},
        "completions": {"prompt": PARIS, "max_tokens": most},
        "responses": {"input": PARIS, "max_output_tokens": most},
        "messages": {"messages": ASKS, "max_tokens": most},
    }[endpoint]
    if endpoint in ("chat", "completions"):
        whole = tell(endpoint, **ask).json
        chunks = events(tell(endpoint, stream=True, stream_options={"include_usage": True}, **ask))
        choice = whole["choices"][0]
        text = choice["message"]["content"] if endpoint == "chat" else choice["text"]
        assert text == "".join(
            each["choices"][0].get("delta", each["choices"][0]).get("content")
            or each["choices"][0].get("text", "")
            for each in chunks
            if each["choices"]
        )
        assert chunks[-1]["usage"] == whole["usage"]
        assert chunks[-2]["choices"][0]["finish_reason"] == choice["finish_reason"]
        cut, used = choice["finish_reason"] == "length", whole["usage"]["completion_tokens"]
    elif endpoint == "responses":
        whole = tell(endpoint, **ask).json
        told = events(tell(endpoint, stream=True, **ask))
        assert told[-1]["response"] == whole
        assert [each["sequence_number"] for each in told] == list(range(len(told)))
        text = whole["output"][0]["content"][0]["text"]
        assert text == "".join(
            each["delta"] for each in told if each["type"] == "response.output_text.delta"
        )
        cut, used = whole["status"] == "incomplete", whole["usage"]["output_tokens"]
    else:
        whole = tell(endpoint, **ask).json
        told = events(tell(endpoint, stream=True, **ask))
        text = whole["content"][0]["text"]
        assert text == "".join(
            each["delta"]["text"] for each in told if each["type"] == "content_block_delta"
        )
        assert told[-2]["delta"]["stop_reason"] == whole["stop_reason"]
        assert told[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
        cut, used = whole["stop_reason"] == "max_tokens", whole["usage"]["output_tokens"]
    assert used == tokens_of(text)
    assert cut == (most < 40)
    if cut:
        assert used == most


def test_usage_comes_in_a_stream_where_it_is_asked_for_alone() -> None:
    plain = events(tell("chat", messages=HI, stream=True))
    assert all("usage" not in each for each in plain)
    told = events(tell("chat", messages=HI, stream=True, stream_options={"include_usage": True}))
    assert [each["usage"] for each in told[:-1]] == [None] * (len(told) - 1)
    assert told[-1]["choices"] == []
    assert tell("chat", messages=HI, stream=True).pieces[-1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("said", "choice", "called"),
    [
        (PARIS, None, True),
        (PARIS, "auto", True),
        (PARIS, "none", False),
        ("Hi", None, False),
        ("Hi", "required", True),
        ("Hi", {"type": "function", "function": {"name": "get_weather"}}, True),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_is_called_when_it_must_or_when_it_is_spoken_of(
    said: str, choice: Any, called: bool, stream: bool
) -> None:
    fields: dict[str, Any] = {"messages": [{"role": "user", "content": said}], "tools": [TOOL]}
    if choice is not None:
        fields["tool_choice"] = choice
    told = tell("chat", stream=stream, **fields)
    if stream:
        deltas = [each["choices"][0]["delta"] for each in events(told)]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        arguments = "".join(call["function"].get("arguments", "") for call in calls)
        assert events(told)[-1]["choices"][0]["finish_reason"] == (
            "tool_calls" if called else "stop"
        )
    else:
        message = told.json["choices"][0]["message"]
        calls = message.get("tool_calls", [])
        arguments = "".join(call["function"]["arguments"] for call in calls)
        assert (message["content"] is None) == called
    assert bool(calls) == called
    if called:
        jsonschema_rs.validate(SCHEMA, json.loads(arguments))


def test_several_tools_are_called_unless_one_is_wanted() -> None:
    tools = [TOOL, {**TOOL, "function": {"name": "paris"}}]
    both = tell("chat", messages=ASKS, tools=tools).json["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in both] == ["get_weather", "paris"]
    assert len({call["id"] for call in both}) == 2
    assert both[1]["function"]["arguments"] == "{}"
    one = tell("chat", messages=ASKS, tools=tools, parallel_tool_calls=False).json
    assert len(one["choices"][0]["message"]["tool_calls"]) == 1


def test_what_a_tool_said_is_told() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages = [
        *ASKS,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "It rains."},
    ]
    text = tell("chat", messages=messages, tools=[TOOL]).json["choices"][0]["message"]["content"]
    assert "It rains." in text


def test_structures_stops_choices_images_and_logprobs() -> None:
    structured = tell("chat", messages=HI, response_format=FORMAT).json["choices"][0]
    jsonschema_rs.validate(SCHEMA, json.loads(structured["message"]["content"]))
    plain = tell("chat", messages=HI, response_format={"type": "json_object"}).json["choices"][0]
    assert isinstance(json.loads(plain["message"]["content"]), dict)
    stopped = tell("chat", messages=HI, stop=["nothing", "model"]).json["choices"][0]
    assert stopped["message"]["content"].endswith("simulated answer: no ")
    assert stopped["finish_reason"] == "stop"
    parts = [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    pictured = tell("chat", messages=[{"role": "user", "content": parts}]).json
    assert "1 image" in pictured["choices"][0]["message"]["content"]
    assert pictured["usage"]["prompt_tokens"] == 1 + 4 + 85
    several = tell("chat", messages=HI, n=3, logprobs=True, top_logprobs=1).json
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2]
    tokens = several["choices"][2]["logprobs"]["content"]
    assert "".join(each["token"] for each in tokens) == several["choices"][2]["message"]["content"]
    assert several["usage"]["completion_tokens"] == 3 * len(tokens)
    chunks = events(tell("chat", messages=HI, n=2, stream=True, logprobs=True))
    for at in (0, 1):
        mine = [each["choices"][0] for each in chunks if each["choices"][0]["index"] == at]
        assert mine[-1]["finish_reason"] == "stop"


def test_text_completions_take_several_prompts() -> None:
    answer = tell("completions", prompt=["One", "Two"], n=2, echo=True, logprobs=1).json
    begins = [choice["text"][:3] for choice in answer["choices"]]
    assert begins == ["One", "One", "Two", "Two"]
    assert tell("completions", prompt=[1, 2, 3]).json["usage"]["prompt_tokens"] == 3


def test_embeddings_are_near_where_texts_share_words() -> None:
    texts = ["the cat sat on the mat", "on the mat the cat sat", "a cat", "stock prices fell"]
    made = tell("embeddings", model="sim-embed", input=texts).json
    vectors = [each["embedding"] for each in made["data"]]
    assert {len(each) for each in vectors} == {256}
    products = [sum(a * b for a, b in zip(vectors[0], each, strict=True)) for each in vectors]
    assert products[0] == pytest.approx(1, abs=1e-5)
    assert products[1] == pytest.approx(1, abs=1e-5)
    assert products[1] > products[2] > products[3]
    assert made["usage"]["prompt_tokens"] == sum(tokens_of(text) for text in texts)
    coded = tell(
        "embeddings", model="sim-embed", input="a cat", dimensions=8, encoding_format="base64"
    ).json
    assert len(base64.b64decode(coded["data"][0]["embedding"])) == 8 * 4


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(1, 64))
def test_a_vector_has_the_length_one(text: str, size: int) -> None:
    assert math.hypot(*vector(text, size)) == pytest.approx(1, abs=1e-5)


def test_moderations_flag_what_names_its_category() -> None:
    made = tell("moderations", model="sim-moderation", input=["violence", "flowers"]).json
    assert [each["flagged"] for each in made["results"]] == [True, False]
    parts = [{"type": "text", "text": "hate"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    assert tell("moderations", model="sim-moderation", input=parts).json["results"][0]["flagged"]
    unnamed = heard("openai", "/moderations", {"input": "Hi"}, AT_ONCE)
    assert unnamed.json["model"] == "sim-moderation"


def test_responses_call_functions_and_structure_texts() -> None:
    for stream in (True, False):
        told = tell("responses", input=PARIS, tools=[FLAT_TOOL], stream=stream)
        made = events(told)[-1]["response"] if stream else told.json
        [call] = made["output"]
        assert (call["type"], call["name"]) == ("function_call", "get_weather")
        jsonschema_rs.validate(SCHEMA, json.loads(call["arguments"]))
    form = {"format": {"type": "json_schema", "name": "w", "schema": SCHEMA}}
    text = tell("responses", input="Hi", text=form).json["output"][0]["content"][0]["text"]
    jsonschema_rs.validate(SCHEMA, json.loads(text))
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "It rains."},
    ]
    told = tell("responses", input=items, instructions="Be brief.", metadata={"a": "b"}).json
    assert "It rains." in told["output"][0]["content"][0]["text"]
    assert (told["instructions"], told["metadata"]) == ("Be brief.", {"a": "b"})
    earlier = {"model": "sim-small", "input": "Hi", "previous_response_id": "resp_1"}
    refused = heard("openai", "/responses", earlier, AT_ONCE)
    assert refused.json["error"]["code"] == "previous_response_not_found"


# --- Anthropic's ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "choice", "called"),
    [
        (PARIS, None, True),
        (PARIS, {"type": "none"}, False),
        ("Hi", {"type": "auto"}, False),
        ("Hi", {"type": "any"}, True),
        ("Hi", {"type": "tool", "name": "get_weather"}, True),
    ],
)
def test_a_tool_is_used_when_it_must_or_when_it_is_spoken_of(
    said: str, choice: Any, called: bool
) -> None:
    fields: dict[str, Any] = {
        "messages": [{"role": "user", "content": said}],
        "tools": [CLAUDE_TOOL],
        "max_tokens": 500,
    }
    if choice is not None:
        fields["tool_choice"] = choice
    whole = tell("messages", **fields).json
    told = events(tell("messages", stream=True, **fields))
    assert whole["stop_reason"] == told[-2]["delta"]["stop_reason"]
    assert whole["stop_reason"] == ("tool_use" if called else "end_turn")
    if called:
        [block] = whole["content"]
        jsonschema_rs.validate(SCHEMA, block["input"])
        parts = [each["delta"] for each in told if each["type"] == "content_block_delta"]
        assert json.loads("".join(part["partial_json"] for part in parts)) == block["input"]


def test_a_tool_use_that_is_cut_says_so() -> None:
    fields: dict[str, Any] = {"messages": ASKS, "tools": [CLAUDE_TOOL], "max_tokens": 6}
    whole = tell("messages", **fields).json
    assert (whole["stop_reason"], whole["content"][0]["input"]) == ("max_tokens", {})
    assert whole["usage"]["output_tokens"] == 6
    assert tell("messages", stream=True, **fields)


def test_thinking_stops_structures_images_and_results() -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    whole = tell("messages", messages=HI, max_tokens=2000, thinking=thinking).json
    assert [block["type"] for block in whole["content"]] == ["thinking", "text"]
    told = events(tell("messages", messages=HI, max_tokens=2000, thinking=thinking, stream=True))
    assert told[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert "signature_delta" in [each.get("delta", {}).get("type") for each in told]
    stopped = tell("messages", messages=HI, max_tokens=500, stop_sequences=["model"]).json
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "model")
    output = {"format": {"type": "json_schema", "schema": SCHEMA}}
    structured = tell("messages", messages=HI, max_tokens=500, output_config=output).json
    jsonschema_rs.validate(SCHEMA, json.loads(structured["content"][0]["text"]))
    source = {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "See"}]
    pictured = tell("messages", messages=[{"role": "user", "content": content}], max_tokens=500)
    assert "1 image" in pictured.json["content"][0]["text"]
    use = {"type": "tool_use", "id": "t", "name": "get_weather", "input": {"city": "Paris"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": "It rains."}
    turns: Any = [
        *ASKS,
        {"role": "assistant", "content": [use]},
        {"role": "user", "content": [result]},
    ]
    told_back = tell("messages", messages=turns, max_tokens=500, tools=[CLAUDE_TOOL]).json
    assert "It rains." in told_back["content"][0]["text"]


def test_tokens_are_counted_as_they_are_billed() -> None:
    fields: dict[str, Any] = {"messages": ASKS, "system": "Be brief.", "tools": [CLAUDE_TOOL]}
    counted = tell("count_tokens", **fields).json["input_tokens"]
    assert counted == tell("messages", max_tokens=5, **fields).json["usage"]["input_tokens"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 503, 529])
def test_errors_have_the_types_of_the_vendors(status: int) -> None:
    body = {"model": f"sim-small:{status}", "messages": HI, "max_tokens": 9}
    ours = heard("openai", "/chat/completions", body, AT_ONCE)
    theirs = heard("anthropic", "/messages", body, AT_ONCE)
    assert not error_faults("openai", ours.pieces[0])
    assert not error_faults("anthropic", theirs.pieces[0])


# --- What answers are made of ---------------------------------------------------------------------


@settings(deadline=None)
@given(st.text(max_size=100))
def test_tokens_make_up_their_text(text: str) -> None:
    tokens = tokens_in(text)
    assert "".join(tokens) == text
    assert len(tokens) == tokens_of(text)


def _bounded(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    def made(low: int, span: int, keys: tuple[str, str], step: int) -> dict[str, Any]:
        schema = {"type": kind, keys[0]: low, keys[1]: low + span}
        return {**schema, "multipleOf": step} if step else schema

    keys = st.sampled_from([("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")])
    return st.builds(made, st.integers(-50, 50), st.integers(8, 90), keys, st.integers(0, 3))


LEAVES = st.one_of(
    _bounded("integer"),
    _bounded("number"),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low}, st.integers(-9, 9)),
    st.builds(lambda high: {"type": "integer", "maximum": high}, st.integers(-9, 9)),
    st.builds(
        lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
        st.integers(0, 40),
        st.integers(0, 40),
    ),
    st.sampled_from(
        [
            {"type": "string"},
            {"type": "boolean"},
            {"type": "null"},
            {"type": ["string", "null"]},
            {"enum": ["a", 2, None]},
            {"const": {"a": [1]}},
            {"type": "string", "format": "date-time"},
            {"type": "string", "format": "uuid"},
            {"type": "string", "format": "email"},
            {},
            True,
        ]
    ),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)
    objects = st.builds(
        lambda inside, some: {
            "type": "object",
            "properties": inside,
            "required": list(inside) if some else list(inside)[:1],
            "additionalProperties": False,
        },
        properties,
        st.booleans(),
    )
    arrays = st.builds(
        lambda items, least: {"type": "array", "items": items, "minItems": least},
        inner,
        st.integers(0, 3),
    )
    choices = st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3))
    parts = st.builds(lambda one: {"allOf": [one, {"description": "the same"}]}, objects)
    return st.one_of(objects, arrays, choices, parts)


@settings(deadline=None)
@given(st.recursive(LEAVES, _nested, max_leaves=12))
def test_an_instance_fits_its_schema(schema: Any) -> None:
    jsonschema_rs.validate(schema, instance(schema), validate_formats=True)


def test_schemas_that_refer_to_themselves_have_instances() -> None:
    tree = {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "left": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["name", "left", "children"],
                "additionalProperties": False,
            }
        },
    }
    jsonschema_rs.validate(tree, instance(tree))


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}},
         "required": ["a", "b"]},
        {"$ref": "#/nowhere"},
        {"type": "array", "minItems": 10**9},
        {"type": "string", "minLength": 10**9},
        {"type": 7, "properties": 3, "required": "a", "enum": {}, "anyOf": "x"},
        {"allOf": [{"$ref": "#"}]},
    ],
)  # fmt: skip
def test_schemas_that_have_no_instance_do_no_harm(schema: Any) -> None:
    assert len(json.dumps(instance(schema))) < 200_000
