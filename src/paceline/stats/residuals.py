"""What does not fit: stretches of a series far from what was expected, for longer than a blip.

What is to be expected of a value is told by those before it alone: by the same time of earlier
periods where the series has a season, else by the last while. How far is far is told by how far
values were from it before. A mean and two standard deviations are the usual rule; it fails where
values are what they are in production (`./bench anomalies` has it beside this one): spikes that
belong to the series widen it or set it off, seasons set it off every day, and one value is enough.
Here all is medians, the tail of what was before counts as well as its middle, and it must last.

Not for levels that change for good (`shifts.py` names the place). Pure; numpy alone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]

LOOKED_AT = 96
"""values of a window that its median is of; of a longer one, so many spread evenly"""

CYCLES = 7
"""periods back that tell what is to be expected"""

LEAST_CYCLES = 3
"""that a season is found in"""

SEASON_GAIN = 0.75
"""By a season values lie this much nearer to those of the periods before than to the last while."""

NORMAL = 1.4826
"""times the median distance from the median is a standard deviation, where values are normal"""


TAIL = 0.998
"""of all that was before lies below what is usual"""


class Rule(msgspec.Struct, frozen=True):
    """Lengths are in values. Beyond `threshold` deviations, and `tail` times what is usual, in the
    median of `persistence` values; over after `quiet` that are not."""

    window: int = 288
    threshold: float = 3.0
    tail: float = 1.25
    persistence: int = 2
    quiet: int = 144
    learning: int = 288
    """from the beginning, for which nothing is told"""


class Anomaly(msgspec.Struct, frozen=True):
    """From `begin` to before `end`; `score` is its largest distance, with its sign, where 1 is as
    far as the rule allows."""

    begin: int
    end: int
    score: float
    expected: float
    found: float
    """the median of the stretch, as `expected` is"""


def season(values: ArrayLike, periods: Sequence[int], window: int) -> int | None:
    """Of `periods` the one by which values repeat, if any; `window` is what the last while is."""
    given = np.asarray(values, dtype=np.float64)
    best: tuple[float, int] | None = None
    for period in periods:
        if len(given) < LEAST_CYCLES * period or period < 2:
            continue
        expected, plain = _seasonal(given, period), _rolling(given, window)
        from_ = max(2 * period, window)
        apart = float(np.median(np.abs(given[from_:] - expected[from_:])))
        before = float(np.median(np.abs(given[from_:] - plain[from_:])))
        if before > 0 and apart < SEASON_GAIN * before and (best is None or apart < best[0]):
            best = apart, period
    return None if best is None else best[1]


class Rest(NamedTuple):
    """What is left of values when what was expected of them is taken away."""

    given: Numbers
    expected: Numbers
    lasting: Numbers
    """of each and those just before it the median; 0 where nothing is expected yet"""
    deviation: Numbers
    """how far values lay from what was expected, in the last while"""
    usual: Numbers
    """what nearly all before were, of those that lasted"""


def anomalies(values: ArrayLike, rule: Rule, period: int | None = None) -> Sequence[Anomaly]:
    """In order. All values are finite; `period` is of the season, in values."""
    given = np.asarray(values, dtype=np.float64)
    assert np.isfinite(given).all(), "what is missing is left out, not NaN"
    if len(given) <= rule.learning:
        return []
    return told(rest(given, rule, period), rule)


def rest(given: Numbers, rule: Rule, period: int | None = None) -> Rest:
    """By `window` and `persistence` of the rule alone."""
    if period is None:
        expected, known = _rolling(given, rule.window), 0
    else:
        by_season = _seasonal(given, period)
        expected, known = by_season + _rolling(given - by_season, rule.window), 2 * period
    lasting = _lasting(given - expected, rule.persistence)
    lasting[:known] = 0.0
    deviation = NORMAL * _rolling(np.abs(given - expected), rule.window)
    return Rest(given, expected, lasting, deviation, _tail(np.abs(lasting), rule, known))


def told(found: Rest, rule: Rule) -> Sequence[Anomaly]:
    """What of it is an anomaly, by all else of the rule."""
    rounding = 1e-9 * float(np.abs(found.given).max() or 1.0)
    allowed = np.maximum(rule.threshold * found.deviation, rule.tail * found.usual) + rounding
    score = found.lasting / allowed
    far = np.flatnonzero(np.abs(score) > 1.0)
    far = far[far >= rule.learning]
    if not len(far):
        return []
    stretches = []
    for each in np.split(far, np.flatnonzero(np.diff(far) > rule.quiet) + 1):
        most = int(each[np.argmax(np.abs(score[each]))])
        stretches.append(
            Anomaly(
                int(each[0]),
                int(each[-1]) + 1,
                float(score[most]),
                float(found.expected[most]),
                float(np.median(found.given[each])),
            )
        )
    return stretches


def _rolling(values: Numbers, window: int) -> Numbers:
    """Of each place the median of those before it; of the first, of those there are."""
    window = max(2, min(window, len(values)))
    stride = max(1, window // LOOKED_AT)
    padded = np.concatenate([np.full(window, values[:window].mean()), values])
    padded[:window] = np.median(values[: max(1, window // 4)])
    found: Numbers = np.median(sliding_window_view(padded, window)[:-1, ::-stride], axis=1)
    return found


def _seasonal(values: Numbers, period: int) -> Numbers:
    """Of each place the median of what was at the same time of the periods before, a step to either
    side included; in the first period, what is there."""
    total = len(values)
    columns = []
    for cycle in range(1, CYCLES + 1):
        for beside in (-1, 0, 1):
            back = cycle * period + beside
            moved = np.full(total, np.nan)
            if back < total:
                moved[back:] = values[: total - back]
            columns.append(moved)
    table = np.array(columns)
    known = ~np.isnan(table).all(axis=0)
    found = values.copy()
    found[known] = np.nanmedian(table[:, known], axis=0)
    return found


def _lasting(rest: Numbers, values: int) -> Numbers:
    """Of each and those just before it the median: what does not last is not in it."""
    if values <= 1:
        return rest
    padded = np.concatenate([np.zeros(values - 1), rest])
    found: Numbers = np.median(sliding_window_view(padded, values), axis=1)
    return found


def _tail(distance: Numbers, rule: Rule, known: int) -> Numbers:
    """What nearly all were before, looked at anew each quarter of a window."""
    step = max(1, rule.window // 4)
    found = np.zeros(len(distance))
    for start in range(known + step, len(distance), step):
        found[start : start + step] = np.quantile(distance[known:start], TAIL)
    return found
