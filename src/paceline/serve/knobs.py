"""The knobs of a served model: what its line in the Plan may say. Read by `app.py` and the fronts.

A knob appears here with the code that obeys it, and nowhere else.
"""

from collections.abc import Iterable, Mapping

import msgspec

from paceline.terms.limits import DEADLINE_S, IN_FLIGHT, ROWS
from paceline.terms.plan import Address, Boolean, Choice, Knob, LogRange, Value
from paceline.terms.request import PRIORITIES, Priority

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

KNOBS = (ENABLED, DEADLINE, MAX_ROWS, MAX_IN_FLIGHT, PRIORITY)


def catalogue(models: Iterable[str]) -> Mapping[Address, Knob]:
    return {f"{model}.{knob.name}": knob for model in models for knob in KNOBS}


class Rules(msgspec.Struct, frozen=True):
    """The settings of one model, as whoever serves it reads them."""

    enabled: bool
    deadline_s: float
    max_rows: int
    max_in_flight: int
    priority: Priority


def rules(model: str, settings: Mapping[Address, Value]) -> Rules:
    """What the settings say of this model. They were checked when the Plan was made."""
    values = {knob.name: settings[f"{model}.{knob.name}"] for knob in KNOBS}
    deadline_ms = values.pop(DEADLINE.name)
    return msgspec.convert({**values, "deadline_s": float(deadline_ms) / 1e3}, Rules)
