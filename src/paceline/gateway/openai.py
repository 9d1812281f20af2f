"""OpenAI's dialect: what is read of a body and changed in it, what answers and streams tell.

Bodies are bytes before and after; `members.py` finds the place that is to change. What is said in
errors stands in `failures.py`. Fields of the chat API that other vendors added (DeepSeek's and
xAI's counts, errors within a chunk as OpenRouter has them) are read where they bear on usage or on
whether an answer is whole. Pure; called by `web/llm.py`,
`asking.py`, `hearing.py` and `scribe.py`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from paceline.gateway import members
from paceline.gateway.call import Asked, Endpoint
from paceline.gateway.passing import Passing, Sign
from paceline.gateway.sse import Event
from paceline.gateway.usage import NOTHING, UNREADABLE, Told, Usage, believed
from paceline.terms.errors import PacelineError, WrongType
from paceline.terms.limits import LLM_CHOICES, PARSE_IN_PLACE_BYTES

MODEL_REMEDY = 'Name a model, as in "model": "gpt-5-mini"; GET /v1/models lists them.'
MESSAGES_REMEDY = 'Send a list, as in [{"role": "user", "content": "Hello"}].'
INPUT_REMEDY = "Send a text, or a list of texts."

DEFAULT_MODEL: Mapping[Endpoint, str] = {"moderations": "omni-moderation-latest"}
"""Where the API does with a body that names none."""

MOST: Mapping[Endpoint, tuple[str, ...]] = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
}

ASKS_FOR_USAGE: tuple[Endpoint, ...] = ("chat", "completions")
"""Streams of these tell it only if asked."""

STREAM_OPTIONS = "stream_options"
INCLUDE_USAGE = "include_usage"
USAGE_ASKED = b'{"include_usage":true}'
NO_USAGE = b',"usage":null'


# --- Requests -------------------------------------------------------------------------------------


def read(endpoint: Endpoint, body: bytes) -> Asked:
    """Raises BadJson, or BadField, which says where. What else is wrong its provider will say."""
    if endpoint == "other":
        return _read_other(body)
    given = members.checked(body)
    if "model" in given or endpoint not in DEFAULT_MODEL:
        model = members.text(given, "model", remedy=MODEL_REMEDY)
    else:
        model = DEFAULT_MODEL[endpoint]
    if endpoint == "chat":
        members.check_list(given, "messages", remedy=MESSAGES_REMEDY)
    elif endpoint in ("embeddings", "moderations"):
        if "input" not in given:
            raise members.missing("input", INPUT_REMEDY)
        return Asked(model)
    most = None
    for name in MOST[endpoint]:
        if name in given and (most := members.count(given, name)) is not None:
            break
    if "stream" not in given or not members.flag(given, "stream"):
        return Asked(model, most_tokens=most)
    wants_usage = endpoint not in ASKS_FOR_USAGE or _asks_for_usage(given)
    return Asked(model, True, wants_usage, most)


def _read_other(body: bytes) -> Asked:
    """Files are no JSON, and a batch has no model; what can be read is, and no more is asked."""
    try:
        given = members.checked(body)
        return Asked(members.text(given, "model", remedy=""), members.flag(given, "stream"))
    except PacelineError:
        return Asked("")


def _asks_for_usage(given: members.Members) -> bool:
    options = given.get(STREAM_OPTIONS)
    if options is None or bytes(options) == b"null":
        return False
    if not members.is_object(options):
        raise WrongType(
            f"`{STREAM_OPTIONS}` must be an object",
            param=STREAM_OPTIONS,
            remedy='Send {"include_usage": true}, or leave it out.',
        )
    return members.flag(members.checked(bytes(options)), INCLUDE_USAGE)


def with_model(body: bytes, name: str) -> bytes:
    """The body for a provider that has another name for the model."""
    return members.with_member(body, members.decoded(body), "model", msgspec.json.encode(name))


def with_usage(body: bytes) -> bytes:
    """The body of a stream, so that it ends with its usage."""
    given = members.decoded(body)
    options = given.get(STREAM_OPTIONS)
    asked = USAGE_ASKED
    if options is not None and bytes(options) != b"null":
        inner = bytes(options)
        asked = members.with_member(inner, members.decoded(inner), INCLUDE_USAGE, b"true")
    return members.with_member(body, given, STREAM_OPTIONS, asked)


def with_older_name(body: bytes) -> bytes:
    """The body of a chat for a provider that knows `max_tokens` alone."""
    new, old = MOST["chat"]
    given = members.decoded(body)
    return body if new not in given or old in given else members.renamed(body, given, new, old)


# --- Usage ----------------------------------------------------------------------------------------


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    """As chat, completions and embeddings have it, and as responses have it."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    prompt_cache_hit_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None
    total_tokens: int | None = None


NO_DETAILS = _Details()
NULL = msgspec.Raw(b"null")
"""of a member that is not there"""


