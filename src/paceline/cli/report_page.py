"""A report as one page of HTML that needs nothing else: no script, nothing loaded, light and dark.

Looks like the page of a simulation, whose style and parts it takes from `evidence/report.py`. What
is drawn is bounded; a step that was not seen is a hole. What is written by others is escaped.
Called by `report.py`, and lies here because watching and gathering evidence do not know each
other.
"""

from collections.abc import Callable, Iterator, Sequence
from html import escape

from paceline.cli.plan import when
from paceline.cli.reported import (
    clock,
    figures,
    headline,
    ms,
    rate,
    share,
    short,
    size,
    told,
)
from paceline.evidence import report as looks
from paceline.evidence.drawing import Axis, Hover, Series, legend, linear, lines, logarithmic
from paceline.terms.amounts import counted, percent
from paceline.watch.report import Report, Row

OPENING = '<!doctype html>\n<html lang="en">\n<meta name="generator" content="paceline report">\n'
"""By which a page is known as one of these."""

STEEP = 30
"""Times the smallest: latencies above that need a logarithmic axis to be seen together."""

TICKS = 6
STEPS_SHOWN = 120
"""In the table."""

POINTS = 720
"""Of a line, at most: neighbours beyond that are one point, the largest of them."""


def page(report: Report, command: str) -> str:
    title = f"Report on {report.model}"
    rows = report.rows
    drawn = [*_figures(report)] if len(rows) > 1 else []
    if not drawn:
        drawn = ['<p class="card">Fewer than two steps were seen: there is nothing to draw.</p>']
    return (
        f"{OPENING}"
        '<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)} – Paceline</title>\n"
        f"<style>{looks.STYLE}</style>\n"
        f"<header><h1>{escape(title)}</h1><p class=short>{escape(headline(report))}</p></header>\n"
        f"<main>{_tiles(report)}\n"
        f'{_findings(report)}<div class="figures">{"".join(drawn)}</div>\n'
        f'<div class="tables">{_numbers(report)}{_about(command)}</div>\n{_steps(report)}</main>\n'
        f"<footer>Made by Paceline {escape(report.version)}. Quantiles are of merged "
        "distributions, within 1 %; rates are of the time that was seen.</footer>\n"
        "</html>\n"
    )


# --- Words ----------------------------------------------------------------------------------------


def _tiles(report: Report) -> str:
    totals = report.totals
    failed = "–" if totals.error_rate is None else percent(totals.error_rate)
    tiles = [
        ("Requests", rate(totals.requests_per_s).removesuffix(" a second") + "/s", "on average"),
        ("p50", ms(totals.latency.p50_ms), f"mean {ms(totals.latency.mean_ms)}"),
        ("p99", ms(totals.latency.p99_ms), f"largest {ms(totals.latency.max_ms)}"),
        ("Errors", failed, f"of {counted(totals.requests)}"),
        ("Batch", short(totals.batch_rows), f"rows, {share(totals.batch_utilization)} used"),
        ("CPU", short(report.machine.cpu_cores.mean), "cores on average"),
        ("Memory", size(report.machine.memory_bytes.peak), "at most"),
    ]
    listed = "".join(
        f"<div class=card><dt>{name}</dt>"
        f"<dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{listed}</dl>'


def _findings(report: Report) -> str:
    listed = "".join(_told(head, lines) for head, lines in told(report))
    if not listed:
        return ""
    return f'<section class="card"><h2>Findings</h2><dl>{listed}</dl></section>\n'


def _told(head: str, lines: Sequence[str]) -> str:
    """Its first word says what it is, and what a command is stands in its own letters."""
    kind, _, what = head.partition(": ")
    style = "bad" if kind in ("critical alert", "regression") else ""
    title = f'<b class="badge {style}">{escape(kind)}</b> {escape(what)}' if what else escape(kind)
    return f"<dt>{title}</dt>" + "".join(f"<dd>{_line(each)}</dd>" for each in lines)


def _line(text: str) -> str:
    text = text.strip()
    return f"<code>{escape(text)}</code>" if text.startswith("paceline ") else escape(text)


def _numbers(report: Report) -> str:
    listed = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>"
        for name, words in figures(report)
        if name not in ("requests/s", "p99")  # lines of blocks, for a terminal
    )
    return f'<section class="card about"><h2>In numbers</h2><dl>{listed}</dl></section>'


def _steps(report: Report) -> str:
    if not report.rows:
        return ""
    name, at = clock(report.rows)
    heads = (name, "requests/s", "errors", "p50", "p99", "max", "queued", "CPU", "memory")
    shown = report.rows[-STEPS_SHOWN:]
    rows = [
        (
            at(row.began_unix_s),
            short(row.requests_per_s),
            counted(row.errors),
            ms(row.p50_ms),
            ms(row.p99_ms),
            ms(row.max_ms),
            short(row.queued),
            short(row.cpu_cores),
            size(row.memory_bytes),
        )
        for row in reversed(shown)
    ]
    more = len(report.rows) - len(shown)
    note = f"The newest {len(shown)}, newest first; --csv has all." if more else "Newest first."
    return (
        '<details class="card"><summary>Step by step</summary>'
        f'<p class="note">{escape(note)}</p>{looks._table(heads, rows)}</details>'
    )


