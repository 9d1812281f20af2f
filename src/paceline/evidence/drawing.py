"""Charts as SVG text: lines, stacked steps and bars, on axes with readable numbers.

Pure functions from numbers to text; colours are class names (`s1`, `s2`, ...) that the page gives a
meaning in light and dark. A chart is as wide as its place while its words keep their size: the plot
is stretched, what is written beside it stands at shares of it. So the page must show what overflows
a chart (`svg.chart { overflow: visible }`) and leave room for the words. Called by `report.py`.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

PLOT = 1000
"""Units of the stretched plot, either way."""

STEPS = (1, 2, 5)
"""Ticks are these times a power of ten apart."""

TICKS = 7
"""On an axis, at most."""


SIDE = 0.2
"""Of the width: words beside a line that is nearer to an end stay on the inner side of it."""

APART = 0.2
"""Of the space of a bar, kept free."""

NEAR = 0.02
"""Of an axis: a tick that lies outside by no more is worth the space."""


class Axis(NamedTuple):
    """`ticks` are values with their words."""

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def at(self, value: float) -> float:
        """Its place, from 0 to 1; what lies outside is put at the end."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        return min(1.0, max(0.0, (value - low) / (high - low)))


class Series(NamedTuple):
    """None is a hole."""

    name: str
    style: str
    values: Sequence[float | None]


class Mark(NamedTuple):
    """A line through the chart, with a word beside it; one that lies flat has it above or below."""

    at: float
    word: str
    below: bool = False


class Hover(NamedTuple):
    """What is told of a stretch of the horizontal axis when somebody points at it."""

    begin: float
    end: float
    text: str


def linear(title: str, low: float, high: float, *, whole: bool = False) -> Axis:
    """It ends at `high`, or a little above, at a tick."""
    step = _step((high - low) / (TICKS - 1))
    if whole:
        step = max(1.0, step)
    count = math.ceil((high - low) / step - 1e-9)
    ticks = [low + index * step for index in range(count + 1)]
    return Axis(title, low, ticks[-1], [(tick, number(tick)) for tick in ticks])


def exact(title: str, low: float, high: float) -> Axis:
    """It ends at `high`, or at a tick just above: for an axis of time."""
    ticks = [
        each for each in linear(title, low, high).ticks if each[0] <= high + NEAR * (high - low)
    ]
    return Axis(title, low, max(high, ticks[-1][0]), ticks)


def logarithmic(title: str, low: float, high: float) -> Axis:
    """From a tick at or below `low` to one at or above `high`, both above 0."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = [step * 10.0**power for power in range(first, last + 1) for step in STEPS]
    below = max(value for value in every if value <= low * (1 + 1e-9))
    above = min(value for value in every if value >= high * (1 - 1e-9) and value > below)
    inside = [value for value in every if below <= value <= above]
    if len(inside) > TICKS:
        inside = [10.0**power for power in range(first, last + 1) if below <= 10.0**power <= above]
        inside = inside[:: math.ceil(len(inside) / TICKS)]
    return Axis(title, below, above, [(value, number(value)) for value in inside], log=True)


def number(value: float) -> str:
    """Without an exponent, however large or small."""
    if abs(value) >= 10_000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.12f}".rstrip("0").rstrip(".") if value < 1e-3 else f"{value:.12g}"


def _step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least))
    return next((step * power for step in STEPS if step * power >= least * 0.999), 10 * power)


# --- Charts ---------------------------------------------------------------------------------------


def lines(
    title: str,
    x: Axis,
    y: Axis,
    xs: Sequence[float],
    series: Iterable[Series],
    *,
    across: Sequence[Mark] = (),
    upright: Sequence[Mark] = (),
    hovers: Iterable[Hover] = (),
) -> str:
    """One line each; a lone point between two holes is a dot."""
    drawn = [
        f'<path class="line {each.style}" d="{_line(x, y, xs, each.values)}"/>' for each in series
    ]
    return _chart(title, x, y, drawn, across, upright, hovers)


def stacked(
    title: str,
    x: Axis,
    y: Axis,
    edges: Sequence[float],
    series: Iterable[Series],
    *,
    hovers: Iterable[Hover] = (),
) -> str:
    """One on top of the other, each value as wide as its stretch between two edges."""
    drawn = []
    floor = [0.0] * (len(edges) - 1)
    for each in series:
        top = [below + (value or 0.0) for below, value in zip(floor, each.values, strict=True)]
        drawn.append(f'<path class="area {each.style}" d="{_band(x, y, edges, floor, top)}"/>')
        floor = top
    return _chart(title, x, y, drawn, (), (), hovers)


def bars(
    title: str, x: Axis, y: Axis, edges: Sequence[float], series: Sequence[Series], unit: str
) -> str:
    """Upright, of each series one between each two edges, side by side. Between 0.5 and 3.5 lie the
    whole numbers 1 to 3; `unit` is what they count."""
    drawn = []
    for place, each in enumerate(series):
        path = []
        for begin, end, value in zip(edges, edges[1:], each.values, strict=False):
            width = (end - begin) * (1 - APART) / len(series)
            left = begin + (end - begin) * APART / 2 + place * width
            top = PLOT - _units(y.at(value or 0.0))
            if value:
                right = _units(x.at(left + width))
                path.append(f"M{_units(x.at(left))} {PLOT}V{top}H{right}V{PLOT}Z")
        drawn.append(f'<path class="area {each.style}" d="{"".join(path)}"/>')
    hovers = [
        Hover(
            begin,
            end,
            f"{_between(begin, end)} {unit}: "
            + ", ".join(f"{each.name} {each.values[index] or 0.0:.3g}" for each in series),
        )
        for index, (begin, end) in enumerate(pairwise(edges))
    ]
    return _chart(title, x, y, drawn, (), (), hovers)


def _between(begin: float, end: float) -> str:
    first, last = number(begin + 0.5), number(end - 0.5)
    return first if first == last else f"{first} to {last}"


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Names with their styles."""
    listed = "".join(
        f'<li><i class="swatch {style}"></i>{escape(name)}</li>' for name, style in entries
    )
    return f'<ul class="legend">{listed}</ul>'


