"""Which numbers of a model's inputs and outputs are other than in its reference, and how sure.

A pure function of two lots of rows. Numbers are compared by distribution, classes by their shares,
what is missing too. Told is only what holds among all that is compared, and is large enough to
matter: of many rows everything differs. Called by the report, and by whoever measures.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.stats import drift, shares
from paceline.terms.limits import (
    DRIFT_CLASSES,
    DRIFT_DISTANCE,
    DRIFT_FALSE,
    DRIFT_LEAST,
    DRIFT_SHARES,
    DRIFT_TOLD_MOST,
)
from paceline.watch.analysis.finding import Advice, Differs, Drifted, Evidence, Finding
from paceline.watch.drift import Lot, Windows

Numbers = NDArray[np.float32]

OTHER = "other classes"


def drifted(windows: Windows) -> Drifted:
    every = [*_compared(windows)] if windows.is_ready else []
    holds = drift.hold([each.chance for each in every], DRIFT_FALSE)
    told = [each for each, held in zip(every, holds, strict=True) if held and _matters(each)]
    reference = windows.reference
    return Drifted(
        len(reference),
        reference.until_s,
        len(windows.last),
        len(every),
        tuple(sorted(told, key=lambda each: -each.distance)),
    )


def told(found: Drifted, model: str) -> Iterator[Finding]:
    """One finding for all inputs, one for all outputs."""
    for what, is_input in (("What is asked", True), ("What is answered", False)):
        differs = [each for each in found.differs if each.is_input == is_input]
        if differs:
            yield _finding(model, what, differs)


def _finding(model: str, what: str, differs: Sequence[Differs]) -> Finding:
    worst = differs[0]
    unit = "share" if worst.is_share else "mean"
    more = f", and {len(differs) - 1} more" if len(differs) > 1 else ""
    evidence: list[Evidence] = []
    for each in differs[:DRIFT_TOLD_MOST]:
        of = "" if each.is_share else "on average"
        evidence += (
            Evidence(f"{each.name}, reference", each.before, of),
            Evidence(f"{each.name}, now", each.after, of),
        )
    evidence.append(Evidence("stability index", worst.index, "at most"))
    return Finding(
        "drift",
        model,
        worst.name,
        f"{what} is other than in the reference: the {unit} of {worst.name} was "
        f"{_said(worst, worst.before)} and is {_said(worst, worst.after)}{more}.",
        1.0 - max(each.chance for each in differs),
        tuple(evidence),
        (
            Advice(
                "Look at what changed on the way of the data; if the world did, see whether the "
                "model is still right (accuracy), and train it anew.",
                0.5,
            ),
            Advice(
                "If it is meant to be so from now on, compare with the last rows instead.",
                0.5,
                f"paceline report {model} --new-reference",
            ),
        ),
    )


def _said(differs: Differs, value: float) -> str:
    return f"{value:.1%}" if differs.is_share else f"{value:.4g}"


def _matters(each: Differs) -> bool:
    return each.distance >= (DRIFT_SHARES if each.is_share else DRIFT_DISTANCE)


def _compared(windows: Windows) -> Iterator[Differs]:
    before, after = _numbers(windows, windows.reference), _numbers(windows, windows.last)
    for at, name in enumerate(windows.names):
        yield from _of_number(name, at < windows.of_inputs, before[:, at], after[:, at])
    yield from _of_classes(windows.reference.classes, windows.last.classes)


def _of_number(name: str, is_input: bool, before: Numbers, after: Numbers) -> Iterator[Differs]:
    there, here = before[~np.isnan(before)], after[~np.isnan(after)]
    if len(there) < len(before) or len(here) < len(after):
        was, is_now = 1 - len(there) / len(before), 1 - len(here) / len(after)
        yield _of_shares(f"{name}, where it is missing", is_input, was, before, is_now, after)
    if min(len(there), len(here)) < DRIFT_LEAST // 4:
        return
    if there[0] == here[0] and (there == there[0]).all() and (here == there[0]).all():
        return  # it never changes, and tells nothing
    apart = drift.distance(there, here)
    yield Differs(
        name,
        is_input,
        False,
        _mean(there),
        _mean(here),
        apart,
        drift.chance(apart, len(there), len(here)),
        drift.stability(there, here),
    )


def _of_classes(before: Sequence[str], after: Sequence[str]) -> Iterator[Differs]:
    first, second = Counter(filter(None, before)), Counter(filter(None, after))
    of_first, of_second = sum(first.values()), sum(second.values())
    if min(of_first, of_second) < DRIFT_LEAST // 4:
        return
    names = [name for name, _ in (first + second).most_common(DRIFT_CLASSES)]
    if len(first + second) > len(names):
        kept = set(names)
        for counts in (first, second):
            counts[OTHER] = sum(count for name, count in counts.items() if name not in kept)
        names.append(OTHER)
    index = drift.index_of([first[each] for each in names], [second[each] for each in names])
    for name in names:
        was, is_now = first[name] / of_first, second[name] / of_second
        yield Differs(
            name if name == OTHER else f"class {name}",
            False,
            True,
            was,
            is_now,
            abs(shares.apart(was, is_now)),
            shares.chance(was, of_first, is_now, of_second),
            index,
        )


def _of_shares(
    name: str, is_input: bool, was: float, before: Numbers, is_now: float, after: Numbers
) -> Differs:
    of_before, of_after = len(before), len(after)
    gone, left = (was * of_before, is_now * of_after), (1 - was, 1 - is_now)
    return Differs(
        name,
        is_input,
        True,
        was,
        is_now,
        abs(shares.apart(was, is_now)),
        shares.chance(was, of_before, is_now, of_after),
        drift.index_of(
            [gone[0], left[0] * of_before],
            [gone[1], left[1] * of_after],
        ),
    )


def _numbers(windows: Windows, lot: Lot) -> Numbers:
    return np.frombuffer(lot.rows, np.float32).reshape(len(lot), len(windows.names))


def _mean(values: Numbers) -> float:
    """Of those that are finite."""
    finite = values[np.isfinite(values)]
    mean = float(finite.mean(dtype=np.float64)) if len(finite) else 0.0
    return mean if math.isfinite(mean) else 0.0
