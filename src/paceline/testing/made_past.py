"""A past made of a list, or of what `/metrics` said at several moments: for tests of analysis.

Answers as `watch/past.py` asks, in steps of one length. Where several series or steps are put
together their quantiles are means, weighted by how many there were, which a real past must not do.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from paceline.stats.sketch import CELLS, COUNT, MAX, MIN, SUM, Sketch
from paceline.terms.metric import METRICS, Metric
from paceline.watch.past import Step

Labels = tuple[str, ...]
Key = tuple[str, Labels]

LINE = re.compile(r"(\w+?)(_sum|_count)?(?:\{(.*)\})? (\S+)$")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

BY_NAME = {metric.name: metric for metric in METRICS}


class MadePast:
    """`series` by metric and labels, in the order of the metric's; each step lasts `step_s`."""

    def __init__(self, step_s: float, series: Mapping[tuple[Metric, Labels], Sequence[Step]]):
        self._step_s = step_s
        self._series = {(metric.name, labels): list(s) for (metric, labels), s in series.items()}
        walls = [each.wall_s for steps in self._series.values() for each in steps]
        self._begun_s = min(walls, default=0.0)
        self._ended_s = max(walls, default=0.0) + step_s

    def known_s(self) -> float:
        return self._ended_s - self._begun_s

    def grew(self, metric: Metric, where: Mapping[str, str], last_s: float) -> float:
        return sum(each.value for each in self._within(metric, where, last_s))

    def latest(self, metric: Metric, where: Mapping[str, str]) -> float | None:
        found = [steps[-1].value for steps in self._of(metric, where) if steps]
        return sum(found) if found else None

    def spread(self, metric: Metric, where: Mapping[str, str], last_s: float) -> Sketch:
        """Only how many there were, their sum and the largest."""
        cells = [0.0] * CELLS
        for each in self._within(metric, where, last_s):
            cells[COUNT] += each.value
            cells[SUM] += each.sum
            cells[MAX] = cells[MIN] = max(cells[MAX], each.largest)
        return Sketch(cells)

    def steps(
        self, metric: Metric, where: Mapping[str, str], last_s: float, step_s: float
    ) -> Sequence[Step]:
        groups: dict[int, list[Step]] = {}
        for each in self._within(metric, where, last_s):
            groups.setdefault(int((each.wall_s - self._begun_s + 1e-6) / step_s), []).append(each)
        return [
            _together(self._begun_s + number * step_s, groups[number], gauge=metric.kind == "gauge")
            for number in sorted(groups)
        ]

    def series(self, metric: Metric) -> Sequence[Mapping[str, str]]:
        return [
            dict(zip(metric.labels, labels, strict=True))
            for name, labels in self._series
            if name == metric.name
        ]

    def _of(self, metric: Metric, where: Mapping[str, str]) -> Sequence[Sequence[Step]]:
        return [
            steps
            for (name, labels), steps in self._series.items()
            if name == metric.name
            and where.items() <= dict(zip(metric.labels, labels, strict=True)).items()
        ]

    def _within(self, metric: Metric, where: Mapping[str, str], last_s: float) -> Sequence[Step]:
        from_s = self._ended_s - last_s - 1e-6
        return [
            each for steps in self._of(metric, where) for each in steps if each.wall_s >= from_s
        ]


def _together(wall_s: float, steps: Sequence[Step], *, gauge: bool) -> Step:
    count = sum(each.value for each in steps)
    told = [(each.value, each.quantiles) for each in steps if each.quantiles and each.value]
    quantiles = None
    if told:
        weight = sum(value for value, _ in told)
        quantiles = tuple(
            sum(value * each[at] for value, each in told) / weight for at in range(len(told[0][1]))
        )
    return Step(
        wall_s,
        steps[-1].value if gauge else count,
        sum(each.sum for each in steps),
        max(each.largest for each in steps),
        quantiles,
    )


def read_past(step_s: float, readings: Sequence[str]) -> MadePast:
    """Of the texts of `/metrics`, one each `step_s`; a step is what happened between two."""
    told = [_parsed(each) for each in readings]
    series: dict[tuple[Metric, Labels], list[Step]] = {}
    for number, (before, after) in enumerate(pairwise(told)):
        for (name, labels), (value, total) in after.items():
            metric = BY_NAME[name]
            was, was_total = before.get((name, labels), (0.0, 0.0))
            if metric.kind != "gauge":
                value, total = value - was, total - was_total
            step = Step(number * step_s, value, total)
            series.setdefault((metric, labels), []).append(step)
    return MadePast(step_s, series)


def _parsed(text: str) -> Mapping[Key, tuple[float, float]]:
    """Counters and gauges with their value, sketches with count and sum."""
    found: dict[Key, list[float]] = {}
    for line in text.splitlines():
        match = None if line.startswith("#") else LINE.match(line)
        if match is None or 'quantile="' in (match[3] or ""):
            continue
        name, part = match[1], match[2]
        if name not in BY_NAME:
            name, part = match[1] + (match[2] or ""), None
        metric = BY_NAME.get(name)
        if metric is None:
            continue
        given = dict(LABEL.findall(match[3] or ""))
        labels = tuple(given[each] for each in metric.labels)
        both = found.setdefault((name, labels), [0.0, 0.0])
        both[1 if part == "_sum" else 0] = float(match[4])
    return {key: (value, total) for key, (value, total) in found.items()}
