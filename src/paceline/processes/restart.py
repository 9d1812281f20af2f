"""When to start a process again: told how long it lived, answers how long to wait. Pure."""

from paceline.terms.limits import RESTART_FIRST_S, RESTART_MOST_S, RESTART_STEADY_S


class Restart:
    """At once for a process that had been steady; doubling waits for one that keeps dying."""

    def __init__(self) -> None:
        self._deaths_in_a_row = 0

    def died(self, lived_s: float) -> float:
        if lived_s >= RESTART_STEADY_S:
            self._deaths_in_a_row = 0
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row == 1:
            return 0.0
        doublings = min(self._deaths_in_a_row - 2, 32)
        return min(RESTART_FIRST_S * 2.0**doublings, RESTART_MOST_S)
