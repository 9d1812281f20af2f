"""How urgent a request is, as its headers say it. Called by those who answer hot requests."""

from paceline.terms.errors import BadRequest
from paceline.terms.request import PRIORITIES, Priority

TIMEOUT_HEADER = b"x-timeout-ms"
PRIORITY_HEADER = b"x-priority"


def priority_of(given: bytes | None) -> Priority | None:
    if given is None:
        return None
    text = given.decode("latin-1")
    for priority in PRIORITIES:
        if text == priority:
            return priority
    raise BadRequest(
        f"{PRIORITY_HEADER.decode()} names no priority",
        value=text,
        remedy=f"Use one of {', '.join(PRIORITIES)}, or leave the header away.",
    )


def timeout_s_of(given: bytes | None, most_s: float) -> float | None:
    if given is None:
        return None
    text = given.decode("latin-1")
    try:
        timeout_ms = float(text)
    except ValueError:
        timeout_ms = -1.0
    if not 0 < timeout_ms < float("inf"):
        raise BadRequest(
            f"{TIMEOUT_HEADER.decode()} is not a positive number of milliseconds",
            value=text,
            remedy=f"Send for example {TIMEOUT_HEADER.decode()}: 250, or leave the header away.",
        )
    return min(timeout_ms / 1e3, most_s)
