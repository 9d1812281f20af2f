"""A run as one page of HTML that needs nothing else: no script, nothing loaded, light and dark.

However many requests there were, what is drawn is bounded: time is cut into bins, distributions
are drawn through a few hundred points. The same run gives the same page, to the byte. What is
written by others (names of files and models) is escaped. Called by `paceline simulate --html`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

import paceline
from paceline.evidence.drawing import (
    Axis,
    Hover,
    Mark,
    Series,
    bars,
    exact,
    legend,
    linear,
    lines,
    logarithmic,
    number,
    stacked,
)
from paceline.evidence.simulate import DONE, EXPIRED, FAILED, FULL, LATE, LEFT, LOST, SHED, Run
from paceline.evidence.summary import OfPriority, Summary, endings
from paceline.terms.amounts import counted, in_words, percent, unbroken
from paceline.terms.request import PRIORITIES

BINS = 120
"""Stretches of time, at most."""

PER_BIN = 40
"""Requests in one, on average, at least: fewer have no percentiles."""

FEWEST_BINS = 12

POINTS = 200
"""Of the curve of a distribution, at most."""

ROOM = 1.05
"""Beyond the largest number, on an axis."""

STRETCHES = 60
"""Of the axis of a distribution, each of which tells its numbers."""

BARS = 48
"""Of batch sizes, at most; above, neighbours share one."""

EACH_TOLD = 12
"""Batch sizes that all have their number below."""

STEEP = 10
"""Times the objective: percentiles above that need a logarithmic axis to be seen together."""

TIMES: Mapping[str, float] = {"s": 1.0, "min": 60.0, "h": 3600.0}
UNITS_SHOWN = 300
"""Of a unit of time at most; then it is the next one."""

OUTCOMES: Sequence[tuple[str, str, tuple[int, ...]]] = (
    ("refused at the door", "refused", (LATE, FULL)),
    ("shed or expired", "dropped", (SHED, EXPIRED)),
    ("failed or lost", "broken", (FAILED, LOST)),
    ("caller left", "left", (LEFT,)),
)
"""Of what got no result: words, style, and the ends that count as it."""

BADGES: Mapping[bool | None, tuple[str, str]] = {
    True: ("good", "Objective met"),
    False: ("bad", "Objective not met"),
    None: ("", "Not judged"),
}

HEADS = ("priority", "requests", "in time", "p50", "p95", "p99")

Facts = Sequence[tuple[str, str]]
OPENING = '<!doctype html>\n<html lang="en">\n<meta name="generator" content="paceline simulate">\n'
"""By which a page is known as one of these."""


def page(run: Run, summary: Summary, facts: Facts, command: str) -> str:
    """`facts` say what was simulated, by name."""
    title = f"Simulation of {run.trace.name}"
    drawn = [each for each in _figures(run, summary) if each]
    if not drawn:
        drawn = ['<p class="card">No request came, so there is nothing to draw.</p>']
    return (
        f"{OPENING}"
        '<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)} – Paceline</title>\n"
        f"<style>{STYLE}</style>\n"
        f"<header><h1>{escape(title)}</h1>{_verdict(summary)}</header>\n"
        f"<main>{_tiles(summary)}\n"
        f'<div class="figures">{"".join(drawn)}</div>\n'
        f'<div class="tables">{"".join(_tables(summary))}{_about(facts, command)}</div></main>\n'
        f"<footer>Made by Paceline {escape(paceline.__version__)} in virtual time: its decisions "
        "are those of a server, the requests and the time that they take are not real.</footer>\n"
        "</html>\n"
    )


# --- Words ----------------------------------------------------------------------------------------


def _verdict(summary: Summary) -> str:
    style, word = BADGES[summary.met]
    told = escape(unbroken(summary.in_short))
    return f'<p class="short"><b class="badge {style}">{word}</b> {told}</p>'


def _tiles(summary: Summary) -> str:
    offered = "" if summary.offered_rps is None else f"of {counted(summary.offered_rps)} offered"
    mean = summary.batches.rows_mean
    tiles = [
        (
            "In time",
            _percent(summary.share_in_time),
            f"{summary.share_wanted * 100:g} % are wanted",
        ),
        ("Goodput", _rate(summary.goodput_rps), offered),
        ("p99", _ms(summary.overall.p99_ms), "of what was answered"),
        ("Batch", "–" if mean is None else f"{mean:.3g}", "rows on average"),
        ("Busy", _percent(summary.busy), _many(summary.executors, "executor")),
    ]
    listed = "".join(
        f"<div class=card><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{listed}</dl>'


def _tables(summary: Summary) -> Iterator[str]:
    rows = summary.priorities
    if len(rows) != 1:
        rows = [*rows, summary.overall]
    yield _card(
        "By priority",
        "Times are those of what was answered with a result.",
        _table(
            ("priority", "requests", "in time", "p50", "p95", "p99"),
            [_by_priority(r) for r in rows],
        ),
    )
    yield _card("What became of all", "", _shares(endings(summary), summary.requests))
    yield _card(
        "Why batches were run",
        f"{_many(summary.batches.batches, 'batch', 'batches')}"
        + (
            f", {counted(summary.reruns)} of them to find who broke one." if summary.reruns else "."
        ),
        _shares(_most_first(summary.dispatched), summary.batches.batches),
    )
    if summary.waits:
        yield _card(
            "What was waited for",
            "How often the policy held back what waited although an executor was free.",
            _shares(_most_first(summary.waits), sum(summary.waits.values())),
        )


def _about(facts: Facts, command: str) -> str:
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>" for name, words in facts)
    # Each word by itself, or a line would end after the first hyphen of an option.
    words = " ".join(f"<span>{escape(word)}</span>" for word in command.split(" "))
    return (
        f'<section class="card about"><h2>What was simulated</h2><dl>{listed}</dl>'
        f"<h2>Made by</h2><code>{words}</code></section>"
    )


def _by_priority(row: OfPriority) -> tuple[str, ...]:
    return (
        row.priority,
        counted(row.requests),
        _percent(row.share_in_time),
        *map(_ms, (row.p50_ms, row.p95_ms, row.p99_ms)),
    )


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: -each[1])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    heads = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    filled = "".join(
        f"<tr><th scope=row>{escape(first)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in others)
        + "</tr>"
        for first, *others in rows
    )
    body = f"<thead><tr>{heads}</tr></thead><tbody>{filled}</tbody>"
    return f'<div class="wide"><table>{body}</table></div>'


def _shares(counts: Iterable[tuple[str, int]], total: int) -> str:
    """A table with a bar behind each share."""
    rows = "".join(
        f"<tr><th scope=row>{escape(words)}</th><td>{counted(count)}</td>"
        f'<td class="share"><i style="--share:{count / total:.4f}"></i>'
        f"<span>{percent(count / total)}</span></td></tr>"
        for words, count in counts
        if total
    )
    return f"<table><tbody>{rows}</tbody></table>" if rows else "<p class=note>None.</p>"


def _card(heading: str, note: str, body: str) -> str:
    said = f'<p class="note">{escape(note)}</p>' if note else ""
    return f'<section class="card"><h2>{escape(heading)}</h2>{said}{body}</section>'


def _figure(heading: str, note: str, body: str) -> str:
    return (
        f'<figure class="card"><figcaption><h2>{escape(heading)}</h2>'
        f'<p class="note">{escape(note)}</p></figcaption>{body}</figure>'
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else percent(share)


def _ms(time_ms: float | None) -> str:
    return "–" if time_ms is None else in_words(time_ms / 1e3)


def _rate(rate_rps: float | None) -> str:
    return "–" if rate_rps is None else f"{counted(rate_rps)}/s"


def _many(count: int, one: str, more: str = "") -> str:
    return f"{counted(count)} {one if count == 1 else more or one + 's'}"


# --- Charts ---------------------------------------------------------------------------------------


def _figures(run: Run, summary: Summary) -> Iterator[str]:
    if run.trace.seconds:
        bins = _Bins(run)
        yield _over_time(run, bins)
        yield _percentiles(run, summary, bins)
    yield _distribution(run, summary)
    yield _batch_sizes(summary)


class _Bins:
    """The time of a trace, cut into equal stretches; requests lie in the order of arrival."""

    def __init__(self, run: Run) -> None:
        arrived_s = np.asarray(run.trace.arrived_s)
        count = max(FEWEST_BINS, min(BINS, len(arrived_s) // PER_BIN))
        edges_s = np.linspace(0.0, run.trace.seconds, count + 1)
        self.width_s = float(edges_s[1])
        self.starts = np.searchsorted(arrived_s, edges_s)
        self.starts[-1] = len(arrived_s)
        unit = next((u for u, s in TIMES.items() if run.trace.seconds <= UNITS_SHOWN * s), "h")
        self.edges: list[float] = (edges_s / TIMES[unit]).tolist()
        self.middles = [(begin + end) / 2 for begin, end in pairwise(self.edges)]
        self.axis = exact(f"arrived after ({unit})", 0.0, self.edges[-1])
        self.unit = unit

    def per_s(self, which: "NDArray[np.bool_]") -> list[float]:
        counts = np.add.reduceat(np.append(which, False).astype(float), self.starts[:-1])
        counts[np.diff(self.starts) == 0] = 0.0  # `reduceat` gives the next one for an empty bin
        rates: list[float] = (counts / self.width_s).tolist()
        return rates

    def told(self, texts: Iterable[str]) -> Iterator[Hover]:
        for (begin, end), text in zip(pairwise(self.edges), texts, strict=True):
            yield Hover(begin, end, f"{begin:.4g} to {end:.4g} {self.unit}: {text}")


def _over_time(run: Run, bins: _Bins) -> str:
    ends = run.ends
    in_time = run.in_time
    found = [
        ("answered in time", "in-time", in_time),
        ("answered too late", "too-late", (ends == DONE) & ~in_time),
        *((name, style, np.isin(ends, which)) for name, style, which in OUTCOMES),
    ]
    rates = [(name, style, bins.per_s(which)) for name, style, which in found if which.any()]
    most = max(map(sum, zip(*(each for _, _, each in rates), strict=True)))
    texts = [
        ", ".join(f"{name} {each[index]:.4g}/s" for name, _, each in rates)
        for index in range(len(bins.middles))
    ]
    series = [Series(*each) for each in rates]
    y = linear("requests/s", 0.0, most)
    chart = stacked("Requests over time", bins.axis, y, bins.edges, series, hovers=bins.told(texts))
    return _figure(
        "What was offered, and what became of it",
        "By when it arrived; all colours together are what was offered. Point at a chart for its "
        "numbers.",
        legend([(each.name, each.style) for each in series]) + chart,
    )


def _percentiles(run: Run, summary: Summary, bins: _Bins) -> str:
    times_ms = (run.ended_s - np.asarray(run.trace.arrived_s)) * 1e3
    shown = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    found: list[list[float | None]] = []
    for begin, end in pairwise(bins.starts.tolist()):
        answered = times_ms[begin:end][run.ends[begin:end] == DONE]
        none: list[float | None] = [None] * len(shown)
        found.append(np.quantile(answered, [*shown.values()]).tolist() if len(answered) else none)
    seen = [value for row in found for value in row if value is not None]
    if not seen:
        return ""
    y = linear("ms", 0.0, max(*seen, summary.slo_ms) * ROOM)
    if max(seen) > STEEP * summary.slo_ms:
        y = logarithmic("ms", min(*seen, summary.slo_ms), max(seen))
    series = [Series(name, name, [row[index] for row in found]) for index, name in enumerate(shown)]
    texts = [", ".join(f"{n} {_ms(v)}" for n, v in zip(shown, row, strict=True)) for row in found]
    chart = lines(
        "Percentiles of latency over time",
        bins.axis,
        y,
        bins.middles,
        series,
        across=[_slo(summary)],
        hovers=bins.told(texts),
    )
    return _figure(
        "How long answers took",
        "Of 100 answers, p50 is what the 50th took, p99 the 99th; of all priorities. What got "
        "no answer is not in here.",
        legend([(each.name, each.style) for each in series]) + chart,
    )


def _slo(summary: Summary) -> Mark:
    return Mark(summary.slo_ms, f"objective {in_words(summary.slo_ms / 1e3)}")


def _distribution(run: Run, summary: Summary) -> str:
    """Among all whose callers stayed, so that a curve ends below 100 % where some got nothing."""
    ranks = np.asarray(run.trace.ranks, dtype=np.int64)
    times_ms = (run.ended_s - np.asarray(run.trace.arrived_s)) * 1e3
    curves: list[tuple[str, NDArray[np.float64], int]] = []
    for rank in reversed(range(len(PRIORITIES))):
        stayed = int(((ranks == rank) & (run.ends != LEFT)).sum())
        if stayed:
            answered = np.sort(times_ms[(ranks == rank) & (run.ends == DONE)])
            curves.append((PRIORITIES[rank], answered, stayed))
    seen = np.concatenate([np.array([summary.slo_ms]), *(answered for _, answered, _ in curves)])
    if len(seen) == 1:
        return ""
    x = logarithmic("answered within (ms)", float(seen.min()), float(seen.max()) * ROOM)
    y = linear("% of requests", 0.0, 100.0)
    at = np.geomspace(x.low, x.high, POINTS)
    wanted = 100 * summary.share_wanted
    series = [
        Series(name, name, (np.searchsorted(answered, at, side="right") / stayed * 100).tolist())
        for name, answered, stayed in curves
    ]
    chart = lines(
        "Share answered within a time, by priority",
        x,
        y,
        at.tolist(),
        series,
        across=[Mark(wanted, f"{wanted:g} % wanted", below=True)],
        upright=[_slo(summary)],
        hovers=_within(x, curves),
    )
    return _figure(
        "How many were answered within which time",
        "Of all requests whose callers stayed, also of those that got no result. The objective is "
        "met where the curves pass above the crossing of the two lines.",
        legend([(each.name, each.style) for each in series]) + chart,
    )


def _within(x: Axis, curves: Sequence[tuple[str, "NDArray[np.float64]", int]]) -> Iterator[Hover]:
    for begin, end in pairwise(np.geomspace(x.low, x.high, STRETCHES + 1).tolist()):
        told = ", ".join(
            f"{name} {percent(int(np.searchsorted(answered, end, side='right')) / stayed)}"
            for name, answered, stayed in curves
        )
        yield Hover(begin, end, f"within {in_words(end / 1e3)}: {told}")


def _batch_sizes(summary: Summary) -> str:
    sizes = summary.batches
    if not sizes.batches:
        return ""
    width = math.ceil(sizes.rows_most / BARS)
    count = math.ceil(sizes.rows_most / width)
    rows_in_all = sum(rows * batches for rows, batches in sizes.by_rows.items())
    of_batches, of_rows = [0.0] * count, [0.0] * count
    for rows, batches in sizes.by_rows.items():
        of_batches[(rows - 1) // width] += 100 * batches / sizes.batches
        of_rows[(rows - 1) // width] += 100 * rows * batches / rows_in_all
    edges = [0.5 + index * width for index in range(count + 1)]
    if sizes.rows_most <= EACH_TOLD:
        ticks = [float(rows) for rows in range(1, sizes.rows_most + 1)]
    else:
        ticks = [1.0, *(at for at, _ in linear("", 0.0, edges[-1], whole=True).ticks[1:])]
    said = [(at, number(at)) for at in ticks if at < edges[-1]]
    series = [
        Series("% of batches", "in-time", of_batches),
        Series("% of rows", "refused", of_rows),
    ]
    chart = bars(
        "Batch sizes",
        Axis("rows in a batch", 0.5, edges[-1], said),
        linear("%", 0.0, max(*of_batches, *of_rows)),
        edges,
        series,
        "rows in a batch",
    )
    return _figure(
        "How large batches were",
        f"{sizes.rows_mean:.3g} on average, at most {counted(sizes.rows_most)}. Large batches may "
        "be few and hold most of the rows.",
        legend([(each.name, each.style) for each in series]) + chart,
    )


STYLE = """
:root {
  --paper: #f7f7f4; --card: #fff; --ink: #1c1f22; --soft: #5b636a; --line: #e2e3de;
  --tint: #0b7a75; --good: #21743c; --bad: #b3261e;
  --in-time: #1b9088; --too-late: #e0a100; --refused: #7387d8; --dropped: #c4503b;
  --broken: #7a2f6b; --left: #a9afb5;
  --p50: #93cbc5; --p95: #2f9d95; --p99: #06403d;
  --critical: #b3261e; --high: #d98a00; --normal: #0b7a75; --low: #6b7fd1;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121416; --card: #1a1d20; --ink: #e7e8e9; --soft: #9da5ad; --line: #2c3136;
    --tint: #56c7bf; --good: #6fcf8c; --bad: #f28b82;
    --in-time: #2f9d95; --too-late: #e3b24e; --refused: #8193e0; --dropped: #d96a55;
    --broken: #b569a5; --left: #6a7178;
    --p50: #2d6f6b; --p95: #4db3ab; --p99: #c9f4f0;
    --critical: #f28b82; --high: #e3b24e; --normal: #56c7bf; --low: #93a4ee;
  }
}
* { box-sizing: border-box; margin: 0; }
body {
  background: var(--paper); color: var(--ink); padding: 0 1.25rem 3rem;
  font: 1rem/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums;
}
header, main, footer { max-width: 80rem; margin: 0 auto; }
header { padding: 1.75rem 0 1.25rem; }
h1, h2, dt, th { font-weight: 600; }
h1 { font-size: 1.375rem; line-height: 1.3; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2, dt { font-size: .875rem; color: var(--soft); }
figure h2 { font-size: 1rem; color: var(--ink); }
small, .note, footer { font-size: .8125rem; color: var(--soft); }
footer { padding-top: 1.25rem; }
.short { margin-top: .5rem; max-width: 52rem; font-size: 1.0625rem; }
.badge {
  display: inline-block; margin-right: .375rem; padding: 0 .625rem; border: 1px solid;
  border-radius: 1rem; font-size: .875rem; font-weight: 600; color: var(--soft);
}
.badge.good { color: var(--good); }
.badge.bad { color: var(--bad); }
main, .figures, .tables { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr); }
@media (min-width: 60rem) {
  .figures, .tables { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .tables > :last-child:nth-child(odd) { grid-column: 1 / -1; }
}
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem;
  padding: 1rem 1.25rem;
}
.tiles { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); }
@media (max-width: 40rem) { .tiles > :last-child { grid-column: 1 / -1; } }
.tiles dd { font-size: 1.625rem; line-height: 1.3; letter-spacing: -.02em; white-space: nowrap; }
.tiles small { display: block; letter-spacing: 0; white-space: normal; }
.legend {
  display: flex; flex-wrap: wrap; gap: 0 1rem; margin-top: .5rem; padding: 0; list-style: none;
  font-size: .8125rem;
}
.swatch {
  display: inline-block; width: .75rem; height: .75rem; margin-right: .375rem;
  border-radius: .1875rem; vertical-align: -.0625rem; background: var(--style);
}
svg.chart {
  display: block; overflow: visible; height: 14rem;
  width: calc(100% - 3.5rem); margin: 2rem .75rem 3.25rem 2.75rem;
}
svg text { font-size: .75rem; fill: var(--soft); }
svg .y { text-anchor: end; }
svg .x { text-anchor: middle; }
svg .title { fill: var(--soft); }
svg text.mark {
  fill: var(--bad);
  paint-order: stroke; stroke: var(--card); stroke-width: 4px; stroke-linejoin: round;
}
svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; }
svg .grid { stroke: var(--line); }
svg line.mark { stroke: var(--bad); stroke-dasharray: 5 4; }
svg .line {
  fill: none; stroke: var(--style); stroke-width: 2; stroke-linejoin: round;
  stroke-linecap: round; vector-effect: non-scaling-stroke;
}
svg .area { fill: var(--style); }
svg .hover { fill: transparent; }
svg .hover:hover { fill: color-mix(in srgb, var(--ink) 10%, transparent); }
.in-time { --style: var(--in-time); } .too-late { --style: var(--too-late); }
.refused { --style: var(--refused); } .dropped { --style: var(--dropped); }
.broken { --style: var(--broken); } .left { --style: var(--left); }
.p50 { --style: var(--p50); } .p95 { --style: var(--p95); } .p99 { --style: var(--p99); }
.critical { --style: var(--critical); } .high { --style: var(--high); }
.normal { --style: var(--normal); } .low { --style: var(--low); }
.wide { overflow-x: auto; }
table { width: 100%; margin-top: .5rem; border-collapse: collapse; font-size: .9375rem; }
th, td {
  padding: .375rem 0 .375rem .75rem; text-align: right; white-space: nowrap;
  border-top: 1px solid var(--line);
}
thead th { border: 0; font-size: .8125rem; color: var(--soft); }
th:first-child { padding-left: 0; text-align: left; white-space: normal; }
tbody th { font-weight: 400; }
.share { position: relative; width: 40%; }
.share i {
  position: absolute; inset: .5rem auto .5rem .75rem; width: calc((100% - 5.25rem) * var(--share));
  background: var(--in-time); opacity: .35; border-radius: .125rem;
}
.about dl {
  display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .25rem 1.25rem;
  margin: .5rem 0 1rem; font-size: .9375rem;
}
.about dd { overflow-wrap: anywhere; }
code { font: .875rem/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
code span { display: inline-block; max-width: 100%; }
"""