def _usage(said: _Usage | None) -> Usage | None:
    if said is None or (said.prompt_tokens is None and said.input_tokens is None):
        return None
    taken = said.prompt_tokens or said.input_tokens or 0
    given = said.completion_tokens or said.output_tokens or 0
    of_input = said.prompt_tokens_details or said.input_tokens_details or NO_DETAILS
    of_output = said.completion_tokens_details or said.output_tokens_details or NO_DETAILS
    # xAI, and Google in this dialect, count reasoning in the total alone.
    unseen = (said.total_tokens or 0) - taken - given
    if unseen < 0:
        unseen = 0
    return believed(
        Usage(
            taken,
            given + unseen,
            of_input.cached_tokens or said.prompt_cache_hit_tokens or 0,
            of_input.cache_write_tokens or 0,
            0,
            of_output.reasoning_tokens or unseen,
        )
    )


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Answer(msgspec.Struct, gc=False):
    """An answer of any endpoint; `status` and the reason are those of `/responses`."""

    id: str | None = None
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    status: str | None = None
    incomplete_details: _Incomplete | None = None
    error: msgspec.Raw = NULL


_answer = msgspec.json.Decoder(_Answer).decode
_said_usage = msgspec.json.Decoder(_Usage).decode

NO_ERROR = frozenset({b"null", b"false", b'""', b"{}"})
"""What the SDK does not take for one either."""

FAILED_RESPONSE = "failed"
"""The status of a response whose `error` is part of it: the answer is whole, and is billed, and the
SDK hands it out as it is."""

FLAT = rb"\{[^{}]*+\}"
DEEPER = rb"\{[^{}]*+(?:" + FLAT + rb"[^{}]*+)*+\}"
USAGE = re.compile(rb'"usage"[ \t\n\r]*:[ \t\n\r]*(\{[^{}]*+(?:' + DEEPER + rb"[^{}]*+)*+\})")
"""With objects in it, and in those."""


def told(body: bytes) -> Told:
    """What a whole answer says of itself. Of a long one only its usage, and that only near its
    ends, where every vendor has it: all of it would hold up the loop."""
    if len(body) > PARSE_IN_PLACE_BYTES:
        return near_the_ends(body, _usage_of)
    try:
        return _told(_answer(body))
    except msgspec.ValidationError:
        return NOTHING
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNREADABLE


def _told(said: _Answer) -> Told:
    finish = said.status
    if said.choices:
        finish = said.choices[0].finish_reason
    elif said.incomplete_details and said.incomplete_details.reason:
        finish = said.incomplete_details.reason
    error = said.error
    failed = error is not NULL and bytes(error) not in NO_ERROR and said.status != FAILED_RESPONSE
    return Told(_usage(said.usage), finish, said.model, said.id, failed)


def _usage_of(said: bytes) -> Usage | None:
    return _usage(_said_usage(said))


def near_the_ends(body: bytes, read: Callable[[bytes], Usage | None]) -> Told:
    """`read` makes usage of the object that is named so, or of another of that name."""
    for part in (body[-PARSE_IN_PLACE_BYTES:], body[:PARSE_IN_PLACE_BYTES]):
        for found in reversed(list(USAGE.finditer(part))):
            try:
                usage = read(found[1])
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
            if usage:
                return Told(usage)
    return NOTHING


# --- Streams --------------------------------------------------------------------------------------

DONE = b"[DONE]"

MIDDLE = b'"finish_reason":null}]}'
ASKED_MIDDLE = b'"finish_reason":null}],"usage":null'
"""How most chunks end, and how those of a stream that was asked for usage do: neither the last, nor
an error, and not looked at any further where they are of the first choice."""

OF_FIRST = b'"choices":[{"index":0,'
NOWHERE = slice(0, 0)


class _Delta(msgspec.Struct):
    index: int | None = None
    finish_reason: str | None = None
    text: str | None = None
    delta: dict[str, msgspec.Raw] | None = None


