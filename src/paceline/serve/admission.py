"""At the door: when would it be done, if it were let in? What would be too late is told so at once.

The prediction takes what the executors still have to do and what goes before the newcomer, adds
what will overtake it (requests of higher rank that are still to come, at the rate at which they
came lately), and its own batch. A *margin* is kept free that follows what happened: it grows with
each batch whose first request was late and shrinks slowly with each that was in time, so that about
LATE of what is let in is late, whatever the learned latencies overlook.

Pure; it predicts and refuses nobody. Called by `serve/core.py`.
"""

from collections.abc import Sequence
from typing import TypeAlias

from paceline.flow.queue import NEVER, RANKS, Waiting

LATE = 0.0015
"""The share of batches in which somebody may be late."""

MARGIN_FIRST = 0.08
"""As long as nothing is known."""

MARGIN_STEP = 0.02
"""By how much of the time a request may take the margin grows when one is late."""

MARGIN_MOST = 0.4
"""Of the time that a request may take; above, more would be refused than is late."""

GIVEN_UP_MOST = 3
"""How many given up before one batch are as many late batches; they come in crowds."""

RATE_WINDOW_S = 0.2
"""Over which arrivals are counted; the last window tells of the next."""

Offsets: TypeAlias = "tuple[float, float, float, float]"
"""From arrival to target, by rank."""


class Admission:
    """`margin` is a share of the time that a request may take, never below `least_margin`."""

    def __init__(self, offsets_s: Offsets, least_margin: float = 0.0) -> None:
        self.margin = max(least_margin, MARGIN_FIRST)
        self._least_margin = least_margin
        self._offsets_s = offsets_s
        self._came = [0] * RANKS
        self._above: list[list[tuple[float, float]]] = [[] for _ in range(RANKS)]
        self._since_s = 0.0

    def keep_free(self, least_margin: float) -> None:
        """From now on at least so much. Where that is less, what lateness added stays."""
        less = max(0.0, self._least_margin - least_margin)
        self._least_margin = least_margin
        self.margin = max(self.margin - less, least_margin)

    def came(self, now: float, rank: int, rows: int) -> None:
        """Whether or not it is let in."""
        self._came[rank] += rows
        if now - self._since_s >= RATE_WINDOW_S:
            self._count(now)

    def finish_s(
        self, now: float, newcomer: Waiting, wait_s: float, own_s: float, row_s: float
    ) -> float:
        """The moment at which it would be done. `wait_s` by what is there already, `own_s` for its
        batch, `row_s` for each row that overtakes it."""
        above = self._above[newcomer.rank]
        if above:
            wait_s += _overtaken_s(above, wait_s, row_s)
        allowed_s = newcomer.deadline_s - newcomer.arrived_s
        return now + wait_s + own_s + self.margin * allowed_s

    def ran(self, late: bool) -> None:
        """A batch was run; whether its first request was late."""
        if late:
            self.margin = max(self._least_margin, min(MARGIN_MOST, self.margin + MARGIN_STEP))
        else:
            self.margin = max(self._least_margin, self.margin - MARGIN_STEP * LATE)

    def gave_up(self, requests: int) -> None:
        """So many that were let in were too late to be run."""
        for _ in range(min(requests, GIVEN_UP_MOST)):
            self.ran(late=True)

    def forgive(self) -> None:
        """Somebody it would have refused was in time: of what lateness added, half is too much."""
        self.margin = (self.margin + self._least_margin) / 2

    def _count(self, now: float) -> None:
        """A window is over. By rank: of each one above it that came, how many rows a second, and
        how much later it may come and still go first."""
        rates = [came / (now - self._since_s) for came in self._came]
        targets_s = self._offsets_s
        self._above = [
            [
                (rates[higher], targets_s[rank] - targets_s[higher])
                for higher in range(rank + 1, RANKS)
                if rates[higher]
            ]
            for rank in range(RANKS)
        ]
        self._came = [0] * RANKS
        self._since_s = now


def _overtaken_s(above: Sequence[tuple[float, float]], wait_s: float, row_s: float) -> float:
    """Higher ranks that come within the difference of their targets go first; and again those
    that come meanwhile, which has no end where they alone are more than can be done."""
    free = 1.0
    for rate, _ in above:
        free -= rate * row_s
    until_s = wait_s / free if free > 0 else NEVER
    longer_s = 0.0
    for rate, window_s in above:
        longer_s += rate * (until_s if until_s < window_s else window_s)
    return longer_s * row_s
