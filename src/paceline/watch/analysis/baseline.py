"""How a model did, to be kept; and how it does now against that: what got worse, what better.

A baseline keeps the series and not only their means, for what is told of a difference is how it
stands against how both scatter. A pure value; whoever asks keeps it in a file. Called by the
report.
"""

import math
from collections.abc import Sequence

import msgspec

from paceline.stats.shifts import Shift, difference
from paceline.terms.errors import NotMeasured
from paceline.terms.limits import BASELINE_STEPS
from paceline.watch.analysis.finding import Advice, Evidence, Finding, Kind
from paceline.watch.analysis.moved import LEAST_STEPS, NAMES, Series, series
from paceline.watch.analysis.parts import parts
from paceline.watch.past import Past

SMALLEST = 0.03
"""A difference below this, as a share, is none that is told."""

CHANCE = 0.01

FAILURES = 0.005
"""by which the share of requests turned away must differ"""


class Baseline(msgspec.Struct, frozen=True):
    """Of `step_s` each: how many ms answers took, by the quantile, and how many came a second."""

    model: str
    wall_s: float
    span_s: float
    step_s: float
    requests: float
    refused_share: float
    series: dict[str, tuple[float, ...]]


def baseline(past: Past, model: str, last_s: float) -> Baseline:
    """Raises NotMeasured where there is too little to compare with."""
    span_s = min(last_s, past.known_s())
    step_s = float(max(1, math.ceil(span_s / BASELINE_STEPS)))
    found = parts(past, model, span_s)
    several = series(past, model, span_s, step_s)
    if len(several[0].values) < LEAST_STEPS:
        raise NotMeasured(
            f"there is too little to make a baseline of {model}",
            value=f"{len(several[0].values)} steps with requests in {span_s:.0f} s",
            remedy=f"Serve for longer: {LEAST_STEPS} steps of {step_s:.0f} s are the least.",
        )
    return Baseline(
        model,
        several[0].walls[-1],
        span_s,
        step_s,
        found.asked,
        found.refused / found.asked if found.asked else 0.0,
        {each.name: tuple(float(f"{value:.5g}") for value in each.values) for each in several},
    )


def against(
    kept: Baseline, past: Past, model: str, last_s: float | None = None
) -> Sequence[Finding]:
    """What differs, the worst first. By default of the same length, in the same steps."""
    span_s = min(kept.span_s if last_s is None else last_s, past.known_s())
    several = series(past, model, span_s, kept.step_s)
    if len(several[0].values) < LEAST_STEPS:
        raise NotMeasured(
            f"there is too little of {model} to compare",
            value=f"{len(several[0].values)} steps with requests in {span_s:.0f} s",
            remedy=f"Ask again later: {LEAST_STEPS} steps of {kept.step_s:.0f} s are the least.",
        )
    found = [_compared(kept, model, each) for each in several]
    told = [each for each in (*found, _turned_away(kept, past, model, span_s)) if each is not None]
    return sorted(told, key=lambda each: each.kind != "regression")


def _compared(kept: Baseline, model: str, each: Series) -> Finding | None:
    before = kept.series.get(each.name, ())
    if len(before) < LEAST_STEPS or len(each.values) < LEAST_STEPS:
        return None
    shift = difference(before, each.values)
    if shift.chance > CHANCE or abs(shift.change) < SMALLEST:
        return None
    kind: Kind = "change"  # what is asked is the callers' affair
    if each.name != "throughput_rps":
        kind = "regression" if shift.change > 0 else "improvement"
    return _finding(kind, model, shift, each)


def _finding(kind: Kind, model: str, shift: Shift, each: Series) -> Finding:
    words = {"regression": "worse", "improvement": "better", "change": "other"}
    return Finding(
        kind,
        model,
        each.name,
        f"{NAMES[each.name]} is {words[kind]} than the baseline: {shift.after:.3g} {each.unit} "
        f"against {shift.before:.3g} ({shift.change:+.0%}, between {shift.low:+.0%} and "
        f"{shift.high:+.0%}).",
        max(0.0, 1.0 - shift.chance),
        (
            Evidence("now", shift.after, each.unit),
            Evidence("baseline", shift.before, each.unit),
            Evidence("change", shift.change, "", shift.low, shift.high),
            Evidence("by chance", shift.chance, ""),
        ),
        (Advice("`paceline plan history` tells what was changed since.", 0.5),),
    )


def _turned_away(kept: Baseline, past: Past, model: str, span_s: float) -> Finding | None:
    found = parts(past, model, span_s)
    if not found.asked or not kept.requests:
        return None
    now, before = found.refused / found.asked, kept.refused_share
    # Two shares; the interval of their difference, with one more of each kind as Agresti does.
    scatter = math.sqrt(_scatter(now, found.asked) + _scatter(before, kept.requests))
    low, high = now - before - 1.96 * scatter, now - before + 1.96 * scatter
    if low <= 0.0 <= high or abs(now - before) < FAILURES:
        return None
    worse = now > before
    return Finding(
        "regression" if worse else "improvement",
        model,
        "error_ratio",
        f"{'More' if worse else 'Fewer'} requests are turned away than in the baseline: "
        f"{now:.1%} against {before:.1%}.",
        0.95,
        (
            Evidence("now", now, ""),
            Evidence("baseline", before, ""),
            Evidence("difference", now - before, "", low, high),
        ),
    )


def _scatter(share: float, count: float) -> float:
    share = (share * count + 1) / (count + 2)
    return share * (1 - share) / (count + 2)
