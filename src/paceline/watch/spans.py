"""Brings spans to an OTLP receiver: together, again where that may help, and never too many.

Telemetry may be lost, and nothing waits for it: what finds no room is dropped, what is not taken in
time too, and both are counted. One request is on its way at a time. Nothing is sent, and none of
this exists, unless the settings name a receiver. Called by the owner, made in `app.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import urlsplit

from paceline.clock import Chance, Clock
from paceline.flow.retry import full_jitter_s
from paceline.net.client import Headers
from paceline.net.dialing import Dialer
from paceline.net.pool import Lost, Pool
from paceline.net.requests import request_head
from paceline.observe import log
from paceline.terms.errors import PacelineError
from paceline.terms.limits import (
    SPANS_ANSWER_BYTES,
    SPANS_BACKOFF_FIRST_S,
    SPANS_BACKOFF_MOST_S,
    SPANS_GIVE_UP_S,
    SPANS_GROUP_S,
    SPANS_HELD,
    SPANS_LAST_S,
    SPANS_SEND_S,
    SPANS_SENT,
)
from paceline.terms.span import Span, Value
from paceline.watch import otlp
from paceline.watch.otlp import Verdict

logger = log.get(__name__)

Send = Callable[[bytes], Awaitable[Verdict]]
"""Brings a body to a receiver; raises nothing, and takes SPANS_SEND_S at most."""


class SpanPost:
    """`resource` is what all spans are of: the service, its version."""

    def __init__(
        self, send: Send, resource: Mapping[str, Value], version: str, clock: Clock, chance: Chance
    ) -> None:
        self._send = send
        self._resource = resource
        self._version = version
        self._clock = clock
        self._chance = chance
        self._held: list[Span] = []
        self._sent = self._dropped = 0
        self._woken = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._complained = False

    def start(self) -> None:
        self._running = asyncio.ensure_future(self._run())

    def take(self, spans: Sequence[Span], dropped: int = 0) -> None:
        """`dropped` more there were, for which a front had no room."""
        room = SPANS_HELD - len(self._held)
        self._held += spans[:room]
        self._dropped += dropped + len(spans[room:])
        self._woken.set()

    async def close(self) -> None:
        """What is held is sent once more, if that does not take long."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        try:
            async with asyncio.timeout(SPANS_LAST_S):
                while self._held:
                    taken = await self._send(self._body(self._held[:SPANS_SENT]))
                    if not taken.sent:
                        break
                    self._over(SPANS_SENT, taken)
        except TimeoutError:
            logger.warning("the last spans were not taken in time", spans=len(self._held))
        self._dropped += len(self._held)
        self._held.clear()

    def counts(self) -> Mapping[str, int]:
        """How many spans ended in which way."""
        return {"sent": self._sent, "dropped": self._dropped}

    async def _run(self) -> None:
        """Until it is cancelled."""
        while True:
            if not self._held:
                self._woken.clear()
                await self._woken.wait()
                await self._clock.until(self._clock.now() + SPANS_GROUP_S)
            await self._deliver(min(len(self._held), SPANS_SENT))

    async def _deliver(self, count: int) -> None:
        """The oldest of what is held, as long as that may help."""
        body = self._body(self._held[:count])
        begun_s, failures = self._clock.now(), 0
        while True:
            taken = await self._send(body)
            if taken.sent:
                break
            failures += 1
            wait_s = taken.after_s
            if wait_s is None:
                wait_s = full_jitter_s(
                    failures, self._chance.uniform, SPANS_BACKOFF_FIRST_S, SPANS_BACKOFF_MOST_S
                )
            again_s = self._clock.now() + wait_s
            if not taken.again or again_s - begun_s > SPANS_GIVE_UP_S:
                break
            self._complain(taken.why)
            await self._clock.until(again_s)
        self._over(count, taken)

    def _over(self, count: int, taken: Verdict) -> None:
        """The oldest of what is held were taken, or never will be."""
        count = len(self._held[:count])
        del self._held[:count]
        lost = min(count, taken.rejected) if taken.sent else count
        self._sent += count - lost
        self._dropped += lost
        if lost:
            self._complain(taken.why)
        else:
            self._complained = False

    def _complain(self, why: str) -> None:
        """Once, until it works again."""
        if not self._complained:
            self._complained = True
            logger.warning("an OTLP receiver does not take spans", why=why)

    def _body(self, spans: Sequence[Span]) -> bytes:
        return otlp.encoded(spans, self._resource, self._version)


class Receiver:
    """Where spans or metrics go, over HTTP: to `path`, unless its address has one. Belongs to one
    event loop."""

    def __init__(
        self,
        url: str,
        path: str,
        headers: Headers,
        now: Callable[[], float],
        *,
        ca_file: str = "",
        private: bool = False,
    ) -> None:
        split = urlsplit(url)
        tls = split.scheme == "https"
        path = path if split.path in ("", "/") else split.path
        self._path = path + (f"?{split.query}" if split.query else "")
        self._host = split.netloc.lower()
        self._headers: Headers = [
            (b"content-type", otlp.CONTENT_TYPE),
            (b"user-agent", b"paceline"),
            *headers,
        ]
        self._now = now
        port = split.port or (443 if tls else 80)
        dialer = Dialer(split.hostname or "", port, now, tls=tls, ca_file=ca_file, private=private)
        self._pool = Pool(dialer, now, most=1)

    async def send(self, body: bytes) -> Verdict:
        try:
            head = request_head("POST", self._path, self._host, self._headers, len(body))
        except PacelineError as error:
            return Verdict(sent=False, why=error.cause)
        heard = _Heard()
        self._pool.ask(head, body, heard, self._now() + SPANS_SEND_S)
        return await heard.verdict

    async def close(self) -> None:
        await self._pool.close()


class _Heard:
    """One answer. What is longer than an answer can be is not read."""

    def __init__(self) -> None:
        self.verdict: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._headers: Headers = []
        self._body = b""

    def head(self, status: int, headers: Headers) -> None:
        self._status, self._headers = status, headers

    def body(self, piece: bytes) -> None:
        self._body += piece[: SPANS_ANSWER_BYTES - len(self._body)]

    def end(self) -> None:
        self._tell(otlp.verdict(self._status, self._headers, self._body))

    def lost(self, why: Lost, detail: str) -> None:
        self._tell(Verdict(sent=False, why=detail or why, again=True))

    def _tell(self, verdict: Verdict) -> None:
        if not self.verdict.done():
            self.verdict.set_result(verdict)
