"""What other settings of a served model would bring, predicted from what was measured.

n executors run n * b / (s * l(b)) rows a second. How long a batch of b rows takes, l(b), is learned
(`serve/latency.py`); by how much n of them slow each other down, s, and what sizes take that are
not run now, a look has just shown (`serve/look.py`). Requests are in time as long as a batch leaves
time for the one before it. What is predicted keeps the share of what could be done that is brought
in time now, and never exceeds what is asked for.

Pure arithmetic over values; it proposes nothing. Called by `serve/steering.py`.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from paceline.serve.batch import Tuning
from paceline.serve.latency import LatencyModel
from paceline.serve.look import Ran

Steered = Literal["executors", "max_batch", "margin"]
"""Fields of Tuning."""

BINDS = 0.6
"""Batches that fill this share of what they may, on average, are held by it."""

IDLE = 0.1
"""A share of the time for which executors should not be idle while requests are lost."""

LATE = 0.01
"""Of the answers; where so few are too late, a margin is large enough."""

LEAST_MARGIN = 0.05
"""Of the time of a request; half of less is none."""


class Interval(msgspec.Struct, frozen=True):
    """What happened within it. Requests: that came, were refused at the door, got a result, got it
    in time. Batches, their rows, and for how long executors were busy with them. `ran`: as the core
    measured; `looked`: of the looks that are over since."""

    seconds: float
    offered: int
    refused: int
    answered: int
    in_time: int
    batches: int
    rows: int
    busy_s: float
    ran: Ran
    looked: tuple[tuple[Tuning, Ran], ...] = ()

    @property
    def good(self) -> float:
        """Requests a second, in time."""
        return self.in_time / self.seconds


def joined(intervals: Sequence[Interval]) -> Interval:
    """As one."""
    ran = Ran()
    for each in intervals:
        ran.add(each.ran)
    return Interval(
        seconds=sum(each.seconds for each in intervals),
        offered=sum(each.offered for each in intervals),
        refused=sum(each.refused for each in intervals),
        answered=sum(each.answered for each in intervals),
        in_time=sum(each.in_time for each in intervals),
        batches=sum(each.batches for each in intervals),
        rows=sum(each.rows for each in intervals),
        busy_s=sum(each.busy_s for each in intervals),
        ran=ran,
        looked=tuple(look for each in intervals for look in each.looked),
    )


def deviation(intervals: Sequence[Interval]) -> float:
    """Of `good`, from interval to interval. A few of them may agree by chance: it counts as if two
    more were seen, in which requests came independently of each other."""
    mean = joined(intervals).good
    spread = sum((each.good - mean) ** 2 for each in intervals)
    chance = sum(max(1.0, mean) / each.seconds for each in intervals) / len(intervals)
    return math.sqrt((spread + 2 * chance) / (len(intervals) + 1))


class Option(NamedTuple):
    """A setting, and what it would bring: requests a second in time; `doubt` is the standard error
    as a share of that."""

    knob: Steered
    value: int | float
    predicted: float
    doubt: float
    because: str


class Situation:
    """How it is: in `calm` intervals, in which nothing was looked at, and what batches took, `ran`.
    There is at least one answer and one batch in them. `slo_s` may be infinite."""

    def __init__(
        self,
        calm: Sequence[Interval],
        ran: Ran,
        tuning: Tuning,
        learned: LatencyModel,
        slo_s: float,
    ) -> None:
        self.calm = calm
        self.ran = ran
        self.tuning = tuning
        self._learned = learned
        self._slo_s = slo_s
        every = self._every = joined(calm)
        self.good = every.good
        self.offered = every.offered / every.seconds
        self.busy = min(1.0, every.busy_s / (every.seconds * tuning.executors))
        self.in_time = self.leaves_time(ran)
        self._capacity = tuning.executors * every.answered / every.busy_s

    @property
    def most_gain(self) -> float:
        """By how much the best of settings could bring more."""
        if not self.offered:
            return 0.0
        return self.offered / self.good - 1 if self.good else math.inf

    @property
    def idle(self) -> bool:
        return self.busy < 1 - IDLE

    def leaves_time(self, ran: Ran) -> bool:
        """Whether who comes just after such a batch began is in time with the next."""
        return ran.batch_s * (1 + 1 / self.tuning.executors) <= self._slo_s

    def executors(self, count: int, looked: Ran) -> Option:
        slower = looked.pace / self.ran.pace
        times = count / self.tuning.executors / slower * self._pays(self._size(count, slower))
        because = f"batches then take {slower:.2f} times as long"
        return Option("executors", count, self._brought(times), self._doubt(looked), because)

    def max_batch(self, most: int, looked: Ran) -> Option:
        predicted = 0.0
        if self.leaves_time(looked):
            filled = looked.size > BINDS * most
            predicted = self._brought(looked.rate / self.ran.rate, waits=not filled)
        because = f"one of {looked.size:.0f} takes {looked.batch_s * 1e3:.3g} ms"
        return Option("max_batch", most, predicted, self._doubt(looked), because)

    def best_known(self, low: int, high: int) -> int | None:
        """The power of two with the most rows a second by what was learned, that leaves time."""
        learned = self._learned
        most_s = self._slo_s / (1 + 1 / self.tuning.executors)
        powers = (1 << power for power in range(high.bit_length()))
        fitting = [each for each in powers if each >= low and learned.at(each) <= most_s]
        return max(fitting, key=lambda each: each / learned.typical(each), default=None)

    def smaller_margin(self, low: float) -> Option | None:
        """Who is refused although executors are idle and nothing is late is refused in vain."""
        every, margin = self._every, self.tuning.margin
        late = every.answered - every.in_time
        if margin <= low or not every.refused or late > LATE * every.answered:
            return None
        value = max(low, margin / 2 if margin > LEAST_MARGIN else 0.0)
        predicted = min(self.offered, self.good / self.busy)
        because = f"{every.refused / every.offered:.0%} are refused, executors {self.busy:.0%} busy"
        return Option("margin", value, predicted, 0.0, because)

    def _brought(self, times: float, *, waits: bool = True) -> float:
        """Requests a second in time by so many times the capacity. Unless it `waits` as it does
        now, executors are always busy then."""
        requests = times * self._capacity
        if self.in_time:
            now = self._capacity * (1.0 if waits else self.busy)
            requests *= min(1.0, self.good / min(now, self.offered))
        brought = sum(min(each.offered, requests * each.seconds) for each in self.calm)
        return brought / self._every.seconds

    def _doubt(self, looked: Ran) -> float:
        """Of so few batches even the scatter is not known: it is no less than usual."""
        spread = max(looked.spread, self.ran.spread)
        return spread * math.sqrt(1 / looked.batches + 1 / self.ran.batches)

    def _pays(self, size: float) -> float:
        """Rows a second of an executor with batches of this size, by those with the size of now."""
        took_s, takes_s = (
            self._learned.typical(max(1, round(each))) for each in (self.ran.size, size)
        )
        return size / self.ran.size * took_s / takes_s

    def _size(self, executors: int, slower: float) -> float:
        """Of batches then: as now, unless it is time that bounds them."""
        size = self.ran.size
        if self._slo_s == math.inf:
            return size
        now, then = (
            self._learned.largest_within(
                self._slo_s / (1 + 1 / count) / pace, self.tuning.max_batch
            )
            for count, pace in ((self.tuning.executors, 1.0), (executors, slower))
        )
        return size * then / now if size > BINDS * now > 0 else min(size, then)
