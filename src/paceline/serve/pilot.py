"""Asks the steering of one served model about once a second, and does what it answers.

It counts what steering wants to know, and is asked by the runner whenever batches were run, so it
sleeps while nobody asks anything. Looks go to the core at once; what steering would move is a wish
for whoever keeps the Plan. Decides nothing. Called by `runner.py`; the simulator does the same by
itself.
"""

from collections.abc import Callable, Mapping, Sequence

from paceline.serve.batch import Batch, Look
from paceline.serve.core import Core
from paceline.serve.effects import Interval, Steered
from paceline.serve.steering import Bounds, Move, Steering

STEER_S = 1.0
"""Between two times that steering is asked, at least."""

STEERED: tuple[Steered, ...] = ("max_batch", "executors", "margin")


class Pilot:
    """Of one core after the other."""

    def __init__(self, wish: Callable[[Move], None], now: float) -> None:
        self._wish = wish
        self._steering = Steering({}, None)
        self._bounds: tuple[Bounds, float | None] = ({}, None)
        self._looks: Sequence[Look] = ()
        self._begin(now)

    def steer(
        self,
        spans: Mapping[str, tuple[float, float]],
        slo_s: float | None,
        now: float,
        *,
        anew: bool,
    ) -> None:
        """Within these bounds, for this objective. Nothing is forgotten where both are as they
        were, unless it is to begin `anew`."""
        bounds: Bounds = {knob: spans[knob] for knob in STEERED if knob in spans}
        if anew or self._bounds != (bounds, slo_s):
            self._bounds = (bounds, slo_s)
            self._steering = Steering(bounds, slo_s)
            self._looks = ()
            self._begin(now)

    def came(self) -> None:
        self._offered += 1

    def refused(self) -> None:
        self._refused += 1

    def ran(self, batch: Batch, seconds: float, in_time: int, answered: int) -> None:
        self._batches += 1
        self._rows += batch.rows
        self._busy_s += seconds
        self._answered += answered
        self._in_time += in_time

    def turn(self, now: float, core: Core) -> None:
        """Perhaps it is time to ask."""
        if now - self._since_s < STEER_S:
            return
        answer = self._steering.observe(now, self._interval(now, core), core.tuning, core.busiest())
        self._begin(now)
        if isinstance(answer, Move):
            self._wish(answer)
        elif answer is not None:
            self._looks = core.look(answer.tunings)

    def _interval(self, now: float, core: Core) -> Interval:
        looks: Sequence[Look] = ()
        if not core.looking:
            looks, self._looks = self._looks, ()
        return Interval(
            now - self._since_s,
            self._offered,
            self._refused,
            self._answered,
            self._in_time,
            self._batches,
            self._rows,
            self._busy_s,
            core.measured(),
            tuple((each.tuning, each.ran) for each in looks),
        )

    def _begin(self, now: float) -> None:
        self._since_s = now
        self._offered = self._refused = self._answered = self._in_time = 0
        self._batches = self._rows = 0
        self._busy_s = 0.0
