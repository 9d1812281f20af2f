"""The knobs of a served model: what its line in the Plan may say. Read by `app.py` and the fronts.

A knob appears here with the code that obeys it, and nowhere else.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, get_args

import msgspec

from paceline.terms.limits import (
    BATCH_ROWS,
    DEADLINE_S,
    EXECUTORS,
    IN_FLIGHT,
    QUEUE_REQUESTS,
    ROWS,
)
from paceline.terms.plan import Address, Boolean, Choice, InForce, Knob, LogRange, Range, Value
from paceline.terms.request import PRIORITIES, Priority

Batching = Literal["at_once", "dynamic", "adaptive", "fixed", "latency_optimized"]
Isolate = Literal["pure", "always", "never"]

UNBOUNDED = 1_000_000_000
"""A cost that no batch has."""

ENABLED = Knob(
    "enabled", Boolean(), True, "", "Whether the model answers; otherwise its callers get 503."
)
DEADLINE = Knob(
    "deadline_ms",
    LogRange(1, int(DEADLINE_S * 1e3)),
    int(DEADLINE_S * 1e3),
    "ms",
    "How long a request without a timeout of its own may take.",
)
MAX_ROWS = Knob("max_rows", LogRange(1, ROWS), ROWS, "rows", "How many rows one request may bring.")
MAX_IN_FLIGHT = Knob(
    "max_in_flight",
    LogRange(1, IN_FLIGHT),
    IN_FLIGHT,
    "requests",
    "How many requests of this model one front holds at once.",
)
PRIORITY = Knob(
    "priority", Choice(PRIORITIES), "normal", "", "The priority of a request that names none."
)

BATCHING = Knob(
    "batching",
    Choice(get_args(Batching)),
    "at_once",
    "",
    "How batches are made; at_once and latency_optimized never wait for company.",
)
MAX_BATCH = Knob(
    "max_batch",
    LogRange(1, ROWS),
    BATCH_ROWS,
    "rows",
    "How many rows are run together; a request that has more is run alone.",
)
BATCH_COST = Knob(
    "batch_cost",
    LogRange(1, UNBOUNDED),
    UNBOUNDED,
    "elements",
    "How many elements of its largest input of open length a batch may have; rows where none is.",
)
BATCH_EXECUTORS = Knob(
    "executors",
    Range(1, EXECUTORS),
    1,
    "batches",
    "How many batches one front runs at once, in threads; those under 1 ms run one by one.",
)
ISOLATE = Knob(
    "isolate",
    Choice(get_args(Isolate)),
    "pure",
    "",
    "Whether a failed batch is run again in parts: always, never, or where the model is pure.",
)
MAX_WAITING = Knob(
    "max_waiting",
    LogRange(1, QUEUE_REQUESTS),
    QUEUE_REQUESTS,
    "requests",
    "How many requests wait to be run in one front.",
)
MARGIN = Knob(
    "margin",
    Range(0.0, 0.5),
    0.0,
    "",
    "Which share of a request's time must be left over when it is let in, at least.",
)

KNOBS = (
    ENABLED,
    DEADLINE,
    MAX_ROWS,
    MAX_IN_FLIGHT,
    PRIORITY,
    BATCHING,
    MAX_BATCH,
    BATCH_COST,
    BATCH_EXECUTORS,
    ISOLATE,
    MAX_WAITING,
    MARGIN,
)


STEERED = (MAX_BATCH, BATCH_EXECUTORS, MARGIN)
"""Those that steering may move within their envelopes."""


def catalogue(models: Iterable[str], executors: int = 1) -> Mapping[Address, Knob]:
    """`executors` is the default of that knob: how many of these models have cores of their own."""
    found = {f"{model}.{knob.name}": knob for model in models for knob in KNOBS}
    of_these = msgspec.structs.replace(BATCH_EXECUTORS, default=executors)
    return {
        address: of_these if knob is BATCH_EXECUTORS else knob for address, knob in found.items()
    }


def executors(cores: float, fronts: int) -> int:
    """Cores for each front: one batch at a time on each is more than one on all of them."""
    return max(1, min(EXECUTORS, int(cores) // fronts))


class Rules(msgspec.Struct, frozen=True):
    """The settings of one model, as whoever serves it reads them. `slo_s` is of its goal, `bounds`
    of those that steering may move."""

    enabled: bool
    deadline_s: float
    max_rows: int
    max_in_flight: int
    priority: Priority
    batching: Batching
    max_batch: int
    batch_cost: int
    executors: int
    isolate: Isolate
    max_waiting: int
    margin: float
    slo_s: float | None
    bounds: Mapping[str, tuple[float, float]] = {}


def rules(model: str, plan: InForce) -> Rules:
    """What the plan says of this model. Its settings were checked when it was made."""
    values = {knob.name: plan.settings[f"{model}.{knob.name}"] for knob in KNOBS}
    spans = {knob.name: plan.spans.get(f"{model}.{knob.name}") for knob in STEERED}
    bounds = {name: span for name, span in spans.items() if span is not None}
    return _rules(values, plan.slo_ms.get(model), bounds)


def _rules(
    values: dict[str, Value],
    slo_ms: float | None,
    bounds: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> Rules:
    deadline_s = float(values.pop(DEADLINE.name)) / 1e3
    slo_s = None if slo_ms is None else slo_ms / 1e3
    given = {**values, "deadline_s": deadline_s, "slo_s": slo_s, "bounds": dict(bounds)}
    return msgspec.convert(given, Rules)


DEFAULTS = _rules({knob.name: knob.default for knob in KNOBS}, None)
