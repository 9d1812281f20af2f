"""Streamed answers from one dialect into the other, event by event.

Two machines, `ToMessages` and `ToChat`, one for each stream. `feed` takes an event of the
provider's (`sse.Event`) and returns those it makes, ready to be sent; `end` is called when nothing
more comes.
Only the provider's own end marker, `[DONE]` or `message_stop`, becomes the caller's; a stream that
ends without it, that tells an error or cannot be read, ends with an error event and no marker
(`broken`). What accumulates is what `answers.py` makes of the same answer in one piece, but for two
things that a stream alone can tell: in which order texts and calls came, and arguments that are no
JSON, which are passed on as they come.

In Anthropic's dialect, content is in blocks, begun and ended one after the other. A call's block
ends when something else begins and its arguments are whole, so fragments of several calls may be
mixed; only then are several blocks open at once, which its SDK reads as well.

Remembered of a stream: its usage, and of each call, of which there are TRANSLATED_CALLS, a few
numbers; never its content. Pure. Called by `hearing.py`.
"""

import re
from typing import Any, Final, Literal

import msgspec

from paceline.gateway.sse import Event, write
from paceline.gateway.translate import errors
from paceline.gateway.translate.answers import (
    CHAT_TIER,
    ChatUsage,
    MessagesUsage,
    StopDetails,
    call_id,
    chat_id,
    chat_usage,
    explanation,
    finish_reason,
    given,
    message_id,
    messages_usage,
    stop_reason,
)
from paceline.terms.limits import TRANSLATED_CALLS

DONE = b"[DONE]"
ERROR = b"error"

PING = write(b'{"type": "ping"}', b"ping")
CHAT_PING = b": ping\n\n"
"""OpenAI's dialect has no such event; a comment keeps a connection as busy."""

CUT = errors.Failure("the provider's answer was cut off", "api_error")
GARBLED = errors.Failure("the provider's answer cannot be read", "api_error")
TOO_MANY = errors.Failure(
    f"the answer has more than {TRANSLATED_CALLS} tool calls, which is what may be translated",
    "api_error",
)

State = Literal["open", "whole", "broken"]

MARK = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _ChatDelta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int | None = None
    delta: _ChatDelta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    id: str | None = None
    choices: list[_Choice] | None = None
    usage: ChatUsage | None = None
    service_tier: str | None = None
    error: Any = None


class _Begun(msgspec.Struct):
    id: str | None = None
    usage: MessagesUsage | None = None


