"""A load test as one page of HTML that needs nothing else: no script, nothing loaded.

Looks like the page of a simulation, whose style and parts it takes from `report.py`. However many
requests there were, what is drawn is bounded. Where no times can be told it draws none. What is
written by others (URLs, names of models) is escaped. Called by `paceline load --report`.
"""

from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

import paceline
from paceline.evidence import report
from paceline.evidence.drawing import (
    Axis,
    Hover,
    Mark,
    Series,
    exact,
    legend,
    linear,
    lines,
    logarithmic,
    stacked,
)
from paceline.evidence.load import ENDS, PENDING, Load, Outcome
from paceline.evidence.load_summary import OfGroup, Quantiles, Summary
from paceline.evidence.summary import WANTED
from paceline.evidence.targets import REFUSALS
from paceline.terms.amounts import counted, in_words, percent, unbroken

OPENING = '<!doctype html>\n<html lang="en">\n<meta name="generator" content="paceline load">\n'
"""By which a page is known as one of these."""

NINES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)
"""Shares that the axis of the tail names."""


def page(load: Load, outcome: Outcome, summary: Summary, facts: report.Facts, command: str) -> str:
    """`facts` say what was done, by name."""
    title = f"Load on {facts[0][1].partition(' ')[0]}"
    drawn = [*_figures(load, outcome, summary)] if summary.requests else []
    if not drawn:
        drawn = ['<p class="card">Nothing was counted, so there is nothing to draw.</p>']
    return (
        f"{OPENING}"
        '<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)} – Paceline</title>\n"
        f"<style>{report.STYLE}</style>\n"
        f"<header><h1>{escape(title)}</h1>{_verdict(summary)}</header>\n"
        f"<main>{_tiles(summary)}\n"
        f'<div class="figures">{"".join(drawn)}</div>\n'
        f'<div class="tables">{"".join(_tables(summary))}{_about(facts, command)}</div></main>\n'
        f"<footer>Made by Paceline {escape(paceline.__version__)}. A time counts from the moment "
        "at which a request was due, not from when it could be sent.</footer>\n"
        "</html>\n"
    )


# --- Words ----------------------------------------------------------------------------------------


def _verdict(summary: Summary) -> str:
    style, word = report.BADGES[summary.met]
    if summary.not_told is not None:
        style, word = "bad", "Not measured"
    ended = "Ended early. " if summary.interrupted or summary.gave_up else ""
    told = escape(unbroken(ended + summary.in_short))
    return f'<p class="short"><b class="badge {style}">{word}</b> {told}</p>'


