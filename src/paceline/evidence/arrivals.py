"""When requests of a load test are due: a trace laid behind a warm-up, as arrays.

Made at a constant rate or by `traces.py`, which also reads files. Which bytes each request has is
decided in `targets.py`, sending in `load.py`; both call nothing here but read what is made.
"""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from paceline.evidence import traces
from paceline.flow.queue import NEVER
from paceline.terms.errors import BadInput, LimitReached, Misuse
from paceline.terms.limits import LOAD_REQUESTS

CONSTANT = "constant"
SECONDS = 10.0
RATE = 100.0
"""Of made arrivals, unless told otherwise."""

SEED_STEP = 1_000_003
"""Between the seed of the warm-up and that of the rest, so that neither repeats the other."""


class Arrivals(msgspec.Struct, frozen=True):
    """By request, in the order in which they are due; seconds from the begin of the warm-up."""

    name: str
    due_s: NDArray[np.float64]
    ranks: NDArray[np.int64]
    rows: NDArray[np.int64]
    timeouts_ms: NDArray[np.int64]
    """0 where a request has none of its own."""
    counted_from: int
    """Those before are the warm-up."""
    warmup_s: float
    span_s: float
    """How long arrivals last after the warm-up."""

    @property
    def rate(self) -> float:
        """Requests a second that are counted."""
        return (len(self.due_s) - self.counted_from) / self.span_s if self.span_s else 0.0


def arrivals(
    spec: str,
    rate: float | None,
    seconds: float | None,
    warmup_s: float,
    seed: int,
    ranks: tuple[float, float, float, float],
) -> Arrivals:
    """`constant`, or what `traces.load` takes, of which a made one may come without its rate.
    `ranks` are weights of priorities, where a file does not say them."""
    if not 0 <= warmup_s <= traces.DAY_STEPS:
        raise BadInput(
            "a warm-up cannot be this long",
            value=warmup_s,
            remedy=f"Write seconds from 0 to {traces.DAY_STEPS}.",
        )
    kind, _, said = spec.partition(":")
    made = kind == CONSTANT or kind in traces.MADE
    if made:
        rate = _rate(spec, said, rate)
        seconds = SECONDS if seconds is None else seconds
    _bound(rate, seconds)
    mix = traces.Mix(ranks=ranks)
    if kind == CONSTANT:
        assert rate is not None
        assert seconds is not None
        trace = _constant(rate, seconds, seed, mix)
    else:
        trace = traces.load(kind if made else spec, seed, mix, rate, seconds)
    if not len(trace):
        raise BadInput(
            "no request would be sent",
            value=spec,
            remedy="Give a higher --rate, or more --seconds.",
        )
    span_s = max(seconds or 0.0, trace.seconds)
    lead = None
    if warmup_s and span_s:
        lead_rate = len(trace) / span_s
        make = _constant if kind == CONSTANT else traces.poisson
        lead = make(lead_rate, warmup_s, seed + SEED_STEP, mix)
    parts = [trace] if lead is None else [lead, trace]
    shift_s = 0.0 if lead is None else warmup_s
    due_s = np.concatenate(
        [np.asarray(each.arrived_s) + shift_s * (each is trace) for each in parts]
    )
    if len(due_s) > LOAD_REQUESTS:
        raise _too_many(len(due_s))
    timeouts_s = np.array([each for part in parts for each in part.timeouts_s], dtype=np.float64)
    timeouts_s[timeouts_s == NEVER] = 0.0
    return Arrivals(
        name=f"{kind}:{rate:.12g}" if made else trace.name,
        due_s=due_s,
        ranks=np.concatenate([np.asarray(each.ranks, np.int64) for each in parts]),
        rows=np.concatenate([np.asarray(each.rows, np.int64) for each in parts]),
        timeouts_ms=np.ceil(timeouts_s * 1e3).astype(np.int64),
        counted_from=0 if lead is None else len(lead),
        warmup_s=shift_s,
        span_s=span_s,
    )


def _constant(rate: float, seconds: float, seed: int, mix: traces.Mix) -> traces.Trace:
    count = max(1, math.floor(rate * seconds + 1e-9))
    return traces.recorded(np.arange(count) / rate, seed=seed, mix=mix)


def _rate(spec: str, said: str, rate: float | None) -> float:
    if said and rate is not None:
        raise Misuse(
            "the rate is given twice",
            value=f"--arrivals {spec} --rate {rate:g}",
            remedy="Leave out one of them.",
        )
    if not said:
        return RATE if rate is None else rate
    try:
        return float(said)
    except ValueError:
        raise BadInput(
            "what comes after `:` is a rate, in requests a second",
            value=spec,
            remedy="Write for example poisson:200.",
        ) from None


def _bound(rate: float | None, seconds: float | None) -> None:
    for what, value in (("--rate", rate), ("--seconds", seconds)):
        if value is not None and not 0 < value < math.inf:
            raise BadInput(
                f"{what} is a number above 0", value=value, remedy=f"Write for example {what} 100."
            )
    if rate is not None and seconds is not None and rate * seconds > LOAD_REQUESTS:
        raise _too_many(rate * seconds)


def _too_many(count: float) -> LimitReached:
    return LimitReached(
        "a load test cannot have so many requests",
        value=f"{count:.0f}",
        remedy=f"Ask for a lower rate or fewer seconds; {LOAD_REQUESTS} are the most.",
    )
