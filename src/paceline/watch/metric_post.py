"""Tells an OTLP receiver every few seconds what all metrics are, as `/metrics` tells Prometheus.

Counts are since the start, so a time that was not taken is made up for by the next: nothing is
sent again, held or dropped. None of this exists unless the settings name a receiver. Called by the
owner, made in `app.py`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from paceline.clock import Clock
from paceline.observe import log
from paceline.terms.limits import METRICS_LAST_S, METRICS_TOLD_S
from paceline.terms.measurement import Measurement
from paceline.terms.span import Value
from paceline.watch import otlp
from paceline.watch.spans import Send

logger = log.get(__name__)


class MetricPost:
    """`resource` is what all metrics are of: the service, its version."""

    def __init__(
        self,
        send: Send,
        resource: Mapping[str, Value],
        version: str,
        clock: Clock,
        began_s: float | None = None,
    ) -> None:
        """`began_s`: since when it is counted; None: from now on."""
        self._send = send
        self._resource = resource
        self._version = version
        self._clock = clock
        self._began_s = clock.wall() if began_s is None else began_s
        self._measure: Callable[[], Sequence[Measurement]] | None = None
        self._running: asyncio.Task[None] | None = None
        self._complained = False

    def start(self, measure: Callable[[], Sequence[Measurement]]) -> None:
        self._measure = measure
        self._running = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """What was counted until now is told, if that does not take long."""
        if self._running is None:
            return
        self._running.cancel()
        await asyncio.wait([self._running])
        try:
            async with asyncio.timeout(METRICS_LAST_S):
                await self._tell()
        except TimeoutError:
            logger.warning("the last metrics were not taken in time")

    async def _run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._clock.until(self._clock.now() + METRICS_TOLD_S)
            await self._tell()

    async def _tell(self) -> None:
        assert self._measure is not None
        body = otlp.encoded_metrics(
            self._measure(), self._began_s, self._clock.wall(), self._resource, self._version
        )
        taken = await self._send(body)
        if taken.sent and not taken.rejected:
            self._complained = False
        elif not self._complained:  # once, until it works again
            self._complained = True
            logger.warning("an OTLP receiver does not take metrics", why=taken.why)
