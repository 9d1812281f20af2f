"""Traces: who arrives when, with what, and how long they wait for it; made by a seed, or recorded.

A Trace is what the simulator serves. `load` makes one of what people write (`poisson:200`, a file);
the functions above it are for benchmarks and tests. It says nothing of how long work takes, and
knows no server. The same seed gives the same trace; moments of arrival do not depend on the mix.

All but recordings of single requests are one thing: a renewal process with gaps of mean one, laid
along the number of requests expected so far (Gerhardt and Nelson 2009: inversion keeps both the
rate and the scatter). Exponential gaps make it Poisson; gamma gaps scatter more, or less.
"""

import difflib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Literal

import msgspec
import numpy as np

from paceline.evidence.recordings import Numbers, read
from paceline.flow.queue import NEVER
from paceline.terms.errors import BadInput, LimitReached
from paceline.terms.limits import ROWS, TRACE_NUMBER, TRACE_REQUESTS

SECONDS = 60.0
"""How long a made trace is, unless told otherwise."""

BURSTINESS = 8.0
"""How many times the rate of a quiet time a burst has."""

BURST_S = 0.5
QUIET_S = 2.0
"""How long bursts and quiet times last, on average."""

DAY_SWING = 0.8
"""How far a day's rate goes above and below its mean."""

DAY_STEPS = 1440
"""How often a day's rate changes: every minute of it."""

EVEN_CV = 0.001
"""Gaps that scatter less are all the same; gamma has no such thing."""

LEAST_SPAN_S = 1e-6
"""A recording shorter than this has no rate."""


class Trace(msgspec.Struct, frozen=True):
    """By request, in the order of arrival. Lists, because the simulator picks single items."""

    name: str
    arrived_s: list[float]
    ranks: list[int]
    rows: list[int]
    shapes: list[int]
    timeouts_s: list[float]
    """Each request's own timeout, from its arrival; NEVER where it has none."""
    leaves_s: list[float]
    """The moment at which its caller gives up; NEVER where it stays."""

    def __len__(self) -> int:
        return len(self.arrived_s)

    @property
    def seconds(self) -> float:
        """Until the last arrival."""
        return self.arrived_s[-1] if self.arrived_s else 0.0

    @property
    def rate(self) -> float:
        """Requests per second, on average."""
        return len(self) / self.seconds if self.seconds else 0.0


class Mix(msgspec.Struct, frozen=True):
    """What requests are like. Weights need not sum to one; ranges are uniform."""

    ranks: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 0.0)
    """Weights of low, normal, high and critical."""
    shapes: tuple[float, ...] = (1.0,)
    """The weight of each."""
    rows: float = 1.0
    """Of a request on average, geometric; with 1 all have one."""
    timing_out: float = 0.0
    """The share of requests with a timeout of their own."""
    timeout_s: tuple[float, float] = (0.05, 1.0)
    leaving: float = 0.0
    """The share of callers that leave."""
    leave_after_s: tuple[float, float] = (0.01, 0.2)


PLAIN = Mix()
MIXED = Mix(ranks=(0.2, 0.6, 0.15, 0.05), shapes=(0.7, 0.3), timing_out=0.1, leaving=0.02)
"""One row each like PLAIN, so that rates of both can be compared."""


# --- Made -----------------------------------------------------------------------------------------


def poisson(rate: float, seconds: float, seed: int = 0, mix: Mix = PLAIN) -> Trace:
    """Independent callers, at a steady rate."""
    return _along("poisson", np.array([0.0, 1.0]), np.ones(1), np.ones(1), rate, seconds, seed, mix)


def bursty(
    rate: float,
    seconds: float,
    seed: int = 0,
    mix: Mix = PLAIN,
    *,
    burstiness: float = BURSTINESS,
    burst_s: float = BURST_S,
    quiet_s: float = QUIET_S,
) -> Trace:
    """Quiet times and bursts take turns, of exponential lengths; the first is quiet."""
    _check(rate, seconds)
    turns = seconds / (quiet_s + burst_s)
    _bound(turns)
    lengths_s = np.tile((quiet_s, burst_s), 2 * int(turns) + 64)  # twice as many as it takes
    ends_s = np.cumsum(_dice(seed, "turns").exponential(lengths_s))
    edges_s = np.concatenate(([0.0], ends_s[ends_s < seconds], [seconds]))
    rates = np.where(np.arange(len(edges_s) - 1) % 2, burstiness, 1.0)
    return _along("bursty", edges_s, rates, np.ones(len(rates)), rate, seconds, seed, mix)


