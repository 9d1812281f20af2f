"""What two vendors publish about their APIs, turned into checks that nothing slips through.

The source is the types of the vendors' own Python packages, `openai` and `anthropic`, which both
generate from their OpenAPI documents: the parameters of a call for requests, the models of answers
and events for what comes back. (OpenAI's document, openai/openai-openapi, is large and moves every
few days, so it is neither copied here nor fetched; Anthropic publishes none.) What those types
leave open is closed here: no unknown key anywhere, no number as a text or the other way round, no
model of an answer inside a request, lists where the types say iterable.

Beyond the types, `llm_rules.py` has what only the documentation says. Needs `openai`, `anthropic`
and `pydantic`, which Paceline itself does not; they are imported when something is first checked.
Used by `llm_upstream.py`, and by tests of whatever makes requests or answers in these dialects.
"""

import functools
import importlib
import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Union

import orjson

Vendor = Literal["openai", "anthropic"]

FAULTS_SHOWN = 5

NAMING = ("type", "role")
"""say which of a choice of types is meant"""


class _Endpoint(NamedTuple):
    """Where its types are: `module:name` for a request whole and streamed, an answer, an event."""

    plain: str
    streamed: str
    answer: str
    event: str
    not_in_body: frozenset[str] = frozenset()
    """parameters that the SDK sends as headers"""


_CHAT = "openai.types.chat"
_HEADERS = frozenset({"user_profile_id", "workspace_id"})

ENDPOINTS: Mapping[tuple[Vendor, str], _Endpoint] = {
    ("openai", "chat"): _Endpoint(
        f"{_CHAT}.completion_create_params:CompletionCreateParamsNonStreaming",
        f"{_CHAT}.completion_create_params:CompletionCreateParamsStreaming",
        f"{_CHAT}:ChatCompletion",
        f"{_CHAT}:ChatCompletionChunk",
    ),
    ("openai", "completions"): _Endpoint(
        "openai.types.completion_create_params:CompletionCreateParamsNonStreaming",
        "openai.types.completion_create_params:CompletionCreateParamsStreaming",
        "openai.types:Completion",
        "openai.types:Completion",
    ),
    ("openai", "embeddings"): _Endpoint(
        "openai.types:EmbeddingCreateParams", "", "openai.types:CreateEmbeddingResponse", ""
    ),
    ("openai", "moderations"): _Endpoint(
        "openai.types:ModerationCreateParams", "", "openai.types:ModerationCreateResponse", ""
    ),
    ("openai", "responses"): _Endpoint(
        "openai.types.responses.response_create_params:ResponseCreateParamsNonStreaming",
        "openai.types.responses.response_create_params:ResponseCreateParamsStreaming",
        "openai.types.responses:Response",
        "openai.types.responses:ResponseStreamEvent",
    ),
    ("openai", "model"): _Endpoint("", "", "openai.types:Model", ""),
    ("openai", "error"): _Endpoint("", "", "openai.types.shared:ErrorObject", ""),
    ("anthropic", "messages"): _Endpoint(
        "anthropic.types.message_create_params:MessageCreateParamsNonStreaming",
        "anthropic.types.message_create_params:MessageCreateParamsStreaming",
        "anthropic.types:Message",
        "anthropic.types:RawMessageStreamEvent",
        _HEADERS,
    ),
    ("anthropic", "count_tokens"): _Endpoint(
        "anthropic.types:MessageCountTokensParams",
        "",
        "anthropic.types:MessageTokensCount",
        "",
        _HEADERS,
    ),
    ("anthropic", "model"): _Endpoint("", "", "anthropic.types:ModelInfo", ""),
    ("anthropic", "error"): _Endpoint("", "", "anthropic.types.shared:ErrorResponse", ""),
}


