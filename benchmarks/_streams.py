"""Callers who ask for streams and read them, so many at once: events a second, first bytes.

Each begins a stream when it is due, or when its last one has ended if that is later; the begins of
all are spread evenly. Run as `python -m benchmarks._streams`, with what is wanted as JSON on
standard input; says `begun` when it counts, and then what it saw. Called by `gateway` in a process
of its own, through `streams`.
"""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from benchmarks._open_loop import put_ahead
from benchmarks._upstream import EXTRA_EVENTS
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.started import Asked, Started
from paceline.clock import RealClock
from paceline.net.client import ClientConnection, Headers, Lost, Origin, connect

ROOT = Path(__file__).parents[1]
BEGUN = "begun"
AGAIN_S = 0.01
SPARE_S = 60.0


class Wanted(msgspec.Struct, frozen=True):
    """`every_s` is from one begin of a caller's stream to the next; 0 is without a pause."""

    port: int
    request: str
    callers: int
    every_s: float
    warm_s: float
    seconds: float


class Seen(msgspec.Struct, frozen=True):
    """Of the seconds that counted. `first_ms` are from sending to the first byte of a body, in
    order; `failed` are streams that did not end well, `short` those with fewer than two events."""

    events: int
    seconds: float
    ended: int
    failed: int
    short: int
    first_ms: list[float]

    @property
    def chunks_a_second(self) -> float:
        """Without what begins and ends a stream; the last streams are not counted to their end."""
        return max(0.0, self.events - EXTRA_EVENTS * self.ended) / self.seconds

    def first(self, share: float) -> float | None:
        if not self.first_ms:
            return None
        return self.first_ms[min(len(self.first_ms) - 1, int(share * len(self.first_ms)))]


class _Tally:
    def __init__(self) -> None:
        self.counts = False
        self.events = self.ended = self.failed = self.short = 0
        self.first_ms: list[float] = []


class _Stream:
    """One answer, as it comes. Hot: a piece is looked at for nothing but the ends of its events."""

    __slots__ = ("_clock", "_events", "_first", "_last", "_sent_s", "_status", "_tally", "over")

    def __init__(self, tally: _Tally, clock: RealClock) -> None:
        self._tally = tally
        self._clock = clock
        self._sent_s = clock.now()
        self._events = 0
        self._first = True
        self._last = b""
        self._status = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def head(self, status: int, headers: Headers) -> None:
        self._status = status

    def body(self, piece: bytes) -> None:
        tally = self._tally
        if self._first:
            self._first = False
            if tally.counts and self._status == 200:
                tally.first_ms.append((self._clock.now() - self._sent_s) * 1e3)
        ended = piece.count(b"\n\n")
        if self._last == b"\n" and piece.startswith(b"\n"):
            ended += 1
        self._last = piece[-1:]
        self._events += ended
        if tally.counts:
            tally.events += ended

    def end(self) -> None:
        if self._tally.counts:
            self._tally.ended += 1
            self._tally.failed += self._status != 200
            self._tally.short += self._events < 2
        if not self.over.done():
            self.over.set_result(None)

    def lost(self, why: Lost) -> None:
        self._tally.failed += self._tally.counts
        if not self.over.done():
            self.over.set_result(None)


async def _call(
    wanted: Wanted, number: int, begun_s: float, tally: _Tally, clock: RealClock
) -> None:
    request = wanted.request.encode("latin-1")
    due_s = begun_s + wanted.every_s * number / wanted.callers
    connection: ClientConnection | None = None
    try:
        while True:
            await clock.until(max(due_s, clock.now()))
            if connection is None or not connection.free:
                try:
                    connection = await connect(Origin("127.0.0.1", wanted.port), _forget)
                except OSError:
                    tally.failed += tally.counts
                    due_s = clock.now() + AGAIN_S
                    continue
            stream = _Stream(tally, clock)
            connection.ask(request, stream)
            await stream.over
            due_s = max(due_s + wanted.every_s, clock.now())
    finally:
        if connection is not None:
            connection.abort()


def _forget(_connection: ClientConnection) -> None:
    """Its caller sees that it is no longer free."""


async def watch(wanted: Wanted, tell: Callable[[], None]) -> Seen:
    clock, tally = RealClock(), _Tally()
    begun_s = clock.now()
    callers = [
        asyncio.create_task(_call(wanted, number, begun_s, tally, clock))
        for number in range(wanted.callers)
    ]
    await clock.until(begun_s + wanted.warm_s)
    tally.counts = True
    tell()
    from_s = clock.now()
    await clock.until(from_s + wanted.seconds)
    tally.counts = False
    lasted_s = clock.now() - from_s
    for caller in callers:
        caller.cancel()
    for outcome in await asyncio.gather(*callers, return_exceptions=True):
        if not isinstance(outcome, asyncio.CancelledError):
            raise AssertionError("a caller ended by itself") from outcome
    return Seen(
        tally.events, lasted_s, tally.ended, tally.failed, tally.short, sorted(tally.first_ms)
    )


def main() -> None:
    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=Wanted)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(watch(wanted, lambda: print(BEGUN, flush=True)))
    print(msgspec.json.encode(seen).decode())


# --- From another process -------------------------------------------------------------------------


class Streamed(NamedTuple):
    seen: Seen
    cpu_share: float
    """Of one core, that the server used in the seconds that counted."""


def raw(asked: Asked) -> bytes:
    lines = [f"POST {asked.path} HTTP/1.1", "host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in asked.headers.items()]
    lines += [f"content-length: {len(asked.body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + asked.body


def streams(
    up: Started, asked: Asked, callers: int, every_s: float, warm_s: float, seconds: float
) -> Streamed:
    request = raw(asked).decode("latin-1")
    wanted = Wanted(up.port, request, callers, every_s, warm_s, seconds)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks._streams"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if every_s:  # it has a pace to keep; without one it would take the cores of all others
            put_ahead(process.pid)
        process.stdin.write(msgspec.json.encode(wanted))
        process.stdin.close()
        if process.stdout.readline().strip() != BEGUN.encode():
            raise Unavailable("who reads the streams did not begin")
        begun_s = up.cpu_s()
        said = process.stdout.readline()
        used_s = up.cpu_s() - begun_s
        process.wait(SPARE_S)
    finally:
        process.kill()
        process.wait()
    seen = msgspec.json.decode(said, type=Seen)
    return Streamed(seen, used_s / seen.seconds)


if __name__ == "__main__":
    main()
