"""Persistence and hysteresis: when a value that comes and goes is an alert, and when it no more is.

It begins when the value has been beyond a bound for a while, and ends when it has been well on the
right side of it for a while; between the two it stays what it is. Pure: it is handed the time.
Called by `watchdog.py`, one for each thing that is watched.
"""

from typing import NamedTuple

from paceline.terms.alert import Severity
from paceline.terms.limits import ALERT_CLEAR_S, ALERT_LEAVE


class Bounds(NamedTuple):
    """`rising`: above them is bad. `for_s`: for how long, until it is an alert."""

    warning: float
    critical: float
    for_s: float
    rising: bool = True


class Latch:
    """One bound of one value. `on` at first: as a journal remembers it."""

    __slots__ = ("_enter", "_for_s", "_leave", "_sign", "_since_s", "on", "pending")

    def __init__(self, bound: float, for_s: float, *, rising: bool, on: bool = False) -> None:
        self._sign = 1.0 if rising else -1.0
        self._enter = self._sign * bound
        self._leave = self._sign * (bound * ALERT_LEAVE if rising else bound / ALERT_LEAVE)
        self._for_s = for_s
        self._since_s: float | None = None
        """when it began to be on the other side"""
        self.on = on
        self.pending = False

    def see(self, value: float | None, now: float) -> bool:
        """None where nobody can say: that begins nothing, and ends what lasts."""
        crossing = self._is_below(value) if self.on else self._is_beyond(value)
        if not crossing:
            self._since_s = None
            self.pending = False
            return self.on
        if self._since_s is None:
            self._since_s = now
        wait_s = ALERT_CLEAR_S if self.on else self._for_s
        self.pending = not self.on
        if now - self._since_s >= wait_s:
            self.on = not self.on
            self.pending = False
            self._since_s = None
        return self.on

    def _is_beyond(self, value: float | None) -> bool:
        return value is not None and self._sign * value >= self._enter

    def _is_below(self, value: float | None) -> bool:
        return value is None or self._sign * value < self._leave


class Watched:
    """A value with both its bounds."""

    __slots__ = ("_critical", "_warning")

    def __init__(self, bounds: Bounds, was: Severity | None = None) -> None:
        rising, for_s = bounds.rising, bounds.for_s
        self._warning = Latch(bounds.warning, for_s, rising=rising, on=was is not None)
        self._critical = Latch(bounds.critical, for_s, rising=rising, on=was == "critical")

    def see(self, value: float | None, now: float) -> Severity | None:
        warning, critical = self._warning.see(value, now), self._critical.see(value, now)
        return "critical" if critical else "warning" if warning else None

    @property
    def pending(self) -> bool:
        return self._warning.pending and not self._critical.on