def request_faults(vendor: Vendor, endpoint: str, body: bytes) -> list[str]:
    """What is wrong with a request's body by the vendor's types; nothing, if it is empty."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return [f"no JSON: {error}"]
    if not isinstance(fields, dict):
        return ["no object"]
    place = ENDPOINTS[vendor, endpoint]
    name = place.streamed if place.streamed and fields.get("stream") is True else place.plain
    return _faults(_request_checker(name, place.not_in_body), body)


def answer_faults(vendor: Vendor, endpoint: str, body: bytes) -> list[str]:
    """What is wrong with a whole answer by the vendor's types."""
    if endpoint == "embeddings":
        body = _numbers_for_texts(body)
    return _answer_faults(ENDPOINTS[vendor, endpoint].answer, body)


def event_faults(vendor: Vendor, endpoint: str, data: bytes) -> list[str]:
    """What is wrong with the data of one event of a stream. Anthropic's pings and errors, and
    OpenAI's errors, have types of their own; `[DONE]` has none, and is not to be asked about."""
    fields = orjson.loads(data)
    if vendor == "anthropic" and fields.get("type") == "ping":
        return [] if fields == {"type": "ping"} else [f"a ping has nothing but its type: {fields}"]
    if vendor == "anthropic" and fields.get("type") == "error":
        return error_faults(vendor, data)
    if vendor == "openai" and endpoint != "responses" and "error" in fields:
        return error_faults(vendor, data)
    if endpoint == "completions":
        data = data.replace(
            b'"finish_reason":null', b'"finish_reason":"stop"'
        )  # as the wire has it
    return _answer_faults(ENDPOINTS[vendor, endpoint].event, data)


def error_faults(vendor: Vendor, body: bytes) -> list[str]:
    """What is wrong with the body of an error. OpenAI's type is that of the object within it."""
    if vendor == "anthropic":
        return _answer_faults(ENDPOINTS[vendor, "error"].answer, _known_error(body))
    fields = orjson.loads(body)
    if set(fields) != {"error"} or not isinstance(fields["error"], dict):
        return [f"an error has `error` and nothing else, not {sorted(fields)}"]
    missing = {"message", "type", "param", "code"} - set(fields["error"])
    if missing:
        return [f"an error without {sorted(missing)}"]
    return _answer_faults(ENDPOINTS[vendor, "error"].answer, orjson.dumps(fields["error"]))


def _known_error(body: bytes) -> bytes:
    """413 has a type that the documentation knows and the SDK's types do not."""
    return body.replace(b'"request_too_large"', b'"invalid_request_error"')


def _numbers_for_texts(body: bytes) -> bytes:
    """On the wire a vector may be base64, which the SDK decodes before its type is looked at."""
    fields = orjson.loads(body)
    for each in fields.get("data", ()):
        if isinstance(each.get("embedding"), str):
            each["embedding"] = []
    return orjson.dumps(fields)


@functools.cache
def prepare(vendor: Vendor) -> None:
    """What the first check of each kind would do: imports its package, which takes seconds, and
    builds the checkers. For whoever has a deadline to keep later."""
    for (whose, _), place in ENDPOINTS.items():
        if whose == vendor:
            for name in filter(None, (place.plain, place.streamed)):
                _request_checker(name, place.not_in_body)
            for name in filter(None, (place.answer, place.event)):
                _answer_checker(name)


# --- Requests -------------------------------------------------------------------------------------


@functools.cache
def _request_checker(name: str, not_in_body: frozenset[str]) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_Closing().typed_dict(_found(name), not_in_body))


