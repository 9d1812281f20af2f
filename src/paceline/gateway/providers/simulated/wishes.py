"""What a caller may wish of a simulated model: faults and speeds, in its name.

    sim-small                       answers
    sim-small:429                   any status from 400 to 599, as the vendor of the dialect says it
    sim-small:cut                   ends in the middle of its answer, without an end
    sim-small:error                 a stream ends in the middle with the dialect's error event
    sim-small:stall                 stops in the middle, and nothing comes until the deadline
    sim-small:hang                  nothing comes at all until the deadline
    sim-small:closed                the connection is closed before the first byte
    sim-small:garbled               what comes is no HTTP
    sim-small:unreachable           no connection can be made
    sim-small:tokens=200            a text of so many tokens
    sim-small:latency_ms=0          until the first token, instead of what is set
    sim-small:token_ms=2.5          between two tokens, instead of what is set

Several go together: `sim-large:tokens=200:token_ms=2:cut`.
"""

import math
from typing import Literal

import msgspec

from paceline.gateway.providers.simulated.answers import Refused
from paceline.terms.limits import DEADLINE_S, SIMULATED_TOKENS

CHAT_MODELS = ("sim-small", "sim-large")
EMBEDDING_MODEL = "sim-embed"
MODERATION_MODEL = "sim-moderation"
MODELS = (*CHAT_MODELS, EMBEDDING_MODEL, MODERATION_MODEL)

Fault = Literal["cut", "error", "stall", "hang", "closed", "garbled", "unreachable"]
FAULTS: tuple[Fault, ...] = ("cut", "error", "stall", "hang", "closed", "garbled", "unreachable")

STATUS_FROM, STATUS_TO = 400, 599


class Wish(msgspec.Struct, frozen=True):
    """A name of a model, taken apart."""

    model: str
    status: int | None = None
    fault: Fault | None = None
    tokens: int | None = None
    latency_ms: float | None = None
    token_ms: float | None = None


def offers(name: str) -> bool:
    """Whether a name is for the simulated provider: one of its models, whatever is wished of it."""
    return name.partition(":")[0] in MODELS


def wish(name: str) -> Wish:
    """Refused where there is no such model, or wish."""
    model, *wishes = name.split(":")
    if model not in MODELS:
        raise Refused(
            404,
            f"The model `{name[:100]}` does not exist; there are {', '.join(MODELS)}.",
            code="model_not_found",
            param="model",
        )
    if not wishes:
        return Wish(model)
    found: dict[str, object] = {}
    for each in wishes:
        key, value = _one(each)
        if value is None:
            raise Refused(
                404,
                f"The model `{model}` cannot `{each[:100]}`; it can: a status from {STATUS_FROM} "
                f"to {STATUS_TO}, {', '.join(FAULTS)}, tokens=N, latency_ms=N, token_ms=N.",
                code="model_not_found",
                param="model",
            )
        found[key] = value
    return msgspec.convert({"model": model, **found}, Wish)


def _one(text: str) -> tuple[str, object]:
    """The field of a Wish and its value; None where it means nothing."""
    if text in FAULTS:
        return "fault", text
    if text.isascii() and text.isdigit():
        fits = len(text) == 3 and STATUS_FROM <= int(text) <= STATUS_TO
        return "status", int(text) if fits else None
    key, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        return key, None
    if key == "tokens":
        return key, int(number) if 1 <= number <= SIMULATED_TOKENS else None
    fits = key in ("latency_ms", "token_ms") and 0 <= number <= 1000 * DEADLINE_S
    return key, number if fits and math.isfinite(number) else None
