"""The control API of drift: to have later rows compared with the last ones from now on.

What differs stands in the report. numpy comes with the comparison, so it is imported there. The
owner adds these operations to its own.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from paceline.observe import log
from paceline.terms.errors import BadInput
from paceline.watch.analysis.finding import Drifted
from paceline.watch.drift import Drift, Windows
from paceline.web.operations import AnyDeclaration, Declaration, Operation

logger = log.get(__name__)


class NewReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: Annotated[str, Meta(max_length=100, description="The model's name.")]


class ReferenceView(msgspec.Struct, frozen=True):
    rows: Annotated[
        int, Meta(description="It has; 0: there were too few, and the next ones will be it.")
    ]


NEW_REFERENCE: Declaration[None, NewReference, ReferenceView] = Declaration(
    "POST",
    "/api/drift/reference",
    "Take the last rows of a model as what later ones are compared with.",
    ReferenceView,
    body=NewReference,
    errors=(BadInput,),
)
DECLARED: tuple[AnyDeclaration, ...] = (NEW_REFERENCE,)


def operations(drift: Drift) -> tuple[Operation, ...]:
    async def answer(query: None, body: NewReference, who: str) -> ReferenceView:
        if drift.windows(body.model) is None:
            raise BadInput(
                "no rows of such a model were drawn",
                value=body.model,
                remedy="Name one that is asked; the setting `server.drift_rows_s` must not be 0.",
            )
        rows = await drift.renew(body.model)
        logger.info(
            "later rows are compared with others", model=body.model, rows=rows, asked_by=who
        )
        return ReferenceView(rows)

    return (NEW_REFERENCE.answered_by(answer),)


def compared(windows: Windows) -> Drifted:
    """Which numbers and classes differ."""
    from paceline.watch.analysis.drifted import drifted

    return drifted(windows)
