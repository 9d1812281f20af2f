"""A run in numbers, and in one sentence that says whether the objective is met.

Text, JSON and page show these and compute none of their own; curves over time are `report.py`'s.
The same run gives the same summary. Called by `paceline simulate`.
"""

from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.evidence.simulate import (
    DONE,
    ENDS,
    EXPIRED,
    FAILED,
    FULL,
    LATE,
    LEFT,
    LOST,
    SHED,
    Run,
)
from paceline.terms.amounts import counted, in_words, percent
from paceline.terms.request import PRIORITIES

WANTED = 0.99
"""The share that the objective is about: `--slo 30ms` means p99_ms <= 30."""

QUANTILES = (0.5, 0.95, 0.99)

WORDS: Mapping[int, tuple[str, str]] = {
    LATE: ("refused: would be late", "were refused at once, since they would have been late"),
    FULL: ("refused: queue full", "were refused at once, since the queue was full"),
    SHED: ("shed for others", "gave way to what came with a higher priority"),
    EXPIRED: ("expired in the queue", "waited in the queue until their time was over"),
    FAILED: ("failed", "failed with an error"),
    LOST: ("lost with an executor", "were lost when an executor died"),
}
"""How requests end that got no result: as a heading, and in a sentence."""


class OfPriority(msgspec.Struct, frozen=True):
    """Times are those of what was answered with a result; None where nothing was."""

    priority: str
    requests: int
    share_in_time: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Batches(msgspec.Struct, frozen=True):
    """`by_rows`: how many batches had so many rows."""

    batches: int
    rows_mean: float | None
    rows_most: int
    by_rows: dict[int, int]


class Summary(msgspec.Struct, frozen=True):
    """`met` is None where nobody waited for an answer. Rates are None where all came at once."""

    in_short: str
    met: bool | None
    goal: str
    share_wanted: float
    slo_ms: float
    requests: int
    trace_s: float
    offered_rps: float | None
    goodput_rps: float | None
    share_in_time: float | None
    in_time: int
    too_late: int
    ends: dict[str, int]
    overall: OfPriority
    priorities: list[OfPriority]
    batches: Batches
    dispatched: dict[str, int]
    waits: dict[str, int]
    reruns: int
    executors: int
    busy: float | None


def summarize(run: Run, slo_s: float, executors: int, row_s: float) -> Summary:
    """`row_s`: how long one row takes by itself."""
    in_time = run.in_time
    stayed = run.ends != LEFT
    trace_s = run.trace.seconds
    share = _share(in_time, stayed)
    met = None if share is None else share >= WANTED
    ended_s = float(run.ended_s.max(initial=trace_s))
    answered = int(in_time.sum())
    return Summary(
        in_short=_in_short(run, slo_s, share, row_s),
        met=met,
        goal=f"p99_ms <= {slo_s * 1e3:.12g}",
        share_wanted=WANTED,
        slo_ms=slo_s * 1e3,
        requests=len(run.trace),
        trace_s=trace_s,
        offered_rps=len(run.trace) / trace_s if trace_s else None,
        goodput_rps=answered / trace_s if trace_s else None,
        share_in_time=share,
        in_time=answered,
        too_late=run.count(DONE) - answered,
        ends={name: run.count(end) for end, name in enumerate(ENDS) if end},
        overall=_of("all", run, np.ones(len(run.trace), dtype=np.bool_)),
        priorities=_priorities(run),
        batches=_batches(run),
        dispatched={reason: count for reason, count in run.dispatched.items() if count},
        waits={reason: count for reason, count in run.waits.items() if count},
        reruns=run.reruns,
        executors=executors,
        busy=min(1.0, run.busy_s / executors / ended_s) if ended_s else None,
    )


def _share(in_time: "NDArray[np.bool_]", stayed: "NDArray[np.bool_]") -> float | None:
    return float(in_time.sum() / stayed.sum()) if stayed.any() else None


def _priorities(run: Run) -> list[OfPriority]:
    """Those that came, from the highest on."""
    ranks = np.asarray(run.trace.ranks, dtype=np.int64)
    return [
        _of(PRIORITIES[rank], run, ranks == rank)
        for rank in reversed(range(len(PRIORITIES)))
        if (ranks == rank).any()
    ]


def _of(name: str, run: Run, which: "NDArray[np.bool_]") -> OfPriority:
    times_s = run.ended_s - np.asarray(run.trace.arrived_s)
    answered_s = times_s[which & (run.ends == DONE)]
    quantiles_ms: list[float | None] = [None] * len(QUANTILES)
    if len(answered_s):
        quantiles_ms = (np.quantile(answered_s, QUANTILES) * 1e3).tolist()
    share = _share(run.in_time & which, which & (run.ends != LEFT))
    return OfPriority(name, int(which.sum()), share, *quantiles_ms)


def _batches(run: Run) -> Batches:
    rows = np.asarray(run.batch_rows, dtype=np.int64)
    counts = np.bincount(rows)
    by_rows = {int(size): int(counts[size]) for size in np.flatnonzero(counts)}
    mean = float(rows.mean()) if len(rows) else None
    return Batches(len(rows), mean, max(by_rows, default=0), by_rows)


def endings(summary: Summary) -> list[tuple[str, int]]:
    """What became of all, in words; those that gave a result always, others where there are any."""
    listed = [("answered in time", summary.in_time), ("answered too late", summary.too_late)]
    listed += [(WORDS[end][0], summary.ends[ENDS[end]]) for end in WORDS]
    listed.append(("callers left", summary.ends[ENDS[LEFT]]))
    return [(words, count) for words, count in listed if count or words == listed[0][0]]


# --- In one sentence, or two ----------------------------------------------------------------------


def _in_short(run: Run, slo_s: float, share: float | None, row_s: float) -> str:
    objective = f"the objective p99 <= {in_words(slo_s)}"
    if share is None:
        return f"No caller waited for an answer: {objective} cannot be judged."
    left = run.count(LEFT)
    stayed = len(run.trace) - left
    allowed_s = run.deadlines_s - np.asarray(run.trace.arrived_s)
    alike = bool(np.all(allowed_s > slo_s * (1 - 1e-9)) and np.all(allowed_s < slo_s * (1 + 1e-9)))
    whose = f"{counted(stayed)} request{'s' * (stayed != 1)}"
    if left:
        whose += " whose callers stayed"
    told = (
        f"{percent(share)} of {whose} {'was' if stayed == 1 else 'were'} answered "
        f"{f'within {in_words(slo_s)}' if alike else 'in time'}: {objective} is "
    )
    if share >= WANTED:
        return f"{told}met."
    return f"{told}not met, for which it takes {WANTED * 100:g} %. {_why(run, slo_s, row_s)}"


def _why(run: Run, slo_s: float, row_s: float) -> str:
    """What became of most of the others."""
    if row_s > slo_s:
        return f"One row alone takes {in_words(row_s)}."
    worst = max(WORDS, key=run.count)
    too_late = run.count(DONE) - int(run.in_time.sum())
    of_all = len(run.trace)
    if too_late >= run.count(worst):
        return f"{percent(too_late / of_all)} were answered too late."
    return f"{percent(run.count(worst) / of_all)} {WORDS[worst][1]}."
