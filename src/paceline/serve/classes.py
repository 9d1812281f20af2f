"""What the four priorities mean in time: by when a request should be answered, and by when it must.

A *target* orders the queue and counts risk; it drops nothing. A *deadline* drops work. Both follow
from the objective of the workload, or from what is usual where it has none. Pure; called by whoever
makes a `Waiting` out of a request: the fronts and the simulator.
"""

from typing import NamedTuple

from paceline.flow.queue import NEVER
from paceline.serve.admission import Offsets
from paceline.terms.limits import DEADLINE_S

TARGET_SHARES: Offsets = (5.0, 1.0, 0.3, 0.1)
"""Of the objective, by rank from low to critical."""

DEADLINE_SHARES: Offsets = (5.0, 1.0, 1.0, 1.0)

USUAL_TARGETS_S: Offsets = (0.5, 0.1, 0.03, 0.01)
"""Without an objective."""


class Classes(NamedTuple):
    """Seconds after arrival, by rank."""

    targets_s: Offsets
    deadlines_s: Offsets

    def deadline_s(self, rank: int, arrived_s: float, timeout_s: float = NEVER) -> float:
        """The moment; a request's own timeout counts where it is shorter."""
        return arrived_s + min(self.deadlines_s[rank], timeout_s)


def classes(slo_s: float | None, row_s: float = 0.0, default_s: float = DEADLINE_S) -> Classes:
    """`row_s`: what one row needs, below which no target makes sense; `default_s`: the deadline of
    a request where there is no objective."""
    if slo_s is None:
        return Classes(_at_least(row_s, USUAL_TARGETS_S), (default_s,) * 4)
    return Classes(_at_least(row_s, _times(slo_s, TARGET_SHARES)), _times(slo_s, DEADLINE_SHARES))


def _times(slo_s: float, shares: Offsets) -> Offsets:
    low, normal, high, critical = shares
    return (low * slo_s, normal * slo_s, high * slo_s, critical * slo_s)


def _at_least(row_s: float, offsets_s: Offsets) -> Offsets:
    low, normal, high, critical = offsets_s
    return (max(low, row_s), max(normal, row_s), max(high, row_s), max(critical, row_s))
