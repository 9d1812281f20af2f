"""Load on a server: each request sent when it is due, whatever became of those before it.

An open loop, so latency counts from the moment at which a request was due. What finds every
connection busy waits, and that is part of its latency; so is what this process is late itself,
which is kept as `lag`. It records moments and ends, and judges nothing: that is `load_summary.py`.
Called by `paceline load` and `./bench load`.
"""

import asyncio
import gc
import re
import ssl
from array import array
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.clock import Clock
from paceline.evidence.arrivals import Arrivals
from paceline.evidence.targets import Answer, Shots, Target
from paceline.net.client import ClientConnection, Headers, Lost, Origin, connect
from paceline.net.pacing import Alarm
from paceline.terms.errors import LimitReached, PacelineError, Unreachable
from paceline.terms.limits import LOAD_ANSWER_BYTES, LOAD_GIVE_UP_S

PENDING, NO_CONNECTION, CLOSED, CUT, GARBLED, TIMED_OUT, STREAM_FAILED, STREAM_CUT = range(8)
"""How a request ended that has no HTTP status; those are 100 and above."""

ENDS: Mapping[int, str] = {
    PENDING: "unfinished",
    NO_CONNECTION: "no connection",
    CLOSED: "closed before an answer",
    CUT: "closed within the answer",
    GARBLED: "answer is not HTTP/1.1",
    TIMED_OUT: "timed out here",
    STREAM_FAILED: "error within the stream",
    STREAM_CUT: "stream without an end",
}
OF_LOST: Mapping[Lost, int] = {
    "closed": CLOSED,
    "cut": CUT,
    "garbled": GARBLED,
    "aborted": TIMED_OUT,
}

TOLD_EVERY_S = 0.5
"""Between two signs of life."""

SCHEDULED = Path("/proc/thread-self/schedstat")

_EVENT_END = re.compile(rb"\r?\n\r?\n")
_SAYS = re.compile(rb'"(?:content|reasoning_content|text)":\s*"(?!")')
_FAILS = re.compile(rb'^data:\s*\{\s*"error"')
_DONE = re.compile(rb"^data:\s*\[DONE\]")
STREAM_BYTES = 1 << 20
"""Of one event of a stream that are kept; a longer one counts as garbled."""


class Load(msgspec.Struct, frozen=True):
    """What is to be done. `timeout_s` counts from when a request is due."""

    arrivals: Arrivals
    shots: Shots
    connections: int
    timeout_s: float
    stream: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """By request that was due, in that order. Moments are seconds from the begin of the warm-up;
    `sent_s` is NaN where it never went out. `first_s` and `pieces` are empty without a stream.
    `busy` is the share of the time in which this process ran or was kept from it by others; None
    where the kernel does not tell."""

    due_s: NDArray[np.float64]
    lag_s: NDArray[np.float64]
    sent_s: NDArray[np.float64]
    done_s: NDArray[np.float64]
    first_s: NDArray[np.float64]
    pieces: NDArray[np.int32]
    ends: NDArray[np.int16]
    opened: int
    lasted_s: float
    busy: float | None
    interrupted: bool
    gave_up: str | None
    """Why it ended early by itself."""
    connect_trouble: str | None
    """Of the last connection that could not be had."""


class Glance(msgspec.Struct, frozen=True):
    """How it goes, for whoever looks on: of the time since the last one."""

    at_s: float
    total_s: float
    warming: bool
    due: int
    ended: int
    waiting: int
    rate: float
    failed: int
    p50_s: float | None
    p99_s: float | None


Tell = Callable[[Glance], None]


class _Slot:
    """One connection and the request on it. Hot: nothing here is done that can be done later."""

    __slots__ = ("connection", "index", "run", "status")

    def __init__(self, run: "Running", connection: ClientConnection) -> None:
        self.run = run
        self.connection = connection
        self.index = -1
        self.status = 0

    def send(self, index: int) -> None:
        self.index = index
        run = self.run
        self.connection.ask(run.requests[run.which[index]], self)

    def head(self, status: int, headers: Headers) -> None:
        self.status = status

    def body(self, piece: bytes) -> None:
        pass

    def end(self) -> None:
        run = self.run
        run.done[self.index] = run.now()
        run.ended(self, self.status)

    def lost(self, why: Lost) -> None:
        run = self.run
        run.done[self.index] = run.now()
        run.ended(self, OF_LOST[why])


