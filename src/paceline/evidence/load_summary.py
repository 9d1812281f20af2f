"""A load test in numbers, and in a sentence or two; or why its times mean nothing.

Text, JSON and page show these and compute none of their own, but for curves over time. Percentiles
are exact, of every request that is counted. Where this process was late itself, there are none:
better no number than one that blames the server. Called by `paceline load`.
"""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.evidence.load import ENDS, PENDING, Load, Outcome
from paceline.evidence.summary import WANTED
from paceline.evidence.targets import REFUSALS
from paceline.terms.amounts import counted, in_words, percent
from paceline.terms.request import PRIORITIES

LAG_S = 1e-3
LAG_SHARE = 0.1
"""A p99 of the lag beyond both, the share being of the reported p99, and nothing is reported."""

BUSY_MOST = 0.95
"""Beyond, what waits for a connection may wait for this process to look."""

SHARES = (0.5, 0.9, 0.95, 0.99, 0.999, 1.0)

REMEDY = (
    "Ask for a lower --rate, leave a core free for this command, or run several of them at once, "
    "on other machines if need be."
)

Flags = NDArray[np.bool_]
Times = NDArray[np.float64]


class Quantiles(msgspec.Struct, frozen=True):
    samples: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float


class OfGroup(msgspec.Struct, frozen=True):
    """Of one priority or one model; times are those of what was answered."""

    name: str
    requests: int
    answered: int
    refused: int
    failed: int
    share_in_time: float | None
    latency: Quantiles | None


class Summary(msgspec.Struct, frozen=True):
    """`not_told` is why there are no times of the server; `lag` is what this process was late.
    Refused are those with status 429, 503 or 504; failed is whatever else has no status of 2xx;
    unfinished is what was under way when somebody ended the test."""

    in_short: str
    met: bool | None
    goal: str | None
    slo_ms: float | None
    not_told: str | None
    requests: int
    seconds: float
    warmup_requests: int
    offered_rps: float
    answered_rps: float
    goodput_rps: float | None
    share_in_time: float | None
    answered: int
    refused: int
    failed: int
    unfinished: int
    statuses: dict[str, int]
    errors: dict[str, int]
    latency: Quantiles | None
    refusals: Quantiles | None
    first_piece: Quantiles | None
    per_piece: Quantiles | None
    pieces_per_s: float | None
    lag: Quantiles | None
    waited: int
    """For a connection."""
    wait: Quantiles | None
    priorities: list[OfGroup]
    models: list[OfGroup]
    connections: int
    opened: int
    busy: float | None
    interrupted: bool
    gave_up: str | None
    trouble: str | None


def summarize(what: Load, outcome: Outcome, slo_s: float | None) -> Summary:
    arrivals = what.arrivals
    first = min(arrivals.counted_from, len(outcome.due_s))
    ends = outcome.ends[first:]
    due_s = outcome.due_s[first:]
    took_s = outcome.done_s[first:] - due_s
    lag_s = outcome.lag_s[first:]
    answered = (ends >= 200) & (ends < 300)
    refused = np.isin(ends, REFUSALS)
    over = ends != PENDING
    in_time = answered & (took_s <= slo_s) if slo_s is not None else answered
    wait_s = outcome.sent_s[first:] - due_s - lag_s
    waited = wait_s > 1e-6
    latency, lag, wait = quantiles(took_s[answered]), quantiles(lag_s), quantiles(wait_s[waited])
    not_told = why_not(latency, lag, wait if waited.mean() > LAG_SHARE else None, outcome.busy)
    told = not_told is None
    seconds = _seconds(what, outcome)
    share = float(in_time.sum() / over.sum()) if told and slo_s and over.any() else None
    streamed = what.stream and told
    first_s = outcome.first_s[first:] - due_s if what.stream else took_s
    spoke = answered & np.isfinite(first_s)
    pieces = outcome.pieces[first:]
    several = spoke & (pieces > 1) if what.stream else spoke
    made = Summary(
        in_short="",
        met=None if share is None else share >= WANTED,
        goal=None if slo_s is None else f"p99_ms <= {slo_s * 1e3:.12g}",
        slo_ms=None if slo_s is None else slo_s * 1e3,
        not_told=not_told,
        requests=len(ends),
        seconds=seconds,
        warmup_requests=first,
        offered_rps=len(ends) / seconds if seconds else 0.0,
        answered_rps=float(answered.sum()) / seconds if seconds else 0.0,
        goodput_rps=float(in_time.sum()) / seconds if told and slo_s and seconds else None,
        share_in_time=share,
        answered=int(answered.sum()),
        refused=int(refused.sum()),
        failed=int((over & ~answered & ~refused).sum()),
        unfinished=int((~over).sum()),
        statuses={str(status): count for status, count in _counts(ends) if status >= 100},
        errors={ENDS[end]: count for end, count in _counts(ends) if PENDING < end < 100},
        latency=latency if told else None,
        refusals=quantiles(took_s[refused]) if told else None,
        first_piece=quantiles(first_s[spoke]) if streamed else None,
        per_piece=quantiles((took_s - first_s)[several] / (pieces[several] - 1))
        if streamed
        else None,
        pieces_per_s=float(pieces.sum()) / seconds if what.stream and seconds else None,
        lag=lag,
        waited=int(waited.sum()),
        wait=wait if told else None,
        priorities=_groups(
            [*PRIORITIES],
            arrivals.ranks[first:],
            ends,
            took_s,
            in_time if share is not None else None,
            told,
        )[::-1],
        models=_groups(
            what.shots.models,
            what.shots.model_of[first:],
            ends,
            took_s,
            in_time if share is not None else None,
            told,
        ),
        connections=what.connections,
        opened=outcome.opened,
        busy=outcome.busy,
        interrupted=outcome.interrupted,
        gave_up=outcome.gave_up,
        trouble=outcome.connect_trouble,
    )
    return msgspec.structs.replace(made, in_short=_in_short(made, slo_s))


