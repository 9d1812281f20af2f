"""Watches the boards: each second it looks, tells the past what happened, and once a minute has a
thread write that down.

Made by the owner and told by it when to begin and to end; fronts notice nothing. Whoever has to
look each second too, as alerts do, is called after the past knows. Nothing here stops the server
when it fails; the log says why. numpy is imported by the thread that reads the file, when the first
front has been ready for a second: neither a start nor the first requests wait for it, and whoever
stops sooner is spared it. What happened by then is counted in the first step.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from paceline.clock import Clock
from paceline.observe import log
from paceline.observe.board import Board
from paceline.terms.errors import Unavailable
from paceline.terms.limits import HISTORY_HOURS, HISTORY_MINUTES, WATCH_TICK_S
from paceline.terms.measurement import Measurement

if TYPE_CHECKING:
    from paceline.watch.history import History
    from paceline.watch.names import Names
    from paceline.watch.sampling import Reader, Reading
    from paceline.watch.store import MetricsFile

logger = log.get(__name__)

Boards = Callable[[], Sequence[Board]]
Others = Callable[[], Sequence[Measurement]]
EachSecond = Callable[["History"], None]
T = TypeVar("T")


class Watcher:
    """`others` are what boards do not have. `folder` is where the file is; without one the past
    ends with the process."""

    def __init__(
        self,
        folder: Path | None,
        boards: Boards,
        others: Others,
        clock: Clock,
        each_second: Sequence[EachSecond] = (),
    ) -> None:
        self._folder = folder
        self._boards = boards
        self._others = others
        self._clock = clock
        self._each_second = each_second
        self._looking: _Looking | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="history")
        self._writing: asyncio.Future[None] | None = None
        self._past_held = asyncio.Lock()
        """by who asks it in a thread, or tells it what happened"""

    @property
    def past(self) -> "History":
        if self._looking is None:
            raise Unavailable(
                "the history is still being read", remedy="Ask again in a second or two."
            )
        return self._looking.past

    @property
    def folder(self) -> Path | None:
        return self._folder

    def start(self, after_s: float = 0.0) -> None:
        """The past begins now; what the file says of the one before is read `after_s`."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._watch(after_s))

    async def close(self) -> None:
        """With a last look, which is written with what was not yet."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._looking is not None:
            await self._try_to_look()
            await self.write(whole=False)
            await self._in_thread(self._looking.close)
        self._thread.shutdown()

    def look(self) -> None:
        """Once, now."""
        assert self._looking is not None
        past = self._looking.look(self._clock.now(), self._clock.wall(), self._others())
        for each in self._each_second:
            each(past)

    async def ask(self, question: Callable[["History"], T]) -> T:
        """In a thread, for a report may take longer than a loop may stand still. The past does not
        change meanwhile: the next look comes that much later."""
        past = self.past
        async with self._past_held:
            return await asyncio.to_thread(question, past)

    async def write(self, *, whole: bool = True) -> None:
        """What is over; not `whole`, the minute that is not over too."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))
        if self._looking is not None:
            async with self._past_held:
                self._begin_to_write(self._looking, whole=whole)
        if self._writing is not None:
            await asyncio.wait((self._writing,))

    async def _watch(self, after_s: float) -> None:
        looking = _Looking(self._folder, self._clock.now(), self._clock.wall())
        if after_s:
            await self._clock.until(self._clock.now() + after_s)
        try:
            await self._in_thread(lambda: looking.begin(self._boards()))
            looking.see_first(self._clock.now(), self._clock.wall(), self._others())
        except Exception:  # a bug of ours must not stop what is served
            logger.exception("there will be no history")
            return
        self._looking = looking
        moment = self._clock.now()
        while True:
            moment += WATCH_TICK_S
            await self._clock.until(moment)
            late_s = self._clock.now() - moment
            if late_s > WATCH_TICK_S:  # this process stood still: one long step, and on from here
                moment += late_s // WATCH_TICK_S * WATCH_TICK_S
            await self._try_to_look()
            if self._writing is None and looking.has_finished:
                self._begin_to_write(looking, whole=True)

    async def _try_to_look(self) -> None:
        try:
            async with self._past_held:
                self.look()
        except Exception:  # a bug of ours, or of whoever looks too; the next look may do better
            logger.exception("a look at the boards failed")

    def _begin_to_write(self, looking: "_Looking", *, whole: bool) -> None:
        try:
            work = looking.to_write(whole=whole)
        except Exception:  # a bug of ours; what is counted from now on may be written again
            logger.exception("the history was not written")
            return
        self._writing = self._in_thread(work)
        self._writing.add_done_callback(self._written)

    def _written(self, done: "asyncio.Future[None]") -> None:
        self._writing = None
        if not done.cancelled() and (error := done.exception()) is not None:
            logger.error("the history was not written", why=repr(error))

    def _in_thread(self, work: Callable[[], None]) -> "asyncio.Future[None]":
        return asyncio.get_running_loop().run_in_executor(self._thread, work)


class _Looking:
    """What needs numpy. `begin` is called in a thread, before anything else is."""

    past: "History"
    _names: "Names"
    _file: "MetricsFile | None"
    _reader: "Reader"
    _before: "Reading"

    def __init__(self, folder: Path | None, at_s: float, wall_s: float) -> None:
        self._folder = folder
        self._at_s = at_s
        self._wall_s = wall_s
        self._refused = 0

    def begin(self, boards: Sequence[Board]) -> None:
        """With what the file says of earlier lives."""
        from paceline.watch.history import History
        from paceline.watch.names import Names
        from paceline.watch.rollup import HOUR, MINUTE
        from paceline.watch.sampling import Reader
        from paceline.watch.store import OF_A_BODY, MetricsFile

        self._names = Names()
        self.past = History(self._names, self._at_s, self._wall_s)
        self._file = None if self._folder is None else MetricsFile(self._folder, self._names)
        if self._file is not None:
            try:
                for size_s, steps in ((HOUR, HISTORY_HOURS), (MINUTE, HISTORY_MINUTES)):
                    for kept in self._file.read(size_s, self._wall_s - size_s * steps, repair=True):
                        self.past.restore(kept)
            except OF_A_BODY as error:
                self._file.begin_anew(error)
        self._reader = Reader(boards, self._names)

    def see_first(self, at_s: float, wall_s: float, others: Sequence[Measurement]) -> None:
        """What boards have counted by now is this server's own; what others have mostly is not."""
        from paceline.watch.sampling import OWN, first

        seen = self._reader.read(at_s, wall_s, others)
        counted = [each for each in others if each.metric.name in OWN]
        own = self._reader.read(at_s, wall_s, counted)
        self._before = first(self._at_s, self._wall_s, seen, own)

    def look(self, at_s: float, wall_s: float, others: Sequence[Measurement]) -> "History":
        from paceline.watch.sampling import between

        now = self._reader.read(at_s, wall_s, others, self._before)
        self.past.take(between(self._names, self._before, now))
        self._before = now
        if self._names.refused > self._refused:
            self._refused = self._names.refused
            logger.warning("as many series are remembered as may be", not_remembered=self._refused)
        return self.past

    @property
    def has_finished(self) -> bool:
        return self.past.has_finished

    def to_write(self, *, whole: bool) -> Callable[[], None]:
        minutes = self.past.finished(whole=whole)
        file = self._file
        return lambda: None if file is None else file.write(minutes)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