class _StreamSlot(_Slot):
    """Looks into the events of a stream: when the first says something, how many do, how it ends.
    Of what is no stream of OpenAI's kind the first piece counts."""

    __slots__ = ("events", "failure", "finished", "kept")

    def head(self, status: int, headers: Headers) -> None:
        self.status = status
        self.failure = 0
        self.finished = False
        self.kept = b""
        self.events = any(
            name == b"content-type" and b"event-stream" in value for name, value in headers
        )

    def body(self, piece: bytes) -> None:
        run, index = self.run, self.index
        if not self.events:
            if run.first[index] != run.first[index]:  # NaN
                run.first[index] = run.now()
            return
        *whole, self.kept = _EVENT_END.split(self.kept + piece)
        if len(self.kept) > STREAM_BYTES:
            self.failure, self.kept = GARBLED, b""
        for event in whole:
            if _SAYS.search(event):
                if not run.pieces[index]:
                    run.first[index] = run.now()
                run.pieces[index] += 1
            elif _DONE.search(event):
                self.finished = True
            elif _FAILS.search(event):
                self.failure = STREAM_FAILED

    def end(self) -> None:
        run = self.run
        run.done[self.index] = run.now()
        if self.events and self.status == 200:
            self.status = self.failure or (200 if self.finished else STREAM_CUT)
        run.ended(self, self.status)


