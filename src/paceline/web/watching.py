"""The owner's tick: once a second it looks at what there is, remembers it, and asks for alerts.

It goes on whatever happens in it; the log says what did. Steps are of the monotonic clock: after a
suspended laptop the next comes a second later, and none is made up for. Made by the owner.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from paceline.clock import Clock
from paceline.observe import log
from paceline.stats.sketch import Sketch
from paceline.terms.limits import WATCH_TICK_S
from paceline.terms.measurement import Measurement
from paceline.watch.alerts.desk import Alerts
from paceline.watch.past import Past

logger = log.get(__name__)

Sketches = Mapping[tuple[str, tuple[str, ...]], Sketch]


class Memory(Past, Protocol):
    """A past that is told what happens."""

    def take(
        self, measured: list[Measurement], sketches: Sketches, now: float, wall: float
    ) -> None: ...


class Watching:
    """`measure` and `sketches` look at the host now. Lives between `start` and `close`."""

    def __init__(
        self,
        measure: Callable[[], list[Measurement]],
        sketches: Callable[[], Sketches],
        memory: Memory,
        alerts: Alerts,
        clock: Clock,
    ) -> None:
        self._measure = measure
        self._sketches = sketches
        self._memory = memory
        self._alerts = alerts
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._alerts.start()
        self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._alerts.close()

    async def _run(self) -> None:
        moment = self._clock.now()
        while True:
            moment = max(moment + WATCH_TICK_S, self._clock.now())
            await self._clock.until(moment)
            try:
                self.look()
            except Exception:  # a bug of ours must not end all watching
                logger.exception("a look at the past failed inside Paceline")

    def look(self) -> None:
        now = self._clock.now()
        self._memory.take(self._measure(), self._sketches(), now, self._clock.wall())
        self._alerts.look(self._memory, now)
