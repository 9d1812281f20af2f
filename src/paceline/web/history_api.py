"""The control API of the past: series of any metric, the report of a model, and its baseline.

What lies between `watch/` and HTTP. The owner adds these operations to its own. The past is asked
in a thread, for the owner's loop has others to serve; longer stretches than memory has whole are
read from the file. numpy comes with the past, so it is imported where one is.
"""

import asyncio
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
from msgspec import Meta

import paceline
from paceline.observe.board import QUANTILES
from paceline.terms.alert import NO_ALERTS, AlertBook
from paceline.terms.amounts import span
from paceline.terms.errors import BadInput, BadRequest, NotMeasured, Unavailable
from paceline.terms.limits import HISTORY_ASKED, HISTORY_SECONDS, HISTORY_STEPS
from paceline.terms.metric import METRICS, MODEL_SECONDS, Metric
from paceline.watch.analysis.finding import Baseline
from paceline.watch.past import Past, Step
from paceline.watch.report import OpenAlert, Report, open_alerts, report
from paceline.watch.watcher import Watcher
from paceline.web.operations import AnyDeclaration, Declaration, Operation

if TYPE_CHECKING:
    from paceline.serve.knobs import Rules
    from paceline.watch.drift import Windows
    from paceline.watch.history import History

BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}
CSV = "text/csv"
HEADS = ("metric", "labels", "began", "known_s", "value", "sum", "largest")

Span = Annotated[str, Meta(max_length=20, description="How far back: 10m, 1h, 7d.")]
StepSpan = Annotated[
    str, Meta(max_length=20, description="How long a step is; the next larger one there is.")
]


class HistoryQuery(msgspec.Struct, frozen=True):
    metric: Annotated[
        str,
        Meta(max_length=1000, description=f"One of the metrics, or up to {HISTORY_ASKED} (a,b)."),
    ]
    labels: Annotated[
        str, Meta(max_length=1000, description="What labels must be, such as model=digits.")
    ] = ""
    by: Annotated[str, Meta(max_length=100, description="A label whose values are told apart.")] = (
        ""
    )
    since: Span = "10m"
    step: StepSpan = "1s"


class SeriesView(msgspec.Struct, frozen=True):
    """Columns of equal length, oldest step first; one that is not known is missing."""

    metric: str
    kind: str
    unit: str
    labels: Annotated[dict[str, str], Meta(description="Which it was asked for.")]
    began_unix_s: list[float]
    known_s: Annotated[
        list[float], Meta(description="How much of a step was seen; a rate is value / known_s.")
    ]
    value: Annotated[
        list[float],
        Meta(description="What a counter grew by, a gauge said last; of a sketch, how many."),
    ]
    sum: Annotated[
        list[float],
        Meta(
            description="Of a sketch the sum; of a gauge value times time, sum / known_s its mean."
        ),
    ]
    largest: list[float]
    quantiles: Annotated[
        dict[str, list[float | None]], Meta(description="Of a sketch: a column for each.")
    ]


class HistoryAnswer(msgspec.Struct, frozen=True):
    known_s: Annotated[float, Meta(description="How much of the past is known at all.")]
    since_s: Annotated[float, Meta(description="How far back was looked.")]
    series: list[SeriesView]


class ReportQuery(msgspec.Struct, frozen=True):
    model: Annotated[str, Meta(max_length=100, description="The model's name.")]
    since: Span = "1h"
    granularity: StepSpan = "1m"


HISTORY: Declaration[HistoryQuery, None, HistoryAnswer] = Declaration(
    "GET",
    "/api/history",
    "What metrics were, step by step.",
    HistoryAnswer,
    query=HistoryQuery,
    errors=(BadInput, Unavailable),
)
HISTORY_CSV: Declaration[HistoryQuery, None, HistoryAnswer] = Declaration(
    "GET",
    "/api/history.csv",
    "The same as lines of text with commas, for a spreadsheet.",
    HistoryAnswer,
    query=HistoryQuery,
    errors=(BadInput, Unavailable),
    media_type=CSV,
)


class BaselineQuery(msgspec.Struct, frozen=True):
    model: Annotated[str, Meta(max_length=100, description="The model's name.")]
    since: Span = "1h"
    step: Annotated[
        str,
        Meta(max_length=20, description="As the one to compare with; the shortest without it."),
    ] = ""