class Running:
    """A load test while it runs. Requests go out in the order in which they are due, so those that
    wait are a stretch of numbers: from `_next_send` to `_next_due`."""

    def __init__(self, what: Load, origin: Origin, clock: Clock, tell: Tell | None) -> None:
        count = len(what.arrivals.due_s)
        self.clock = clock
        self.requests = what.shots.requests
        self.which: list[int] = what.shots.which.tolist()
        self.done = array("d", bytes(8 * count))
        self.first = array("d", [float("nan")]) * (count if what.stream else 0)
        self.pieces = array("i", bytes(4 * count if what.stream else 0))
        self._what = what
        self._origin = origin
        self._tell = tell
        self._count = count
        self._due = array("d", what.arrivals.due_s.tobytes())
        self._lag = array("d", bytes(8 * count))
        self._sent = array("d", [float("nan")]) * count
        self._ends = array("h", bytes(2 * count))
        self._next_due = self._next_send = 0
        self._ended = 0
        self._free: list[_Slot] = []
        self._slots: dict[ClientConnection, _Slot] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._opened = 0
        self._trouble: str | None = None
        self._gave_up: str | None = None
        self._interrupted = False
        self._begun_s = self._last_answer_s = 0.0
        self._busy_from: tuple[float, float] | None = None
        self._glanced = (0.0, 0, 0)
        self._failed = 0

    def now(self) -> float:
        """From the begin."""
        return self.clock.now() - self._begun_s

    def interrupt(self) -> None:
        """Ends it now; what was counted stays."""
        self._interrupted = True
        self._over.set()

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._over = asyncio.Event()
        # The garbage collector need not walk over what was made before; it takes milliseconds.
        gc.collect()
        gc.freeze()
        self._alarm = Alarm(loop, self._on_time)
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        try:
            self._begun_s = self.clock.now()
            self._alarm.set(self._begun_s + self._due[0])
            self._expire()
            if self._tell is not None:
                self._glance()
            await self._over.wait()
            lasted_s = self.now()
        finally:
            gc.unfreeze()
            self._alarm.close()
            for timer in self._timers.values():
                timer.cancel()
            for task in self._connecting:
                task.cancel()
            await asyncio.gather(*self._connecting, return_exceptions=True)
            closing = [*self._slots]
        busy = self._busy(lasted_s)
        outcome = self._outcome(lasted_s, busy)
        for connection in closing:
            connection.abort()
        return outcome

    # --- When something is due

    def _on_time(self) -> None:
        """Sends what is due, each on a free connection, or else lets it wait."""
        due, lag, free, count = self._due, self._lag, self._free, self._count
        index = self._next_due
        if self._busy_from is None and index >= self._what.arrivals.counted_from:
            self._busy_from = (self.now(), _scheduled_s())
        now = self.now()
        while index < count and due[index] <= now:
            lag[index] = now - due[index]
            index += 1
            self._next_due = index
            while free and self._next_send == index - 1:
                slot = free.pop()
                if slot.connection.free:  # or the server has just closed it
                    self._sent[index - 1] = now
                    self._next_send = index
                    slot.send(index - 1)
            now = self.now()
        if self._next_send < index:
            self._open_more()
        if index < count:
            self._alarm.set(self._begun_s + due[index])

    def ended(self, slot: _Slot, end: int) -> None:
        """The request on this slot has an end; the next one that waits takes the connection."""
        now = self.done[slot.index]
        self._ends[slot.index] = end
        self._ended += 1
        if end >= 100:
            self._last_answer_s = now
        else:
            self._failed += 1
        if slot.connection.free:
            index = self._next_send
            if index < self._next_due:
                self._next_send = index + 1
                self._sent[index] = now
                slot.send(index)
            else:
                self._free.append(slot)
        if self._ended == self._count:
            self._over.set()

    # --- Connections

    def _open_more(self) -> None:
        """One for each that waits, up to the bound."""
        room = self._what.connections - len(self._slots) - len(self._connecting)
        wanted = self._next_due - self._next_send - len(self._connecting)
        for _ in range(min(room, wanted)):
            self._connecting.add(self._loop.create_task(self._open()))

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(self._what.timeout_s):
                connection = await connect(self._origin, self._closed)
        except OSError as why:  # a TimeoutError is one
            self._not_connected(why)
            return
        finally:  # at once: who is due in the meantime must not count on this one
            self._connecting.discard(asyncio.current_task())
        slot = (_StreamSlot if self._what.stream else _Slot)(self, connection)
        self._slots[connection] = slot
        self._opened += 1
        if self._next_send < self._next_due:
            index = self._next_send
            self._next_send = index + 1
            self._sent[index] = self.now()
            slot.send(index)
        else:
            self._free.append(slot)

    def _not_connected(self, why: OSError) -> None:
        """Takes the oldest that waits with it, so that each failed try has its failed request."""
        now = self.now()
        self._trouble = trouble(why)
        if self._next_send < self._next_due:
            self._end_unsent(now, NO_CONNECTION)
        if not self._slots and now - self._last_answer_s > LOAD_GIVE_UP_S:
            self._gave_up = (
                f"no answer came for {LOAD_GIVE_UP_S:g} s, and no connection: {self._trouble}"
            )
            self._over.set()

    def _end_unsent(self, now: float, end: int) -> None:
        index = self._next_send
        self._next_send = index + 1
        self.done[index] = now
        self._ends[index] = end
        self._ended += 1
        self._failed += 1
        if self._ended == self._count:
            self._over.set()

    def _closed(self, connection: ClientConnection) -> None:
        slot = self._slots.pop(connection, None)
        if slot is not None:
            with suppress(ValueError):
                self._free.remove(slot)
        if self._next_send < self._next_due and not self._over.is_set():
            self._open_more()

    # --- Time-outs, and signs of life

    def _expire(self) -> None:
        """Ends what has waited too long, sent or not; then sleeps until the next one would have."""
        timeout_s, now = self._what.timeout_s, self.now()
        oldest_s = now
        for slot in [*self._slots.values()]:
            if not slot.connection.free:
                since_s = self._due[slot.index]
                if since_s + timeout_s <= now:
                    slot.connection.abort()
                else:
                    oldest_s = min(oldest_s, since_s)
        while self._next_send < self._next_due:
            since_s = self._due[self._next_send]
            if since_s + timeout_s > now:
                oldest_s = min(oldest_s, since_s)
                break
            self._end_unsent(now, TIMED_OUT)
        self._later(max(0.001, oldest_s + timeout_s - now), self._expire)

    def _glance(self) -> None:
        assert self._tell is not None
        now = self.now()
        at_s, due, ended = self._glanced
        new = slice(due, self._next_due)
        ends = np.frombuffer(self._ends, np.int16)[new]
        took_s = np.frombuffer(self.done)[new] - np.frombuffer(self._due)[new]
        took_s = took_s[(ends >= 200) & (ends < 300)]
        p50_s, p99_s = np.quantile(took_s, (0.5, 0.99)).tolist() if len(took_s) else (None, None)
        arrivals = self._what.arrivals
        self._tell(
            Glance(
                at_s=now,
                total_s=arrivals.warmup_s + arrivals.span_s,
                warming=now < arrivals.warmup_s,
                due=self._next_due,
                ended=self._ended,
                waiting=self._next_due - self._next_send,
                rate=(self._ended - ended) / (now - at_s) if now > at_s else 0.0,
                failed=self._failed,
                p50_s=p50_s,
                p99_s=p99_s,
            )
        )
        self._glanced = (now, self._next_due, self._ended)
        self._later(TOLD_EVERY_S, self._glance)

    def _later(self, delay_s: float, what: Callable[[], None]) -> None:
        """Each by itself again and again, and none after the end."""
        self._timers[what] = self._loop.call_later(delay_s, what)

    # --- At the end

    def _busy(self, now: float) -> float | None:
        if self._busy_from is None or not self._busy_from[1]:
            return None
        from_s, ran_s = self._busy_from
        return min(1.0, (_scheduled_s() - ran_s) / (now - from_s)) if now > from_s else None

    def _outcome(self, lasted_s: float, busy: float | None) -> Outcome:
        due = self._next_due

        def of(column: "array[float] | array[int]", kind: type[np.generic]) -> NDArray[Any]:
            return np.frombuffer(column, kind)[:due].copy()

        return Outcome(
            due_s=of(self._due, np.float64),
            lag_s=of(self._lag, np.float64),
            sent_s=of(self._sent, np.float64),
            done_s=of(self.done, np.float64),
            first_s=of(self.first, np.float64),
            pieces=of(self.pieces, np.int32),
            ends=of(self._ends, np.int16),
            opened=self._opened,
            lasted_s=lasted_s,
            busy=busy,
            interrupted=self._interrupted,
            gave_up=self._gave_up,
            connect_trouble=self._trouble,
        )


