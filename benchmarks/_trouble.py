"""The kinds of trouble that an LLM call can be in, what must come of each, and what did.

A call says its kind in its own words (`mark`), so that the upstream knows what to do with it,
whoever sent it there and in which dialect. Pure. Called by `llm_trouble`, which asks, and by
`_troublesome`, which is asked.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import orjson

from benchmarks._heard import NotHttp, head_of

Dialect = Literal["openai", "anthropic"]
DIALECTS: Sequence[Dialect] = ("openai", "anthropic")

Come = Literal["whole", "error", "broken", "gone", "cut off"]
"""What must come: the whole answer; an error in the caller's dialect; a stream that ends with an
error event, without the mark of an end, on a connection that is cut; nothing, for its caller has
gone; an end, because its caller does not read."""

SHORT_MS = 300
"""The deadline of calls that would have no end."""

LONGER_MS = 1500
"""And of those that must have begun by then, also where the machine is busy."""

WORDS = 24
"""Of an answer."""

FAT_BYTES = 4096
FAT_EVENTS = 96
"""Of the long answers."""


class Kind(NamedTuple):
    come: Come
    streams: Sequence[bool] = (True,)
    statuses: Sequence[int] = ()
    """of errors"""
    deadline_ms: int | None = None
    share: float = 1.0
    model: str = ""
    """of its own, or a route: where it must not be in the way of the others"""


BOTH = (False, True)

KINDS: dict[str, Kind] = {
    # Good calls, so that there is somebody to be harmed.
    "whole": Kind("whole", BOTH, share=8.0),
    "in pieces": Kind("whole", BOTH, share=2.0),
    "without a length": Kind("whole", (False,)),
    "elsewhere": Kind("whole", BOTH, model="spare"),
    # The upstream, before an answer.
    "hangs up": Kind("error", BOTH, (502,)),
    "resets": Kind("error", BOTH, (502,)),
    "half closes": Kind("error", BOTH, (502,)),
    "silent": Kind("error", BOTH, (504,), SHORT_MS),
    "garbage": Kind("error", BOTH, (502,)),
    "cut in its head": Kind("error", BOTH, (502,)),
    "a head without an end": Kind("error", BOTH, (502,)),
    "a head byte by byte": Kind("error", BOTH, (504,), SHORT_MS),
    "429": Kind("error", BOTH, (429,), model="limited"),
    "500": Kind("error", BOTH, (500,)),
    "529": Kind("error", BOTH, (529,)),
    # A whole answer that is none.
    "cut in its body": Kind("error", (False,), (502,)),
    "cut in a chunk of its body": Kind("error", (False,), (502,)),
    "a chunk of garbage": Kind("error", (False,), (502,)),
    "no JSON": Kind("error", (False,), (502,)),
    "stands still in its body": Kind("error", (False,), (504,), SHORT_MS),
    # A stream.
    "cut before content": Kind("error", (True,), (502,)),
    "an error before content": Kind("error", (True,), (529,)),
    "cut in a chunk": Kind("broken"),
    "cut in an event": Kind("broken"),
    "cut between events": Kind("broken"),
    "cut after the last content": Kind("broken"),
    "cut before the mark of the end": Kind("broken"),
    "reset in a stream": Kind("broken"),
    "half closed in a stream": Kind("broken"),
    "garbage in a stream": Kind("broken"),
    "ends early": Kind("broken"),
    "an error in a stream": Kind("broken"),
    "stands still in a stream": Kind("broken", deadline_ms=LONGER_MS),
    # The caller.
    "leaves in its body": Kind("gone", BOTH),
    "leaves": Kind("gone", BOTH),
    "leaves by half": Kind("gone", BOTH),
    "leaves by reset": Kind("gone", BOTH),
    "leaves before content": Kind("gone"),
    "leaves a stream that flows": Kind("gone"),
    "leaves a stream that stands": Kind("gone"),
    "leaves a stream by half": Kind("gone"),
    "reads slowly": Kind("whole", share=0.5),
    "reads nothing": Kind("cut off", share=0.5),
}

HEARD = frozenset({"leaves a stream that flows", "leaves a stream that stands",
                   "leaves a stream by half"})  # fmt: skip
"""Those leave when they have heard a first word."""

LEAVERS = frozenset(name for name, kind in KINDS.items() if kind.come in ("gone", "cut off"))
"""Whose end is to be seen upstream."""


class Call(NamedTuple):
    number: int
    kind: str
    stream: bool
    said_in: Dialect
    provider: Dialect

    @property
    def crossed(self) -> bool:
        return self.said_in != self.provider


# --- What is asked --------------------------------------------------------------------------------

MARK = re.compile(rb"<<([A-Za-z0-9 ]+):(\d+)>>")

PATHS: dict[Dialect, str] = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
MODELS: dict[Dialect, str] = {"openai": "gpt", "anthropic": "claude"}


def model_of(call: Call) -> str:
    of_kind = KINDS[call.kind].model
    if of_kind == "spare":
        return of_kind
    return f"{MODELS[call.provider]}-{of_kind or 'trouble'}"


def request(call: Call) -> bytes:
    asked: dict[str, Any] = {
        "model": model_of(call),
        "max_tokens": 100,
        "messages": [{"role": "user", "content": f"Say it. <<{call.kind}:{call.number}>>"}],
    }
    if call.stream:
        asked["stream"] = True
    body = orjson.dumps(asked)
    lines = [
        f"POST {PATHS[call.said_in]} HTTP/1.1",
        "host: localhost",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    deadline_ms = KINDS[call.kind].deadline_ms
    if deadline_ms is not None:
        lines.append(f"x-timeout-ms: {deadline_ms}")
    if call.said_in == "anthropic":
        lines.append("anthropic-version: 2023-06-01")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


# --- What is answered -----------------------------------------------------------------------------


def words(number: int, kind: str) -> list[str]:
    """Its own for each call: nobody may hear what is for another."""
    if kind.startswith("reads"):
        return [f"{number}/{at} ".ljust(FAT_BYTES, "x") for at in range(FAT_EVENTS)]
    return [f"{number}/{at} " for at in range(WORDS)]


def text_of(number: int, kind: str) -> str:
    return "".join(words(number, kind))


class Streamed(NamedTuple):
    """A stream's events: before its content, its content, and what comes after it; the last one is
    the mark of its end."""

    first: list[bytes]
    content: list[bytes]
    last: list[bytes]
    broken: bytes
    """the event by which it breaks off"""


def whole(dialect: Dialect, number: int, kind: str) -> bytes:
    text = text_of(number, kind)
    if dialect == "openai":
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        usage = {"prompt_tokens": 9, "completion_tokens": WORDS, "total_tokens": 9 + WORDS}
        return orjson.dumps({**_chat("chat.completion"), "choices": [choice], "usage": usage})
    content = [{"type": "text", "text": text, "citations": None}]
    return orjson.dumps({**_message(), "content": content, "stop_reason": "end_turn"})


def streamed(dialect: Dialect, number: int, kind: str) -> Streamed:
    said = words(number, kind)
    if dialect == "openai":
        return Streamed(
            [_chunk({"role": "assistant", "content": ""})],
            [_chunk({"content": word}) for word in said],
            [_chunk({}, "stop"), _usage(), b"data: [DONE]\n\n"],
            b"data: " + failure(dialect, 529) + b"\n\n",
        )
    block = {"type": "text", "text": ""}
    usage = {"output_tokens": WORDS}
    return Streamed(
        [
            _event({"type": "message_start", "message": _message()}),
            _event({"type": "content_block_start", "index": 0, "content_block": block}),
        ],
        [
            _event({"type": "content_block_delta", "index": 0, "delta": _delta(word)})
            for word in said
        ],
        [
            _event({"type": "content_block_stop", "index": 0}),
            _event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}),
            _event({"type": "message_stop"}),
        ],
        b"event: error\ndata: " + failure(dialect, 529) + b"\n\n",
    )


def failure(dialect: Dialect, status: int) -> bytes:
    message = f"As the benchmark wants it: {status}."
    if dialect == "openai":
        kind = {429: "requests", 529: "overloaded_error"}.get(status, "server_error")
        error = {"message": message, "type": kind, "param": None, "code": None}
        return orjson.dumps({"error": error})
    kind = {429: "rate_limit_error", 529: "overloaded_error"}.get(status, "api_error")
    return orjson.dumps({"type": "error", "error": {"type": kind, "message": message}})


def _chat(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1_760_000_000, "model": "gpt-trouble"}


def _chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
    fields = {**_chat("chat.completion.chunk"), "choices": [choice], "usage": None}
    return b"data: %b\n\n" % orjson.dumps(fields)


def _usage() -> bytes:
    usage = {"prompt_tokens": 9, "completion_tokens": WORDS, "total_tokens": 9 + WORDS}
    fields = {**_chat("chat.completion.chunk"), "choices": [], "usage": usage}
    return b"data: %b\n\n" % orjson.dumps(fields)


def _message() -> dict[str, Any]:
    usage = {"input_tokens": 9, "output_tokens": 1}
    fields = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-trouble"}
    return {**fields, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}


def _delta(text: str) -> dict[str, str]:
    return {"type": "text_delta", "text": text}


def _event(fields: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (fields["type"].encode(), orjson.dumps(fields))


# --- What is heard --------------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes
    is_whole: bool
    """as HTTP has it"""


class Hearing:
    """What has been heard of an answer so far, and whether it is whole, as HTTP has it."""

    __slots__ = ("_size", "heard")

    def __init__(self) -> None:
        self.heard = bytearray()
        self._size = -1
        """of the whole answer; 0 where a chunk tells its end"""

    @property
    def is_whole(self) -> bool:
        heard = self.heard
        if self._size < 0:
            at = heard.find(b"\r\n\r\n")
            if at < 0:
                return False
            _, said, length = bytes(heard[:at]).lower().partition(b"\r\ncontent-length: ")
            self._size = at + 4 + int(length.partition(b"\r\n")[0]) if said else 0
        return len(heard) >= self._size if self._size else heard.endswith(b"\r\n0\r\n\r\n")


def answer(heard: bytes) -> Answer | None:
    """One answer and nothing behind it; None where its head is not whole."""
    came, rest = first(heard)
    if rest:
        raise NotHttp(f"something follows an answer: {rest[:80]!r}")
    return came


def first(heard: bytes) -> tuple[Answer | None, bytes]:
    """And what is behind it."""
    came = head_of(heard)
    if came is None:
        return None, b""
    status, headers, rest = came
    if headers.get(b"transfer-encoding") == b"chunked":
        body, is_whole, rest = _unchunked(rest)
    else:
        length = int(headers.get(b"content-length", b"-1"))
        if length < 0:
            raise NotHttp("an answer whose end is not told")
        body, is_whole, rest = rest[:length], len(rest) >= length, rest[length:]
    return Answer(status, headers, body, is_whole), rest


def _unchunked(rest: bytes) -> tuple[bytes, bool, bytes]:
    parts: list[bytes] = []
    at = 0
    while True:
        end = rest.find(b"\r\n", at)
        if end < 0:
            return b"".join(parts), False, b""
        size = int(rest[at:end], 16)
        piece = rest[end + 2 : end + 2 + size]
        parts.append(piece)
        at = end + 2 + size + 2
        if len(piece) < size or len(rest) < at:
            return b"".join(parts), False, b""
        if rest[at - 2 : at] != b"\r\n":
            raise NotHttp("a chunk of an answer has no end")
        if not size:
            return b"".join(parts), True, rest[at:]


class Read(NamedTuple):
    """What a caller understands of an answer."""

    text: str
    ended: bool
    """with the mark of the end"""
    failed: bool
    """with an error as the last event"""


def read(dialect: Dialect, body: bytes, *, stream: bool) -> Read:
    if not stream:
        told = orjson.loads(body)
        if dialect == "openai":
            return Read(told["choices"][0]["message"]["content"], True, False)
        return Read(told["content"][0]["text"], told["stop_reason"] == "end_turn", False)
    text: list[str] = []
    ended = failed = False
    for event in body.split(b"\n\n"):
        data = next((line[6:] for line in event.split(b"\n") if line.startswith(b"data: ")), None)
        if data is None:
            continue
        if ended or failed:
            raise NotHttp(f"something follows the last event: {event[:80]!r}")
        if data == b"[DONE]":
            ended = True
            continue
        told = orjson.loads(data)
        if "error" in told:
            check_error(dialect, told)
            failed = True
        elif dialect == "openai":
            text += [one["delta"].get("content") or "" for one in told["choices"]]
        elif told["type"] == "content_block_delta":
            text.append(told["delta"]["text"])
        else:
            ended = told["type"] == "message_stop"
    return Read("".join(text), ended, failed)


def check_error(dialect: Dialect, told: Any) -> None:
    error = told["error"]
    right = isinstance(error["message"], str) and isinstance(error["type"], str)
    if dialect == "openai":
        right = right and {"param", "code"} <= set(error) and "type" not in told
    else:
        right = right and told["type"] == "error"
    if not right:
        raise NotHttp(f"an error that is not {dialect}'s: {told!r}")


def judged(call: Call, heard: bytes) -> str:
    """What is wrong with what a caller heard until its connection was over, or its answer whole;
    empty where nothing is."""
    kind = KINDS[call.kind]
    try:
        came = answer(heard)
        if kind.come in ("gone", "cut off"):
            return "its answer is whole" if came is not None and came.is_whole else ""
        if came is None:
            return f"the connection ended after {heard[:80]!r}"
        return _judged(call, kind, came)
    except (NotHttp, ValueError, KeyError, TypeError, IndexError) as error:
        return f"{type(error).__name__}: {error}; it heard {heard[-300:]!r}"


def _judged(call: Call, kind: Kind, came: Answer) -> str:
    if kind.come == "error":
        if came.status not in kind.statuses or not came.is_whole:
            return f"{came.status} instead of {kind.statuses}: {came.body[:200]!r}"
        check_error(call.said_in, orjson.loads(came.body))
        return ""
    if came.status != 200:
        return f"{came.status} instead of 200: {came.body[:200]!r}"
    told = read(call.said_in, came.body, stream=call.stream)
    right = text_of(call.number, call.kind)
    if kind.come == "whole":
        if not came.is_whole or told.text != right or told.failed or not told.ended:
            return f"not the whole answer: {came.body[-200:]!r}"
        return ""
    if not told.text or not right.startswith(told.text):
        return f"not the beginning of its answer: {told.text[:80]!r}"
    if came.is_whole or told.ended or not told.failed:
        return f"it ends as if it were whole: {came.body[-200:]!r}"
    return ""
