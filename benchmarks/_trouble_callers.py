"""Callers of LLMs, good ones and others, at a rate, over plain HTTP: what each heard, when it left.

No SDK: a call is bytes, and what is heard is judged by `_trouble`. Calls of one seed are the same.
One thread, called by `llm_trouble`.
"""

import asyncio
import random
import socket
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import cast

from benchmarks._trouble import DIALECTS, HEARD, KINDS, LEAVERS, Call, Hearing, judged, request

TICK_S = 0.01
MOST = 192
"""Calls at once, three times as many as there are at the usual rate; then it is waited."""

HANG_S = 20.0
"""A call without an end by then hangs."""

LEAVES_S = (0.005, 0.06)
"""When callers leave, after they asked; or after the first word, sooner."""

PAUSE_S = 0.01
"""Between two looks of one who reads slowly."""

RECEIVE_BYTES = 64 * 1024
"""What the kernel holds for one who reads slowly, or not at all."""

DEAF_S = 3.0
"""Then one who reads nothing leaves: until then it must have been given up."""

FAULTS_KEPT = 20


def calls(seed: int) -> Iterator[Call]:
    chance = random.Random(seed)
    names = list(KINDS)
    shares = [each.share for each in KINDS.values()]
    number = 0
    while True:
        (name,) = chance.choices(names, shares)
        number += 1
        yield Call(
            number,
            name,
            chance.choice(KINDS[name].streams),
            chance.choice(DIALECTS),
            chance.choice(DIALECTS),
        )


class Talk(Hearing):
    """One call while it lasts."""

    __slots__ = ("began_s", "call", "left")

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call
        self.left = False
        self.began_s = time.perf_counter()


class Line(asyncio.Protocol):
    """A connection to the front, for one call after the other."""

    def __init__(self, callers: "Callers") -> None:
        self._callers = callers
        self.talk: Talk | None = None
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._callers.lost(self)

    def data_received(self, data: bytes) -> None:
        talk = self.talk
        if talk is None:
            self._callers.fault(None, f"something comes that nobody asked for: {data[:80]!r}")
            self.transport.abort()
            return
        talk.heard += data
        kind = talk.call.kind
        if kind == "reads slowly" and not talk.is_whole:
            self.transport.pause_reading()
            self.later(PAUSE_S, self._read_on)
        elif kind in HEARD and not talk.left and b"/0 " in talk.heard:
            talk.left = True
            self.later(self._callers.chance.uniform(0, LEAVES_S[1] / 3), self.leave)
        elif talk.is_whole and kind not in LEAVERS:
            self._callers.whole(self)

    def ask(self, talk: Talk) -> None:
        self.talk = talk
        call, said = talk.call, request(talk.call)
        if call.kind in LEAVERS or call.kind == "reads slowly":
            self._begin(call.kind, said)
        else:
            self.transport.write(said)

    def _begin(self, kind: str, said: bytes) -> None:
        if kind.startswith("reads"):
            connection: socket.socket = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self.transport.write(said[:-20] if kind == "leaves in its body" else said)
        if kind == "reads nothing":
            self.transport.pause_reading()
            self._callers.leaves(self)
            self.later(DEAF_S, self.transport.abort)
        elif kind != "reads slowly" and kind not in HEARD:
            self.later(self._callers.chance.uniform(*LEAVES_S), self.leave)

    def later(self, wait_s: float, then: Callable[[], None]) -> None:
        self.timer = asyncio.get_running_loop().call_later(wait_s, then)

    def leave(self) -> None:
        talk = self.talk
        if talk is None or self.transport.is_closing():
            return
        self._callers.leaves(self)
        if talk.call.kind.endswith("by half"):
            self.transport.write_eof()
        elif talk.call.kind.endswith("by reset"):
            connection: socket.socket = self.transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()
        else:
            self.transport.close()

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()


