"""The control API of how good models are: by labels that came back, and whether something drifts.

What a report says of it, of all models at once and at little cost, so that the page can ask again
and again: labels are counters, and drift is as it was compared last. Operations are added by the
owner.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from paceline.terms.amounts import span
from paceline.terms.errors import BadInput, Unavailable, UnknownModel
from paceline.terms.limits import DRIFT_TOLD_MOST
from paceline.watch.analysis.finding import Drifted, Finding
from paceline.watch.past import Past
from paceline.watch.report import Quality, quality
from paceline.watch.watcher import Watcher
from paceline.web.operations import AnyDeclaration, Declaration, Operation


class QualityQuery(msgspec.Struct, frozen=True):
    model: Annotated[str, Meta(max_length=100, description="Of this one alone; empty: all.")] = ""
    since: Annotated[
        str, Meta(max_length=20, description="How far back labels count: 10m, 1h, 1d.")
    ] = "1d"


class ModelQuality(msgspec.Struct, frozen=True):
    """What is known of one model."""

    model: str
    labels: Annotated[Quality | None, Meta(description="Null: nobody told what was right.")]
    drift: Annotated[
        Drifted | None,
        Meta(
            description="As it was compared last, a minute ago at most while rows come; up to "
            f"{DRIFT_TOLD_MOST} of those that differ. Null: no rows were drawn."
        ),
    ]
    differ: Annotated[int, Meta(description="How many numbers and classes do.")]
    findings: Annotated[
        tuple[Finding, ...], Meta(description="Worse or better by labels than before; drift.")
    ]


class QualityView(msgspec.Struct, frozen=True):
    since_s: Annotated[float, Meta(description="How far back labels were counted.")]
    models: Annotated[
        tuple[ModelQuality, ...], Meta(description="Those of which anything is known.")
    ]


QUALITY: Declaration[QualityQuery, None, QualityView] = Declaration(
    "GET",
    "/api/quality",
    "How often models are right, by labels that came back, and what has drifted.",
    QualityView,
    query=QualityQuery,
    errors=(BadInput, UnknownModel, Unavailable),
)
DECLARED: tuple[AnyDeclaration, ...] = (QUALITY,)


def operations(
    models: Sequence[str], watcher: Watcher, drift: Callable[[str], Drifted | None]
) -> tuple[Operation, ...]:
    async def answer(query: QualityQuery, body: None, who: str) -> QualityView:
        if query.model and query.model not in models:
            raise UnknownModel.among(query.model, models)
        last_s = span(query.since, "since")
        names = (query.model,) if query.model else models
        found = {name: drift(name) for name in names}
        return await watcher.ask(lambda past: of_models(past, found, last_s))

    return (QUALITY.answered_by(answer),)


def of_models(past: Past, drift: Mapping[str, Drifted | None], last_s: float) -> QualityView:
    """`drift` is of each model."""
    last_s = min(last_s, past.known_s())
    told = (_of_model(past, name, found, last_s) for name, found in drift.items())
    return QualityView(last_s, tuple(each for each in told if each is not None))


def _of_model(past: Past, model: str, found: Drifted | None, last_s: float) -> ModelQuality | None:
    from paceline.watch.analysis.drifted import told  # numpy comes with it, as with the past
    from paceline.watch.analysis.labels import lately

    labels = quality(past, model, last_s)
    if labels is None and found is None:
        return None
    findings = [] if labels is None else [*lately(past, model, last_s)]
    differ = 0
    if found is not None:
        findings += told(found, model)
        differ = len(found.differs)
        found = msgspec.structs.replace(found, differs=found.differs[:DRIFT_TOLD_MOST])
    return ModelQuality(model, labels, found, differ, tuple(findings))
