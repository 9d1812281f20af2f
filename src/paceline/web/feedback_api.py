"""`POST /feedback`: what was right, told by whoever knows it, and what that says of the answers.

A label comes with the id of its request, and whichever front answered that judges it, if it still
remembers (`serve/notes.py`); or with the prediction, and is judged here. Any front takes it and
passes it on to the owner, for the label need not come to the front that answered. What is learned
is counted, and nothing else is kept. Operations are added by the owner.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta, UnsetType

from paceline.observe.board import Board
from paceline.serve.judging import Label, Verdict, judge_told
from paceline.serve.notes import count
from paceline.terms.errors import BadJson, UnknownModel
from paceline.terms.limits import (
    FEEDBACK_LABELS,
    FEEDBACK_MOST,
    FEEDBACK_ROWS,
    FEEDBACK_TEXT_CHARS,
)
from paceline.terms.metric import FEEDBACK
from paceline.web.operations import AnyDeclaration, Declaration, Operation

UNKNOWN = "no answer to such a request is remembered, or it was judged already"

_Value: TypeAlias = (
    bool
    | Annotated[int, Meta(ge=-FEEDBACK_MOST, le=FEEDBACK_MOST)]
    | Annotated[float, Meta(ge=-FEEDBACK_MOST, le=FEEDBACK_MOST)]
    | Annotated[str, Meta(max_length=FEEDBACK_TEXT_CHARS)]
)
_Label: TypeAlias = _Value | Annotated[tuple[_Value, ...], Meta(max_length=FEEDBACK_ROWS)]
RequestId = Annotated[str, Meta(max_length=64)]


class Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was right for one request."""

    label: Annotated[
        _Label,
        Meta(description="The class, as a number or a text, or the number; a list: one a row."),
    ]
    request_id: Annotated[
        RequestId, Meta(description="As the answer had it in x-request-id, or you had chosen it.")
    ] = ""
    prediction: Annotated[
        _Label | UnsetType,
        Meta(description="In place of the id: what was predicted. With one label, a list: scores."),
    ] = msgspec.UNSET


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One label, or many at once as `labels`."""

    model: Annotated[str, Meta(max_length=100, description="Which one predicted.")]
    label: Annotated[_Label | UnsetType, Meta(description="Of one request.")] = msgspec.UNSET
    request_id: Annotated[RequestId, Meta(description="Which request that is.")] = ""
    prediction: Annotated[_Label | UnsetType, Meta(description="Or what was predicted for it.")] = (
        msgspec.UNSET
    )
    labels: Annotated[
        tuple[Told, ...], Meta(max_length=FEEDBACK_LABELS, description="Of many requests.")
    ] = ()


class NotJudged(msgspec.Struct, frozen=True):
    index: Annotated[int, Meta(description="Its place among the labels; 0 where there was one.")]
    why: str


class FeedbackAnswer(msgspec.Struct, frozen=True):
    right: Annotated[int, Meta(description="Rows of which the class was right.")]
    wrong: Annotated[int, Meta(description="Rows of which it was not.")]
    measured: Annotated[int, Meta(description="Rows of which a number was predicted.")]
    mean_abs_error: Annotated[float | None, Meta(description="Of those; null where none are.")]
    not_judged: Annotated[tuple[NotJudged, ...], Meta(description="Labels that say nothing.")]


FEEDBACK_CALL: Declaration[None, Feedback, FeedbackAnswer] = Declaration(
    "POST",
    "/feedback",
    "Tell what was right; reports then say how good a model is.",
    FeedbackAnswer,
    body=Feedback,
    errors=(UnknownModel,),
)
DECLARED: tuple[AnyDeclaration, ...] = (FEEDBACK_CALL,)

Judge = Callable[[str, Sequence[str], Sequence[Label]], Awaitable[Sequence[tuple[int, Verdict]]]]
"""Has the fronts judge by the ids of requests what they remember, and count it."""


def operations(models: Sequence[str], judge: Judge, board: Board) -> tuple[Operation, ...]:
    """`board` is for what the owner judges itself."""

    async def answer(query: None, body: Feedback, who: str) -> FeedbackAnswer:
        if body.model not in models:
            raise UnknownModel.among(body.model, models)
        told = _all(body)
        verdicts: list[Verdict | None] = [None] * len(told)
        asked = []
        for index, each in enumerate(told):
            if isinstance(each.prediction, UnsetType):
                asked.append(index)
            else:
                verdict = judge_told(each.prediction, each.label)
                count(board, body.model, verdict)
                verdicts[index] = verdict
        ids, labels = [told[i].request_id for i in asked], [told[i].label for i in asked]
        for place, verdict in await judge(body.model, ids, labels) if asked else ():
            verdicts[asked[place]] = verdict
        unknown = verdicts.count(None)
        if unknown:
            board.counter(FEEDBACK, body.model, "unknown").add(unknown)
        return _summed(verdicts)

    return (FEEDBACK_CALL.answered_by(answer),)


def _all(body: Feedback) -> Sequence[Told]:
    if isinstance(body.label, UnsetType):
        told: Sequence[Told] = body.labels
        wrong = not told or bool(body.request_id) or not isinstance(body.prediction, UnsetType)
    else:
        told = (Told(body.label, body.request_id, body.prediction),)
        wrong = bool(body.labels)
    if wrong:
        raise BadJson(
            "the body has neither one label nor several",
            remedy='Send {"model": ..., "request_id": ..., "label": ...}, or '
            '{"model": ..., "labels": [{"request_id": ..., "label": ...}, ...]}.',
        )
    for index, each in enumerate(told):
        if bool(each.request_id) == (not isinstance(each.prediction, UnsetType)):
            raise BadJson(
                "a label needs the id of its request, or what was predicted, and one of both",
                value=f"label {index}",
                remedy="The id is what the answer had in x-request-id.",
            )
    return told


def _summed(verdicts: Sequence[Verdict | None]) -> FeedbackAnswer:
    known = [each for each in verdicts if each is not None]
    measured = sum(each.numbers for each in known)
    error = sum(each.error for each in known)
    return FeedbackAnswer(
        sum(each.right for each in known),
        sum(each.wrong for each in known),
        measured,
        error / measured if measured else None,
        tuple(
            NotJudged(index, UNKNOWN if each is None else each.why)
            for index, each in enumerate(verdicts)
            if each is None or each.why
        ),
    )