class _Closing:
    """Makes of the types of a call's parameters the types of what goes over the wire."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def typed_dict(self, given: Any, without: frozenset[str] = frozenset()) -> Any:
        import typing_extensions

        if given in self._made:
            return self._made[given]
        self._made[given] = Any  # what refers to itself is open from the second time on
        fields: dict[str, Any] = {}
        for name, hint in typing.get_type_hints(given, include_extras=True).items():
            kind = typing.get_origin(hint)
            must = name in given.__required_keys__ if kind not in _MARKS else kind is _MARKS[0]
            inner = self.closed(typing.get_args(hint)[0] if kind in _MARKS else hint)
            if name not in without:
                fields[name] = typing.Required[inner] if must else typing.NotRequired[inner]
        make: Any = typing_extensions.TypedDict  # the one that pydantic knows
        made = make(given.__name__, fields)
        made.__pydantic_config__ = {"extra": "forbid", "strict": True}
        self._made[given] = made
        return made

    def closed(self, hint: Any) -> Any:
        from typing_extensions import is_typeddict

        if is_typeddict(hint):
            return self.typed_dict(hint)
        origin, inner = typing.get_origin(hint), typing.get_args(hint)
        if origin is typing.Annotated:
            return self.closed(inner[0])
        if origin in (Union, types.UnionType):
            closed = [self.closed(each) for each in inner]
            kept = tuple(each for each in closed if each is not _NOTHING)
            return Union[kept] if kept else _NOTHING  # noqa: UP007 - of as many as there are
        if origin in (Iterable, Sequence, list):
            return list[self.closed(inner[0])]  # type: ignore[misc]
        if origin in (dict, Mapping):
            return dict[str, self.closed(inner[1])]  # type: ignore[misc]
        if _stays_at_home(origin or hint):
            return _NOTHING
        return Any if hint is object else hint


_MARKS = (typing.Required, typing.NotRequired)
_NOTHING = object()


def _stays_at_home(kind: Any) -> bool:
    """Files, which the SDK encodes, and models of answers, which it turns into plain objects."""
    from pydantic import BaseModel

    return isinstance(kind, type) and issubclass(kind, (BaseModel, typing.IO, os.PathLike))


# --- Answers --------------------------------------------------------------------------------------


def _answer_faults(name: str, body: bytes) -> list[str]:
    checker = _answer_checker(name)
    faults = _faults(checker, body)
    if faults:
        return faults
    return list(_unknown(checker.validate_json(body, strict=True), ""))[:FAULTS_SHOWN]


@functools.cache
def _answer_checker(name: str) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(_found(name))


def _unknown(value: Any, place: str) -> typing.Iterator[str]:
    """Keys that no model of an answer has: the SDKs keep what they do not know."""
    from pydantic import BaseModel

    if isinstance(value, BaseModel):
        yield from (f"{place}.{key}: unknown" for key in value.model_extra or ())
        for key in type(value).model_fields:
            yield from _unknown(getattr(value, key), f"{place}.{key}")
    elif isinstance(value, list):
        for at, each in enumerate(value):
            yield from _unknown(each, f"{place}[{at}]")


# --- Both -----------------------------------------------------------------------------------------


def _found(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _faults(checker: Any, body: bytes) -> list[str]:
    from pydantic import ValidationError

    try:
        checker.validate_json(body, strict=True)
    except ValidationError as error:
        told = error.errors(include_url=False, include_input=False, include_context=False)
        lines = [f"{_place(each['loc'])}: {each['msg']}" for each in _near(told)]
        return [*dict.fromkeys(lines)][:FAULTS_SHOWN]
    return []


def _place(location: tuple[Any, ...]) -> str:
    """Without the names of choices of types, which may be pages long."""
    return ".".join(str(each) for each in location if "[" not in str(each))


def _near(told: list[Any]) -> list[Any]:
    """Of each choice of types, only what is said of the one that was meant: not of another `type`
    or `role`, and not that a list of parts is no text."""
    choices = [
        each for each in told if each["type"] == "literal_error" and each["loc"][-1] in NAMING
    ]
    others = {each["loc"][:-1] for each in choices}
    near = [
        each
        for each in told
        if not any(each["loc"][:count] in others for count in range(1, len(each["loc"])))
        and not (each["type"] == "string_type" and each["loc"][-1] == "str")
    ]
    return near or choices or told
