"""A past that is made up: series as functions of time, for tests of whoever asks of the past."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from paceline.stats.sketch import Sketch
from paceline.terms.metric import Metric
from paceline.watch.past import Step

Curve = Callable[[float], float]
"""From the server's own time: what a counter had reached, what a gauge said."""

Labels = Mapping[str, str]


class Made(NamedTuple):
    labels: Labels
    curve: Curve
    value: float = 0.0
    """of a sketch: what its events were, each series another"""


class MadePast:
    """`now_s` is set by the test; all began at `began_s`, where counters may stand at anything."""

    def __init__(self, began_s: float = 0.0) -> None:
        self.now_s = self.began_s = began_s
        self._made: dict[str, list[Made]] = {}

    def make(self, metric: Metric, labels: Labels, curve: Curve, value: float = 0.0) -> None:
        assert set(labels) == set(metric.labels), f"{metric.name} has {metric.labels}"
        self._made.setdefault(metric.name, []).append(Made(labels, curve, value))

    def forget(self, metric: Metric) -> None:
        self._made.pop(metric.name, None)

    def known_s(self) -> float:
        return self.now_s - self.began_s

    def grew(self, metric: Metric, where: Labels, last_s: float) -> float:
        from_s = max(self.began_s, self.now_s - last_s)
        return sum(
            each.curve(self.now_s) - each.curve(from_s) for each in self._found(metric, where)
        )

    def latest(self, metric: Metric, where: Labels) -> float | None:
        found = self._found(metric, where)
        return sum(each.curve(self.now_s) for each in found) if found else None

    def spread(self, metric: Metric, where: Labels, last_s: float) -> Sketch:
        sketch = Sketch()
        from_s = max(self.began_s, self.now_s - last_s)
        for each in self._found(metric, where):
            times = int(each.curve(self.now_s)) - int(each.curve(from_s))
            sketch.record(each.value, times)
        return sketch

    def steps(self, metric: Metric, where: Labels, last_s: float, step_s: float) -> Sequence[Step]:
        from_s = max(self.began_s, self.now_s - last_s)
        count = int((self.now_s - from_s) / step_s)
        moments = [self.now_s - step_s * back for back in range(count, -1, -1)]
        found = self._found(metric, where)
        return [Step(at, sum(each.curve(at) for each in found)) for at in moments if found]

    def series(self, metric: Metric) -> Sequence[Labels]:
        return [each.labels for each in self._made.get(metric.name, ())]

    def _found(self, metric: Metric, where: Labels) -> list[Made]:
        return [
            each
            for each in self._made.get(metric.name, ())
            if all(each.labels[name] == value for name, value in where.items())
        ]


def steady(rate: float, from_s: float = 0.0, until_s: float = float("inf")) -> Curve:
    """A counter that grows by so much a second, between two moments."""
    return lambda at: rate * (min(max(at, from_s), until_s) - from_s)


def constant(value: float) -> Curve:
    return lambda at: value
