"""All that analysis has to say of a model, from a stretch of its past. What reports call.

The bottleneck first, with what to do about it; then what changed, drifts or does not fit. It reads
the past and nothing else, decides nothing, and says nothing where there is too little to go by.
"""

from collections.abc import Sequence

from paceline.serve.knobs import Rules
from paceline.watch.analysis.advice import advice
from paceline.watch.analysis.bottleneck import (
    WHAT,
    agreement,
    bottleneck,
    bottleneck_of_step,
    evidence,
)
from paceline.watch.analysis.finding import Finding
from paceline.watch.analysis.labels import lately
from paceline.watch.analysis.moved import length_s, moved, series, step_for
from paceline.watch.analysis.parts import Parts, parts, steps
from paceline.watch.past import Past


def findings(
    past: Past, model: str, last_s: float, rules: Rules | None = None
) -> Sequence[Finding]:
    """`rules` are the model's settings in force: with them advice names values and commands."""
    last_s = min(last_s, past.known_s())
    if last_s <= 0.0:
        return []
    asked_s = step_for(last_s)
    step_s = max(asked_s, length_s(past, model, last_s, asked_s))
    by_step = steps(past, model, last_s, step_s)
    if not by_step:
        return []
    now_wall_s = by_step[-1][0] + step_s
    whole = parts(past, model, last_s)
    several = series(past, model, last_s, step_s)
    told = list(moved(model, several, by_step, now_wall_s, step_s))
    told += lately(past, model, last_s)
    named = _named(model, whole, by_step, now_wall_s, rules)
    return told if named is None else [named, *told]


def _named(
    model: str,
    whole: Parts,
    by_step: Sequence[tuple[float, Parts]],
    now_wall_s: float,
    rules: Rules | None,
) -> Finding | None:
    found = bottleneck(whole)
    if found is None:
        return None
    since_s = _since(by_step, found.part)
    return Finding(
        "bottleneck",
        model,
        found.part,
        f"{WHAT[found.part][0].upper()}{WHAT[found.part][1:]}: {found.why}.",
        agreement([each for _, each in by_step], found.part),
        evidence(whole),
        advice(whole, found, model, rules),
        None if since_s is None else now_wall_s - since_s,
        since_s,
    )


def _since(by_step: Sequence[tuple[float, Parts]], part: str) -> float | None:
    """When the run of steps began in which it was so, up to now; None where that is all of them.
    One step that says otherwise does not end it."""
    since_s: float | None = None
    misses = 0
    for wall_s, each in reversed(by_step):
        if bottleneck_of_step(each) == part:
            since_s, misses = wall_s, 0
        else:
            misses += 1
            if misses > 1:
                return since_s
    return None
