"""Two strict upstreams over real HTTP on loopback: one that behaves like api.openai.com, one like
api.anthropic.com. Public: for whoever tests a gateway, a client or a translation between them.

    with OpenAIUpstream() as upstream:
        client = openai.OpenAI(api_key=upstream.key, base_url=upstream.address)
        upstream.next(says("Hello"), fails(429), says("Hello there").cut(after=2))
        ...
        assert upstream.asked[0].body == b"..."

**Requests** are checked strictly: headers, then the body against the types that the vendor
publishes in its SDK, with every unknown key forbidden (`llm_types.py`), then by the rules of its
API reference that types cannot say (`llm_rules.py`). What is wrong is answered as the vendor
answers it, kept in `upstream.wrong`, and fails the test when the upstream is left; a test that
means it clears the list. Nothing in here uses the product's own code for these dialects.

**Answers** are fixtures (`llm_openai.py`, `llm_anthropic.py`) shaped like recorded ones and checked
against the models of the SDK as they are made; `next` says which, in turn, and how they are sent:
whole, slow, split anywhere, cut, stalled, broken off by an error event, held until the test lets go
(`llm_script.py`). Without one, the upstream says hello.

**What it saw** is in `upstream.asked`: bodies byte for byte, headers, connections, and how each
exchange ended; `upstream.wait` waits for such things without polling. `close_idle` and
`half_close_idle` do to idle connections what servers do.

An upstream runs on an event loop of its own, in a thread of the test's process. It needs the
packages `openai`, `anthropic` and `pydantic`; those are imported by the first that is entered.
"""

import asyncio
import gzip
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar, cast

import httptools
import orjson

from paceline.clock import RealClock
from paceline.testing import llm_anthropic, llm_openai
from paceline.testing.llm_rules import broken_rules
from paceline.testing.llm_script import (
    GARBAGE,
    HALF_CLOSES,
    HANGS_UP,
    RESETS,
    SILENCE,
    Failure,
    Headers,
    Nothing,
    Raw,
    Reply,
    Saying,
    Script,
    Usage,
    calls,
    fails,
    raw,
    refuses,
    says,
)
from paceline.testing.llm_types import Vendor, prepare, request_faults

__all__ = [
    "GARBAGE",
    "HALF_CLOSES",
    "HANGS_UP",
    "RESETS",
    "SILENCE",
    "AnthropicUpstream",
    "Asked",
    "OpenAIUpstream",
    "Script",
    "Usage",
    "calls",
    "fails",
    "raw",
    "refuses",
    "says",
]

T = TypeVar("T")

WAIT_S = 10.0
"""how long `wait` waits, unless told otherwise"""

GZIP_FROM_BYTES = 512
"""such a whole answer is compressed for whoever says it may be: the vendors' edges do"""

ONCE = (b"host", b"authorization", b"x-api-key", b"content-type", b"content-length")

COOKIES = (None, b"__cf_bm=upstream", b"_cfuvid=upstream")
"""The vendors' edges set one; over TLS their clients send it back."""

Ended = Literal["", "answered", "left", "closed"]


class Asked:
    """One request, as it came, and what became of it. `ended`: it was answered to its end, its
    caller left before that, or the upstream closed, as it was told to."""

    def __init__(self, connection: int, method: str, target: str, headers: Headers) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.headers = headers
        self.body = b""
        self.wrong: list[str] = []
        self.at_s = 0.0
        self.sent = 0
        """parts of its answer that were handed to the kernel, or wait for it"""
        self.ended: Ended = ""
        self.ended_s = 0.0

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    def __repr__(self) -> str:
        return f"<{self.method} {self.target}, {len(self.body)} bytes, {self.ended or 'open'}>"


class _Place(NamedTuple):
    endpoint: str
    method: str