class _Chunk(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    choices: list[_Delta] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = NULL


_chunk = msgspec.json.Decoder(_Chunk).decode

NO_CONTENT = frozenset({b"null", b'""', b"[]", b"{}"})


class Chunks:
    """A stream of `/chat/completions` or `/completions`. It has several choices where it was asked
    for them, each with an end of its own; `finish` is known when all that have begun are at theirs.
    """

    __slots__ = (
        "_finish",
        "_finished",
        "_first",
        "_open",
        "begun",
        "ended",
        "failed",
        "finish",
        "id",
        "model",
        "usage",
    )

    def __init__(self) -> None:
        self.begun = False
        self.ended = False
        self.failed = False
        self.usage: Usage | None = None
        self.finish: str | None = None
        self.model: str | None = None
        self.id: str | None = None
        self._finish: str | None = None
        """of the first that has ended"""
        self._first = NOWHERE
        """where the first choice stood in the last chunk that was read: there it stands in most"""
        self._open: set[int] = set()
        self._finished: set[int] = set()

    @property
    def sequence(self) -> int:
        return 0

    def see(self, event: Event) -> Sign:
        data = event.data
        if (
            self.begun
            and data[self._first] == OF_FIRST
            and (data[-23:] == MIDDLE or data.find(ASKED_MIDDLE) >= 0)
        ):
            return "content"
        if not data:
            return "empty"
        if data[:6] == DONE:
            self.ended = self.begun = True
            return "end"
        if event.name == ERROR:
            self.failed = True
            return "error"
        try:
            chunk = _chunk(data)
        except msgspec.ValidationError:
            self.begun = True
            return "content"
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.failed = True
            return "error"
        sign = self._see(chunk)
        if 0 in self._open:
            at = data.find(OF_FIRST)
            self._first = NOWHERE if at < 0 else slice(at, at + len(OF_FIRST))
        return sign

    def _see(self, chunk: _Chunk) -> Sign:
        self.id = self.id or chunk.id
        self.model = self.model or chunk.model
        usage = _usage(chunk.usage)
        self.usage = usage or self.usage
        if chunk.error is not NULL and bytes(chunk.error) not in NO_ERROR:
            self.failed = True
            return "error"
        if not chunk.choices:
            return "usage" if usage else "empty"
        for choice in chunk.choices:
            index = choice.index or 0
            if choice.finish_reason is not None:
                self._finish = self._finish or choice.finish_reason
                self._open.discard(index)
                if len(self._finished) < LLM_CHOICES:
                    self._finished.add(index)
                self.begun = True
            elif index not in self._finished and len(self._open) < LLM_CHOICES:
                self._open.add(index)
        self.finish = None if self._open else self._finish
        if not self.begun:
            self.begun = any(map(_has_content, chunk.choices))
        return "content" if self.begun else "empty"


def _has_content(choice: _Delta) -> bool:
    if choice.text:
        return True
    return any(
        name != "role" and bytes(value) not in NO_CONTENT
        for name, value in (choice.delta or {}).items()
    )


def without_usage(event: Event) -> bytes:
    """A chunk as it would be had nobody asked for usage."""
    raw = event.raw
    at = raw.rfind(NO_USAGE)
    return raw if at < 0 else raw[:at] + raw[at + len(NO_USAGE) :]


PREAMBLE = frozenset(
    {
        b"response.created",
        b"response.queued",
        b"response.in_progress",
        b"response.output_item.added",
        b"response.content_part.added",
        b"response.reasoning_summary_part.added",
    }
)
ENDS = frozenset({b"response.completed", b"response.incomplete", b"response.failed"})
FAILED = b"response.failed"
ERROR = b"error"

KIND = re.compile(rb'\{[ \t\n\r]*"type"[ \t\n\r]*:[ \t\n\r]*"([^"\\]*)"')
SEQUENCE = re.compile(rb'"sequence_number"[ \t\n\r]*:[ \t\n\r]*(\d{1,18})')


class _Ended(msgspec.Struct):
    response: _Answer


_ended = msgspec.json.Decoder(_Ended).decode


class NamedEvents:
    """A stream of `/responses`."""

    __slots__ = ("_last", "begun", "ended", "failed", "finish", "id", "model", "usage")

    def __init__(self) -> None:
        self.begun = False
        self.ended = False
        self.failed = False
        self.usage: Usage | None = None
        self.finish: str | None = None
        self.model: str | None = None
        self.id: str | None = None
        self._last = b""

    @property
    def sequence(self) -> int:
        found = SEQUENCE.search(self._last)
        return int(found[1]) + 1 if found else 0

    def see(self, event: Event) -> Sign:
        data = event.data
        if not data:
            return "empty"
        name = event.name
        if name is None:
            if data[:6] == DONE:
                return "end"
            name = kind(data)
        self._last = data
        if name in ENDS:
            return self._see_end(name, data)
        if name == ERROR:
            self.failed = True
            return "error"
        if not self.begun and name in PREAMBLE:
            return "empty"
        self.begun = True
        return "content"

    def _see_end(self, name: bytes, data: bytes) -> Sign:
        try:
            said = _told(_ended(data).response)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            said = NOTHING
        self.usage, self.finish = said.usage, said.finish
        self.id, self.model = said.id, said.model
        if name == FAILED:
            self.failed = True
            if not self.begun:
                return "error"
        self.begun = self.ended = True
        return "end"


class _Kind(msgspec.Struct):
    type: str = ""


_typed = msgspec.json.Decoder(_Kind).decode


def kind(data: bytes) -> bytes:
    """What an event says it is, where the stream does not name it."""
    if found := KIND.match(data):
        return found[1]
    try:
        return _typed(data).type.encode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return b""


def passing(endpoint: Endpoint) -> Passing:
    return NamedEvents() if endpoint == "responses" else Chunks()


# --- The list of models ---------------------------------------------------------------------------


def model(name: str, *, owner: str = "paceline", created_s: int = 0) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created_s, "owned_by": owner}


def models(names: Sequence[str]) -> dict[str, Any]:
    return {"object": "list", "data": [model(name) for name in names]}
