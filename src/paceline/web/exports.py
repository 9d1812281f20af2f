"""Where the spans and metrics of a running server go: its OTLP receivers; a reload changes them.

What a change needs is made first, so that settings that cannot be followed change nothing. A
receiver whose settings are the same stays, with what it is just being told; one that is named no
more gets what is held for it once more, beside. What is counted goes on. Called by the owner, made
in `app.py`.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from paceline.clock import Chance, Clock
from paceline.config import TraceSettings
from paceline.config.tracing import headers_of
from paceline.observe import log
from paceline.terms.measurement import Measurement
from paceline.terms.metric import SPANS
from paceline.terms.span import Span, Value
from paceline.watch import otlp
from paceline.watch.metric_post import MetricPost
from paceline.watch.spans import Receiver, SpanPost


class SpansTo(NamedTuple):
    receiver: Receiver
    post: SpanPost


class MetricsTo(NamedTuple):
    receiver: Receiver
    post: MetricPost


class Made(NamedTuple):
    """`said`: of what it was made."""

    said: TraceSettings
    spans: SpansTo | None
    metrics: MetricsTo | None


class Exports:
    """`resource` is what all is of: the service, its version. `environ` has the headers."""

    def __init__(
        self,
        resource: Mapping[str, Value],
        version: str,
        environ: Mapping[str, str],
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._resource = resource
        self._version = version
        self._environ = environ
        self._clock = clock
        self._chance = chance
        self._began_s = clock.wall()
        self._made = Made(TraceSettings(), None, None)
        self._measure: Callable[[], Sequence[Measurement]] | None = None
        """from the start on"""
        self._counted: Counter[str] = Counter()
        """by those that have ended"""
        self._ending: list[SpanPost] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def of_spans(self) -> bool:
        """Whether spans go anywhere."""
        return self._made.spans is not None

    def prepared(self, said: TraceSettings, folder: Path) -> Made:
        """For `change`; made within a running loop. A BadSetting where it cannot be made. `folder`
        is that of the settings file."""
        was, spans, metrics = self._made
        if _by(said, said.otlp_endpoint) != _by(was, was.otlp_endpoint):
            receiver = self._receiver(said, said.otlp_endpoint, otlp.PATH, folder)
            spans = None if receiver is None else SpansTo(receiver, self._span_post(receiver))
        url = said.otlp_metrics_endpoint
        if _by(said, url) != _by(was, was.otlp_metrics_endpoint):
            receiver = self._receiver(said, url, otlp.METRICS_PATH, folder)
            metrics = None if receiver is None else MetricsTo(receiver, self._metric_post(receiver))
        return Made(said, spans, metrics)

    def change(self, made: Made) -> None:
        before, self._made = self._made, made
        if before.spans is not made.spans:
            if made.spans is not None and self._measure is not None:
                made.spans.post.start()
            if before.spans is not None:
                self._ending.append(before.spans.post)
                self._beside(before.spans)
        if before.metrics is not made.metrics:
            if made.metrics is not None and self._measure is not None:
                made.metrics.post.start(self._measure)
            if before.metrics is not None:
                self._beside(before.metrics)

    def start(self, measure: Callable[[], Sequence[Measurement]]) -> None:
        """`measure` says what all metrics are."""
        self._measure = measure
        if self._made.spans is not None:
            self._made.spans.post.start()
        if self._made.metrics is not None:
            self._made.metrics.post.start(measure)

    def take(self, spans: Sequence[Span], dropped: int) -> None:
        """What a front tells."""
        if self._made.spans is not None:
            self._made.spans.post.take(spans, dropped)
        else:  # a front had them when a reload took the receiver away
            self._counted["dropped"] += len(spans) + dropped

    async def close(self) -> None:
        """What is held is sent once more, if that does not take long."""
        self.change(Made(TraceSettings(), None, None))
        if self._tasks:
            await asyncio.wait(self._tasks)

    def measure(self) -> list[Measurement]:
        """For `/metrics`: of all receivers that there were."""
        counted = self._counted.copy()
        now = [] if self._made.spans is None else [self._made.spans.post]
        for post in (*self._ending, *now):
            counted.update(post.counts())
        return [Measurement(SPANS, (how,), float(count)) for how, count in counted.items()]

    def _beside(self, left: SpansTo | MetricsTo) -> None:
        task = asyncio.ensure_future(self._end(left))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self, left: SpansTo | MetricsTo) -> None:
        await left.post.close()
        await left.receiver.close()
        if isinstance(left, SpansTo):
            self._ending.remove(left.post)
            self._counted.update(left.post.counts())

    def _receiver(self, said: TraceSettings, url: str, path: str, folder: Path) -> Receiver | None:
        """By OTLP, where the settings name one."""
        if not url:
            return None
        headers = headers_of(said, self._environ)
        for _, value in headers:
            log.hide(value.decode())
        ca_file = str(folder / said.ca_file) if said.ca_file else ""
        now = self._clock.now
        return Receiver(url, path, headers, now, ca_file=ca_file, private=said.private)

    def _span_post(self, receiver: Receiver) -> SpanPost:
        return SpanPost(receiver.send, self._resource, self._version, self._clock, self._chance)

    def _metric_post(self, receiver: Receiver) -> MetricPost:
        """Counters are since this server started, whoever is told of them since when."""
        return MetricPost(receiver.send, self._resource, self._version, self._clock, self._began_s)


def _by(said: TraceSettings, url: str) -> tuple[object, ...]:
    """All that a receiver is made of."""
    return (url, said.headers_env, said.ca_file, said.private)