# --- How ------------------------------------------------------------------------------------------


def _chart(
    title: str,
    x: Axis,
    y: Axis,
    drawn: Iterable[str],
    across: Iterable[Mark],
    upright: Iterable[Mark],
    hovers: Iterable[Hover],
) -> str:
    parts = [f'<svg class="chart" role="img" aria-label="{escape(title)}">']
    for value, word in y.ticks:
        place = _percent(1 - y.at(value))
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{place}" y2="{place}"/>')
        parts.append(f'<text class="y" x="-8" y="{place}" dy=".32em">{escape(word)}</text>')
    for value, word in x.ticks:
        place = _percent(x.at(value))
        parts.append(f'<text class="x" x="{place}" y="100%" dy="1.5em">{escape(word)}</text>')
    parts.append(f'<text class="title" x="-8" y="0" dy="-1em">{escape(y.title)}</text>')
    parts.append(f'<text class="x title" x="50%" y="100%" dy="3em">{escape(x.title)}</text>')
    parts.append(
        f'<svg viewBox="0 0 {PLOT} {PLOT}" preserveAspectRatio="none" width="100%" height="100%">'
    )
    parts += [*drawn, "</svg>"]
    for mark in across:
        place = _percent(1 - y.at(mark.at))
        aside = "1.2em" if mark.below else "-.4em"
        parts.append(f'<line class="mark" x1="0" x2="100%" y1="{place}" y2="{place}"/>')
        parts.append(
            f'<text class="mark" x="6" y="{place}" dy="{aside}">{escape(mark.word)}</text>'
        )
    for mark in upright:
        place = _percent(x.at(mark.at))
        parts.append(f'<line class="mark" x1="{place}" x2="{place}" y1="0" y2="100%"/>')
        anchor = (
            "start" if x.at(mark.at) < SIDE else "end" if x.at(mark.at) > 1 - SIDE else "middle"
        )
        parts.append(
            f'<text class="mark {anchor}" x="{place}" y="0" dy="-.5em">{escape(mark.word)}</text>'
        )
    for hover in hovers:
        begin, end = x.at(hover.begin), x.at(hover.end)
        parts.append(
            f'<rect class="hover" x="{_percent(begin)}" y="0" width="{_percent(end - begin)}" '
            f'height="100%"><title>{escape(hover.text)}</title></rect>'
        )
    return "".join([*parts, "</svg>"])


def _line(x: Axis, y: Axis, xs: Sequence[float], values: Sequence[float | None]) -> str:
    path = []
    pen = "M"
    for at, value in zip(xs, values, strict=True):
        if value is None:
            pen = "M"
            continue
        point = f"{_units(x.at(at))} {PLOT - _units(y.at(value))}"
        path.append(f"M{point}L{point}" if pen == "M" else f"L{point}")  # alone it is a dot
        pen = "L"
    return "".join(path)


def _band(
    x: Axis, y: Axis, edges: Sequence[float], floor: Sequence[float], top: Sequence[float]
) -> str:
    """Along the top, and back along the floor."""
    there, back = [], []
    for begin, end, low, high in zip(edges, edges[1:], floor, top, strict=False):
        left, right = _units(x.at(begin)), _units(x.at(end))
        there.append(f"{left} {PLOT - _units(y.at(high))}H{right}")
        back.append(f"{right} {PLOT - _units(y.at(low))}H{left}")
    return f"M{'L'.join([*there, *reversed(back)])}Z"


def _units(share: float) -> float:
    return round(share * PLOT, 1)


def _percent(share: float) -> str:
    return f"{share * 100:.6g}%"