class Upstream:
    """What both have. `address` is what the vendor's SDK takes as `base_url`."""

    vendor: ClassVar[Vendor]
    key: ClassVar[str]
    places: ClassVar[dict[str, _Place]]

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.asked: list[Asked] = []
        self.wrong: list[str] = []
        self.connections = 0
        """opened so far"""
        self.open = 0
        """now"""
        self.clock = RealClock()
        self._tls = tls
        self._scripts: deque[Script] = deque()
        self._otherwise = Script()
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._protocols: set[_Connection] = set()
        self._nobody = asyncio.Event()

    # --- What a test uses

    def next(self, *scripts: Script) -> None:
        """What to do with the next requests, in turn."""
        with self._news:
            self._scripts.extend(scripts)

    def always(self, script: Script) -> None:
        """What to do when nothing else is to be done."""
        with self._news:
            self._otherwise = script

    def wait(self, happened: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Until it has: `upstream.wait(lambda: upstream.asked[0].ended == "left")`."""
        with self._news:
            if not self._news.wait_for(happened, timeout_s):
                told = f"it did not happen within {timeout_s} s; asked: {self.asked}"
                raise AssertionError(f"{told}; {self.open} connections are open")

    def release(self) -> None:
        """Answers that are held go on."""
        self._on_loop(_each(self._protocols, _Connection.go_on))

    def reset(self) -> None:
        """The connections of answers that are held are reset: whoever heard what came before has
        it, where a reset right behind it may take it along."""
        self._on_loop(_each(self._protocols, _Connection.reset_held))

    def close_idle(self) -> None:
        """Closes the connections that nothing is asked on, as servers do after a while."""
        self._on_loop(_each(self._protocols, _Connection.close_if_idle))

    def half_close_idle(self) -> None:
        """Closes only its own direction of them."""
        self._on_loop(_each(self._protocols, _Connection.half_close_if_idle))

    @property
    def scripts_left(self) -> int:
        return len(self._scripts)

    # --- Where it is

    def __enter__(self) -> Self:
        prepare(self.vendor)
        self._thread.start()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        scheme = "http" if self._tls is None else "https"
        self.origin = f"{scheme}://127.0.0.1:{self.port}"
        self._on_loop(self._listen(listener))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._on_loop(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if error is None:
            assert not self.wrong, "requests were wrong:\n" + "\n".join(self.wrong)

    @property
    def address(self) -> str:
        raise NotImplementedError

    # --- What a vendor adds

    def check_headers(self, asked: Asked) -> Failure | None:
        """Who calls, and in which version: what is answered before the body is read."""
        raise NotImplementedError

    def reply(self, endpoint: str, fields: dict[str, Any], saying: Saying) -> Reply:
        raise NotImplementedError

    def failed(self, failure: Failure) -> Reply:
        raise NotImplementedError

    def models(self) -> Reply:
        raise NotImplementedError

    def request_id(self, number: int) -> tuple[bytes, bytes]:
        raise NotImplementedError

    # --- What happens on its loop

    async def _listen(self, listener: socket.socket) -> None:
        self._listener = listener
        self._server = await self._loop.create_server(
            lambda: _Connection(self), sock=listener, ssl=self._tls
        )

    async def _close(self) -> None:
        # Closed while it takes somebody up, asyncio's server forgets to close that socket.
        self._loop.remove_reader(self._listener.fileno())
        for _ in range(10):
            await asyncio.sleep(0)
        self._server.close()
        self._nobody.clear()
        for each in list(self._protocols):
            each.transport.abort()
        if self._protocols:
            await self._nobody.wait()

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(WAIT_S)

    def came(self, connection: "_Connection") -> int:
        with self._news:
            self._protocols.add(connection)
            self.connections += 1
            self.open += 1
            self._news.notify_all()
            return self.connections

    def went(self, connection: "_Connection") -> None:
        with self._news:
            self._protocols.discard(connection)
            if not self._protocols:
                self._nobody.set()
            self.open -= 1
            self._news.notify_all()

    def ended(self, asked: Asked, how: Ended) -> None:
        with self._news:
            if not asked.ended:
                asked.ended, asked.ended_s = how, self.clock.now()
            self._news.notify_all()

    def told(self) -> None:
        with self._news:
            self._news.notify_all()

    def take(self, asked: Asked) -> tuple[Script, Reply | Nothing]:
        """What is to be done with it; called once for each request, when its body is there."""
        asked.at_s = self.clock.now()
        asked.wrong.extend(_header_faults(asked))
        reply = self._judge(asked)
        with self._news:
            self.asked.append(asked)
            self.wrong.extend(f"{asked.method} {asked.target}: {each}" for each in asked.wrong)
            script = self._otherwise
            if asked.wrong:
                script = Script()
            elif self._scripts:
                script = self._scripts.popleft()
            self._news.notify_all()
        return script, self._answer(script, reply)

    def _judge(self, asked: Asked) -> Reply | Callable[[Saying], Reply]:
        """The refusal of what is wrong, or what can be said to it."""
        refusal = self.check_headers(asked)
        if refusal is not None:
            asked.wrong.append(refusal.message)
            return self.failed(refusal)
        path = asked.target.partition("?")[0]
        place = self.places.get(path)
        if place is None:
            return _nowhere(path)
        if place.method != asked.method:
            asked.wrong.append(f"{path} takes {place.method}")
            return self.failed(Failure(405, f"Use {place.method}."))
        if place.endpoint == "models":
            return lambda saying: self.models()
        if asked.header(b"content-type") != b"application/json":
            asked.wrong.append(f"the content type is {asked.header(b'content-type')!r}")
        asked.wrong.extend(request_faults(self.vendor, place.endpoint, asked.body))
        if not asked.wrong:
            asked.wrong.extend(broken_rules(self.vendor, place.endpoint, asked.json))
        if asked.wrong:
            first = asked.wrong[0]
            return self.failed(Failure(400, first, param=first.partition(":")[0][:64]))
        return lambda saying: self.reply(place.endpoint, asked.json, saying)

    def _answer(self, script: Script, judged: Reply | Callable[[Saying], Reply]) -> Reply | Nothing:
        what = script.what
        if isinstance(judged, Reply):
            return judged
        if isinstance(what, Saying):
            return judged(what)
        if isinstance(what, Failure):
            return self.failed(what)
        if isinstance(what, Raw):
            return Reply(what.status, list(what.headers), what.parts)
        return what


async def _each(connections: "set[_Connection]", do: Callable[["_Connection"], None]) -> None:
    for connection in list(connections):
        do(connection)


def _nowhere(path: str) -> Callable[[Saying], Reply]:
    def reply(saying: Saying) -> Reply:
        raise LookupError(f"{path} has no fixture: give its answer with raw(...)")

    return reply


def _header_faults(asked: Asked) -> list[str]:
    """What no client of either vendor sends."""
    names = [name for name, _ in asked.headers]
    faults = [f"{name.decode()} is there {names.count(name)} times" for name in ONCE
              if names.count(name) > 1]  # fmt: skip
    if b"host" not in names:
        faults.append("no host")
    faults += [
        f"{name.decode()} is for a proxy, or for us"
        for name in names
        if name.startswith((b"proxy-", b"x-paceline-", b"x-forwarded-"))
    ]
    if asked.header(b"cookie") not in COOKIES:
        faults.append("a cookie that was never set here")
    return faults


class OpenAIUpstream(Upstream):
    """Source of what is right: the types of `openai`, and OpenAI's API reference."""

    vendor = "openai"
    key = "sk-upstream-openai"
    places: ClassVar = {
        "/v1/chat/completions": _Place("chat", "POST"),
        "/v1/completions": _Place("completions", "POST"),
        "/v1/embeddings": _Place("embeddings", "POST"),
        "/v1/moderations": _Place("moderations", "POST"),
        "/v1/responses": _Place("responses", "POST"),
        "/v1/models": _Place("models", "GET"),
    }

    @property
    def address(self) -> str:
        return f"{self.origin}/v1"

    def check_headers(self, asked: Asked) -> Failure | None:
        if asked.header(b"authorization") != f"Bearer {self.key}".encode():
            return Failure(401, "Incorrect API key provided.", code="invalid_api_key")
        for name in (b"x-api-key", b"anthropic-version"):
            if asked.header(name) is not None:
                return Failure(400, f"{name.decode()} is for another vendor.")
        return None

    def reply(self, endpoint: str, fields: dict[str, Any], saying: Saying) -> Reply:
        return llm_openai.reply(endpoint, fields, saying)

    def failed(self, failure: Failure) -> Reply:
        return llm_openai.failed(failure)

    def models(self) -> Reply:
        return llm_openai.models()

    def request_id(self, number: int) -> tuple[bytes, bytes]:
        return b"x-request-id", b"req_%032x" % number


class AnthropicUpstream(Upstream):
    """Source of what is right: the types of `anthropic`, and Anthropic's API reference."""

    vendor = "anthropic"
    key = "sk-ant-upstream"
    places: ClassVar = {
        "/v1/messages": _Place("messages", "POST"),
        "/v1/messages/count_tokens": _Place("count_tokens", "POST"),
        "/v1/models": _Place("models", "GET"),
    }

    @property
    def address(self) -> str:
        return self.origin

    def check_headers(self, asked: Asked) -> Failure | None:
        key, bearer = asked.header(b"x-api-key"), asked.header(b"authorization")
        if key is not None and bearer is not None:
            return Failure(401, "Two keys: x-api-key and authorization.")
        if key != self.key.encode() and bearer != f"Bearer {self.key}".encode():
            return Failure(401, "invalid x-api-key")
        if asked.header(b"anthropic-version") != b"2023-06-01":
            return Failure(400, "anthropic-version: header is required")
        return None

    def reply(self, endpoint: str, fields: dict[str, Any], saying: Saying) -> Reply:
        return llm_anthropic.reply(endpoint, fields, saying)

    def failed(self, failure: Failure) -> Reply:
        return llm_anthropic.failed(failure)

    def models(self) -> Reply:
        return llm_anthropic.models()

    def request_id(self, number: int) -> tuple[bytes, bytes]:
        return b"request-id", b"req_%024x" % number


# --- A connection ---------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """One exchange after the other. A request before the answer to the one before is wrong."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._answering: _Answering | None = None
        self._asked: Asked | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.number = self._upstream.came(self)

    def data_received(self, data: bytes) -> None:
        if self._answering is not None:
            self._too_early()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._upstream.wrong.append(f"no HTTP: {error}")
            self.transport.abort()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._answering is not None:
            self._answering.end("left")
        self._upstream.went(self)

    def pause_writing(self) -> None:
        if self._answering is not None:
            self._answering.full = True

    def resume_writing(self) -> None:
        if self._answering is not None:
            self._answering.full = False
            self._answering.turn()

    # --- What the parser tells

    def on_message_begin(self) -> None:
        if self._answering is not None:
            self._too_early()
        self._target = b""
        self._headers: Headers = []
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_body(self, piece: bytes) -> None:
        self._body.append(piece)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        asked = Asked(self.number, method, self._target.decode(), self._headers)
        asked.body = b"".join(self._body)
        script, reply = self._upstream.take(asked)
        keep = self._parser.should_keep_alive()
        self._answering = _Answering(self._upstream, self, asked, script, keep)
        self._answering.begin(reply)

    # --- What a test tells

    def go_on(self) -> None:
        if self._answering is not None:
            self._answering.release()

    def reset_held(self) -> None:
        if self._answering is not None:
            self._answering.reset()

    def close_if_idle(self) -> None:
        if self._answering is None:
            self.transport.close()

    def half_close_if_idle(self) -> None:
        if self._answering is None:
            self.half_close()

    def half_close(self) -> None:
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self._upstream.wrong.append("a connection over TLS cannot be half closed")

    def _too_early(self) -> None:
        self._upstream.wrong.append("a request came early: the one before has no answer yet")
        self.transport.abort()

    def done(self, keep: bool) -> None:
        self._answering = None
        if not keep:
            self.transport.close()


class _Answering:
    """One answer on its way, part by part."""

    def __init__(
        self, upstream: Upstream, connection: _Connection, asked: Asked, script: Script, keep: bool
    ) -> None:
        self._upstream = upstream
        self._connection = connection
        self._transport = connection.transport
        self._asked = asked
        self._script = script
        self._keep = keep and not script.close
        self._says_close = not keep
        self._timer: asyncio.TimerHandle | None = None
        self._held = True
        self._parts: list[bytes] = []
        self._broken: bytes | None = None
        self._chunked = True
        self.full = False

    def begin(self, reply: Reply | Nothing) -> None:
        if not isinstance(reply, Reply):
            self._nothing(reply)
            return
        parts, headers = list(reply.parts), list(reply.headers)
        headers.extend(self._script.extra)
        if not isinstance(self._script.what, Raw):
            headers.append(self._upstream.request_id(len(self._upstream.asked)))
            if not reply.streamed:
                parts = self._framed(parts, headers)
        if self._script.split_bytes is not None:
            whole, size = b"".join(parts), self._script.split_bytes
            parts = [whole[at : at + size] for at in range(0, len(whole), size)]
        elif self._script.stop_after is not None and not reply.streamed and len(parts) == 1:
            half = len(parts[0]) // 2
            parts = [parts[0][:half], parts[0][half:]]
        names = {name for name, _ in headers}
        if not names & {b"content-length", b"transfer-encoding"}:
            headers.append((b"transfer-encoding", b"chunked"))
        self._chunked = b"content-length" not in names
        if self._says_close:
            headers.append((b"connection", b"close"))
        self._parts, self._broken = parts, reply.broken
        after = self._script.stop_after
        if after is not None and after > len(parts):
            told = f"a script stops its answer after {after} of {len(parts)} parts"
            self._upstream.wrong.append(told)
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        self._transport.write(b"HTTP/1.1 %d %s\r\n%s\r\n" % (reply.status, b"Upstream", lines))
        self.turn()

    def _framed(self, parts: list[bytes], headers: Headers) -> list[bytes]:
        """A whole answer: compressed where the caller takes that, and its length said."""
        body = b"".join(parts)
        if len(body) >= GZIP_FROM_BYTES and b"gzip" in (
            self._asked.header(b"accept-encoding") or b""
        ):
            body = gzip.compress(body, 1, mtime=0)
            headers.append((b"content-encoding", b"gzip"))
        headers.append((b"content-length", b"%d" % len(body)))
        return [body]

    def _nothing(self, what: Nothing) -> None:
        if what == "close":
            self._stop(self._transport.close)
        elif what == "reset":
            self._stop(self._reset)
        elif what == "half close":
            self._connection.half_close()
        elif what == "garbage":
            self._transport.write(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            self._stop(self._transport.close)

    def turn(self) -> None:
        """Sends what may be sent now."""
        script = self._script
        while self._timer is None and not self.full and not self._asked.ended:
            at = self._asked.sent
            if at == script.stop_after and self._held:
                self._interrupt()
                return
            if at == len(self._parts):
                self._finish()
                return
            self._write(self._parts[at])
            self._asked.sent += 1
            if script.gap_s and self._asked.sent < len(self._parts):
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(script.gap_s, self._ring)
        self._upstream.told()

    def _ring(self) -> None:
        self._timer = None
        self.turn()

    def release(self) -> None:
        if self._script.stop_with == "hold":
            self._held = False
            self.turn()

    def reset(self) -> None:
        if self._script.stop_with == "hold" and self._held:
            self._stop(self._reset)

    def _interrupt(self) -> None:
        how = self._script.stop_with
        if how == "cut":
            self._stop(self._transport.close)
        elif how == "reset":
            self._stop(self._reset)
        elif how == "error" and self._broken is not None:
            self._write(self._broken)
            self._finish()
        elif how == "end":
            self._finish()
        else:
            self._upstream.told()

    def _write(self, part: bytes) -> None:
        if not self._chunked:
            self._transport.write(part)
        elif part:
            self._transport.write(b"%x\r\n%s\r\n" % (len(part), part))

    def _finish(self) -> None:
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        self.end("answered")
        self._connection.done(self._keep)

    def _stop(self, close: Callable[[], None]) -> None:
        self.end("closed")
        close()

    def _reset(self) -> None:
        """Lingering for no time sends RST."""
        connection: socket.socket = self._transport.get_extra_info("socket")
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()

    def end(self, how: Ended) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._upstream.ended(self._asked, how)
