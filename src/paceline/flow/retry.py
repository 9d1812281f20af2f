"""When a call that failed may be tried again, and after how long. Pure; it calls nothing.

`RetryBudget` keeps retries from becoming the load that keeps the far side down, as Finagle's does
(finagle.github.io, 2016, "Retry Budgets"): a share of recent requests may be retried, and a small
constant rate besides, so that a quiet caller may retry too. Both counts slide over a window.

    a retry is granted while   retries + 1 <= share * requests + least_per_s * window_s

*Guarantee*: in any stretch of T seconds there are at most `share` times as many retries as requests
in it and in the 1.1 windows before it, and `least_per_s * (T + window_s)` besides. No request pays
twice: a retry is forgotten no sooner than the request that paid for it.

`full_jitter_s` is how long to wait: anything between nothing and a bound that doubles (Brooker,
"Exponential Backoff And Jitter", AWS 2015), so that callers who failed together do not return
together. Called by whoever calls over a network, who must know whether an error is worth a retry.
"""

from collections.abc import Callable

from paceline.flow.recent import RecentCount
from paceline.terms.limits import (
    BACKOFF_FIRST_S,
    BACKOFF_MOST_S,
    RETRY_LEAST_PER_S,
    RETRY_SHARE,
    RETRY_WINDOW_S,
)

DOUBLINGS = 64
"""More make no difference to any bound, and would overflow a float at a thousand."""


class RetryBudget:
    """One for each thing that is called, not for each caller."""

    __slots__ = ("_requests", "_reserve", "_retries", "_share", "requested")

    def __init__(
        self,
        share: float = RETRY_SHARE,
        least_per_s: float = RETRY_LEAST_PER_S,
        window_s: float = RETRY_WINDOW_S,
    ) -> None:
        assert share >= 0, f"a share is not negative: {share}"
        assert least_per_s >= 0, f"a rate is not negative: {least_per_s}"
        self._share = share
        self._reserve = least_per_s * window_s
        self._requests = RecentCount(window_s)
        self._retries = RecentCount(window_s)
        self.requested = self._requests.add
        """to be told the moment of each first try; retries are counted by themselves"""

    def try_retry(self, now: float) -> bool:
        allowed = self._share * self._requests.total(now) + self._reserve
        if self._retries.total(now) + 1 > allowed:
            return False
        self._retries.add(now)
        return True


def full_jitter_s(
    failures: int,
    uniform: Callable[[float, float], float],
    first_s: float = BACKOFF_FIRST_S,
    most_s: float = BACKOFF_MOST_S,
) -> float:
    """How long to wait after the so-many-th failure in a row; `uniform` is a Chance's."""
    assert failures >= 1, f"nothing has failed yet: {failures}"
    return uniform(0.0, min(most_s, first_s * 2.0 ** min(failures - 1, DOUBLINGS)))