def _scheduled_s() -> float:
    """How long this thread has run, or has waited for a core; 0 where the kernel does not tell."""
    try:
        ran, waited, _ = SCHEDULED.read_text().split()
    except OSError:
        return 0.0
    return (int(ran) + int(waited)) / 1e9


# --- One by one, before the test ------------------------------------------------------------------


class _Single:
    """Receives one whole answer, of bounded length."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._head: tuple[int, Headers] = (0, [])
        self._body = bytearray()

    def head(self, status: int, headers: Headers) -> None:
        self._head = (status, headers)

    def body(self, piece: bytes) -> None:
        self._body += piece[: LOAD_ANSWER_BYTES + 1 - len(self._body)]

    def end(self) -> None:
        if not self.answer.done():
            self.answer.set_result(Answer(*self._head, bytes(self._body)))

    def lost(self, why: Lost) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionResetError(ENDS[OF_LOST[why]]))


async def prepare(target: Target, timeout_s: float) -> tuple[Origin, list[str]]:
    """Tries the target: what it needs to know is asked, and one request of each model is sent.
    Returns where connections go (names are looked up once) and what should be told."""
    origin = target.address.origin

    async def ask(request: bytes) -> Answer:
        nonlocal origin
        single = _Single()
        try:
            async with asyncio.timeout(timeout_s):
                connection = await connect(origin, lambda connection: None)
                try:
                    connection.ask(request, single)
                    answer = await single.answer
                finally:
                    peer = connection.transport.get_extra_info("peername")
                    connection.abort()
        except OSError as why:
            raise _unreachable(why, origin) from why
        if len(answer.body) > LOAD_ANSWER_BYTES:
            raise LimitReached(
                "an answer is longer than is looked at",
                value=f"more than {LOAD_ANSWER_BYTES} bytes",
                remedy="Ask for less in one request.",
            )
        if peer:
            origin = origin._replace(host=peer[0])
        return answer

    notes = await target.prepare(ask)
    return origin, notes


def trouble(why: OSError) -> str:
    if isinstance(why, TimeoutError):
        return "nothing answers in time"
    if isinstance(why, ConnectionRefusedError):
        return "connection refused"
    if isinstance(why, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {why.verify_message}"
    return (why.strerror or str(why) or type(why).__name__).lower()


def _unreachable(why: OSError, origin: Origin) -> PacelineError:
    remedies: list[tuple[type[OSError], str]] = [
        (ConnectionRefusedError, "Nothing listens there: start the server, or correct the port."),
        (TimeoutError, "Look whether it hangs, or give it longer: --timeout 60s."),
        (
            ConnectionResetError,
            "Something listens there, but it does not speak HTTP/1.1 like this.",
        ),
    ]
    remedy = next(
        (words for kind, words in remedies if isinstance(why, kind)),
        "Correct the name and port in the URL.",
    )
    return Unreachable(
        f"the server cannot be asked: {trouble(why)}",
        value=f"{origin.name or origin.host}:{origin.port}",
        remedy=remedy,
    )