def diurnal(
    rate: float, seconds: float, seed: int = 0, mix: Mix = PLAIN, *, swing: float = DAY_SWING
) -> Trace:
    """A day from midnight to midnight squeezed into the time: a sine, with its peak at noon."""
    edges = np.linspace(0.0, 1.0, DAY_STEPS + 1)
    rates = 1 - swing * np.cos(np.pi * (edges[1:] + edges[:-1]))
    return _along("diurnal", edges, rates, np.ones(DAY_STEPS), rate, seconds, seed, mix)


# --- Recorded -------------------------------------------------------------------------------------


def from_rates(
    t_s: Sequence[float] | Numbers,
    rate_rps: Sequence[float] | Numbers,
    cv: float | Sequence[float] | Numbers = 1.0,
    rate: float | None = None,
    seconds: float | None = None,
    seed: int = 0,
    mix: Mix = PLAIN,
    *,
    name: str = "rates",
) -> Trace:
    """Along recorded rates, each of which holds until the next moment, the last as long as the one
    before. A gap has the coefficient of variation of the stretch it begins in. With `seconds` the
    whole course is squeezed into them."""
    moments = np.asarray(t_s, np.float64)
    edges_s = np.append(moments, 2 * moments[-1] - moments[-2:][0]) - moments[0]
    rates = np.asarray(rate_rps, np.float64)
    requests = float(rates @ np.diff(edges_s))
    if not requests:
        raise BadInput(
            f"{name} has no requests",
            value=f"rates at {len(rates)} moments, the highest {rates.max():.12g}",
            remedy="Give at least two moments, and a rate above 0 that lasts.",
        )
    span_s = float(edges_s[-1])
    cvs = np.broadcast_to(np.asarray(cv, np.float64), rates.shape)
    rate = requests / span_s if rate is None else rate
    seconds = span_s if seconds is None else seconds
    return _along(name, edges_s, rates, cvs, rate, seconds, seed, mix)


def recorded(
    t_s: Sequence[float] | Numbers,
    rate: float | None = None,
    seconds: float | None = None,
    seed: int = 0,
    mix: Mix = PLAIN,
    *,
    name: str = "recorded",
    begin: float = 0.0,
    columns: Mapping[str, Numbers] | None = None,
) -> Trace:
    """The moments of a recording, counted from its first; stretched to a mean rate, and cut or
    repeated to `seconds`. It may begin at a share of it, whose first part then comes last.
    `columns` say more of each request, as a file does; the mix says the rest."""
    moments = np.asarray(t_s, np.float64)
    count, span_s = len(moments), float(moments[-1] - moments[0])
    if span_s < LEAST_SPAN_S:
        if rate is not None or seconds is not None:
            raise BadInput(
                f"{name} cannot be stretched, cut or repeated",
                value=f"{count} requests within {span_s:g} s",
                remedy="Take it as it is, or one that goes on for longer.",
            )
        return _dressed(name, moments - moments[0], mix, seed, columns or {})
    period_s = span_s * count / (count - 1)  # so that the gap before a repetition is the mean one
    stretch = 1.0 if rate is None else count / _positive("rate", rate) / period_s
    period_s *= stretch
    repeats = 1 if seconds is None else _positive("length in seconds", seconds) / period_s
    _bound(count * repeats)
    turned = int(np.searchsorted((moments - moments[0]) * stretch, begin * period_s))
    once_s = np.roll((moments - moments[0]) * stretch, -turned) - begin * period_s
    once_s[count - turned :] += period_s
    rounds = math.ceil(repeats)
    arrived_s = (once_s + period_s * np.arange(rounds)[:, None]).ravel()
    if seconds is not None:
        arrived_s = arrived_s[arrived_s < seconds]
    which = np.tile(np.roll(np.arange(count), -turned), rounds)[: len(arrived_s)]
    said = {column: values[which] for column, values in (columns or {}).items()}
    return _dressed(name, arrived_s, mix, seed, said)


