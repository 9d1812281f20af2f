"""A report on the terminal, and its steps as CSV. Called by `report.py`."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence

from paceline.cli.plan import when
from paceline.terms import amounts
from paceline.terms.amounts import counted, in_words, long_time, percent
from paceline.watch.alerts.messages import budget
from paceline.watch.analysis.finding import Drifted, Evidence, Finding, Impact
from paceline.watch.report import Level, LlmCost, OpenAlert, Quality, Report, Row, Times

NONE = "–"
STEPS_SHOWN = 20
"""the newest; CSV has all"""

BLOCKS = " ▁▂▃▄▅▆▇█"
SPARKS = 60
ALL = 0.99
"""Of the time that was asked for: then nothing is said of what was not seen."""


def as_lines(report: Report) -> str:
    """One line a step, with what has not been seen left empty."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("began", *Row.__struct_fields__[1:]))
    for row in report.rows:
        values = [getattr(row, name) for name in Row.__struct_fields__[1:]]
        writer.writerow((when(row.began_unix_s), *("" if v is None else v for v in values)))
    return lines.getvalue()


def as_text(report: Report, page: str | None, saved: str) -> None:
    """`page` and `saved` are where it was written to, and the name of the baseline it became."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text(f"{report.model}, {headline(report)}", style="bold"))
    console.print()
    for name, words in figures(report):
        console.print(Text(f"{name:11}{words}"))
    for head, lines in told(report):
        console.print()
        console.print(Text(head, style="bold"))
        for line in lines:
            console.print(Text(f"  {line}"))
    if report.rows:
        console.print()
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        name, at = clock(report.rows)
        table.add_column(name, no_wrap=True)
        for head in ("requests/s", "p50", "p99", "max", "queued", "CPU", "errors"):
            table.add_column(head, justify="right", no_wrap=True)
        for row in report.rows[-STEPS_SHOWN:]:
            table.add_row(at(row.began_unix_s), *_cells(row))
        console.print(table)
        if len(report.rows) > STEPS_SHOWN:
            console.print(f"... and {len(report.rows) - STEPS_SHOWN} steps before; --csv has all")
    if page is not None or saved:
        console.print()
    if page is not None:
        console.print(Text(f"page       {page}"))
    if saved:
        console.print(Text(f"baseline   {saved}; `--against {saved}` compares with it"))


def told(report: Report) -> Iterator[tuple[str, Sequence[str]]]:
    """What there is to know beside numbers, each a head and lines: alerts, what differs from a
    baseline, findings with what to do."""
    for alert in report.alerts:
        yield f"{alert.severity} alert: {alert.cause}", [*_alert(alert)]
    if report.compared is not None:
        against = report.compared
        what = (
            f"the baseline {against.name} ({long_time(against.span_s)} until "
            f"{when(against.wall_s)} UTC)"
        )
        if not against.findings:
            yield f"Nothing differs from {what}", ()
        for finding in against.findings:
            yield f"{finding.kind}: {finding.what}", [f"against {what}", *_lines(finding)]
    for finding in report.findings:
        yield f"{finding.kind}: {finding.what}", [*_lines(finding)]


def _alert(alert: OpenAlert) -> Iterator[str]:
    yield f"{alert.id}, {alert.state} since {when(alert.since_unix_s)} UTC: {alert.value}"
    yield from budget(alert.budget_left, alert.exhausted_in_s)
    yield f"what to do: {alert.what_to_do}"


def _lines(finding: Finding) -> Iterator[str]:
    since = "" if finding.wall_s is None else f"since {when(finding.wall_s)} UTC, "
    since = "all the while, " if finding.kind == "bottleneck" and not since else since
    yield f"{since}{_sure(finding.sure)}"
    shown = [each for each in finding.evidence if each.value]
    yield "; ".join(f"{each.name} {evidence(each)}" for each in shown)
    for advice in finding.advice:
        yield f"what to do ({_sure(advice.sure)}): {advice.what}"
        if advice.impact is not None:
            yield f"  {impact(advice.impact)}"
        if advice.command:
            yield f"  {advice.command}"


def evidence(one: Evidence) -> str:
    if one.low is None or one.high is None:
        return _amount(one.value, one.unit)
    low, high = _amount(one.low, one.unit), _amount(one.high, one.unit)
    return f"{_amount(one.value, one.unit)} (from {low} to {high})"


def impact(one: Impact) -> str:
    likely, now = _amount(one.likely, one.unit), _amount(one.now, one.unit)
    low, high = _amount(one.low, one.unit), _amount(one.high, one.unit)
    return f"{one.metric}: {likely} (from {low} to {high}) in place of {now}"


def _amount(value: float, unit: str) -> str:
    return f"{short(value)} {unit}" if unit else f"{100 * value:.3g} %"


def _sure(share: float) -> str:
    """Never of all."""
    return f"{min(99, round(100 * share))} % sure"


def headline(report: Report) -> str:
    told = f"the last {long_time(report.asked_s)} before {when(report.made_unix_s)} UTC"
    if report.known_s >= ALL * report.asked_s:
        return told
    return f"{told}, of which {long_time(report.known_s)} was seen"


def figures(report: Report) -> Iterator[tuple[str, str]]:
    """Each a name and what there is to say of it."""
    totals, machine = report.totals, report.machine
    yield (
        "requests",
        f"{counted(totals.requests)}, {rate(totals.requests_per_s)}, "
        f"{rate(totals.peak_requests_per_s)} in the best step",
    )
    failed = NONE if totals.error_rate is None else percent(totals.error_rate)
    yield "errors", f"{counted(totals.errors)} ({failed}), refused {counted(totals.refused)}"
    if totals.not_run:
        reasons = ", ".join(f"{why} {counted(count)}" for why, count in totals.not_run.items())
        yield "not run", reasons
    yield "latency", times(totals.latency)
    yield (
        "of it",
        (
            f"{ms(totals.queue_ms)} in the queue, {ms(totals.run.mean_ms)} in the model, "
            f"{ms(totals.rest_ms)} network, HTTP and the rest, on average"
        ),
    )
    in_hand = short(totals.concurrency)
    yield "in hand", f"{in_hand} requests on average; queue {level(totals.queued)}"
    yield (
        "batches",
        f"{counted(totals.batches)} of {short(totals.batch_rows)} rows on average, "
        f"{share(totals.batch_utilization)} of what they may have",
    )
    yield "executors", f"busy {share(totals.busy)} of the time"
    yield "CPU", f"{level(machine.cpu_cores)} of {short(machine.cores)} cores, all processes"
    limit = "no limit" if machine.memory_limit_bytes is None else size(machine.memory_limit_bytes)
    yield (
        "memory",
        f"now {size(machine.memory_bytes.now)}, mean {size(machine.memory_bytes.mean)}, "
        f"peak {size(machine.memory_bytes.peak)} of {limit}",
    )
    if machine.gpus_busy is not None and machine.gpu_memory_bytes is not None:
        peak = size(machine.gpu_memory_bytes.peak)
        yield "GPUs", f"{level(machine.gpus_busy)} of them computed; memory peak {peak}"
    if report.size_bytes is not None:
        count = NONE if report.parameters is None else counted(report.parameters)
        yield "model", f"{size(report.size_bytes)}, {count} parameters"
    if report.quality is not None:
        yield from quality(report.quality)
    if report.drift is not None:
        yield "drift", drift(report.drift)
    if report.cost is None:
        yield "cost", "not known: the setting `server.usd_h` says what an hour costs"
    else:
        cost = report.cost
        yield (
            "cost",
            f"{usd(cost.usd)} of {usd(cost.server_usd)} for the machine, "
            f"{usd(cost.usd_per_1000_requests)} per 1000 requests",
        )
    if report.llm:
        yield "LLM calls", "; ".join(map(_llm, report.llm))
    spark = sparks([row.requests_per_s for row in report.rows])
    if spark:
        yield "requests/s", spark
        yield "p99", sparks([row.p99_ms for row in report.rows])


def _llm(cost: LlmCost) -> str:
    told = []
    if cost.usd is not None:
        lost = f" and {usd(cost.lost_usd)} that may be billed" if cost.lost_usd else ""
        told.append(f"{usd(cost.usd)}{lost}")
    if cost.unpriced:
        told.append(f"{counted(cost.unpriced)} whose cost is not known")
    return f"{cost.route} by {cost.provider} {', '.join(told)}"


def quality(found: Quality) -> Iterator[tuple[str, str]]:
    if found.accuracy is not None:
        low, high = share(found.accuracy_low), share(found.accuracy_high)
        of = f"{counted(found.right)} of {counted(found.right + found.wrong)} were right"
        yield "accuracy", f"{share(found.accuracy)} (from {low} to {high}): {of}"
    if found.mean_abs_error is not None:
        low, high = short(found.mean_abs_error_low), short(found.mean_abs_error_high)
        between = "" if found.mean_abs_error_low is None else f" (from {low} to {high})"
        of = f"{counted(found.measured)} predictions"
        yield "error", f"{short(found.mean_abs_error)} on average{between}, of {of}"
    lost = f"; {counted(found.unknown)} of answers not remembered" if found.unknown else ""
    rows = "" if found.coverage is None else f", {percent(found.coverage)} of the rows"
    yield "labels", f"{counted(found.labels)}{rows}{lost}"


def drift(found: Drifted) -> str:
    reference = f"{counted(found.reference_rows)} rows"
    if not found.compared:
        return f"not known yet: {reference} drawn, {counted(found.rows)} to compare with them"
    until = f"{reference} until {when(found.reference_until_unix_s)} UTC"
    differ = f"{len(found.differs)} of" if found.differs else "none of"
    return f"{differ} {found.compared} numbers and classes, {counted(found.rows)} rows by {until}"


def _cells(row: Row) -> Sequence[str]:
    return (
        short(row.requests_per_s),
        ms(row.p50_ms),
        ms(row.p99_ms),
        ms(row.max_ms),
        short(row.queued),
        short(row.cpu_cores),
        counted(row.errors),
    )


def sparks(values: Sequence[float | None]) -> str:
    """A line of blocks, the largest full; nothing where nothing was seen."""
    width = max(1, -(-len(values) // SPARKS))
    groups = [values[at : at + width] for at in range(0, len(values), width)]
    peaks = [max((each for each in group if each is not None), default=None) for group in groups]
    most = max((each for each in peaks if each is not None), default=0.0)
    if not most:
        return ""
    return "".join(
        " " if each is None else BLOCKS[max(1, round(each / most * (len(BLOCKS) - 1)))]
        for each in peaks
    )


# --- Words ----------------------------------------------------------------------------------------


def clock(rows: Sequence[Row]) -> tuple[str, Callable[[float], str]]:
    """What to call the time of a step, and how to tell it: with its day where there are several."""
    days = {when(row.began_unix_s)[:10] for row in rows}
    if len(days) > 1:
        return "began (UTC)", when
    return f"{days.pop()} (UTC)", lambda unix_s: when(unix_s)[11:]


def times(found: Times) -> str:
    if found.mean_ms is None:
        return NONE
    told = {
        "p50": found.p50_ms,
        "p90": found.p90_ms,
        "p95": found.p95_ms,
        "p99": found.p99_ms,
        "max": found.max_ms,
        "mean": found.mean_ms,
    }
    return ", ".join(f"{name} {ms(value)}" for name, value in told.items())


def level(found: Level) -> str:
    return f"now {short(found.now)}, mean {short(found.mean)}, peak {short(found.peak)}"


def ms(value_ms: float | None) -> str:
    return NONE if value_ms is None else in_words(value_ms / 1e3)


def rate(per_s: float | None) -> str:
    return NONE if per_s is None else f"{short(per_s)} a second"


def short(value: float | None) -> str:
    return NONE if value is None else counted(value)


def share(value: float | None) -> str:
    return NONE if value is None else percent(value)


def usd(value: float | None) -> str:
    return NONE if value is None else amounts.usd(value)


def size(value_bytes: float | None) -> str:
    return NONE if value_bytes is None else amounts.size(value_bytes)