def quantiles(times_s: Times) -> Quantiles | None:
    """Exact: each is one of the times, the smallest below which at least so many lie."""
    if not len(times_s):
        return None
    ordered = np.sort(times_s) * 1e3
    at = [max(0, math.ceil(share * len(ordered) - 1e-9) - 1) for share in SHARES]
    p50_ms, p90_ms, p95_ms, p99_ms, p999_ms, max_ms = ordered[at].tolist()
    mean_ms = float(ordered.mean())
    return Quantiles(len(ordered), mean_ms, p50_ms, p90_ms, p95_ms, p99_ms, p999_ms, max_ms)


def why_not(
    latency: Quantiles | None,
    lag: Quantiles | None,
    wait: Quantiles | None,
    busy: float | None,
) -> str | None:
    """Why times are not told; None where they can be. `wait`, where many waited, for how long."""
    if latency is None or lag is None:
        return None
    bound_ms = max(LAG_S * 1e3, LAG_SHARE * latency.p99_ms)
    if lag.p99_ms > bound_ms:
        return (
            "this command itself was late: the p99 of its own lag is "
            f"{in_words(lag.p99_ms / 1e3)}, above {in_words(LAG_S)} and above a tenth of "
            f"the p99 of {in_words(latency.p99_ms / 1e3)} that it saw"
        )
    if busy is not None and busy > BUSY_MOST and wait is not None and wait.p99_ms > bound_ms:
        return (
            f"this command itself was at its end: it was busy {percent(busy)} of the time while "
            "requests waited for connections, so answers lay unread"
        )
    return None


def _seconds(what: Load, outcome: Outcome) -> float:
    """Of arrivals after the warm-up; fewer where the test was ended."""
    ended_early = outcome.interrupted or outcome.gave_up
    lasted_s = outcome.lasted_s - what.arrivals.warmup_s
    return max(0.0, min(what.arrivals.span_s, lasted_s)) if ended_early else what.arrivals.span_s


def _counts(ends: NDArray[np.int16]) -> Sequence[tuple[int, int]]:
    found, counts = np.unique(ends, return_counts=True)
    return [*zip(found.tolist(), counts.tolist(), strict=True)]


def _groups(
    names: Sequence[str],
    of: NDArray[np.int64],
    ends: NDArray[np.int16],
    took_s: Times,
    in_time: Flags | None,
    told: bool,
) -> list[OfGroup]:
    """Those that came."""
    of = of[: len(ends)]
    answered, refused = (ends >= 200) & (ends < 300), np.isin(ends, REFUSALS)
    groups = []
    for place, name in enumerate(names):
        own = of == place
        over = own & (ends != PENDING)
        if not own.any():
            continue
        share = (
            float((in_time & own).sum() / over.sum())
            if in_time is not None and over.any()
            else None
        )
        groups.append(
            OfGroup(
                name,
                int(own.sum()),
                int((own & answered).sum()),
                int((own & refused).sum()),
                int((over & ~answered & ~refused).sum()),
                share,
                quantiles(took_s[own & answered]) if told else None,
            )
        )
    return groups


# --- In a sentence or two -------------------------------------------------------------------------


def _in_short(summary: Summary, slo_s: float | None) -> str:
    if not summary.requests:
        return "Ended within the warm-up: nothing was counted."
    ended = summary.requests - summary.unfinished
    if summary.not_told is not None:
        return f"No times can be told: {summary.not_told}."
    if not summary.answered:
        return f"Not one of {counted(ended)} requests was answered with a result.{_others(summary)}"
    if summary.share_in_time is None or slo_s is None:
        assert summary.latency is not None
        return (
            f"{counted(summary.answered)} of {counted(ended)} requests were answered, half of them "
            f"within {in_words(summary.latency.p50_ms / 1e3)}, 99 % within "
            f"{in_words(summary.latency.p99_ms / 1e3)}.{_others(summary)}"
        )
    verdict = "met" if summary.met else f"not met, for which it takes {WANTED * 100:g} %"
    return (
        f"{percent(summary.share_in_time)} of {counted(ended)} requests were answered within "
        f"{in_words(slo_s)}: the objective p99 <= {in_words(slo_s)} is {verdict}.{_others(summary)}"
    )


def _others(summary: Summary) -> str:
    ended = summary.requests - summary.unfinished
    parts = []
    if summary.refused:
        parts.append(f"{percent(summary.refused / ended)} were refused")
    if summary.failed:
        parts.append(f"{percent(summary.failed / ended)} failed")
    return f" {' and '.join(parts)}." if parts else ""