# --- By what people write -------------------------------------------------------------------------

MADE: Mapping[str, Callable[[float, float, int, Mix], Trace]] = {
    "poisson": poisson,
    "bursty": bursty,
    "diurnal": diurnal,
}


def load(
    spec: str,
    seed: int = 0,
    mix: Mix = PLAIN,
    rate: float | None = None,
    seconds: float | None = None,
) -> Trace:
    """`poisson:RATE`, `bursty:RATE`, `diurnal:RATE`, or a file, of which `?COLUMN=VALUE` takes the
    rows with this value. `rate` and `seconds` stretch a file; with neither it is taken as it is."""
    kind, _, said = spec.partition(":")
    if kind in MADE:
        seconds = SECONDS if seconds is None else seconds
        return MADE[kind](_rate_of(spec, said, rate), seconds, seed, mix)
    path, _, query = spec.partition("?")
    if not os.path.exists(path):
        nearest = difflib.get_close_matches(kind, MADE, n=1)
        known = ", ".join(f"{each}:RATE" for each in MADE)
        raise BadInput(
            "there is no such trace, and no such file",
            value=spec,
            remedy=f"Did you mean {nearest[0]}:RATE?" if nearest else f"Name a file, or {known}.",
        )
    columns = read(path, _chosen(query))
    moments = columns.pop("t_s")
    name = PurePath(path).name + (f"?{query}" if query else "")
    if "rate_rps" in columns:
        cv = columns.get("cv", columns.get("cv_rate_weighted", 1.0))
        rates = columns["rate_rps"]
        return from_rates(moments, rates, cv, rate, seconds, seed, mix, name=name)
    return recorded(moments, rate, seconds, seed, mix, name=name, columns=columns)


def _rate_of(spec: str, said: str, rate: float | None) -> float:
    if rate is not None and not said:
        return rate
    if rate is None:
        with suppress(ValueError):
            return float(said)
    raise BadInput(
        "a made trace needs its rate once, as a number",
        value=spec if rate is None else f"{spec}, and a rate of {rate:g}",
        remedy="Write for example poisson:200, in requests per second.",
    )


def _chosen(query: str) -> dict[str, str]:
    chosen = {}
    for each in query.split("&") if query else ():
        column, equals, value = each.partition("=")
        if not equals:
            raise BadInput(
                "what comes after `?` chooses rows by a column",
                value=each,
                remedy="Write it as FILE?COLUMN=VALUE, and more after `&`.",
            )
        chosen[column] = value
    return chosen


# --- How ------------------------------------------------------------------------------------------


def _along(
    name: str,
    edges: Numbers,
    rates: Numbers,
    cvs: Numbers,
    rate: float,
    seconds: float,
    seed: int,
    mix: Mix,
) -> Trace:
    """Between each two edges at a rate and with a CV of gaps; both axes are stretched to fit."""
    _check(rate, seconds)
    expected = np.concatenate(([0.0], np.cumsum(rates * np.diff(edges))))
    expected *= rate * seconds / expected[-1]
    passed = _renewals(expected[1:], cvs, _dice(seed, "arrivals"))
    arrived_s = np.interp(passed, expected, edges * (seconds / edges[-1]))
    return _dressed(name, np.maximum.accumulate(arrived_s), mix, seed, {})


def _renewals(ends: Numbers, cvs: Numbers, dice: np.random.Generator) -> Numbers:
    """Up to the last of the ends, with gaps of mean one. It begins in equilibrium, as if it had
    gone on for long, or the first gap would be too short and the sum too large. In n gaps no CV
    above the root of n can be seen: what was recorded over more of them counts as that."""
    last = np.flatnonzero(np.append(np.diff(cvs), 1.0))  # of each run of equal ones
    stretches = ends[last]
    seen = np.sqrt(np.diff(stretches, prepend=0.0))
    scatter = np.minimum(cvs[last], np.maximum(seen, 1.0)).tolist()
    at = float(dice.random() * _gaps(scatter[0], 1, dice, biased=True)[0])
    parts = [np.array([at])]
    for end, cv in zip(stretches.tolist(), scatter, strict=True):
        while at < end:
            left = end - at
            gaps = _gaps(cv, int(left + 4 * max(cv, 1) * math.sqrt(left)) + 16, dice)
            passed = at + np.cumsum(gaps)
            parts.append(passed[: int(np.searchsorted(passed, end)) + 1])
            at = float(parts[-1][-1])
    moments = np.concatenate(parts)
    return moments[: int(np.searchsorted(moments, ends[-1]))]


