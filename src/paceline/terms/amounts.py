"""Times, shares, sizes and counts as people write and read them: `30ms`, `5%`, `12 000`.

Reading is strict: a time needs its unit, since 30 may be seconds or milliseconds. Writing keeps
three digits, and never rounds a share up: 100 % is all of them. Called by the command line, by
policies by name, by reports and alerts.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from paceline.terms.errors import BadInput

UNITS_S: Mapping[str, float] = {
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
}
LONGEST_S = 24 * 3600.0
"""A day: nobody waits longer for an answer, or for company in a batch."""

SPANS_S: Mapping[str, float] = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST_SPAN_S = 2 * 365 * 86400.0
"""Of the past: as long as it is kept."""

FIRST_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)
LAST_UNIX_S = 253402300799.0
"""Of the year 9999."""

_BESIDE_NUMBER = re.compile(r" (?=[%<\d]|[mµ]?s\b)")
_AMOUNT = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*(\S*)")


def seconds(text: str, what: str, *, may_be_zero: bool = False) -> float:
    """`what` the time is, for whoever wrote something else."""
    found = _AMOUNT.fullmatch(text.strip())
    number, unit = found.groups() if found else ("30", "")
    if unit not in UNITS_S:
        raise BadInput(
            f"{what} is a time, a number with its unit",
            value=text,
            remedy=f"Write it like {number}ms or {number}s; the units are {', '.join(UNITS_S)}.",
        )
    time_s = float(number) * UNITS_S[unit]
    if not (may_be_zero or time_s > 0) or time_s > LONGEST_S:
        raise BadInput(
            f"{what} cannot be this long",
            value=text,
            remedy=f"Write {'0s or more' if may_be_zero else 'more than 0s'}, and at most 24h.",
        )
    return time_s


def span(text: str, what: str) -> float:
    """A stretch of the past: `10m`, `1h`, `7d`."""
    found = _AMOUNT.fullmatch(text.strip())
    number, unit = found.groups() if found else ("10", "")
    if unit not in SPANS_S:
        raise BadInput(
            f"{what} is a stretch of time, a number with its unit",
            value=text,
            remedy=f"Write it like {number}m or {number}h; the units are {', '.join(SPANS_S)}.",
        )
    span_s = float(number) * SPANS_S[unit]
    if not 1 <= span_s <= LONGEST_SPAN_S:
        raise BadInput(
            f"{what} cannot be this long", value=text, remedy="Write at least 1s, at most 730d."
        )
    return span_s


def share(text: str, what: str) -> float:
    """From 0 to 1: `5%` or `0.05`."""
    found = _AMOUNT.fullmatch(text.strip())
    number, unit = found.groups() if found else ("5", "?")
    value = float(number) / 100 if unit == "%" else float(number)
    if unit not in ("", "%") or value > 1:
        meant = f"{number}%" if found and float(number) <= 100 else "5%"
        raise BadInput(
            f"{what} is a share of all",
            value=text,
            remedy=f"Write it like {meant}, or as a number from 0 to 1.",
        )
    return value


def whole(text: str, what: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise BadInput(
            f"{what} is a whole number",
            value=text,
            remedy=f"Write one from 1 to {most}.",
        )
    return int(text)


# --- Written --------------------------------------------------------------------------------------


def spelled(time_s: float) -> str:
    """As `seconds` reads it, exactly enough to be the same time again."""
    unit = "s" if time_s >= 1 else "ms" if time_s >= 1e-3 or not time_s else "us"
    return f"{time_s / UNITS_S[unit]:.12g}{unit}"


def in_words(time_s: float) -> str:
    """To three digits, with a space before the unit."""
    if time_s < 9.995e-4:
        return f"{_three(time_s * 1e6)} µs"
    return f"{_three(time_s * 1e3)} ms" if time_s < 0.9995 else f"{_three(time_s)} s"


def long_time(time_s: float) -> str:
    """Of what may last for days: `5 min`, `3.5 h`, `2 d`."""
    for unit, unit_s in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if time_s >= unit_s:
            return f"{_three(time_s / unit_s)} {unit}"
    return in_words(time_s)


def moment(unix_s: float) -> str:
    """`2026-07-28 09:30:05 UTC`."""
    if not 0 <= unix_s <= LAST_UNIX_S:
        return f"{unix_s:g} s after 1970 began (UTC)"
    at = FIRST_MOMENT + timedelta(seconds=int(unix_s))
    return at.strftime("%Y-%m-%d %H:%M:%S UTC")


def size(size_bytes: float) -> str:
    for unit, unit_bytes in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("kiB", 2**10)):
        if size_bytes >= unit_bytes:
            return f"{_three(size_bytes / unit_bytes)} {unit}"
    return f"{size_bytes:.0f} B"


def percent(value: float) -> str:
    """Rounded down: 99.98 % are not all of them. What is above nothing never reads as nothing."""
    tenths = math.floor(value * 1000 + 1e-9)
    if value > 0 and not tenths:
        return "< 0.1 %"
    return f"{tenths // 10} %" if tenths in (0, 1000) else f"{tenths / 10:.1f} %"


def counted(number: float) -> str:
    """Thousands apart; three digits of what is small and not whole."""
    if number != int(number) and abs(number) < 100:
        return _three(number)
    return f"{number:,.0f}".replace(",", " ")


def usd(value: float) -> str:
    return f"{counted(value)} USD"


def unbroken(text: str) -> str:
    """With what belongs to a number held to it, so that no line ends between them."""
    return _BESIDE_NUMBER.sub("\N{NO-BREAK SPACE}", text)


def _three(number: float) -> str:
    if not number:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(number))))
    text = f"{number:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
