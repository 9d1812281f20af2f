"""The outcome of a load test as text and as JSON. Called by `load.py`."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from paceline.cli.loading import Played
from paceline.cli.plan import paragraph
from paceline.evidence.load_summary import OfGroup, Quantiles, Summary
from paceline.terms.amounts import counted, in_words, percent, unbroken

NONE = "–"
WIDTH = 67
"""of the words beside a name"""

HEADS = ("samples", "p50", "p90", "p99", "p99.9", "max")


def as_fields(played: Played, page: str | None) -> dict[str, object]:
    summary = played.summary
    return {
        **{name: getattr(summary, name) for name in summary.__struct_fields__},
        "page": page,
    }


def as_text(played: Played, page: str | None) -> Iterator[str]:
    summary = played.summary
    if summary.interrupted:
        yield "Interrupted: this is what there is."
    if summary.gave_up is not None:
        yield paragraph(f"Ended early: {summary.gave_up}.")
    yield _spaced(paragraph(unbroken(summary.in_short)))
    yield ""
    for name, words in played.facts:
        lines = textwrap.wrap(unbroken(words), WIDTH, break_on_hyphens=False)
        yield from _under(name, [_spaced(line) for line in lines])
    yield ""
    yield from _under("outcome", [*_endings(summary)])
    yield ""
    yield from _times(summary)
    yield from _groups("priority", summary.priorities)
    yield from _groups("model", summary.models)
    yield ""
    yield _row("rate", _rate(summary))
    yield from _under("sending", textwrap.wrap(_sending(summary), WIDTH))
    if page is not None:
        yield _row("page", page)


def _spaced(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def _row(name: str, words: str) -> str:
    return f"{name:11}  {words}"


def _under(heading: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield _row(heading, line)
        heading = ""


def _endings(summary: Summary) -> Iterator[str]:
    yield from (
        _share(words, count, summary.requests)
        for words, count in endings(summary)
        if count or words.startswith("answered")
    )
    if summary.trouble is not None:
        yield f"connections could not be had: {summary.trouble}"


def endings(summary: Summary) -> Sequence[tuple[str, int]]:
    """What became of all, by status or kind of error."""
    statuses: Mapping[str, int] = summary.statuses
    refused = [(f"refused: {each}", statuses[each]) for each in statuses if each in REFUSED]
    others = [
        (f"failed: {each}", statuses[each])
        for each in statuses
        if each not in REFUSED and not each.startswith("2")
    ]
    errors = [(f"failed: {words}", count) for words, count in summary.errors.items()]
    return [
        ("answered", summary.answered),
        *refused,
        *others,
        *errors,
        ("unfinished", summary.unfinished),
    ]


REFUSED = ("429", "503", "504")


def _share(words: str, count: int, total: int) -> str:
    return f"{words:32} {counted(count):>9}  {percent(count / total) if total else NONE:>7}"


def _times(summary: Summary) -> Iterator[str]:
    listed = [
        ("answered", summary.latency),
        ("refused", summary.refusals),
        ("first piece", summary.first_piece),
        ("a piece", summary.per_piece),
        ("waited", summary.wait),
        ("own lag", summary.lag),
    ]
    shown = [(name, times) for name, times in listed if times is not None]
    if shown:
        yield _row("time", _cells(HEADS))
    for name, times in shown:
        yield _row(name, _cells(_of(times)))


def _groups(heading: str, groups: Sequence[OfGroup]) -> Iterator[str]:
    """Where there are several."""
    if len(groups) < 2:
        return
    yield ""
    yield _row(heading, _cells(("requests", "answered", "in time", "p50", "p99")))
    for each in groups:
        share = NONE if each.share_in_time is None else percent(each.share_in_time)
        times = (NONE, NONE)
        if each.latency is not None:
            times = (in_words(each.latency.p50_ms / 1e3), in_words(each.latency.p99_ms / 1e3))
        yield _row(
            each.name, _cells((counted(each.requests), counted(each.answered), share, *times))
        )


def _of(times: Quantiles) -> Sequence[str]:
    shown = (times.p50_ms, times.p90_ms, times.p99_ms, times.p999_ms, times.max_ms)
    return (counted(times.samples), *(in_words(each / 1e3) for each in shown))


def _cells(cells: Sequence[str]) -> str:
    return "  ".join(f"{cell:>9}" for cell in cells)


def _rate(summary: Summary) -> str:
    words = f"{_whole(summary.offered_rps)} a second sent, {_whole(summary.answered_rps)} answered"
    if summary.goodput_rps is not None:
        words += f", {_whole(summary.goodput_rps)} of them in time"
    if summary.pieces_per_s is not None:
        words += f"; {_whole(summary.pieces_per_s)} pieces a second"
    return words


def _whole(rate: float) -> str:
    return counted(round(rate) if rate >= 100 else rate)


def _sending(summary: Summary) -> str:
    words = [f"{counted(summary.opened)} connection{'s' * (summary.opened != 1)} opened"]
    if summary.waited:
        words.append(f"{counted(summary.waited)} requests waited for one")
    if summary.busy is not None:
        words.append(f"this command was busy {percent(summary.busy)} of the time")
    return ", ".join(words)
