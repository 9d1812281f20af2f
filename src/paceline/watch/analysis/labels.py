"""How good predictions were, by the labels that came back; and whether that is worse than before.

Labels come when they like, so a stretch of time is that in which they were told, not that in which
the answers were given. Pure but for the past. Called by reports and baselines.
"""

import math
from collections.abc import Iterator

from paceline.stats.shares import Z, chance
from paceline.terms.amounts import long_time
from paceline.terms.metric import FEEDBACK, FEEDBACK_ERROR, FEEDBACK_SQUARED
from paceline.watch.analysis.finding import (
    LEAST_MEASURED,
    Advice,
    Baseline,
    Evidence,
    Finding,
    Labels,
)
from paceline.watch.past import Past

CHANCE = 0.01
"""that a difference from a baseline may have; one that nobody asked for a tenth of it"""

SMALLEST = 0.01
"""A difference of two shares below this is none that is told."""

SMALLEST_ERROR = 0.03
"""The same of mean errors, as a share of what the error was."""

LEAST = 30
"""rows judged, on either side"""

ADVICE = Advice(
    "Look at what was answered wrong, and whether what is asked has drifted; if the world has "
    "changed, train the model anew.",
    0.5,
)


def labels(past: Past, model: str, last_s: float) -> Labels:
    def grew(outcome: str) -> float:
        return past.grew(FEEDBACK, {"model": model, "outcome": outcome}, last_s)

    of_model = {"model": model}
    return Labels(
        grew("right"),
        grew("wrong"),
        grew("measured"),
        past.grew(FEEDBACK_ERROR, of_model, last_s),
        past.grew(FEEDBACK_SQUARED, of_model, last_s),
    )


def judged(kept: Baseline, now: Baseline) -> Iterator[Finding]:
    """What differs from a baseline by more than chance."""
    return _differs(now.model, kept.labels, now.labels, "in the baseline", CHANCE)


def lately(past: Past, model: str, last_s: float) -> Iterator[Finding]:
    """The same of the last quarter of a stretch, against the three before it."""
    whole, after = labels(past, model, last_s), labels(past, model, last_s / 4)
    before = Labels(
        *(
            max(0.0, getattr(whole, each) - getattr(after, each))
            for each in Labels.__struct_fields__
        )
    )
    return _differs(model, before, after, f"in the {long_time(last_s * 3 / 4)} before", CHANCE / 10)


def _differs(
    model: str, before: Labels, after: Labels, when: str, most: float
) -> Iterator[Finding]:
    for found in (
        _of_classes(model, before, after, when, most),
        _of_numbers(model, before, after, when, most),
    ):
        if found is not None:
            yield found


def _of_classes(
    model: str, before: Labels, after: Labels, when: str, most: float
) -> Finding | None:
    of_before, of_after = before.right + before.wrong, after.right + after.wrong
    if min(of_before, of_after) < LEAST:
        return None
    was, is_now = before.right / of_before, after.right / of_after
    by_chance = chance(was, of_before, is_now, of_after)
    if by_chance > most or abs(is_now - was) < SMALLEST:
        return None
    scatter = was * (1 - was) / of_before + is_now * (1 - is_now) / of_after
    reach = Z * math.sqrt(scatter)
    change = is_now - was
    return _finding(
        model,
        "accuracy",
        change < 0,
        f"Predictions are right {'less' if change < 0 else 'more'} often than {when}: "
        f"{is_now:.1%} of {of_after:.0f} against {was:.1%} of {of_before:.0f}.",
        (
            Evidence("now", is_now, ""),
            Evidence("before", was, ""),
            Evidence("difference", change, "", change - reach, change + reach),
        ),
        by_chance,
    )


def _of_numbers(
    model: str, before: Labels, after: Labels, when: str, most: float
) -> Finding | None:
    if min(before.measured, after.measured) < max(LEAST, LEAST_MEASURED):
        return None
    was, is_now = before.error / before.measured, after.error / after.measured
    change, scatter = is_now - was, math.sqrt(before.error_scatter() + after.error_scatter())
    by_chance = math.erfc(abs(change) / scatter / math.sqrt(2)) if scatter else float(not change)
    if by_chance > most or abs(change) < SMALLEST_ERROR * was:
        return None
    reach = Z * scatter
    return _finding(
        model,
        "mean_abs_error",
        change > 0,
        f"Predictions are {'farther off' if change > 0 else 'closer'} than {when}: by "
        f"{is_now:.3g} on average, against {was:.3g}.",
        (
            Evidence("now", is_now, "off"),
            Evidence("before", was, "off"),
            Evidence("difference", change, "off", change - reach, change + reach),
        ),
        by_chance,
    )


def _finding(
    model: str,
    name: str,
    worse: bool,
    what: str,
    evidence: tuple[Evidence, ...],
    by_chance: float,
) -> Finding:
    return Finding(
        "regression" if worse else "improvement",
        model,
        name,
        what,
        1.0 - by_chance,
        evidence,
        (ADVICE,) if worse else (),
    )