class Callers:
    """`took_ms` is by kind, from the question to its end; `left_s` by number, for whoever left."""

    def __init__(self, port: int, seed: int, count: int) -> None:
        self.chance = random.Random(f"{seed} callers")
        self.begun = 0
        self.ended = 0
        self.faults: list[str] = []
        self.faulty = 0
        self.took_ms: dict[str, list[float]] = defaultdict(list)
        self.left_s: dict[int, tuple[str, float]] = {}
        self.ways: Counter[str] = Counter()
        self._all_ended = asyncio.Event()
        self._count = count
        self._port = port
        self._seed = seed
        self._calls = calls(seed)
        self._talking: set[Line] = set()
        self._idle: list[Line] = []
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def in_hand(self) -> int:
        return len(self._talking) + len(self._opening)

    async def run(self, rate: float) -> None:
        """All of them at this rate, or slower where too many are in hand; until they have ended."""
        loop = asyncio.get_running_loop()
        due = 0.0
        while self.begun < self._count:
            due = min(due + rate * TICK_S, float(MOST))
            while due >= 1 and self.begun < self._count and self.in_hand < MOST:
                due -= 1
                self._begin(loop)
            await asyncio.sleep(TICK_S)
            if not self.begun % 64:
                self._look()
        with suppress(TimeoutError):
            async with asyncio.timeout(HANG_S):
                await self._all_ended.wait()
        self._look(give_up=True)
        for line in self._idle:
            line.transport.close()
        self._idle.clear()
        await asyncio.sleep(TICK_S)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        call = next(self._calls)
        self.begun += 1
        self.ways["crossed" if call.crossed else "in its own dialect"] += 1
        talk = Talk(call)
        alone = call.kind in LEAVERS or call.kind == "reads slowly"
        if self._idle and not alone and self.chance.random() < 0.8:
            line = self._idle.pop()
            self._talking.add(line)
            line.ask(talk)
            return
        task = loop.create_task(self._open(talk))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, talk: Talk) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, line = await loop.create_connection(lambda: Line(self), "127.0.0.1", self._port)
        except OSError as error:
            self._end(talk, f"no connection: {error}")
            return
        self._talking.add(line)
        line.ask(talk)

    # --- What connections tell

    def leaves(self, line: Line) -> None:
        assert line.talk is not None
        call = line.talk.call
        self.left_s[call.number] = (call.kind, time.perf_counter())

    def whole(self, line: Line) -> None:
        talk, line.talk = line.talk, None
        assert talk is not None
        self._talking.discard(line)
        self._end(talk, judged(talk.call, bytes(talk.heard)))
        if b"\r\nconnection: close" in talk.heard:
            line.transport.close()
        else:
            self._idle.append(line)

    def lost(self, line: Line) -> None:
        if line.timer is not None:
            line.timer.cancel()
        if line in self._idle:
            self._idle.remove(line)
        self._talking.discard(line)
        talk, line.talk = line.talk, None
        if talk is not None:
            self._end(talk, judged(talk.call, bytes(talk.heard)))

    def fault(self, call: Call | None, what: str) -> None:
        self.faulty += 1
        if len(self.faults) < FAULTS_KEPT:
            said = "" if call is None else f"call {call.number} of --seed {self._seed}, {call}: "
            self.faults.append(f"{said}{what}")

    def _end(self, talk: Talk, fault: str) -> None:
        self.ended += 1
        self.took_ms[talk.call.kind].append(1e3 * (time.perf_counter() - talk.began_s))
        if fault:
            self.fault(talk.call, fault)
        if self.ended == self._count:
            self._all_ended.set()

    def _look(self, *, give_up: bool = False) -> None:
        """Whoever hangs is told of, and let go."""
        now_s = time.perf_counter()
        for line in [*self._talking]:
            talk = line.talk
            if talk is not None and (give_up or now_s - talk.began_s > HANG_S):
                line.talk = None
                self._talking.discard(line)
                self._end(talk, f"no end within {HANG_S:.0f} s, {len(talk.heard)} bytes heard")
                line.transport.abort()
