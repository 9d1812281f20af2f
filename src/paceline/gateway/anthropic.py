"""Anthropic's dialect: what is read of a body and changed in it, what answers and streams tell.

As `openai.py` for the other. Usage comes in two halves here: the input with `message_start`, the
output, which grows, with each `message_delta`. What is said in errors stands in `failures.py`.
Pure; called by `web/llm.py`, `hearing.py` and `scribe.py`.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from paceline.gateway import members
from paceline.gateway.call import Asked, Endpoint
from paceline.gateway.openai import kind, near_the_ends, with_model
from paceline.gateway.passing import Passing, Sign
from paceline.gateway.sse import Event
from paceline.gateway.usage import NOTHING, UNREADABLE, Told, Usage, believed
from paceline.terms.limits import PARSE_IN_PLACE_BYTES

__all__ = ["model", "models", "passing", "read", "told", "with_model"]

MODEL_REMEDY = 'Name a model, as in "model": "claude-sonnet-4-5"; GET /v1/models lists them.'
MESSAGES_REMEDY = 'Send a list, as in [{"role": "user", "content": "Hello"}].'
MOST_REMEDY = "Say how many tokens the answer may have, as in 1024."


def read(endpoint: Endpoint, body: bytes) -> Asked:
    """Raises BadJson, or BadField, which says where. What else is wrong its provider will say."""
    given = members.checked(body)
    model = members.text(given, "model", remedy=MODEL_REMEDY)
    members.check_list(given, "messages", remedy=MESSAGES_REMEDY)
    if endpoint != "messages":
        return Asked(model)
    most = members.count(given, "max_tokens")
    if most is None:
        raise members.missing("max_tokens", MOST_REMEDY)
    return Asked(model, members.flag(given, "stream"), True, most)


# --- Answers and streams --------------------------------------------------------------------------


class _Written(msgspec.Struct):
    ephemeral_1h_input_tokens: int | None = None


class _Details(msgspec.Struct):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _Written | None = None
    output_tokens_details: _Details | None = None


class _Message(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    type: str | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


class _Stop(msgspec.Struct):
    stop_reason: str | None = None


class _Event(msgspec.Struct):
    """`message` is in a message_start, the others are in a message_delta."""

    message: _Message | None = None
    delta: _Stop | None = None
    usage: _Usage | None = None


_message = msgspec.json.Decoder(_Message).decode
_event = msgspec.json.Decoder(_Event).decode
_said_usage = msgspec.json.Decoder(_Usage).decode


NO_USAGE = _Usage()


def _usage(said: _Usage | None, before: _Usage = NO_USAGE) -> Usage | None:
    """Where it says nothing, or 0, what was said before it counts."""
    if said is None or (said.output_tokens is None and said.input_tokens is None):
        return None
    cached = said.cache_read_input_tokens or before.cache_read_input_tokens or 0
    written = said.cache_creation_input_tokens or before.cache_creation_input_tokens or 0
    kept = said.cache_creation or before.cache_creation
    details = said.output_tokens_details or before.output_tokens_details
    return believed(
        Usage(
            (said.input_tokens or before.input_tokens or 0) + cached + written,
            said.output_tokens or before.output_tokens or 0,
            cached,
            written,
            (kept.ephemeral_1h_input_tokens or 0) if kept else 0,
            (details.thinking_tokens or 0) if details else 0,
        )
    )


def _usage_of(said: bytes) -> Usage | None:
    return _usage(_said_usage(said))


def told(body: bytes) -> Told:
    """What a whole answer says of itself; of a long one only its usage, near its ends."""
    if len(body) > PARSE_IN_PLACE_BYTES:
        return near_the_ends(body, _usage_of)
    try:
        said = _message(body)
    except msgspec.ValidationError:
        return NOTHING
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return UNREADABLE
    return Told(_usage(said.usage), said.stop_reason, said.model, said.id, said.type == "error")


DELTA = b"content_block_delta"
ERROR = b"error"
EMPTY = frozenset({b"message_start", b"content_block_start", b"ping"})


class Blocks:
    """A stream of `/messages`."""

    __slots__ = ("_before", "begun", "ended", "failed", "finish", "id", "model", "usage")

    def __init__(self) -> None:
        self.begun = False
        self.ended = False
        self.failed = False
        self.usage: Usage | None = None
        self.finish: str | None = None
        self.model: str | None = None
        self.id: str | None = None
        self._before = NO_USAGE

    @property
    def sequence(self) -> int:
        return 0

    def see(self, event: Event) -> Sign:
        name = event.name
        if name == DELTA:
            self.begun = True
            return "content"
        data = event.data
        if name is None:
            if not data:
                return "empty"
            name = kind(data)  # a stream whose events are not named: its SDK would see nothing
        if name == b"message_start" or name == b"message_delta":
            self._read(data)
        elif name == b"message_stop":
            self.ended = self.begun = True
            return "end"
        elif name == ERROR:
            self.failed = True
            return "error"
        if name in EMPTY or not name:
            return "empty"
        self.begun = True
        return "content"

    def _read(self, data: bytes) -> None:
        try:
            event = _event(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return
        if message := event.message:
            self.id, self.model = message.id, message.model
            self._before = message.usage or NO_USAGE
            self.usage = _usage(message.usage)
        if event.delta and event.delta.stop_reason:
            self.finish = event.delta.stop_reason
        self.usage = _usage(event.usage, self._before) or self.usage


def passing(endpoint: Endpoint) -> Passing:
    return Blocks()


# --- The list of models ---------------------------------------------------------------------------

UNKNOWN_DATE = "1970-01-01T00:00:00Z"
PAGE_MODELS = 20
PAGE_MODELS_MOST = 1000


def model(name: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": UNKNOWN_DATE,
        "lifecycle": "active",
    }


def models(
    names: Sequence[str], *, limit: int = PAGE_MODELS, after: str = "", before: str = ""
) -> dict[str, Any]:
    """One page. `after` and `before` are names in the list; a name that is not there begins or ends
    nothing."""
    begin = names.index(after) + 1 if after in names else 0
    end = names.index(before) if before in names else len(names)
    limit = max(1, min(limit, PAGE_MODELS_MOST))
    if before and not after:
        begin = max(begin, end - limit)
    page = names[begin : min(end, begin + limit)]
    more = begin > 0 if before and not after else begin + limit < end
    return {
        "data": [model(name) for name in page],
        "has_more": more,
        "first_id": page[0] if page else None,
        "last_id": page[-1] if page else None,
    }
