"""How a model did, to be kept; and how it does now against that: what got worse, what better.

A baseline keeps the series and not only their means, for what is told of a difference is how it
stands against how both scatter. A pure value: `watch/baselines.py` keeps it in a file. Called by
the report.
"""

import math
from collections.abc import Sequence

from paceline.stats.shifts import Shift, difference
from paceline.terms.errors import NotMeasured
from paceline.terms.limits import BASELINE_STEPS
from paceline.watch.analysis.finding import Advice, Baseline, Evidence, Finding, Kind
from paceline.watch.analysis.labels import judged, labels
from paceline.watch.analysis.moved import (
    LEAST_IN_STEP,
    LEAST_STEPS,
    NAMES,
    UNITS,
    length_s,
    reach_s,
    series,
    step_for,
)
from paceline.watch.analysis.parts import parts
from paceline.watch.past import Past

SMALLEST = 0.03
"""A difference below this, as a share, is none that is told."""

CHANCE = 0.01

FAILURES = 0.005
"""by which the share of requests turned away must differ"""


def baseline(past: Past, model: str, last_s: float, step_s: float = 0.0) -> Baseline:
    """In steps of `step_s`, and then no longer than the past is known by these; without them in as
    short ones as a baseline may have. Raises NotMeasured where there is too little."""
    span_s = min(last_s, past.known_s())
    if step_s:
        span_s = min(span_s, reach_s(step_s))
    else:
        step_s = step_for(span_s, BASELINE_STEPS)
    found = parts(past, model, span_s)
    several = series(past, model, span_s, step_s)
    if len(several[0].values) < LEAST_STEPS:
        raise NotMeasured(
            f"there is too little of {model} to compare with anything",
            value=f"{len(several[0].values)} steps with requests in {span_s:.0f} s",
            remedy=f"Serve for longer: {LEAST_STEPS} steps of {step_s:.0f} s are the least, with "
            f"{LEAST_IN_STEP} requests in each.",
        )
    return Baseline(
        model,
        several[0].walls[-1],
        span_s,
        max(step_s, length_s(past, model, span_s, step_s)),
        found.asked,
        found.refused / found.asked if found.asked else 0.0,
        {each.name: tuple(float(f"{value:.5g}") for value in each.values) for each in several},
        labels(past, model, span_s),
    )


def against(
    kept: Baseline, past: Past, model: str, last_s: float | None = None
) -> Sequence[Finding]:
    """What differs, the worst first. By default of the same length, in the same steps."""
    last_s = kept.span_s if last_s is None else last_s
    return compared(kept, baseline(past, model, last_s, kept.step_s))


def compared(kept: Baseline, now: Baseline) -> Sequence[Finding]:
    """What differs, the worst first. Quantiles of longer steps are others, so they are refused."""
    if now.step_s != kept.step_s:
        raise NotMeasured(
            f"the baseline of {kept.model} is in other steps than what is known now",
            value=f"{kept.step_s:.0f} s, and now {now.step_s:.0f} s",
            remedy="Compare while the server runs, which knows the last hour by seconds; or save "
            "another baseline.",
        )
    found = [_compared(kept, now.model, name, now.series[name]) for name in now.series]
    found += [_turned_away(kept, now), *judged(kept, now)]
    told = [each for each in found if each is not None]
    return sorted(told, key=lambda each: each.kind != "regression")


def _compared(kept: Baseline, model: str, name: str, after: Sequence[float]) -> Finding | None:
    before = kept.series.get(name, ())
    if len(before) < LEAST_STEPS or len(after) < LEAST_STEPS:
        return None
    shift = difference(before, after)
    if shift.chance > CHANCE or abs(shift.change) < SMALLEST:
        return None
    kind: Kind = "change"  # what is asked is the callers' affair
    if name != "throughput_rps":
        kind = "regression" if shift.change > 0 else "improvement"
    return _finding(kind, model, shift, name)


def _finding(kind: Kind, model: str, shift: Shift, name: str) -> Finding:
    words = {"regression": "worse", "improvement": "better", "change": "other"}
    unit = UNITS[name]
    return Finding(
        kind,
        model,
        name,
        f"{NAMES[name]} is {words[kind]} than the baseline: {shift.after:.3g} {unit} "
        f"against {shift.before:.3g} ({shift.change:+.0%}, between {shift.low:+.0%} and "
        f"{shift.high:+.0%}).",
        max(0.0, 1.0 - shift.chance),
        (
            Evidence("now", shift.after, unit),
            Evidence("baseline", shift.before, unit),
            Evidence("change", shift.change, "", shift.low, shift.high),
            Evidence("by chance", shift.chance, ""),
        ),
        (Advice("`paceline plan history` tells what was changed since.", 0.5),),
    )


def _turned_away(kept: Baseline, after: Baseline) -> Finding | None:
    if not after.requests or not kept.requests:
        return None
    now, before = after.refused_share, kept.refused_share
    # Two shares; the interval of their difference, with one more of each kind as Agresti does.
    scatter = math.sqrt(_scatter(now, after.requests) + _scatter(before, kept.requests))
    low, high = now - before - 1.96 * scatter, now - before + 1.96 * scatter
    if low <= 0.0 <= high or abs(now - before) < FAILURES:
        return None
    worse = now > before
    return Finding(
        "regression" if worse else "improvement",
        after.model,
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