def _tiles(summary: Summary) -> str:
    goodput = "–" if summary.goodput_rps is None else f"{counted(round(summary.goodput_rps))}/s"
    offered = f"of {counted(round(summary.offered_rps))} sent"
    tiles = [
        ("p50", _ms(summary.latency, "p50_ms"), "of what was answered"),
        ("p99", _ms(summary.latency, "p99_ms"), "of what was answered"),
        ("Answered", f"{counted(round(summary.answered_rps))}/s", offered),
        ("Goodput", goodput, "answered in time"),
        ("Refused", _share(summary.refused, summary), "with 429, 503 or 504"),
        ("Failed", _share(summary.failed, summary), f"of {counted(summary.requests)}"),
    ]
    listed = "".join(
        f"<div class=card><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{listed}</dl>'


def _tables(summary: Summary) -> Iterator[str]:
    heads = ("", "samples", "p50", "p90", "p99", "p99.9", "max")
    listed = [
        ("answered", summary.latency),
        ("refused", summary.refusals),
        ("first piece", summary.first_piece),
        ("a piece", summary.per_piece),
        ("waited for a connection", summary.wait),
        ("own lag", summary.lag),
    ]
    yield report._card(
        "Times",
        "Own lag is what this command was late to send; it is part of the others.",
        report._table(heads, [_row(name, times) for name, times in listed if times]),
    )
    statuses = [(f"status {each}", count) for each, count in summary.statuses.items()]
    ends = [*statuses, *summary.errors.items()]
    if summary.unfinished:
        ends.append((ENDS[PENDING], summary.unfinished))
    yield report._card("What became of all", "", report._shares(ends, summary.requests))
    for heading, groups in (
        ("By priority", summary.priorities),
        ("By model", summary.models),
    ):
        if len(groups) > 1:
            yield report._card(heading, "", _groups(groups))


def _row(name: str, times: Quantiles) -> tuple[str, ...]:
    shown = (times.p50_ms, times.p90_ms, times.p99_ms, times.p999_ms, times.max_ms)
    return (name, counted(times.samples), *(in_words(each / 1e3) for each in shown))


def _groups(groups: Iterable[OfGroup]) -> str:
    heads = ("", "requests", "answered", "in time", "p50", "p99")
    return report._table(
        heads,
        [
            (
                each.name,
                counted(each.requests),
                counted(each.answered),
                "–" if each.share_in_time is None else percent(each.share_in_time),
                _ms(each.latency, "p50_ms"),
                _ms(each.latency, "p99_ms"),
            )
            for each in groups
        ],
    )


def _about(facts: report.Facts, command: str) -> str:
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>" for name, words in facts)
    words = " ".join(f"<span>{escape(word)}</span>" for word in command.split(" "))
    return (
        f'<section class="card about"><h2>What was sent</h2><dl>{listed}</dl>'
        f"<h2>Made by</h2><code>{words}</code></section>"
    )


def _ms(times: Quantiles | None, name: str) -> str:
    return "–" if times is None else in_words(getattr(times, name) / 1e3)


def _share(count: int, summary: Summary) -> str:
    return percent(count / summary.requests) if summary.requests else "–"


# --- Charts ---------------------------------------------------------------------------------------


class _Seen:
    """What is counted, cut into equal stretches of the time at which it was due."""

    def __init__(self, load: Load, outcome: Outcome, summary: Summary) -> None:
        first = min(load.arrivals.counted_from, len(outcome.due_s))
        self.due_s = outcome.due_s[first:] - load.arrivals.warmup_s
        self.took_s = (outcome.done_s - outcome.due_s)[first:]
        self.lag_s = outcome.lag_s[first:]
        self.ends = outcome.ends[first:]
        self.answered = (self.ends >= 200) & (self.ends < 300)
        self.slo_s = None if summary.slo_ms is None else summary.slo_ms / 1e3
        last_s = max(float(self.due_s[-1]), summary.seconds, 1e-3)
        count = max(report.FEWEST_BINS, min(report.BINS, len(self.due_s) // report.PER_BIN))
        self.edges: list[float] = np.linspace(0.0, last_s, count + 1).tolist()
        self.starts = np.searchsorted(self.due_s, self.edges).tolist()
        self.starts[-1] = len(self.due_s)
        self.middles = [(begin + end) / 2 for begin, end in pairwise(self.edges)]
        self.axis = exact("due after (s)", 0.0, last_s)

    def per_s(self, which: NDArray[np.bool_]) -> list[float]:
        width_s = self.edges[1]
        return [float(which[a:b].sum()) / width_s for a, b in pairwise(self.starts)]

    def quantile(
        self, share: float, times_s: NDArray[np.float64], which: NDArray[np.bool_]
    ) -> list[float | None]:
        found: list[float | None] = []
        for begin, end in pairwise(self.starts):
            chosen = times_s[begin:end][which[begin:end]]
            found.append(float(np.quantile(chosen, share)) * 1e3 if len(chosen) else None)
        return found

    def told(self, texts: Iterable[str]) -> Iterator[Hover]:
        for (begin, end), text in zip(pairwise(self.edges), texts, strict=True):
            yield Hover(begin, end, f"{begin:.4g} to {end:.4g} s: {text}")


def _figures(load: Load, outcome: Outcome, summary: Summary) -> Iterator[str]:
    seen = _Seen(load, outcome, summary)
    yield _over_time(seen)
    if summary.not_told is None and seen.answered.any():
        yield _percentiles(seen, summary)
        yield _tail(seen, summary)
    yield _lag(seen)


def _over_time(seen: _Seen) -> str:
    in_time = seen.answered if seen.slo_s is None else seen.answered & (seen.took_s <= seen.slo_s)
    refused = np.isin(seen.ends, REFUSALS)
    unfinished = seen.ends == PENDING
    found = [
        ("answered" if seen.slo_s is None else "answered in time", "in-time", in_time),
        ("answered too late", "too-late", seen.answered & ~in_time),
        ("refused", "refused", refused),
        ("failed", "broken", ~seen.answered & ~refused & ~unfinished),
        ("unfinished", "left", unfinished),
    ]
    rates = [(name, style, seen.per_s(which)) for name, style, which in found if which.any()]
    most = max(map(sum, zip(*(each for _, _, each in rates), strict=True)))
    texts = [
        ", ".join(f"{name} {each[index]:.4g}/s" for name, _, each in rates)
        for index in range(len(seen.middles))
    ]
    series = [Series(*each) for each in rates]
    y = linear("requests/s", 0.0, most)
    chart = stacked("Requests over time", seen.axis, y, seen.edges, series, hovers=seen.told(texts))
    return report._figure(
        "What was sent, and what became of it",
        "By when it was due; all colours together are what was due. Point at a chart for its "
        "numbers.",
        legend([(each.name, each.style) for each in series]) + chart,
    )


def _percentiles(seen: _Seen, summary: Summary) -> str:
    shown = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    series = [
        Series(name, name, seen.quantile(share, seen.took_s, seen.answered))
        for name, share in shown.items()
    ]
    values = [value for each in series for value in each.values if value is not None]
    slo_ms = [] if summary.slo_ms is None else [summary.slo_ms]
    y = linear("ms", 0.0, max([*values, *slo_ms]) * report.ROOM)
    if max(values) > report.STEEP * (summary.slo_ms or min(values)):
        y = logarithmic("ms", min([*values, *slo_ms]), max([*values, *slo_ms]))
    return report._figure(
        "How long answers took",
        "Of 100 answers, p50 is what the 50th took, p99 the 99th. What got no answer is not in "
        "here.",
        _drawn("Percentiles of latency over time", seen, y, series, _slo(summary)),
    )


def _lag(seen: _Seen) -> str:
    every = np.ones(len(seen.due_s), dtype=np.bool_)
    series = [
        Series("p50", "p50", seen.quantile(0.5, seen.lag_s, every)),
        Series("p99", "p99", seen.quantile(0.99, seen.lag_s, every)),
    ]
    values = [value for each in series for value in each.values if value is not None]
    y = logarithmic("ms", max(1e-3, min(values)), max(2e-3, *values))
    return report._figure(
        "How late this command was itself",
        "What it sent later than it was due, although a connection was free.",
        _drawn("Own lag over time", seen, y, series, []),
    )


def _drawn(
    title: str, seen: _Seen, y: Axis, series: Sequence[Series], across: Sequence[Mark]
) -> str:
    texts = [
        ", ".join(f"{each.name} {_told_ms(each.values[index])}" for each in series)
        for index in range(len(seen.middles))
    ]
    chart = lines(title, seen.axis, y, seen.middles, series, across=across, hovers=seen.told(texts))
    return legend([(each.name, each.style) for each in series]) + chart


def _told_ms(value_ms: float | None) -> str:
    return "–" if value_ms is None else in_words(value_ms / 1e3)


def _tail(seen: _Seen, summary: Summary) -> str:
    """Along an axis on which each further nine takes as much room as the one before."""
    ordered = np.sort(seen.took_s[seen.answered]) * 1e3
    last = np.log10(max(10, len(ordered)))
    at = np.linspace(0.0, last, report.POINTS)
    places = np.minimum((1 - 10.0**-at) * len(ordered), len(ordered) - 1).astype(np.int64)
    values = ordered[places]
    ticks = [(-np.log10(1 - each), f"{each * 100:g} %") for each in NINES]
    x = Axis("of answers, at most", 0.0, float(last), [tick for tick in ticks if tick[0] <= last])
    slo_ms = [] if summary.slo_ms is None else [summary.slo_ms]
    low, high = min([float(values[0]), *slo_ms]), max([float(values[-1]), *slo_ms])
    y = logarithmic("ms", max(low, 1e-3), max(high, 2e-3))
    hovers = [
        Hover(float(a), float(b), f"{(1 - 10.0**-b) * 100:.4g} %: within {_told_ms(float(value))}")
        for a, b, value in zip(at, at[1:], values[1:], strict=False)
    ]
    wanted = [Mark(-float(np.log10(1 - WANTED)), f"{WANTED * 100:g} %")]
    chart = lines(
        "Latency by share of answers",
        x,
        y,
        at.tolist(),
        [Series("answered", "normal", values.tolist())],
        across=_slo(summary),
        upright=wanted,
        hovers=hovers,
    )
    return report._figure(
        "How long the slowest took",
        "To the right are the slowest: half of the answers, the slowest tenth, hundredth, and so "
        "on.",
        chart,
    )


def _slo(summary: Summary) -> list[Mark]:
    if summary.slo_ms is None:
        return []
    return [Mark(summary.slo_ms, f"objective {in_words(summary.slo_ms / 1e3)}")]
