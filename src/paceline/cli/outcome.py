"""The outcome of a simulation as text and as JSON. Called by `simulate.py`."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from paceline.cli.plan import paragraph
from paceline.cli.simulation import Played
from paceline.evidence.summary import OfPriority, Summary, endings
from paceline.terms.amounts import counted, in_words, percent, unbroken

NONE = "–"
WIDTH = 69
"""of the words beside a name"""


def as_fields(played: Played, page: str | None) -> dict[str, object]:
    """All but `speed` is the same for the same command, unless a model was measured."""
    summary, latencies = played.summary, played.latencies
    return {
        **{name: getattr(summary, name) for name in summary.__struct_fields__},
        "policy": played.policy,
        "latencies": [
            {
                "rows": each.sizes,
                "median_ms": [time_s * 1e3 for time_s in each.median_s],
                "scatter": each.scatter,
                "side_by_side": each.side_by_side,
            }
            for each in latencies
        ],
        "page": page,
        "speed": {"real_s": played.real_s, "requests_per_s": _per_s(played)},
    }


def as_text(played: Played, page: str | None) -> Iterator[str]:
    summary = played.summary
    batches = summary.batches
    yield _spaced(paragraph(unbroken(summary.in_short)))
    yield ""
    for name, words in played.facts:
        lines = textwrap.wrap(unbroken(words), WIDTH, break_on_hyphens=False)
        yield from _under(name, [_spaced(line) for line in lines])
    yield ""
    yield from _shares("outcome", endings(summary), summary.requests)
    yield ""
    yield from _priorities(summary)
    yield ""
    yield from _batches(summary)
    yield from _shares("run for", _most_first(summary.dispatched), batches.batches)
    yield from _counts("held for", _most_first(summary.waits))
    if summary.reruns:
        yield _row("run again", f"{counted(summary.reruns)} parts of batches that failed")
    yield ""
    yield _row("goodput", _goodput(summary))
    yield _row("busy", NONE if summary.busy is None else percent(summary.busy))
    yield _row("simulated", _speed(played))
    if page is not None:
        yield _row("page", page)


def _spaced(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def _row(name: str, words: str) -> str:
    return f"{name:9}  {words}"


def _under(heading: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield _row(heading, line)
        heading = ""


def _shares(heading: str, counts: Sequence[tuple[str, int]], total: int) -> Iterator[str]:
    lines = [
        f"{words:22} {counted(count):>9}  {percent(count / total):>7}"
        for words, count in counts
        if total
    ]
    return _under(heading, lines or ["nothing"])


def _counts(heading: str, counts: Sequence[tuple[str, int]]) -> Iterator[str]:
    return _under(heading, [f"{words:22} {counted(count):>9}  times" for words, count in counts])


def _most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda each: -each[1])


def _priorities(summary: Summary) -> Iterator[str]:
    heads = ("requests", "in time", "p50", "p95", "p99")
    yield _row("priority", _cells(heads))
    rows = summary.priorities
    for each in rows if len(rows) == 1 else [*rows, summary.overall]:
        yield _row(each.priority, _cells(_of_priority(each)))


def _cells(cells: Sequence[str]) -> str:
    return "  ".join(f"{cell:>9}" for cell in cells)


def _of_priority(row: OfPriority) -> Sequence[str]:
    share = NONE if row.share_in_time is None else percent(row.share_in_time)
    times_ms = (row.p50_ms, row.p95_ms, row.p99_ms)
    times = [NONE if each is None else in_words(each / 1e3) for each in times_ms]
    return (counted(row.requests), share, *times)


def _batches(summary: Summary) -> Iterator[str]:
    """Sizes by powers of two."""
    batches = summary.batches
    if batches.rows_mean is None:
        yield _row("batches", "none")
        return
    yield _row(
        "batches",
        f"{counted(batches.batches)}, {batches.rows_mean:.3g} rows on average, "
        f"{counted(batches.rows_most)} at most",
    )
    sums: dict[str, int] = {}
    for rows, count in batches.by_rows.items():
        first = 1 << (rows - 1).bit_length() - 1 if rows > 1 else 0
        name = f"{rows}" if rows <= 2 else f"{first + 1} to {2 * first}"
        sums[name] = sums.get(name, 0) + count
    yield from _shares("rows", [*sums.items()], batches.batches)


def _goodput(summary: Summary) -> str:
    if summary.goodput_rps is None or summary.offered_rps is None:
        return NONE
    return (
        f"{counted(summary.goodput_rps)} a second answered in time, of "
        f"{counted(summary.offered_rps)} offered"
    )


def _per_s(played: Played) -> float | None:
    return played.summary.requests / played.real_s if played.real_s else None


def _speed(played: Played) -> str:
    per_s = _per_s(played)
    if not per_s:
        return NONE
    return f"{counted(per_s)} requests a second of real time, {1e6 / per_s:.3g} µs each"
