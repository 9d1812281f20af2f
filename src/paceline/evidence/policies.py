"""Batch policies by the names people write, with what they may set of each: `dynamic:wait=3ms`.

What is not set follows one rule for all, ours and those of other servers: batches as large as leave
time for another one before them, and a wait of a tenth of the objective. A rival gets what its
server would do besides batching: it serves in order of arrival, refuses nobody for what is
predicted, and runs no failed batch again. Called by `paceline simulate`; `./bench policies` tunes
rivals instead (`GRIDS`).
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from paceline.evidence.latencies import Latency
from paceline.evidence.rivals import BentoML, LitServe, MLServer, Triton
from paceline.serve.batcher import Adaptive, Dynamic, LatencyOptimized, Policy, fixed
from paceline.terms.amounts import seconds, share, spelled, whole
from paceline.terms.errors import BadInput
from paceline.terms.limits import ROWS

Made = Callable[..., Policy | None]
Usual = Callable[[float, int, int], "partial[Policy | None]"]
"""By the objective in seconds, the rows of a batch that leaves time for another, and the most."""

WAIT = 0.1
"""Of the objective: how long to wait for company."""

PLUS = "+"
"""between the sizes of a list"""


def _of_the_core() -> None:
    """Its own, `AtOnce`, as it is in production."""


def _of(make: Made, **usual: object) -> "partial[Policy | None]":
    return partial(make, **usual)


OURS: Mapping[str, Usual] = {
    "at_once": lambda slo_s, size, most: _of(_of_the_core),
    "fixed": lambda slo_s, size, most: _of(fixed, size=size, wait_s=WAIT * slo_s),
    "dynamic": lambda slo_s, size, most: _of(Dynamic, fewest=1, most=size, wait_s=WAIT * slo_s),
    "adaptive": lambda slo_s, size, most: _of(
        Adaptive,
        fewest=1,
        most=most,
        wait_s=WAIT * slo_s,
        target_s=slo_s / 2,
        threshold=0.8,
        rate=0.1,
    ),
    "latency_optimized": lambda slo_s, size, most: _of(LatencyOptimized, share=0.5),
}
THEIRS: Mapping[str, Usual] = {
    "triton": lambda slo_s, size, most: _of(Triton, preferred=(), delay_s=WAIT * slo_s, most=size),
    "litserve": lambda slo_s, size, most: _of(LitServe, most=size, timeout_s=WAIT * slo_s),
    "bentoml": lambda slo_s, size, most: _of(BentoML, most=size, latency_ms=slo_s * 1e3),
    "mlserver": lambda slo_s, size, most: _of(MLServer, most=size, window_s=WAIT * slo_s),
}


class Chosen(NamedTuple):
    """`spec` makes the same again, whatever the objective."""

    name: str
    make: "partial[Policy | None]"
    rival: bool

    @property
    def spec(self) -> str:
        said = [
            f"{_word(key)}={_text(key, value)}"
            for key, value in self.make.keywords.items()
            if value != ()
        ]
        return f"{self.name}:{','.join(said)}" if said else self.name


def choose(spec: str, slo_s: float, latencies: Sequence[Latency], most: int) -> Chosen:
    """`NAME`, or `NAME:KEY=VALUE,...`."""
    name, _, said = spec.partition(":")
    usual = OURS.get(name) or THEIRS.get(name)
    if usual is None:
        known = [*OURS, *THEIRS]
        near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
        raise BadInput(
            "no policy has this name",
            value=name,
            remedy=f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}.",
        )
    make = usual(slo_s, fitting(slo_s, latencies, most), most)
    given = dict(_given(name, make, each) for each in said.split(",")) if said else {}
    return Chosen(name, partial(make.func, **{**make.keywords, **given}), name in THEIRS)


def fitting(slo_s: float, latencies: Sequence[Latency], most: int) -> int:
    """The rows of the largest batch that is in time after waiting for another as large, of those
    that people try: powers of two, and the most."""
    tables = [each.table(most) for each in latencies]
    sizes = [*(1 << power for power in range((most - 1).bit_length())), most]
    within = (size for size in sizes if all(2 * table[size] <= slo_s for table in tables))
    return max(within, default=1)


def _given(name: str, make: "partial[Policy | None]", said: str) -> tuple[str, object]:
    key, equals, value = said.partition("=")
    known = {_word(each): each for each in make.keywords}
    if not equals or key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        forms = ", ".join(f"{_word(each)}={_text(each, v)}" for each, v in make.keywords.items())
        hint = f"Did you mean {near[0]}?" if near else f"It takes {forms or 'nothing'}."
        raise BadInput(f"{name} has no such parameter", value=said, remedy=hint)
    keyword = known[key]
    return keyword, _read(keyword, value, make.keywords[keyword], f"{key} of {name}")


def _read(keyword: str, text: str, usual: object, what: str) -> object:
    """By the unit at the end of its name, or by what it is usually."""
    if keyword.endswith("_s"):
        return seconds(text, what, may_be_zero=True)
    if keyword.endswith("_ms"):
        return seconds(text, what) * 1e3
    if isinstance(usual, tuple):
        return tuple(whole(each, what, ROWS) for each in text.split(PLUS) if text)
    return whole(text, what, ROWS) if isinstance(usual, int) else share(text, what)


def _word(keyword: str) -> str:
    return keyword.removesuffix("_s").removesuffix("_ms")


def _text(keyword: str, value: Any) -> str:
    if keyword.endswith("_s"):
        return spelled(value)
    if keyword.endswith("_ms"):
        return spelled(value / 1e3)
    return PLUS.join(map(str, value)) if isinstance(value, tuple) else f"{value:.12g}"
