"""Every series there is, numbered in the order in which it was met: arrays need no names.

One numbering is shared by those who read boards, keep the past and write it to the file. It only
grows, and has a bound. Called by `sampling.py`, `history.py` and `store.py`.
"""

import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from paceline.terms.limits import HISTORY_SERIES
from paceline.terms.metric import METRICS, Metric

BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


class Names:
    """`refused` counts the series that found no room; what they say is not remembered. Two threads
    may meet new ones: who reads boards, and who reads the file."""

    def __init__(self, most: int = HISTORY_SERIES) -> None:
        self._most = most
        self._meeting = threading.Lock()
        self._numbers: dict[tuple[str, tuple[str, ...]], int] = {}
        self.metrics: list[Metric] = []
        self.labels: list[tuple[str, ...]] = []
        self._of_metric: dict[str, list[int]] = {}
        self._with: dict[tuple[str, str, str], list[int]] = {}
        """by metric, label and what it is"""
        self._grows = np.zeros(0, dtype=np.bool_)
        self.refused = 0

    def __len__(self) -> int:
        return len(self.metrics)

    def number(self, metric: Metric, labels: tuple[str, ...]) -> int:
        """-1 where there is no room for another."""
        known = self._numbers.get((metric.name, labels))
        if known is not None:
            return known
        with self._meeting:
            return self._meet(metric, labels)

    def _meet(self, metric: Metric, labels: tuple[str, ...]) -> int:
        key = (metric.name, labels)
        if key in self._numbers:
            return self._numbers[key]
        number = len(self.metrics)
        if number >= self._most:
            self.refused += 1
            number = -1
        else:
            self.labels.append(labels)
            self.metrics.append(metric)
            self._of_metric.setdefault(metric.name, []).append(number)
            for label, value in zip(metric.labels, labels, strict=True):
                self._with.setdefault((metric.name, label, value), []).append(number)
        self._numbers[key] = number
        return number

    @property
    def grows(self) -> NDArray[np.bool_]:
        """Of each number, whether it is of a counter."""
        if len(self._grows) < len(self.metrics):
            self._grows = np.array([metric.kind == "counter" for metric in self.metrics])
        return self._grows

    def of(self, metric: Metric, where: Mapping[str, str]) -> Sequence[int]:
        """Those of a metric whose labels are as `where` says. Of a hundred models each asks for its
        own, so those of one label are not looked for among all."""
        if not where:
            return self._of_metric.get(metric.name, [])
        found = [self._with.get((metric.name, *each), []) for each in where.items()]
        if len(found) == 1:
            return found[0]
        shortest = min(found, key=len)
        if not shortest:  # some of these labels may be none of this metric's
            return shortest
        wanted = [(metric.labels.index(name), value) for name, value in where.items()]
        return [
            number
            for number in shortest
            if all(self.labels[number][place] == value for place, value in wanted)
        ]
