"""What moved: levels that changed for good, trends, and stretches that do not fit.

Of how long answers take (median and p99) and how many are asked, by steps of the past. A change of
latency is told with the part of the requests' time that grew with it, which is most of the answer
to why. Called by `findings.py`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from paceline.observe.board import QUANTILES
from paceline.stats.residuals import Rule, anomalies, season
from paceline.stats.shifts import Shift, shifts
from paceline.stats.trend import trend
from paceline.terms.amounts import long_time
from paceline.terms.metric import REQUEST_SECONDS
from paceline.watch.analysis.bottleneck import WHAT, shares_of
from paceline.watch.analysis.finding import Advice, Evidence, Finding
from paceline.watch.analysis.parts import Parts
from paceline.watch.past import Past, Step

Numbers = NDArray[np.float64]

STEPS = 300
"""that a stretch of the past is looked at in, about"""

LEAST_STEPS = 20

LEAST_IN_STEP = 5
"""requests, of which a step's quantiles say something"""

GROWTH = 0.1
"""A trend is told from here on, as a share of the level over all that is looked at."""

TOGETHER = 3
"""steps within which two series changed at the same time"""

NAMES = {"p50_ms": "The median", "p99_ms": "p99", "throughput_rps": "The rate of requests"}
UNITS = {"p50_ms": "ms", "p99_ms": "ms", "throughput_rps": "requests/s"}

HOUR_S = 3600.0
DAY_S = 86400.0
"""and a week of them: the seasons that are looked for"""


class Series(NamedTuple):
    name: str
    unit: str
    values: Numbers
    walls: Sequence[float]


LENGTHS_S = ((1.0, HOUR_S), (10.0, HOUR_S), (60.0, DAY_S), (HOUR_S, math.inf))
"""of steps that the past is known by, and how far back it is known by them; multiples of the second
and of those after it are known too"""


def step_for(last_s: float, most: int = STEPS) -> float:
    """One that the past has, so that there are `most` or fewer of them in so long a stretch."""
    if last_s <= most:
        return 1.0
    for length_s, reach_s in LENGTHS_S[1:]:
        step_s = math.ceil(last_s / most / length_s) * length_s
        if last_s <= reach_s:
            return step_s
    raise AssertionError("the last one reaches as far as anybody asks")


def reach_s(step_s: float) -> float:
    """How far back the past is known by such steps."""
    return next(reach for length, reach in reversed(LENGTHS_S) if step_s >= length)