class _Block(msgspec.Struct):
    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Delta(msgspec.Struct):
    """Of a block, or of the message."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_details: StopDetails | None = None


class _Told(msgspec.Struct):
    type: str
    index: int | None = None
    message: _Begun | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: MessagesUsage | None = None


CHUNK = msgspec.json.Decoder(_Chunk)
TOLD = msgspec.json.Decoder(_Told)
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Balance:
    """Whether fragments of JSON, so far, are one whole object."""

    __slots__ = ("_begun", "_depth", "_escaped", "_in_string")

    def __init__(self) -> None:
        self._begun = False
        self._depth = 0
        self._escaped = False
        self._in_string = False

    def take(self, fragment: str) -> None:
        if self._escaped and fragment:
            fragment = fragment[1:]
            self._escaped = False
        for mark in MARK.findall(fragment):
            if mark[0] == "\\":
                self._escaped = len(mark) == 1
            elif mark == '"':
                self._in_string = not self._in_string
            elif self._in_string:
                continue
            elif mark in "{[":
                self._begun = True
                self._depth += 1
            else:
                self._depth -= 1

    @property
    def whole(self) -> bool:
        return self._begun and self._depth <= 0 and not self._in_string


class _Use:
    """A tool call that is being told, and its block."""

    __slots__ = ("balance", "block", "id", "open")

    def __init__(self, block: int, id: str) -> None:
        self.block = block
        self.id = id
        self.open = True
        self.balance = Balance()


TEXT: Final = "text"
THINKING: Final = "thinking"


class ToMessages:
    """Chat chunks as events of Anthropic's; `model` is what the caller asked for."""

    __slots__ = (
        "_begun",
        "_blocks",
        "_calls",
        "_current",
        "_finish",
        "_id",
        "_last",
        "_model",
        "_refused",
        "_tier",
        "_usage",
        "state",
    )

    def __init__(self, model: str) -> None:
        self.state: State = "open"
        self._model = model
        self._begun = False
        self._id = ""
        self._blocks = 0
        self._current: str | None = None
        """the kind of the block that is open, of those that hold no call: it is the last one"""
        self._calls: dict[int, _Use] = {}
        self._last = 0
        """the call that fragments without a number belong to"""
        self._finish: str | None = None
        self._refused = False
        self._usage: ChatUsage | None = None
        self._tier: str | None = None

    def feed(self, event: Event) -> list[bytes]:
        data = event.data
        if self.state != "open" or not data:
            return []
        if data.startswith(DONE):
            return self._whole()
        try:
            chunk = CHUNK.decode(data)
        except UNREADABLE:
            return self._broken(GARBLED)
        if chunk.error:
            return self._broken(errors.said({"error": chunk.error}, GARBLED.message))
        out: list[bytes] = []
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices or []:
            if choice.index:
                continue  # only one was asked for
            if not self._begun:
                self._begin(chunk, data, out)
            if choice.delta is not None and (failure := self._take(choice.delta, out)):
                return [*out, *self._broken(failure)]
            if choice.finish_reason:
                self._finish = choice.finish_reason
        return out

    def end(self) -> list[bytes]:
        return self._broken(CUT) if self.state == "open" else []

    def _begin(self, chunk: _Chunk, data: bytes, out: list[bytes]) -> None:
        self._begun = True
        self._id = message_id(chunk.id, data)
        self._tier = chunk.service_tier
        message: dict[str, Any] = {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": messages_usage(None, self._tier),
        }
        out.append(_event("message_start", message=message))
        out.append(PING)

    def _take(self, delta: _ChatDelta, out: list[bytes]) -> errors.Failure | None:
        if thought := delta.reasoning_content or delta.reasoning:
            self._say(THINKING, thought, out)
        if delta.content:
            self._say(TEXT, delta.content, out)
        if delta.refusal:
            self._refused = True
            self._say(TEXT, delta.refusal, out)
        for call in delta.tool_calls or []:
            if failure := self._call(call, out):
                return failure
        return None

    def _say(self, kind: str, text: str, out: list[bytes]) -> None:
        if self._current != kind:
            self._settle(out)
            self._current = kind
            empty = {"type": kind, kind: ""}
            if kind == THINKING:
                empty["signature"] = ""
            self._open(empty, out)
        delta = {"type": f"{kind}_delta", kind: text}
        out.append(_event("content_block_delta", index=self._blocks - 1, delta=delta))

    def _call(self, call: _Call, out: list[bytes]) -> errors.Failure | None:
        function = call.function or _Function()
        use = self._calls.get(self._place(call))
        if use is None:
            if len(self._calls) >= TRANSLATED_CALLS:
                return TOO_MANY
            self._settle(out)
            use = _Use(self._blocks, call.id or call_id(self._id, len(self._calls)))
            self._calls[self._last] = use
            empty = {"type": "tool_use", "id": use.id, "name": function.name or "", "input": {}}
            self._open(empty, out)
        if function.arguments and use.open:
            use.balance.take(function.arguments)
            delta = {"type": "input_json_delta", "partial_json": function.arguments}
            out.append(_event("content_block_delta", index=use.block, delta=delta))
        elif function.arguments and not function.arguments.isspace():
            return GARBLED
        return None

    def _place(self, call: _Call) -> int:
        """Some providers number all calls 0, and tell them apart by their ids; some do not number
        them at all."""
        place = call.index
        if place is None:
            place = len(self._calls) if call.id else self._last
        known = self._calls.get(place)
        if known is not None and call.id and call.id != known.id:
            again = (at for at, use in self._calls.items() if use.id == call.id)
            place = next(again, max(self._calls) + 1)
        self._last = place
        return place

    def _open(self, block: dict[str, Any], out: list[bytes]) -> None:
        out.append(_event("content_block_start", index=self._blocks, content_block=block))
        self._blocks += 1

    def _settle(self, out: list[bytes], *, all: bool = False) -> None:
        """Ends what is open and whole."""
        if self._current is not None:
            self._current = None
            out.append(_event("content_block_stop", index=self._blocks - 1))
        for use in self._calls.values():
            if use.open and (all or use.balance.whole):
                use.open = False
                out.append(_event("content_block_stop", index=use.block))

    def _whole(self) -> list[bytes]:
        if not self._begun:
            return self._broken(GARBLED)
        self.state = "whole"
        out: list[bytes] = []
        self._settle(out, all=True)
        stop = stop_reason(self._finish, called=bool(self._calls), refused=self._refused)
        delta = {"stop_reason": stop, "stop_sequence": None}
        usage = messages_usage(self._usage)
        out.append(_event("message_delta", delta=delta, usage=usage))
        out.append(_event("message_stop"))
        return out

    def _broken(self, failure: errors.Failure) -> list[bytes]:
        self.state = "broken"
        return [write(msgspec.json.encode(errors.messages_error(failure)), ERROR)]


def _event(type: str, **fields: Any) -> bytes:
    return write(msgspec.json.encode({"type": type, **fields}), type.encode())


