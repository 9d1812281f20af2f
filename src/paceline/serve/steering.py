"""Steering of a served model: moves its settings within their envelopes, by what they bring.

Asked about once a second with what was measured. As long as (nearly) all is answered in time it
leaves everything alone. Where more is lost it has a few other settings looked at (`serve/look.py`),
predicts what each would bring (`serve/effects.py`), and moves one knob if that is GAIN or more, and
certainly half of that. Then it measures whether the prediction came true, with respect for the
noise: for a while it may not be able to tell. What did not come true is taken back, and that
direction is left alone for some time, longer with each failure.

Pure. Its owner asks it, hands looks to `Core.look` and moves to the desk (the simulator: to
`Core.tune`); that a move was refused it sees from the settings that stayed. Not for milliseconds:
batches follow load and deadlines by themselves.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from paceline.serve.batch import Tuning
from paceline.serve.effects import (
    BINDS,
    Interval,
    Option,
    Situation,
    Steered,
    deviation,
    joined,
)
from paceline.serve.latency import LatencyModel
from paceline.serve.look import LOOK, Ran
from paceline.terms.limits import ADJUST_EVERY_S
from paceline.terms.plan import Prediction, shown

Bounds = Mapping[Steered, tuple[float, float]]
"""The envelopes. A knob that is not among them stays as it is."""

GOODPUT = "goodput_rps"

GAIN = 0.05
"""Less is not worth an adjustment."""

Z = 3.0
"""Standard errors within which nothing is certain: it is asked again and again."""

CHANGED = 4.0
"""Standard deviations from the intervals before, from which on the world is another one."""

INTERVALS = 10
"""remembered, since the settings or the world changed"""

LEAST_INTERVALS = 2
"""of them, before anything is said"""

LEAST_BATCHES = 20
LONGEST_S = 10.0
"""An interval has so many batches, or takes so long, however often it is asked."""

LOOK_EVERY_S = 15.0
"""From the end of looking around to the next time."""

LOOKS = 10
"""at one setting, where it is promising but not certain"""

COUNTED = LOOK // 2
"""Batches of a look that must have had the company it means, or it says nothing."""

AWAITED = 3
"""times that the settings of before are seen, until a move counts as refused"""

SETTLING = 1
"""Intervals after a move in which what was before still goes on."""

PATIENCE = 30
"""Intervals after a move until it is settled one way or the other."""

LEAVE_S = 60.0
LEAVE_MOST_S = 3600.0
"""How long a direction is left alone that did not bring what was predicted: twice as long with each
failure, up to the most."""


class Move(NamedTuple):
    """A setting to its new value, with a reason for people; `undoes` the one before."""

    knob: Steered
    value: int | float
    reason: str
    expects: Prediction
    undoes: bool = False


class Looks(NamedTuple):
    """Settings to be looked at, one after the other."""

    tunings: tuple[Tuning, ...]


class Steering:
    """Of one model. `slo_s` is what its requests may take; None where they may take any time."""

    def __init__(self, bounds: Bounds, slo_s: float | None) -> None:
        self.bounds = bounds
        self._slo_s = math.inf if slo_s is None else slo_s
        self._tuning = self._before = Tuning()
        self._awaited = 0
        self._part: list[Interval] = []
        self._history: deque[_Past] = deque(maxlen=INTERVALS)
        self._settling = SETTLING
        self._looking = 0
        self._look_s = 0.0
        self._seen: dict[_Setting, _Seen] = {}
        self._trial: _Trial | None = None
        self._moved_s: dict[Steered, float] = {}
        self._left: dict[tuple[Steered, bool], _Left] = {}

    def observe(
        self, now: float, interval: Interval, tuning: Tuning, learned: LatencyModel
    ) -> Move | Looks | None:
        """Measured since the last time with these settings; `learned` of the shape in `ran`."""
        if tuning != self._tuning:
            if tuning == self._before and self._awaited:
                self._awaited -= 1
                return None
            self._tuning = tuning  # somebody else moved it, or nobody moved it as asked
            self._trial = None
            self._part.clear()
            self._forget()
        self._awaited = 0
        self._part.append(interval)
        interval = joined(self._part)
        if interval.batches < LEAST_BATCHES and interval.seconds < LONGEST_S:
            return None
        self._part.clear()
        self._note(now, interval)
        if self._trial is not None:
            return self._judge(now, self._trial)
        situation = self._situation(learned)
        if situation is None or self._looking or situation.most_gain <= GAIN:
            return None
        return self._look_around(now, situation) or self._decide(now, situation)

    # --- What is known ----------------------------------------------------------------------------

    def _note(self, now: float, interval: Interval) -> None:
        if self._settling:
            self._settling -= 1
        elif self._changed(interval):
            self._forget()
            self._settling = 0
            self._look_s = now
            self._left = {way: _Left(now, left.for_s) for way, left in self._left.items()}
            if self._trial is not None and self._trial.came_true is None:
                self._trial = None  # whose doing it is cannot be told
        else:
            self._history.append(_Past(interval, calm=not self._looking))
            self._looking = 0 if interval.looked else max(0, self._looking - 1)
            for tuning, ran in interval.looked:
                seen = self._seen.get(self._setting(tuning))
                if seen is not None:
                    seen.ran.add(ran)
            if self._trial is not None:
                self._trial.add(interval)

    def _changed(self, interval: Interval) -> bool:
        """By more than chance: how long batches take or, unless something was looked at, how much
        is answered in time."""
        before = joined([each.interval for each in self._history]).ran
        ran = interval.ran
        if min(before.batches, ran.batches) >= LEAST_BATCHES // 2:
            error = max(before.spread, ran.spread) * math.sqrt(1 / before.batches + 1 / ran.batches)
            if abs(math.log(ran.pace / before.pace)) > max(GAIN, CHANGED * error):
                return True
        calm = [each.interval for each in self._history if each.calm]
        if len(calm) < LEAST_INTERVALS or self._looking:
            return False
        return abs(interval.good - joined(calm).good) > CHANGED * deviation(calm)

    def _forget(self) -> None:
        self._history.clear()
        self._seen.clear()
        self._looking = 0
        self._settling = SETTLING

    def _situation(self, learned: LatencyModel) -> Situation | None:
        """None as long as too little is known of it."""
        calm = [each.interval for each in self._history if each.calm]
        ran = joined([each.interval for each in self._history]).ran
        enough = len(calm) >= LEAST_INTERVALS and ran.batches >= LEAST_BATCHES
        if not enough or not any(each.answered and each.busy_s for each in calm):
            return None
        return Situation(calm, ran, self._tuning, learned, self._slo_s)

    # --- What could be ----------------------------------------------------------------------------

    def _look_around(self, now: float, situation: Situation) -> Looks | None:
        """At what was not looked at yet."""
        if now < self._look_s:
            return None
        around = dict.fromkeys(self._neighbours(situation))
        new = [each for each in around if each not in self._seen and self._free(now, *each)]
        return self._look_at(new)

    def _look_at(self, settings: Sequence["_Setting"]) -> Looks | None:
        if not settings:
            return None
        self._looking = INTERVALS
        for each in settings:
            self._seen.setdefault(each, _Seen()).looks += 1
        return Looks(tuple(self._with(each) for each in settings))

    def _neighbours(self, situation: Situation) -> Iterator["_Setting"]:
        """Executors one more and one fewer; batches as large as should be best, half, twice."""
        executors, most = self._tuning.executors, self._tuning.max_batch
        low, high = (int(bound) for bound in self.bounds.get("executors", (executors,) * 2))
        for count in (executors + 1, executors - 1):
            if low <= count <= high:
                yield _Setting("executors", count)
        low, high = (int(bound) for bound in self.bounds.get("max_batch", (most,) * 2))
        size = situation.ran.size
        best = situation.best_known(low, high)
        if best is not None and (best < BINDS * size or best > most):
            yield _Setting("max_batch", best)
        half = 2 ** max(0, round(math.log2(size)) if situation.idle else _below(size))
        if low <= half < most:
            yield from self._chain(situation, half, lambda rows: max(low, rows // 2))
        if most < high and size > BINDS * most and situation.in_time:
            yield from self._chain(situation, min(high, 2 * most), lambda rows: min(high, 2 * rows))

    def _chain(
        self, situation: Situation, rows: int, then: Callable[[int], int]
    ) -> Iterator["_Setting"]:
        """And on, as long as each does more than the one before, or that one left no time."""
        before = situation.ran
        while True:
            setting = _Setting("max_batch", rows)
            yield setting
            ran = self._seen[setting].ran if setting in self._seen else Ran()
            if ran.batches < COUNTED or rows == then(rows):
                return
            if ran.rate <= before.rate and situation.leaves_time(before):
                return
            before = ran
            rows = then(rows)

    def _options(self, now: float, situation: Situation) -> Iterator[Option]:
        for (knob, value), seen in self._seen.items():
            if seen.ran.batches >= COUNTED:
                what = situation.executors if knob == "executors" else situation.max_batch
                yield what(int(value), seen.ran)
        low, _ = self.bounds.get("margin", (math.inf, math.inf))
        margin = situation.smaller_margin(low)
        if margin is not None and self._free(now, "margin", margin.value):
            yield margin

    def _free(self, now: float, knob: Steered, value: int | float) -> bool:
        """Whether it may be moved there now."""
        left = self._left.get((knob, value > getattr(self._tuning, knob)))
        moved_s = self._moved_s.get(knob, -math.inf)
        return now >= moved_s + ADJUST_EVERY_S and (left is None or now >= left.until_s)

    def _with(self, setting: "_Setting") -> Tuning:
        return msgspec.structs.replace(self._tuning, **{setting.knob: setting.value})

    def _setting(self, tuning: Tuning) -> "_Setting":
        """What it has that is not in force."""
        if tuning.executors != self._tuning.executors:
            return _Setting("executors", tuning.executors)
        return _Setting("max_batch", tuning.max_batch)

    # --- What is done -----------------------------------------------------------------------------

    def _decide(self, now: float, situation: Situation) -> Move | Looks | None:
        worth = situation.good * (1 + GAIN)
        promising = [each for each in self._options(now, situation) if each.predicted > worth]
        sure = situation.good * (1 + GAIN / 2)
        certain = [each for each in promising if each.predicted * (1 - Z * each.doubt) > sure]
        if certain:
            return self._propose(now, max(certain, key=lambda each: each.predicted), situation)
        again = [_Setting(each.knob, each.value) for each in promising]
        looks = self._look_at([each for each in again if self._seen[each].looks < LOOKS])
        if looks is None and self._seen:
            self._seen.clear()
            self._look_s = now + LOOK_EVERY_S
        return looks

    def _propose(self, now: float, option: Option, situation: Situation) -> Move:
        good, predicted = situation.good, option.predicted
        before = getattr(self._tuning, option.knob)
        gain = f", {predicted / good - 1:+.0%}" if good else ""
        reason = (
            f"{_words(option.knob, option.value)} instead of {shown(before)}: {predicted:.4g} "
            f"requests/s in time instead of {good:.4g}{gain}; {option.because}"
        )
        least = min((good + predicted) / 2, good * (1 + GAIN)) if good else predicted / 2
        move = Move(option.knob, option.value, reason, _at_least(least))
        self._trial = _Trial(move, before, situation.calm, predicted, least)
        return self._moved(now, move)

    def _judge(self, now: float, trial: "_Trial") -> Move | None:
        trial.judge()
        knob, value = trial.move.knob, trial.move.value
        way = (knob, value > trial.before)
        if trial.came_true:
            self._trial = None
            self._left.pop(way, None)
        if trial.came_true is not False or now < self._moved_s[knob] + ADJUST_EVERY_S:
            return None
        self._trial = None
        for_s = 2 * self._left[way].for_s if way in self._left else LEAVE_S
        self._left[way] = left = _Left(now + min(for_s, LEAVE_MOST_S), min(for_s, LEAVE_MOST_S))
        since = joined(trial.since)
        reason = (
            f"{_words(knob, trial.before)} again: with {shown(value)} it was {since.good:.4g} "
            f"requests/s in time for {since.seconds:.0f} s, where {trial.predicted:.4g} were "
            f"predicted and {trial.good:.4g} came before; not tried again for {left.for_s:.0f} s"
        )
        return self._moved(now, Move(knob, trial.before, reason, _at_least(since.good), True))

    def _moved(self, now: float, move: Move) -> Move:
        self._moved_s[move.knob] = now
        self._awaited = AWAITED
        self._before = self._tuning
        self._tuning = self._with(_Setting(move.knob, move.value))
        self._forget()
        return move


class _Past(NamedTuple):
    interval: Interval
    calm: bool


class _Setting(NamedTuple):
    knob: Steered
    value: int | float


class _Left(NamedTuple):
    """A direction that is left alone."""

    until_s: float
    for_s: float


class _Seen:
    """Of one setting, in so many looks."""

    def __init__(self) -> None:
        self.ran = Ran()
        self.looks = 0


class _Trial:
    """A move that was made, until it is known whether it came true: whether there are `least`
    requests a second in time. `came_true` is None as long as that cannot be told."""

    def __init__(
        self,
        move: Move,
        before: int | float,
        was: Sequence[Interval],
        predicted: float,
        least: float,
    ) -> None:
        self.move = move
        self.before = before
        self.good = joined(was).good
        self.predicted = predicted
        self.since: list[Interval] = []
        self.came_true: bool | None = None
        self._least = least
        self._error = deviation(was) / math.sqrt(len(was))
        self._above = 0.0

    def add(self, interval: Interval) -> None:
        """Unless too few came for anything to be gained."""
        if interval.offered / interval.seconds > self._least:
            self.since.append(interval)
            self._above += interval.good - self._least

    def judge(self) -> None:
        count = len(self.since)
        if self.came_true is None and count >= LEAST_INTERVALS:
            error = math.hypot(deviation(self.since) / math.sqrt(count), self._error)
            if abs(self._above / count) > Z * error or count >= PATIENCE:
                self.came_true = self._above > 0


def _at_least(good: float) -> Prediction:
    return Prediction(GOODPUT, low=float(f"{good:.4g}"))


def _below(size: float) -> int:
    """The largest power of two that is smaller."""
    return math.ceil(math.log2(size)) - 1


def _words(knob: Steered, value: int | float) -> str:
    match knob:
        case "executors":
            return f"{value} executors" if value != 1 else "1 executor"
        case "max_batch":
            return f"batches of at most {value}"
        case "margin":
            return f"a margin of {shown(value)}"