def length_s(past: Past, model: str, last_s: float, step_s: float) -> float:
    """Of the steps that such a question is answered in: a file has none of seconds."""
    steps = past.steps(REQUEST_SECONDS, {"model": model}, last_s, step_s)
    seen = sorted(each.known_s for each in steps)
    return float(round(seen[len(seen) // 2])) if seen else step_s


def series(past: Past, model: str, last_s: float, step_s: float) -> Sequence[Series]:
    """What is missing is left out, so that gaps close. The first and the last step may be cut off
    by the begin of what is known and by now; they say nothing of a rate."""
    steps = past.steps(REQUEST_SECONDS, {"model": model}, last_s, step_s)
    told = [each for each in steps if each.value >= LEAST_IN_STEP and each.quantiles]
    rates = [each for each in steps[1:-1] if each.known_s]
    return (
        Series("p50_ms", UNITS["p50_ms"], _quantile(told, 0.5), [each.wall_s for each in told]),
        Series("p99_ms", UNITS["p99_ms"], _quantile(told, 0.99), [each.wall_s for each in told]),
        Series(
            "throughput_rps",
            UNITS["throughput_rps"],
            np.array([each.value / each.known_s for each in rates], dtype=np.float64),
            [each.wall_s for each in rates],
        ),
    )


def _quantile(steps: Sequence[Step], q: float) -> Numbers:
    at = QUANTILES.index(q)
    return np.array([1e3 * each.quantiles[at] for each in steps if each.quantiles])


def moved(
    model: str,
    several: Sequence[Series],
    by_step: Sequence[tuple[float, Parts]],
    now_wall_s: float,
    step_s: float,
) -> Iterator[Finding]:
    """Changes first, each told once, then what drifts and what is odd."""
    changes = [
        (each, shift)
        for each in several
        if len(each.values) >= LEAST_STEPS
        for shift in shifts(each.values)
    ]
    changes.sort(key=lambda change: change[0].walls[change[1].at])
    groups: list[list[tuple[Series, Shift]]] = []
    for change in changes:
        at_s = change[0].walls[change[1].at]
        if groups:
            first, shift = groups[-1][0]
            if at_s - first.walls[shift.at] <= TOGETHER * step_s:
                groups[-1].append(change)
                continue
        groups.append([change])
    for group in groups:
        yield _change(model, group, by_step, now_wall_s)
    shifted = {each.name for each, _ in changes}
    for each in several:
        if len(each.values) < LEAST_STEPS:
            continue
        if each.name not in shifted:
            yield from _trend(model, each, now_wall_s)
        yield from _anomalies(model, each, step_s, now_wall_s)


def _change(
    model: str,
    group: Sequence[tuple[Series, Shift]],
    by_step: Sequence[tuple[float, Parts]],
    now_wall_s: float,
) -> Finding:
    """Of what changed together, the latencies first: they are what callers feel."""
    ordered = sorted(group, key=lambda change: list(NAMES).index(change[0].name))
    first, shift = ordered[0]
    wall_s = first.walls[shift.at]
    text = f"{NAMES[first.name]} went {_by(shift)}"
    for other, also in ordered[1:]:
        if other.name != first.name:
            name = NAMES[other.name][0].lower() + NAMES[other.name][1:]
            text += f"; {name} {_by(also)} at the same time"
    evidence = [
        Evidence(f"{each.name} change", found.change, "", found.low, found.high)
        for each, found in ordered
    ]
    if first.name != "throughput_rps":
        grew = _what_grew(by_step, wall_s)
        if grew is not None:
            part, by_ms = grew
            text += f". Most of it: {WHAT[part]}"
            evidence.append(Evidence(f"{part} for each request", by_ms, "ms"))
    evidence.append(Evidence("by chance", shift.chance, ""))
    return Finding(
        "change",
        model,
        first.name,
        f"{text}.",
        max(0.0, 1.0 - shift.chance),
        tuple(evidence),
        (Advice("`paceline why` and `paceline plan history` tell what was changed then.", 0.5),),
        now_wall_s - wall_s,
        wall_s,
    )


def _by(shift: Shift) -> str:
    return (
        f"from {shift.before:.3g} to {shift.after:.3g} "
        f"({shift.change:+.0%}, between {shift.low:+.0%} and {shift.high:+.0%})"
    )


def _what_grew(by_step: Sequence[tuple[float, Parts]], wall_s: float) -> "tuple[str, float] | None":
    """The part that changed most for each request, in the direction of the whole; in ms."""
    before, after = _means(by_step, wall_s, later=False), _means(by_step, wall_s, later=True)
    if before is None or after is None:
        return None
    changes = {part: 1e3 * (after[part] - before[part]) for part in after}
    up = sum(changes.values()) > 0
    part = (max if up else min)(changes, key=changes.__getitem__)
    return part, changes[part]


def _means(
    by_step: Sequence[tuple[float, Parts]], wall_s: float, *, later: bool
) -> dict[str, float] | None:
    """Of each part the seconds a request, of a stretch to one side."""
    side = [each for at_s, each in by_step if (at_s >= wall_s) == later and each.answered]
    if not side:
        return None
    answered = sum(each.answered for each in side)
    found: dict[str, float] = {}
    for each in side:
        for part, share in shares_of(each).items():
            found[part] = found.get(part, 0.0) + share * each.total_s / answered
    return found


def _trend(model: str, each: Series, now_wall_s: float) -> Iterator[Finding]:
    found = trend(each.values)
    if found is None or not found.certain or abs(found.growth) < GROWTH:
        return
    span_s = now_wall_s - each.walls[0]
    way = "rises" if found.growth > 0 else "falls"
    yield Finding(
        "trend",
        model,
        each.name,
        f"{NAMES[each.name]} {way}: {found.growth:+.0%} in {long_time(span_s)}, "
        f"between {found.low:+.0%} and {found.high:+.0%}.",
        0.95,
        (
            Evidence("growth", found.growth, "", found.low, found.high),
            Evidence("level", found.level, each.unit),
        ),
        ago_s=span_s,
        wall_s=each.walls[0],
    )


def _anomalies(model: str, each: Series, step_s: float, now_wall_s: float) -> Iterator[Finding]:
    window = max(LEAST_STEPS, len(each.values) // 5)
    rule = Rule(window=window, learning=window, persistence=3, quiet=max(3, window // 8))
    days = (round(DAY_S / step_s), round(7 * DAY_S / step_s))
    period = season(each.values, days, window)
    for found in anomalies(each.values, rule, period):
        wall_s = each.walls[found.begin]
        direction = "above" if found.score > 0 else "below"
        lasted_s = (found.end - found.begin) * step_s
        yield Finding(
            "anomaly",
            model,
            each.name,
            f"{NAMES[each.name]} was far {direction} what was to be expected for "
            f"{long_time(lasted_s)}: {found.found:.3g} {each.unit} where "
            f"{found.expected:.3g} were.",
            min(0.95, 1.0 - 1 / (2 * abs(found.score))),
            (
                Evidence("found", found.found, each.unit),
                Evidence("expected", found.expected, each.unit),
                Evidence("of what is allowed", abs(found.score), ""),
            ),
            ago_s=now_wall_s - wall_s,
            wall_s=wall_s,
        )