def _about(command: str) -> str:
    words = " ".join(f"<span>{escape(word)}</span>" for word in command.split(" "))
    return f'<section class="card about"><h2>Made by</h2><code>{words}</code></section>'


# --- Charts ---------------------------------------------------------------------------------------


class _Time:
    """The horizontal axis: seconds since the first step, with ticks at full minutes or hours."""

    def __init__(self, report: Report) -> None:
        self.rows = _thinned(report.rows)
        self.began_s = report.rows[0].began_unix_s
        last = report.rows[-1]
        self.ended_s = max(last.began_unix_s + report.step_s, self.began_s + 1)
        self.step_s = report.step_s
        self.axis = Axis("time (UTC)", 0.0, self.ended_s - self.began_s, [*self._ticks()])

    def _ticks(self) -> Iterator[tuple[float, str]]:
        span_s = self.ended_s - self.began_s
        every = next((each for each in EVERY_S if span_s / each <= TICKS), EVERY_S[-1])
        at = -(-self.began_s // every) * every
        while at <= self.ended_s:
            text = when(at)
            yield at - self.began_s, text[11:16] if every < 86400 else text[5:10]
            at += every

    def drawn(
        self,
        title: str,
        y_title: str,
        lines_of: Sequence[tuple[str, str, Callable[[Row], float | None]]],
        told: Callable[[float | None], str],
    ) -> str:
        """Each line a name, a style and what it shows; a hole where a step is missing."""
        places: list[float] = []
        rows: list[Row | None] = []
        before: Row | None = None
        for row in self.rows:
            if before is not None and row.began_unix_s - before.began_unix_s > self._apart(before):
                places.append(before.began_unix_s + before.known_s - self.began_s)
                rows.append(None)
            places.append(max(0.0, row.began_unix_s - self.began_s))
            rows.append(row)
            before = row
        series = [
            Series(name, style, [None if row is None else of(row) for row in rows])
            for name, style, of in lines_of
        ]
        seen = [value for each in series for value in each.values if value is not None]
        if not seen:
            return ""
        y = linear(y_title, 0.0, max(*seen, 1e-9) * looks.ROOM)
        positive = [each for each in seen if each > 0]
        if y_title == "ms" and positive and max(positive) > STEEP * min(positive):
            y = logarithmic(y_title, min(positive), max(positive))
        hovers = [
            Hover(
                at,
                at + self.step_s,
                f"{when(row.began_unix_s)}: "
                + ", ".join(f"{name} {told(of(row))}" for name, _, of in lines_of),
            )
            for at, row in zip(places, rows, strict=True)
            if row is not None
        ]
        chart = lines(title, self.axis, y, places, series, hovers=hovers)
        named = legend([(each.name, each.style) for each in series]) if len(series) > 1 else ""
        return looks._figure(title, "", named + chart)

    def _apart(self, row: Row) -> float:
        return 1.5 * max(self.step_s, row.known_s) * max(1, len(self.rows) // POINTS)


EVERY_S = (10.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 4 * 3600.0, 86400.0, 7 * 86400.0)


def _thinned(rows: Sequence[Row]) -> Sequence[Row]:
    """Of neighbours the one with the largest latency, or the first."""
    width = -(-len(rows) // POINTS)
    groups = [rows[at : at + width] for at in range(0, len(rows), width)]
    return [max(group, key=lambda row: row.p99_ms or 0.0) for group in groups]


def _figures(report: Report) -> Iterator[str]:
    time = _Time(report)
    cores = report.machine.cores
    drawn = [
        time.drawn(
            "Requests per second",
            "requests/s",
            [
                ("all", "in-time", lambda row: row.requests_per_s),
                (
                    "errors",
                    "dropped",
                    _errors_per_s,
                ),
            ],
            short,
        ),
        time.drawn(
            "How long answers took",
            "ms",
            [
                ("p50", "p50", lambda row: row.p50_ms),
                ("p95", "p95", lambda row: row.p95_ms),
                ("p99", "p99", lambda row: row.p99_ms),
            ],
            ms,
        ),
        time.drawn(
            "Requests in hand, and those of them that waited",
            "requests",
            [
                ("in hand", "normal", lambda row: row.concurrency),
                ("waiting", "high", lambda row: row.queued),
            ],
            short,
        ),
        time.drawn(
            "Rows of a batch", "rows", [("rows", "in-time", lambda row: row.batch_rows)], short
        ),
        time.drawn(
            f"CPU of all processes, of {short(cores)} cores",
            "cores",
            [("cores", "in-time", lambda row: row.cpu_cores)],
            short,
        ),
        time.drawn(
            "Memory of all processes",
            "MiB",
            [("memory", "in-time", lambda row: _mib(row.memory_bytes))],
            short,
        ),
    ]
    yield from filter(None, drawn)


def _errors_per_s(row: Row) -> float | None:
    return row.errors / row.known_s if row.known_s else None


def _mib(value_bytes: float | None) -> float | None:
    return None if value_bytes is None else value_bytes / 2**20