REPORT: Declaration[ReportQuery, None, Report] = Declaration(
    "GET",
    "/api/report",
    "What one model did in a stretch of the past, in one value.",
    Report,
    query=ReportQuery,
    errors=(BadInput, Unavailable),
)
BASELINE: Declaration[BaselineQuery, None, Baseline] = Declaration(
    "GET",
    "/api/baseline",
    "How a model did, step by step, to be kept and compared with later.",
    Baseline,
    query=BaselineQuery,
    errors=(BadInput, NotMeasured, Unavailable),
)
DECLARED: tuple[AnyDeclaration, ...] = (HISTORY, HISTORY_CSV, REPORT, BASELINE)

T = TypeVar("T")
RulesOf = Callable[[str], "Rules | None"]
"""The settings of a model that are in force; None where it is served no more."""


def operations(
    watcher: Watcher,
    wall: Callable[[], float],
    rules: RulesOf = lambda model: None,
    book: Callable[[], AlertBook] = lambda: NO_ALERTS,
    windows: Callable[[str], "Windows | None"] = lambda model: None,
) -> Sequence[Operation]:
    async def answer_history(query: HistoryQuery, body: None, who: str) -> HistoryAnswer:
        since_s, step_s = span(query.since, "since"), span(query.step, "step")
        return await _asked(
            watcher, wall, since_s, lambda past: history(past, query, since_s, step_s)
        )

    async def answer_csv(query: HistoryQuery, body: None, who: str) -> bytes:
        return as_csv(await answer_history(query, body, who)).encode()

    async def answer_report(query: ReportQuery, body: None, who: str) -> Report:
        last_s, step_s = span(query.since, "since"), span(query.granularity, "granularity")
        model, in_force, alerts = query.model, rules(query.model), open_alerts(book(), query.model)
        now, drawn = wall(), windows(query.model)
        return await _asked(
            watcher,
            wall,
            last_s,
            lambda past: of_model(past, model, last_s, step_s, now, in_force, alerts, drawn),
        )

    async def answer_baseline(query: BaselineQuery, body: None, who: str) -> Baseline:
        last_s = span(query.since, "since")
        step_s = span(query.step, "step") if query.step else 0.0
        if 0 < step_s < 60:  # that is known of the last hour alone
            last_s = min(last_s, HISTORY_SECONDS)
        return await _asked(
            watcher, wall, last_s, lambda past: baseline_of(past, query.model, last_s, step_s)
        )

    return (
        HISTORY.answered_by(answer_history),
        Operation(HISTORY_CSV, answer_csv),
        REPORT.answered_by(answer_report),
        BASELINE.answered_by(answer_baseline),
    )


def of_model(
    past: Past,
    model: str,
    last_s: float,
    step_s: float,
    now_unix_s: float,
    rules: "Rules | None" = None,
    alerts: Sequence[OpenAlert] = (),
    drawn: "Windows | None" = None,
) -> Report:
    """Refused where the past knows no such model. `drawn` is what was drawn of its rows."""
    from paceline.watch.analysis.drifted import drifted, told
    from paceline.watch.analysis.findings import findings

    _check_known(past, model)
    drift = None if drawn is None else drifted(drawn)
    found = findings(past, model, last_s, rules)
    return report(
        past,
        model,
        last_s,
        max(step_s, last_s / HISTORY_STEPS),
        now_unix_s=now_unix_s,
        version=paceline.__version__,
        findings=found if drift is None else [*found, *told(drift, model)],
        alerts=alerts,
        drift=drift,
    )


def baseline_of(past: Past, model: str, last_s: float, step_s: float) -> Baseline:
    """Refused where the past knows no such model, or too little of it."""
    from paceline.watch.analysis.baseline import baseline

    _check_known(past, model)
    return baseline(past, model, last_s, step_s)


def _check_known(past: Past, model: str) -> None:
    known = sorted({each["model"] for each in past.series(MODEL_SECONDS)})
    if model not in known:
        raise BadInput(
            "the history knows no such model",
            value=model,
            remedy=f"Name one of these: {', '.join(known)}." if known else "Nothing is known yet.",
        )


