"""The last hour, as far as alerts ask for it: a stand-in for `history.py`, which keeps more.

It is given what was measured, once a second, and thins out what grows old: nobody asks of an hour
ago to the second. In memory alone, so it knows nothing of the time before a start. Fed by
`web/watching.py`; asked as a `Past`.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from paceline.stats.sketch import Sketch
from paceline.terms.measurement import Measurement
from paceline.terms.metric import Metric
from paceline.watch.past import Step

KEPT_S = 3600.0

THINNED = ((KEPT_S, 60.0), (600.0, 10.0), (60.0, 1.0))
"""Readings younger than the first are kept so far apart."""

Labels = tuple[str, ...]
Series = tuple[str, Labels]
Values = Mapping[str, Mapping[str, Mapping[Labels, float]]]
"""By metric and by its first label, which is a model's name mostly, and what is asked for."""


NONE: Mapping[Labels, float] = {}


class _Reading(NamedTuple):
    at_s: float
    wall_s: float
    values: Values
    sketches: Mapping[Series, Sketch]


class Recent:
    """`Past`, of an hour. What it knows begins with its first reading."""

    def __init__(self) -> None:
        self._readings: list[_Reading] = []
        self._began_s: float | None = None

    def take(
        self,
        measured: Iterable[Measurement],
        sketches: Mapping[Series, Sketch],
        now: float,
        wall: float,
    ) -> None:
        """All counters and gauges as they stand, and sketches of which the past may be asked."""
        values: dict[str, dict[str, dict[Labels, float]]] = {}
        for each in measured:
            if isinstance(each.value, float):
                first = each.labels[0] if each.labels else ""
                of_metric = values.setdefault(each.metric.name, {})
                of_metric.setdefault(first, {})[each.labels] = each.value
        if self._began_s is None:
            self._began_s = now
        self._readings.append(_Reading(now, wall, values, sketches))
        if len(self._readings) % 10 == 0:
            self._thin(now)

    def known_s(self) -> float:
        if self._began_s is None:
            return 0.0
        return min(KEPT_S, self._readings[-1].at_s - self._began_s)

    def grew(self, metric: Metric, where: Mapping[str, str], last_s: float) -> float:
        if not self._readings:
            return 0.0
        if metric.kind == "sketch":
            return float(self.spread(metric, where, last_s).count)
        before = self._at(last_s).values.get(metric.name, {})
        return sum(
            max(0.0, value - before.get(first, NONE).get(labels, 0.0))
            for first, now in _of_first(self._readings[-1].values, metric, where)
            for labels, value in now.items()
            if _fits(labels, metric, where)
        )

    def latest(self, metric: Metric, where: Mapping[str, str]) -> float | None:
        return _sum(self._readings[-1].values, metric, where) if self._readings else None

    def spread(self, metric: Metric, where: Mapping[str, str], last_s: float) -> Sketch:
        whole = Sketch()
        if self._readings:
            before, now = self._at(last_s).sketches, self._readings[-1].sketches
            exactly = metric.name, tuple(where.get(label, "") for label in metric.labels)
            for series, sketch in ((exactly, now[exactly]),) if exactly in now else now.items():
                if series[0] == metric.name and _fits(series[1], metric, where):
                    earlier = before.get(series)
                    whole.merge(sketch if earlier is None else sketch.since(earlier))
        return whole

    def steps(
        self, metric: Metric, where: Mapping[str, str], last_s: float, step_s: float
    ) -> Sequence[Step]:
        """Of gauges."""
        if not self._readings:
            return []
        found: list[Step] = []
        due_s = from_s = self._readings[-1].at_s - last_s
        for reading in self._readings:
            if reading.at_s < from_s or reading.at_s < due_s:
                continue
            value = _sum(reading.values, metric, where)
            if value is not None:
                found.append(Step(reading.wall_s, value))
                due_s = reading.at_s + step_s * 0.99
        return found

    def series(self, metric: Metric) -> Sequence[Mapping[str, str]]:
        if not self._readings:
            return []
        newest = self._readings[-1]
        of_metric = newest.values.get(metric.name, {}).values()
        found: Iterable[Labels] = [labels for each in of_metric for labels in each]
        if metric.kind == "sketch":
            found = [labels for name, labels in newest.sketches if name == metric.name]
        return [dict(zip(metric.labels, labels, strict=True)) for labels in found]

    def _at(self, back_s: float) -> _Reading:
        """The last reading that is at least so old, or the first there is."""
        moment = self._readings[-1].at_s - back_s
        index = bisect_right(self._readings, moment + 0.01, key=lambda each: each.at_s)
        return self._readings[max(0, index - 1)]

    def _thin(self, now: float) -> None:
        kept: list[_Reading] = []
        for reading in self._readings:
            age_s = now - reading.at_s
            if age_s > KEPT_S + 60.0:
                continue
            apart_s = next((apart for young, apart in reversed(THINNED) if age_s <= young), 60.0)
            if not kept or reading.at_s - kept[-1].at_s >= apart_s * 0.99:
                kept.append(reading)
        if kept[-1] is not self._readings[-1]:
            kept.append(self._readings[-1])
        self._readings = kept


def _of_first(
    values: Values, metric: Metric, where: Mapping[str, str]
) -> Iterable[tuple[str, Mapping[Labels, float]]]:
    of_metric = values.get(metric.name, {})
    first = where.get(metric.labels[0]) if metric.labels else None
    if first is None:
        return of_metric.items()
    return ((first, of_metric[first]),) if first in of_metric else ()


def _fits(labels: Labels, metric: Metric, where: Mapping[str, str]) -> bool:
    for label, value in zip(metric.labels, labels, strict=True):
        if label in where and where[label] != value:
            return False
    return True


def _sum(values: Values, metric: Metric, where: Mapping[str, str]) -> float | None:
    found = [
        value
        for _, of_first in _of_first(values, metric, where)
        for labels, value in of_first.items()
        if _fits(labels, metric, where)
    ]
    return sum(found) if found else None
