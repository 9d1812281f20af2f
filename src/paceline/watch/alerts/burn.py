"""Burn rates: how fast an objective's budget of errors is used up, and when that is an alert.

An objective of 99.9 % leaves a budget of 0.1 %. A burn rate of 1 uses it up in exactly a month, one
of 14.4 uses 2 % of it in an hour. An alert fires while both a long and a short window burn faster
than a pair's factor: the long one says that it matters, the short one that it still goes on
(Beyer et al., The Site Reliability Workbook, 2018, chapter 5). Pure arithmetic over counts; what
the counts are is `objectives.py`'s business.

*Detection.* With a share e of bad events the alert fires after factor * long * budget / e, and is
over after short * (1 - factor * budget / e) without any.

What lies before all that is known counts as good, at the same rate of events: a server that has
just started is no sooner believed to have used up its month.
"""

from typing import NamedTuple

from paceline.terms.alert import Severity
from paceline.terms.limits import ALERT_BAD_LEAST, ALERT_BAD_SHARE, ALERT_TICKS_OF_WINDOW

PERIOD_S = 30 * 86400.0
"""What a budget is for."""


class Pair(NamedTuple):
    """Two windows and the burn rate above which both make an alert."""

    long_s: float
    short_s: float
    factor: float
    severity: Severity

    @property
    def every_s(self) -> float:
        """How often it need be looked at: a small part of its short window."""
        return max(1.0, self.short_s / ALERT_TICKS_OF_WINDOW)


PAIRS = (
    Pair(3600.0, 300.0, 14.4, "critical"),  # 2 % of the budget in an hour
    Pair(6 * 3600.0, 1800.0, 6.0, "critical"),  # 5 % in six hours
    Pair(86400.0, 2 * 3600.0, 3.0, "warning"),  # 10 % in a day
    Pair(3 * 86400.0, 6 * 3600.0, 1.0, "warning"),  # 10 % in three days
)


class Events(NamedTuple):
    total: float
    bad: float


def pairs(budget: float) -> tuple[Pair, ...]:
    """With factors that can be reached. No more than all events can be bad, which is a rate of
    1 / budget: below an objective of 93 % the first pair could never fire. Then all factors shrink
    together, so that the first fires where ALERT_BAD_SHARE of its events are bad, but none below 1,
    at which the objective is just met."""
    assert 0 < budget < 1, f"an objective leaves something, and asks for something: {budget}"
    shrink = min(1.0, ALERT_BAD_SHARE / (budget * PAIRS[0].factor))
    return tuple(each._replace(factor=max(1.0, each.factor * shrink)) for each in PAIRS)


def burn_rate(events: Events, budget: float, window_s: float, known_s: float) -> float:
    """1 uses up the budget in exactly the period."""
    if events.total <= 0:
        return 0.0
    known = min(1.0, known_s / window_s)
    return known * events.bad / events.total / budget


def burns(pair: Pair, budget: float, short: Events, long: Events, known_s: float) -> bool:
    """Whether it is an alert. A handful of bad events never is: one failure of three requests is a
    burn rate of 333, and says nothing."""
    return (
        long.bad >= ALERT_BAD_LEAST
        and burn_rate(short, budget, pair.short_s, known_s) > pair.factor
        and burn_rate(long, budget, pair.long_s, known_s) > pair.factor
    )


class Left(NamedTuple):
    """`share` of the budget that is left, below 0 where more was used; `exhausted_in_s` None where
    it lasts."""

    share: float
    exhausted_in_s: float | None


def left(whole: Events, now: Events, budget: float, window_s: float, known_s: float) -> Left:
    """`whole`: of the period, as far as it is known; `now`: of the last `window_s`, which say how
    fast it goes on."""
    share = 1.0 - burn_rate(whole, budget, PERIOD_S, known_s)
    rate = burn_rate(now, budget, window_s, min(window_s, known_s))
    if rate <= 0:
        return Left(share, None)
    return Left(share, max(0.0, share) * PERIOD_S / rate)
