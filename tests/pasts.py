"""Pasts that are made up, for tests of whoever asks of the past: of functions of time, or of steps.

Alerts are tried over days with what a function says at any moment; analysis is tried with steps
that have quantiles. Both answer as `watch/past.py` asks.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from paceline.stats.sketch import CELLS, COUNT, MAX, MIN, SUM, Sketch
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
        values = [(at, sum(each.curve(at) for each in found)) for at in moments if found]
        return [Step(at, value, value * step_s, known_s=step_s) for at, value in values]

    def series(self, metric: Metric) -> Sequence[Labels]:
        return [each.labels for each in self._made.get(metric.name, ())]

    def _found(self, metric: Metric, where: Labels) -> list[Made]:
        return [
            each for each in self._made.get(metric.name, ()) if where.items() <= each.labels.items()
        ]


def steady(rate: float, from_s: float = 0.0, until_s: float = float("inf")) -> Curve:
    """A counter that grows by so much a second, between two moments."""
    return lambda at: rate * (min(max(at, from_s), until_s) - from_s)


def constant(value: float) -> Curve:
    return lambda at: value


class ListedPast:
    """`listed` by metric and labels, in the order of the metric's; each step lasts `step_s`. Where
    several series or steps are put together their quantiles are means, weighted by how many there
    were, which a real past must not do."""

    def __init__(
        self, step_s: float, listed: Mapping[tuple[Metric, tuple[str, ...]], Sequence[Step]]
    ) -> None:
        self._step_s = step_s
        self._listed = {
            (metric.name, labels): (dict(zip(metric.labels, labels, strict=True)), list(steps))
            for (metric, labels), steps in listed.items()
        }
        walls = [each.wall_s for _, steps in self._listed.values() for each in steps]
        self._begun_s = min(walls, default=0.0)
        self._ended_s = max(walls, default=0.0) + step_s

    def known_s(self) -> float:
        return self._ended_s - self._begun_s

    def grew(self, metric: Metric, where: Labels, last_s: float) -> float:
        return sum(each.value for each in self._within(metric, where, last_s))

    def latest(self, metric: Metric, where: Labels) -> float | None:
        found = [steps[-1].value for steps in self._of(metric, where) if steps]
        return sum(found) if found else None

    def spread(self, metric: Metric, where: Labels, last_s: float) -> Sketch:
        """Only how many there were, their sum and the largest."""
        cells = [0.0] * CELLS
        for each in self._within(metric, where, last_s):
            cells[COUNT] += each.value
            cells[SUM] += each.sum
            cells[MAX] = cells[MIN] = max(cells[MAX], each.largest)
        return Sketch(cells)

    def steps(self, metric: Metric, where: Labels, last_s: float, step_s: float) -> Sequence[Step]:
        groups: dict[int, list[Step]] = {}
        for each in self._within(metric, where, last_s):
            groups.setdefault(int((each.wall_s - self._begun_s + 1e-6) / step_s), []).append(each)
        return [
            self._together(number * step_s, groups[number], gauge=metric.kind == "gauge")
            for number in sorted(groups)
        ]

    def series(self, metric: Metric) -> Sequence[Labels]:
        return [labels for (name, _), (labels, _) in self._listed.items() if name == metric.name]

    def _of(self, metric: Metric, where: Labels) -> Sequence[Sequence[Step]]:
        return [
            steps
            for (name, _), (labels, steps) in self._listed.items()
            if name == metric.name and where.items() <= labels.items()
        ]

    def _within(self, metric: Metric, where: Labels, last_s: float) -> Sequence[Step]:
        from_s = self._ended_s - last_s - 1e-6
        return [
            each for steps in self._of(metric, where) for each in steps if each.wall_s >= from_s
        ]

    def _together(self, at_s: float, steps: Sequence[Step], *, gauge: bool) -> Step:
        told = [(each.value, each.quantiles) for each in steps if each.quantiles and each.value]
        quantiles = None
        if told:
            weight = sum(value for value, _ in told)
            quantiles = tuple(
                sum(value * each[at] for value, each in told) / weight
                for at in range(len(told[0][1]))
            )
        return Step(
            self._begun_s + at_s,
            steps[-1].value if gauge else sum(each.value for each in steps),
            sum(each.sum for each in steps),
            max(each.largest for each in steps),
            quantiles,
            self._step_s * len({each.wall_s for each in steps}),
        )
