"""A provider of LLM calls that costs next to nothing: chat answers and streams, as it was told.

Run as `python -m benchmarks._upstream PORT CONTROL`. A line of JSON on the control port says how it
answers from then on, and is answered with what it saw; it says nothing of what is in a call and
thinks of no model. Started and told by `peers/gateways/relaying`.
"""

import asyncio
import json
import time
from collections import deque
from typing import cast

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from benchmarks import _told

MODEL = "gpt-4o-mini"
"""A real one's name: a gateway that looks up prices finds it."""

KEY = "sk-bench-provider-81d2c6"
"""Of this provider: callers with another one are refused."""

PATH = b"/v1/chat/completions"
MODEL_BYTES, KEY_BYTES = MODEL.encode(), KEY.encode()

CONTENT = (
    "Paceline relays this answer as it came. It is some four hundred bytes long with all that "
    "stands around it, as a short answer of a chat model is."
)
MOST_LEFT = 1000
"""Of the callers who left, the last ones."""

EXTRA_EVENTS = 3
"""Of a stream, besides its chunks: the role, the finish and [DONE]."""


class Manner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How it answers. `gap_ms` is from chunk to chunk, and the first comes one gap after the role;
    `cut_after` so many chunks it closes the connection; `status` other than 200 is an error."""

    delay_ms: float = 0.0
    gap_ms: float = 0.0
    chunks: int = 200
    cut_after: int | None = None
    status: int = 200


class Seen(msgspec.Struct, frozen=True):
    """`open` are calls without a whole answer; `left_s` are the moments, by `time.perf_counter`, at
    which a caller of such a one closed the connection."""

    calls: int
    open: int
    left_s: list[float]


# --- What is said ---------------------------------------------------------------------------------


def _response(status: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\nx-request-id: req_bench\r\n\r\n" + body


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _error(status: str, kind: str, code: str | None, param: str | None = None) -> bytes:
    error = {"message": f"As the benchmark wants it: {status}.", "type": kind}
    return _response(status, _json({"error": {**error, "param": param, "code": code}}))


USAGE = {"prompt_tokens": 24, "completion_tokens": 28, "total_tokens": 52}
ANSWER = _response(
    "200 OK",
    _json(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1760000000,
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": CONTENT},
                    "finish_reason": "stop",
                }
            ],
            "usage": USAGE,
        }
    ),
)
MODELS = _response(
    "200 OK",
    _json({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]}),
)
NOT_FOUND = _error("404 Not Found", "invalid_request_error", None)
NO_MESSAGES = _error(
    "400 Bad Request", "invalid_request_error", "missing_required_parameter", "messages"
)
NO_KEY = _error("401 Unauthorized", "invalid_request_error", "invalid_api_key")
NO_OBJECT = _error("400 Bad Request", "invalid_request_error", None)
NO_MODEL = _error("404 Not Found", "invalid_request_error", "model_not_found", "model")
ERRORS = {
    429: _error("429 Too Many Requests", "requests", "rate_limit_exceeded"),
    500: _error("500 Internal Server Error", "server_error", "internal"),
}
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req_bench\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def _piece(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _event(delta: object, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    head = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1760000000}
    return _piece(_json({**head, "model": MODEL, "choices": [choice]}))


ROLE = _event({"role": "assistant", "content": ""})
FINISH = _event({}, "stop")
USAGE_EVENT = _piece(
    _json(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion.chunk",
            "created": 1760000000,
            "model": MODEL,
            "choices": [],
            "usage": USAGE,
        }
    )
)
DONE = _piece(b"[DONE]")
END = b"0\r\n\r\n"


def chunks(count: int) -> list[bytes]:
    """No two alike: LiteLLM ends a stream with an error after a hundred equal ones."""
    return [_event({"content": f"word{number} "}) for number in range(count)]


def _refusal(body: bytes) -> bytes | None:
    """What is wrong with it: enough for what `_gateway_behaviour` sends."""
    if not (body.startswith(b"{") and body.endswith(b"}")):
        return NO_OBJECT
    if b'"messages"' not in body:
        return NO_MESSAGES
    return None if MODEL_BYTES in body else NO_MODEL


# --- The server -----------------------------------------------------------------------------------


class Server:
    def __init__(self) -> None:
        self.calls = 0
        self.open = 0
        self.left_s: deque[float] = deque(maxlen=MOST_LEFT)
        self.be(Manner())

    def be(self, manner: Manner) -> None:
        self.manner = manner
        self.delay_s = manner.delay_ms / 1e3
        self.gap_s = manner.gap_ms / 1e3
        self.chunks = chunks(manner.chunks)
        self.at_once = ANSWER if manner == Manner(chunks=manner.chunks) else None
        """What every plain call is answered with, where nothing has to be looked at."""

    def told(self, line: bytes) -> Seen:
        manner = msgspec.json.decode(line, type=Manner | None)
        if manner is not None:
            self.be(manner)
        return Seen(self.calls, self.open, list(self.left_s))


class Answering(asyncio.Protocol):
    """One connection, one call after the other."""

    __slots__ = (
        "at",
        "body",
        "due_s",
        "keyed",
        "loop",
        "parser",
        "server",
        "timer",
        "transport",
        "url",
    )

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self.timer: asyncio.TimerHandle | None = None
        self.url = self.body = b""
        self.keyed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        if KEY_BYTES in data:  # a callback for each header would cost a tenth of all
            self.keyed = True
        try:
            self.parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.server.open -= 1
            self.server.left_s.append(time.perf_counter())

    def on_url(self, url: bytes) -> None:
        self.url = url
        self.body = b""

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        """Hot: what nearly every call is comes first, and a glance has to do."""
        server, body = self.server, self.body
        server.calls += 1
        if (
            self.keyed
            and server.at_once is not None
            and self.url == PATH
            and body[:1] == b"{"
            and body[-1:] == b"}"
            and MODEL_BYTES in body
            and b'"messages"' in body
            and b'"stream"' not in body
        ):
            self.transport.write(server.at_once)
        else:
            self._less_common(self.keyed)
        self.keyed = False

    def _less_common(self, keyed: bool) -> None:
        server, body = self.server, self.body
        streamed = b'"stream":true' in body or b'"stream": true' in body
        if not self.url.endswith(b"/chat/completions"):
            server.calls -= 1
            self.transport.write(MODELS if self.url.endswith(b"/models") else NOT_FOUND)
        elif (refusal := _refusal(body) if keyed else NO_KEY) is not None:
            self.transport.write(refusal)
        elif server.at_once is not None and not streamed:
            self.transport.write(server.at_once)
        elif server.manner.status != 200:
            self.transport.write(ERRORS[server.manner.status])
        else:
            server.open += 1
            then = self._begin_stream if streamed else self._answer
            self.timer = self.loop.call_later(server.delay_s, then)

    def _answer(self) -> None:
        self._over()
        self.transport.write(ANSWER)

    def _begin_stream(self) -> None:
        self.at = 0
        self.due_s = self.loop.time()
        self.transport.write(STREAM_HEAD + ROLE)
        if self.server.gap_s:
            self._later()
        else:
            while self.timer is not None:
                self._chunk()

    def _later(self) -> None:
        self.due_s += self.server.gap_s  # from when it was due: no stream falls behind its pace
        self.timer = self.loop.call_at(self.due_s, self._paced)

    def _paced(self) -> None:
        self._chunk()
        if self.timer is not None:
            self._later()

    def _chunk(self) -> None:
        server = self.server
        if self.at == server.manner.cut_after:
            self._over()
            self.transport.close()
            return
        self.transport.write(server.chunks[self.at])
        self.at += 1
        if self.at == len(server.chunks):
            self._over()
            usage = USAGE_EVENT if b'"include_usage"' in self.body else b""
            self.transport.write(FINISH + usage + DONE + END)

    def _over(self) -> None:
        self.timer = None
        self.server.open -= 1


def main() -> None:
    server = Server()
    _told.main(lambda loop: Answering(server, loop), server.told)


if __name__ == "__main__":
    main()