def _gaps(cv: float, count: int, dice: np.random.Generator, *, biased: bool = False) -> Numbers:
    """Biased: as likely as they are long, which are those that somebody finds who looks in."""
    if cv < EVEN_CV:
        return np.ones(count)
    return dice.gamma(1 / cv**2 + biased, cv**2, count)


def _dressed(
    name: str, arrived_s: Numbers, mix: Mix, seed: int, said: Mapping[str, Numbers]
) -> Trace:
    """Every draw is made, whatever a recording says, so that one column changes no other."""
    count = len(arrived_s)
    _bound(count)
    dice = _dice(seed, "mix")
    ranks = said.get("priority", _picked(mix.ranks, count, dice))
    shapes = said.get("shape", _picked(mix.shapes, count, dice))
    rows = said.get("rows", np.minimum(dice.geometric(1 / mix.rows, count), ROWS))
    timeouts_s = _some(mix.timing_out, mix.timeout_s, count, dice)
    stays_s = _some(mix.leaving, mix.leave_after_s, count, dice)
    if "timeout_ms" in said:
        timeouts_s = said["timeout_ms"] / 1000
    if "leaves_ms" in said:
        stays_s = said["leaves_ms"] / 1000
    return Trace(
        name=name,
        arrived_s=arrived_s.tolist(),
        ranks=ranks.astype(int).tolist(),
        rows=rows.astype(int).tolist(),
        shapes=shapes.astype(int).tolist(),
        timeouts_s=_sparse(timeouts_s),
        leaves_s=_sparse(arrived_s + stays_s),
    )


def _picked(weights: Sequence[float], count: int, dice: np.random.Generator) -> Numbers:
    """Places in `weights`."""
    steps = np.cumsum(weights)
    drawn = dice.random(count) * float(steps[-1])
    return np.searchsorted(steps, drawn, side="right").astype(np.float64)


def _some(
    share: float, between: tuple[float, float], count: int, dice: np.random.Generator
) -> Numbers:
    """NEVER for the others."""
    return np.where(dice.random(count) < share, dice.uniform(*between, count), NEVER)


def _sparse(values: Numbers) -> list[float]:
    """One object for every NEVER: most are, and each by itself would take 24 bytes."""
    listed = np.full(len(values), NEVER, dtype=object)
    listed[values < NEVER] = values[values < NEVER]
    return list(listed)


STREAMS = ("arrivals", "turns", "mix")


def _dice(seed: int, stream: Literal["arrivals", "turns", "mix"]) -> np.random.Generator:
    """Apart from each other, so that what one draws leaves the others as they are."""
    if seed < 0:
        raise BadInput("a seed is not negative", value=seed, remedy="Write a number from 0.")
    return np.random.default_rng([seed, STREAMS.index(stream)])


def _check(rate: float, seconds: float) -> None:
    _bound(_positive("rate", rate) * _positive("length in seconds", seconds))


def _positive(what: str, value: float) -> float:
    if not 0 < value <= TRACE_NUMBER:  # nor NaN
        raise BadInput(
            f"a trace cannot have this {what}",
            value=value,
            remedy=f"Write a number above 0, and at most {TRACE_NUMBER:.12g}.",
        )
    return value


def _bound(requests: float) -> None:
    if requests > TRACE_REQUESTS:
        raise LimitReached(
            "a trace cannot have so many requests",
            value=f"{requests:.0f}",
            remedy=f"Ask for a lower rate or fewer seconds; {TRACE_REQUESTS} are the most.",
        )