class ToChat:
    """Events of Anthropic's as chat chunks. `model` is what the caller asked for, `created` a Unix
    time in seconds; the usage has its chunk only for a caller who `wants_usage`."""

    __slots__ = (
        "_calls",
        "_created",
        "_finished",
        "_head",
        "_id",
        "_model",
        "_spoken",
        "_tail",
        "_texts",
        "_usage",
        "_uses",
        "_wants_usage",
        "state",
    )

    def __init__(self, model: str, created: int, *, wants_usage: bool) -> None:
        self.state: State = "open"
        self._model = model
        self._created = created
        self._wants_usage = wants_usage
        self._head = b""
        """of every chunk, up to its choices"""
        self._tail = b'],"usage":null}\n\n' if wants_usage else b"]}\n\n"
        self._id = ""
        self._spoken = False
        """whether the role has been told"""
        self._texts = False
        self._uses = 0
        self._calls: dict[int, tuple[int, str]] = {}
        """for the block of each call that is open its number, and what its arguments are if none
        are told"""
        self._usage = MessagesUsage()
        self._finished = False

    def feed(self, event: Event) -> list[bytes]:
        if self.state != "open" or not event.data:
            return []
        try:
            told = TOLD.decode(event.data)
        except UNREADABLE:
            return self._broken(errors.read(0, event.data) if event.name == ERROR else GARBLED)
        out: list[bytes] = []
        match told.type:
            case "ping":
                return [CHAT_PING]
            case "error":
                return self._broken(errors.read(0, event.data))
            case "message_start":
                self._begin(told.message or _Begun(), event.data)
            case _ if not self._head:
                return self._broken(GARBLED)
            case "content_block_start":
                if failure := self._block(told.index or 0, told.content_block or _Block(), out):
                    return [*out, *self._broken(failure)]
            case "content_block_delta":
                self._delta(told.index or 0, told.delta or _Delta(), out)
            case "content_block_stop":
                self._settle(told.index or 0, out)
            case "message_delta":
                self._count(told.usage)
                self._finish(told.delta or _Delta(), out)
            case "message_stop":
                self._whole(out)
        return out

    def end(self) -> list[bytes]:
        return self._broken(CUT) if self.state == "open" else []

    def _begin(self, message: _Begun, data: bytes) -> None:
        """Nothing is told yet: what begins a chat stream depends on what comes first."""
        self._count(message.usage)
        self._id = chat_id(message.id, data)
        head = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
        }
        if tier := CHAT_TIER.get(self._usage.service_tier or ""):
            head["service_tier"] = tier
        self._head = b"data: " + msgspec.json.encode(head)[:-1] + b',"choices":['

    def _count(self, usage: MessagesUsage | None) -> None:
        """What is told later stands for what was told before."""
        for name in usage.__struct_fields__ if usage is not None else ():
            if (told := getattr(usage, name)) is not None:
                setattr(self._usage, name, told)

    def _say(self, delta: dict[str, Any], out: list[bytes]) -> None:
        if not self._spoken:
            self._spoken = True
            delta = {"role": "assistant", "content": None, "refusal": None, **delta}
        out.append(self._chunk(delta, None))

    def _chunk(self, delta: dict[str, Any], finish: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"".join((self._head, msgspec.json.encode(choice), self._tail))

    def _block(self, index: int, block: _Block, out: list[bytes]) -> errors.Failure | None:
        if block.type == "tool_use":
            if self._uses >= TRANSLATED_CALLS:
                return TOO_MANY
            number, self._uses = self._uses, self._uses + 1
            self._calls[index] = number, given(block.input)
            call = {
                "index": number,
                "id": block.id or call_id(self._id, number),
                "type": "function",
                "function": {"name": block.name or "", "arguments": ""},
            }
            self._say({"tool_calls": [call]}, out)
        elif block.type == "text" and (block.text or not self._texts):
            self._texts = True
            self._say({"content": block.text or ""}, out)
        elif block.type == "thinking" and block.thinking:
            self._say({"reasoning_content": block.thinking}, out)
        return None

    def _delta(self, index: int, delta: _Delta, out: list[bytes]) -> None:
        if delta.type == "text_delta" and delta.text:
            self._say({"content": delta.text}, out)
        elif delta.type == "thinking_delta" and delta.thinking:
            self._say({"reasoning_content": delta.thinking}, out)
        elif delta.type == "input_json_delta" and delta.partial_json and index in self._calls:
            number, _ = self._calls[index]
            self._calls[index] = number, ""
            self._argue(number, delta.partial_json, out)

    def _argue(self, number: int, arguments: str, out: list[bytes]) -> None:
        call = {"index": number, "function": {"arguments": arguments}}
        self._say({"tool_calls": [call]}, out)

    def _settle(self, index: int, out: list[bytes]) -> None:
        """A block has ended. Of a call without arguments Anthropic tells none."""
        number, untold = self._calls.pop(index, (0, ""))
        if untold:
            self._argue(number, untold, out)

    def _finish(self, delta: _Delta, out: list[bytes]) -> None:
        if self._finished or delta.stop_reason is None:
            return
        self._finished = True
        for index in list(self._calls):
            self._settle(index, out)
        if said := explanation(delta.stop_reason, delta.stop_details):
            self._say({"refusal": said}, out)
        if not self._spoken:
            self._say({}, out)
        out.append(self._chunk({}, finish_reason(delta.stop_reason)))

    def _whole(self, out: list[bytes]) -> None:
        self._finish(_Delta(stop_reason="end_turn"), out)
        self.state = "whole"
        if self._wants_usage:
            usage = msgspec.json.encode(chat_usage(self._usage))
            out.append(b"".join((self._head, b'],"usage":', usage, b"}\n\n")))
        out.append(write(DONE))

    def _broken(self, failure: errors.Failure) -> list[bytes]:
        self.state = "broken"
        return [write(msgspec.json.encode(errors.chat_error(failure)))]
