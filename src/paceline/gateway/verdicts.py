"""What the end of an attempt means: whether it is tried again and where, and who is to blame. Pure.

| it ended | again here | elsewhere | its failure | may be billed |
| --- | --- | --- | --- | --- |
| unreachable | yes | yes | yes | no, nothing was sent |
| closed, cut or garbled before content | yes | yes | yes | yes |
| 5xx, 529 among them | yes | yes | yes | no, but for 504 and 524 |
| 429 | yes, but not before it says | yes | no | no |
| 408 | yes | yes | no | yes |
| 409 | yes | yes | no | no |
| 401, 402, 403, 404 | no | yes | no | no |
| any other answer | no | no | no | no |
| dropped by us | no | no | no | yes |

*Failure* is what a circuit breaker counts. A 429 is none: whoever says it is well, and says when it
wants to be asked again. 401 to 404 speak of our key, our account or what this target has, and not
of the call: another may do it. What may have been worked on is tried again, anywhere, only as long
as the retry budget of whoever lost it lasts, for it may be paid for twice. An answer that is an
error is not billed, except where somebody on the way to the model ran out of patience (408, 504,
524): it may work on. An answer is dropped where it is too long, has no room, or nobody translates
it: another target's would fare no better, and be paid for as well. `x-should-retry` is obeyed for
its sender alone: whether somebody else can do it is not the sender's to know.

A request that does something (a file, a batch) is not `repeatable`: only what was never sent, or
refused with 429, is sent again. Called by `attempts.py`.
"""

import math
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz
from typing import NamedTuple

from paceline.gateway.call import Headers
from paceline.gateway.provider import Lost
from paceline.terms.errors import PacelineError
from paceline.terms.limits import RETRY_AFTER_MOST_S

LIMITED = 429
SERVER_ERROR = 500
AGAIN = frozenset({408, 409, LIMITED})
ELSEWHERE = frozenset({401, 402, 403, 404})
TIMED_OUT = frozenset({408, 504, 524})
"""Of these nobody knows whether it was worked on."""
ASIDE = frozenset({LIMITED, 503, 529})
"""With a moment from which on it wants to be asked again: it speaks for all calls, not this one."""


class Answer(NamedTuple):
    """What a provider answered instead of content, as it came. An error that came as the first
    event of a stream has the status that it stands for."""

    status: int
    headers: Headers
    body: bytes


class Dropped(NamedTuple):
    """An answer was there, or on its way, and could not be passed on: why."""

    error: PacelineError


class Verdict(NamedTuple):
    here: bool
    elsewhere: bool
    failure: bool = False
    billed: bool = False
    aside: bool = False
    after_s: float | None = None
    """how long not to be asked again, if it said so"""


OF_LOST: Mapping[Lost, Verdict] = {
    "unreachable": Verdict(here=True, elsewhere=True, failure=True),
    "closed": Verdict(here=True, elsewhere=True, failure=True, billed=True),
    "cut": Verdict(here=True, elsewhere=True, failure=True, billed=True),
    "garbled": Verdict(here=True, elsewhere=True, failure=True, billed=True),
    # Whether it is its failure depends on how long it had: `Pace.overdue`.
    "late": Verdict(here=False, elsewhere=False, billed=True),
}

FINAL = Verdict(here=False, elsewhere=False)
DROPPED = FINAL._replace(billed=True)


def verdict_of(ended: "Lost | Answer | Dropped", repeatable: bool = True) -> Verdict:
    if isinstance(ended, Dropped):
        return DROPPED
    if not isinstance(ended, Answer):
        verdict = OF_LOST[ended]
        if repeatable or ended == "unreachable":
            return verdict
        return verdict._replace(here=False, elsewhere=False)
    status = ended.status
    should_retry, after_s = _told(ended.headers)
    failure = status >= SERVER_ERROR
    again = failure or status in AGAIN
    here = again if should_retry is None else should_retry
    elsewhere = again or here or status in ELSEWHERE
    if not repeatable and status != LIMITED:
        here = elsewhere = False
    aside = status == LIMITED or (status in ASIDE and after_s is not None)
    return Verdict(here, elsewhere, failure, status in TIMED_OUT, aside, after_s)


def _told(headers: Headers) -> tuple[bool | None, float | None]:
    should_retry: bool | None = None
    millis = seconds = date = None
    for name, value in headers:
        if name == b"x-should-retry":
            word = value.strip().lower()
            should_retry = True if word == b"true" else False if word == b"false" else None
        elif name == b"retry-after-ms":
            millis = _number(value)
        elif name == b"retry-after":
            seconds = _number(value)
            if seconds is None:
                date = value
    if millis is not None:
        return should_retry, min(millis / 1e3, RETRY_AFTER_MOST_S)
    if seconds is None and date is not None:
        seconds = _until(date, headers)
    return should_retry, None if seconds is None else min(seconds, RETRY_AFTER_MOST_S)


def _number(value: bytes) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _until(moment: bytes, headers: Headers) -> float | None:
    """A date is compared with the one on the sender's own clock, which is in the same answer."""
    sent = next((value for name, value in headers if name == b"date"), b"")
    from_s, to_s = _seconds(sent), _seconds(moment)
    return None if from_s is None or to_s is None else max(0.0, to_s - from_s)


def _seconds(date: bytes) -> float | None:
    parsed = parsedate_tz(date.decode("latin-1"))
    if parsed is None:
        return None
    try:
        return float(mktime_tz(parsed))
    except (OverflowError, ValueError):
        return None  # the 99th of a month
