"""The front's side of keeping what was said: collects it while calls last, and hands it on.

Nothing here waits and nothing fails a call: what finds no room, or cannot be written, is counted as
dropped, and the log is told once, until it works again. Batches go to the keeper process
(`keeper.py`), a worker as `processes/worker.py` keeps it. One per front, and only where the
settings ask for it; called by `web/llm.py`.
"""

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec

from paceline.clock import Clock
from paceline.gateway.said.keep import Keep
from paceline.gateway.said.keeper import Done, Order, Said, outcomes
from paceline.observe import log
from paceline.observe.board import Board
from paceline.processes.worker import Job, Work, Worker
from paceline.terms.errors import PacelineError
from paceline.terms.limits import (
    SAID_BATCH_BYTES,
    SAID_CLOSE_S,
    SAID_HELD_BYTES,
    SAID_JOB_S,
    SAID_JOBS,
    SAID_READ_BYTES,
    SAID_STREAM_BYTES,
    SAID_WAIT_S,
)
from paceline.terms.metric import LLM_SAID

logger = log.get(__name__)

ARGUMENTS = ("-m", "paceline.gateway.said.keeper")

WORK = Work(
    name="keeper",
    jobs=SAID_JOBS,
    bytes=SAID_HELD_BYTES,
    widened=1,
    job_s=SAID_JOB_S,
    kept_bytes=2 * SAID_BATCH_BYTES,
    when_full="It is not kept.",
    when_ended="It is not kept.",
)

OVERHEAD_BYTES = 256
"""of a call beside what was said in it"""


class Words:
    """What is said in one call, as far as it is kept."""

    __slots__ = ("_held", "_most", "answered", "answered_bytes", "asked", "asked_bytes", "held")

    def __init__(self, keeping: "Keeping", body: bytes | bytearray | memoryview) -> None:
        self.asked_bytes = len(body)
        self.asked = bytes(body[:SAID_READ_BYTES])
        self.answered: list[bytes] = []
        self.answered_bytes = 0
        self.held = 0
        self._most = SAID_READ_BYTES
        self._held = keeping

    def streams(self) -> None:
        """The answer comes in pieces."""
        self._most = SAID_STREAM_BYTES

    def add(self, piece: bytes) -> None:
        """Of the answer; beyond what is looked at it is only measured."""
        had = self.answered_bytes
        self.answered_bytes = had + len(piece)
        if had < self._most:
            piece = piece[: self._most - had]
            if self._held.take(self, len(piece)):
                self.answered.append(piece)
            else:
                self._most = had


class Keeping:
    """`arguments` are for tests, which start something else."""

    def __init__(
        self,
        keep: Keep,
        folder: str,
        board: Board,
        clock: Clock,
        arguments: Sequence[str] = ARGUMENTS,
    ) -> None:
        self._keep = keep
        self._routes = frozenset(keep.routes)
        self._folder = folder
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._worker = Worker(WORK, arguments, outcomes, clock)
        self._kept = board.counter(LLM_SAID, "kept")
        self._dropped = board.counter(LLM_SAID, "dropped")
        self._waiting: list[Said] = []
        self._waiting_bytes = 0
        self._held_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._told = ""
        """of which trouble the log was told, while it lasts"""
        self._idle: asyncio.Event | None = None

    def start(self) -> None:
        """The process, before the first call: what is said until it runs would have to wait."""
        self._worker.start()

    def begin(self, body: bytes | bytearray | memoryview) -> Words | None:
        """What a call says; None, and counted, where there is no room for it."""
        size = min(len(body), SAID_READ_BYTES) + OVERHEAD_BYTES
        if self._held_bytes + size > SAID_HELD_BYTES:
            self._dropped.add(1)
            self._tell("more is said at once than is held until it is written")
            return None
        words = Words(self, body)
        self.take(words, size)
        return words

    def take(self, words: Words, size: int) -> bool:
        """Room for more of it."""
        if self._held_bytes + size > SAID_HELD_BYTES:
            return False
        self._held_bytes += size
        words.held += size
        return True

    def never_mind(self, words: Words) -> None:
        """It came to no route, or is not to be kept."""
        self._held_bytes -= words.held

    def ended(
        self,
        words: Words,
        call_id: str,
        key: str | None,
        endpoint: str,
        model: str,
        route: str,
        status: int,
    ) -> None:
        if self._routes and route not in self._routes:
            self.never_mind(words)
            return
        said = Said(
            call_id,
            round(self._clock.wall(), 3),
            key,
            endpoint,
            model,
            route,
            status,
            words.asked,
            words.asked_bytes,
            b"".join(words.answered),
            words.answered_bytes,
        )
        self._waiting.append(said)
        self._waiting_bytes += words.held
        if self._waiting_bytes >= SAID_BATCH_BYTES:
            self._send()
        elif self._timer is None:
            self._timer = self._loop.call_later(SAID_WAIT_S, self._send)

    async def close(self) -> None:
        """What waits is written, if that can be done soon; the rest is lost."""
        self._send()
        if self._worker.held:
            self._idle = asyncio.Event()
            try:
                async with asyncio.timeout(SAID_CLOSE_S):
                    await self._idle.wait()
            except TimeoutError:
                logger.warning(
                    "what was said last in LLM calls is not kept", why="it took too long"
                )
        self._worker.close()

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        size, self._waiting_bytes = self._waiting_bytes, 0
        if not batch:
            return
        body = msgspec.msgpack.encode(batch)
        order = Order(self._worker.number(), len(body), self._folder, self._keep)
        refused = self._worker.begin(order, body, partial(self._written, len(batch), size))
        if refused is not None:
            self._lost(len(batch), size, refused.cause)

    def _written(self, calls: int, size: int, done: Done | PacelineError, job: Job[Done]) -> None:
        if isinstance(done, PacelineError):
            self._lost(calls, size, done.cause)
        else:
            job.release()
            if done.begun_anew:
                logger.error(
                    "the file of what was said is damaged and begins anew", why=done.begun_anew
                )
            if done.trouble:
                self._lost(calls, size, done.trouble)
            else:
                self._held_bytes -= size
                self._kept.add(done.kept)
                if self._told:
                    logger.info("what is said in LLM calls is kept again")
                    self._told = ""
        if self._idle is not None and not self._worker.held:
            self._idle.set()

    def _lost(self, calls: int, size: int, why: str) -> None:
        self._held_bytes -= size
        self._dropped.add(calls)
        self._tell(why)

    def _tell(self, why: str) -> None:
        """Once for each kind of trouble; the calls themselves go on."""
        if why != self._told:
            self._told = why
            logger.error(
                "what is said in LLM calls is not kept",
                why=why,
                remedy="free some space, or see who may write there; calls are not touched",
            )
