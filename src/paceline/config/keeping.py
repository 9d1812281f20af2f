"""What the settings want to be kept of what is said in LLM calls. Pure. Called by `source.py`."""

import re
from collections.abc import Iterator, Sequence

from paceline.config import SaidSettings
from paceline.config.fields import did_you_mean
from paceline.gateway.said.keep import Keep
from paceline.terms.errors import BadSetting
from paceline.terms.limits import SAID_PATTERN_CHARS, SAID_PATTERNS

DAY_S = 86400


def keep_of(said: SaidSettings, routes: Sequence[str]) -> Iterator[tuple[str, BadSetting] | Keep]:
    """Nothing where nothing is kept; or what is wrong, each with its field."""
    wrong = [*_faults(said, routes)]
    yield from wrong
    if said.days and not wrong:
        yield Keep(said.days * DAY_S, said.routes, said.hide)


def needs_restart(started_with: Keep | None, new: Keep | None) -> tuple[str, ...]:
    """What differs and cannot change in a running server."""
    return () if started_with == new else ("said",)


def _faults(said: SaidSettings, routes: Sequence[str]) -> Iterator[tuple[str, BadSetting]]:
    for name in said.routes:
        if name not in routes:
            near = did_you_mean(name, routes, "{}? ")
            yield (
                "routes",
                BadSetting(
                    "no route has this name",
                    value=name,
                    remedy=f"{near}Name one that calls ask for as their model.",
                ),
            )
    if len(said.hide) > SAID_PATTERNS:
        yield (
            "hide",
            BadSetting(
                "there are more regular expressions than may be",
                value=len(said.hide),
                remedy=f"Give up to {SAID_PATTERNS}; `one|other` is one.",
            ),
        )
    for pattern in said.hide:
        why = _why_not(pattern)
        if why:
            yield (
                "hide",
                BadSetting(
                    f"this is no regular expression that something can be hidden by: {why}",
                    value=pattern,
                    remedy="Write it as Python has it, such as 'C-[0-9]{6}', in single quotes.",
                ),
            )


def _why_not(pattern: str) -> str:
    if len(pattern) > SAID_PATTERN_CHARS:
        return f"it has more than {SAID_PATTERN_CHARS} characters"
    try:
        found = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return "it finds nothing at all everywhere" if found.search("") else ""