async def _asked(
    watcher: Watcher, wall: Callable[[], float], since_s: float, question: Callable[["History"], T]
) -> T:
    """Of the last hour memory has everything; before that the file has whole distributions of each
    minute, and nobody waits for it who does not ask so far back."""
    if since_s > HISTORY_SECONDS and watcher.folder is not None:
        from paceline.watch.archive import archive

        await watcher.write(whole=False)
        of_file = await asyncio.to_thread(archive, watcher.folder, wall(), since_s)
        if of_file is not None:
            return await asyncio.to_thread(question, of_file)
    return await watcher.ask(question)


def history(past: Past, query: HistoryQuery, since_s: float, step_s: float) -> HistoryAnswer:
    metrics = [_metric(name.strip()) for name in query.metric.split(",")]
    if len(metrics) > HISTORY_ASKED:
        raise BadRequest(
            f"{HISTORY_ASKED} metrics may be asked for at once",
            value=len(metrics),
            remedy="Ask for the others in another call.",
        )
    where = _labels(query.labels)
    if query.by and not any(query.by in metric.labels for metric in metrics):
        raise BadInput(
            "no such metric has this label", value=query.by, remedy="Leave out `by`, or correct it."
        )
    step_s = max(step_s, since_s / HISTORY_STEPS)
    views = []
    for metric in metrics:
        asked = {name: value for name, value in where.items() if name in metric.labels}
        if asked != where and len(metrics) == 1:
            raise BadInput(
                f"{metric.name} has no such label",
                value=query.labels,
                remedy=f"It has {', '.join(metric.labels) or 'none'}.",
            )
        for each in _told_apart(past, metric, asked, query.by):
            views.append(_view(metric, each, past.steps(metric, each, since_s, step_s)))
    return HistoryAnswer(past.known_s(), since_s, views)


def as_csv(answer: HistoryAnswer) -> str:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow((*HEADS, *(f"p{q * 100:g}" for q in QUANTILES)))
    for view in answer.series:
        labels = ",".join(f"{name}={value}" for name, value in view.labels.items())
        none: list[float | None] = [None] * len(view.value)
        quantiles = [*view.quantiles.values()] or [none] * len(QUANTILES)
        for index, began in enumerate(view.began_unix_s):
            at = datetime.fromtimestamp(began, UTC).isoformat(timespec="milliseconds")
            columns: Sequence[Sequence[float | None]] = (
                view.known_s,
                view.value,
                view.sum,
                view.largest,
                *quantiles,
            )
            cells = (_cell(column[index]) for column in columns)
            writer.writerow((view.metric, labels, at, *cells))
    return lines.getvalue()


def _cell(value: float | None) -> float | str:
    return "" if value is None else value


def _metric(name: str) -> Metric:
    if name not in BY_NAME:
        raise BadInput(
            "there is no such metric", value=name, remedy="docs/reference/metrics.md lists them."
        )
    return BY_NAME[name]


def _labels(text: str) -> dict[str, str]:
    found = {}
    for each in filter(None, text.split(",")):
        name, between, value = each.partition("=")
        if not between:
            raise BadInput(
                "labels are names with what they must be",
                value=text,
                remedy="Write them like model=digits,status=200.",
            )
        found[name.strip()] = value.strip()
    return found


def _told_apart(
    past: Past, metric: Metric, where: Mapping[str, str], by: str
) -> Sequence[Mapping[str, str]]:
    if by not in metric.labels:
        return [where]
    matching = [
        each for each in past.series(metric) if all(each[name] == where[name] for name in where)
    ]
    return [dict(where) | {by: value} for value in sorted({each[by] for each in matching})]


def _view(metric: Metric, where: Mapping[str, str], steps: Sequence[Step]) -> SeriesView:
    quantiles: dict[str, list[float | None]] = {}
    if metric.kind == "sketch":
        for index, q in enumerate(QUANTILES):
            quantiles[f"{q:g}"] = [
                None if step.quantiles is None else _short(step.quantiles[index]) for step in steps
            ]
    return SeriesView(
        metric=metric.name,
        kind=metric.kind,
        unit=metric.unit,
        labels=dict(where),
        began_unix_s=[round(step.wall_s, 3) for step in steps],
        known_s=[round(step.known_s, 3) for step in steps],
        value=[_short(step.value) for step in steps],
        sum=[_short(step.sum) for step in steps],
        largest=[_short(step.largest) for step in steps],
        quantiles=quantiles,
    )


def _short(value: float) -> float:
    """To nine digits, which memory does not have more of."""
    return float(f"{value:.9g}")
