"""The header `traceparent` of W3C Trace Context (level 1), read strictly and written.

A caller says with it in which trace a request stands, under which of its spans, and whether the
trace is recorded. What cannot be read by the letter means nothing, as if it were not there.
`tracestate` is other people's: it is passed on, and never read. Called by `web/`.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

HEADER = b"traceparent"
STATE = b"tracestate"

SAMPLED = 0x01

FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
NO_TRACE = b"0" * 32
NO_SPAN = b"0" * 16


class Context(NamedTuple):
    """Ids in lower case hex."""

    trace_id: str
    span_id: str
    """of who calls: the parent of what we do"""
    sampled: bool


def read(value: bytes) -> Context | None:
    """None where it is none. A later version is read as far as this one reaches."""
    found = FORM.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == b"ff" or trace_id == NO_TRACE or span_id == NO_SPAN:
        return None
    if version == b"00" and more is not None:
        return None
    sampled = bool(int(flags, 16) & SAMPLED)
    return Context(trace_id.decode(), span_id.decode(), sampled)


def of(headers: Sequence[tuple[bytes, bytes]]) -> Context | None:
    """What the headers of a request say; nothing where they say it twice."""
    said = [value for name, value in headers if name == HEADER]
    return read(said[0].strip(b" \t")) if len(said) == 1 else None


def states(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """What is passed on with another parent: where the parent means nothing, nor does this."""
    if of(headers) is None:
        return []
    return [each for each in headers if each[0] == STATE]


def may_be_sampled(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """At a glance: False only where nothing in them asks to be recorded."""
    for name, value in headers:
        if name == HEADER:
            return value[-2:] != b"00"
    return False


def written(context: Context) -> bytes:
    flags = SAMPLED if context.sampled else 0
    return b"00-%b-%b-%02x" % (context.trace_id.encode(), context.span_id.encode(), flags)


def below(context: Context, number: int) -> Context:
    """The so-many-th span below one, known without being noted."""
    span_id = (int(context.span_id, 16) + number + 1) % (1 << 64)
    return Context(context.trace_id, f"{span_id or 1:016x}", context.sampled)
