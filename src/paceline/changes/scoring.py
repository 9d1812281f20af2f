"""What came of a prediction: compares it with what was measured after the change. Pure.

A first, plain judgement for changes that nobody tested: one minute after, against what was said
would hold, and not against a baseline. Called by whoever watches the servers, with totals from
before and after; what it says goes to the journal, so that `why` tells it.
"""

import msgspec

from paceline.journal.entries import Outcome
from paceline.stats.sketch import Sketch
from paceline.terms.plan import Prediction

LEAST_REQUESTS = 100
"""Fewer say nothing about a percentile."""

QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p95_ms": 0.95, "p99_ms": 0.99}
TIMED = {*QUANTILES, "mean_ms"}
MEASURED = {*TIMED, "error_ratio", "availability", "throughput_rps", "goodput_rps"}


class Totals(msgspec.Struct, frozen=True):
    """Of one workload since its server began: requests answered, those that failed by our fault,
    and how long answers took, in seconds."""

    at_s: float
    requests: float
    failed: float
    durations_s: Sketch


class Score(msgspec.Struct, frozen=True):
    outcome: Outcome
    measured: float | None
    evidence: str


def score(prediction: Prediction, before: Totals, after: Totals, disturbed: str = "") -> Score:
    """`disturbed` says what else happened meanwhile; then nothing can be told."""
    span_s = after.at_s - before.at_s
    requests = after.requests - before.requests
    evidence = f"{requests:.0f} requests in {span_s:.0f} s"
    if disturbed:
        return Score("cannot tell", None, disturbed)
    if prediction.metric not in MEASURED:
        return Score("cannot tell", None, f"{prediction.metric} is not measured here")
    timed = after.durations_s.count - before.durations_s.count
    if prediction.metric in TIMED and timed < requests:
        evidence += f", {timed} of them answered"
        requests = timed
    if requests < LEAST_REQUESTS:
        return Score("cannot tell", None, f"{evidence}; {LEAST_REQUESTS} are the least")
    measured = _measure(prediction.metric, before, after)
    if measured is None:
        return Score("cannot tell", None, f"{evidence}; none of them was answered")
    outcome: Outcome = "came true" if prediction.holds(measured) else "did not"
    return Score(outcome, measured, evidence)


def _measure(metric: str, before: Totals, after: Totals) -> float | None:
    requests = after.requests - before.requests
    failed = after.failed - before.failed
    durations_s = after.durations_s.since(before.durations_s)
    if metric in QUANTILES:
        seconds = durations_s.quantile(QUANTILES[metric])
        return None if seconds is None else seconds * 1e3
    match metric:
        case "mean_ms" if durations_s.count:
            return durations_s.sum / durations_s.count * 1e3
        case "error_ratio":
            return failed / requests
        case "availability":
            return 1 - failed / requests
        case "throughput_rps":
            return requests / (after.at_s - before.at_s)
        case "goodput_rps":  # what is too late is answered as an error
            return (requests - failed) / (after.at_s - before.at_s)
    return None
