"""Operations of no product, with every form of query, body and answer, for tests of the API."""

from typing import Annotated, Any, Literal

import msgspec

from paceline.terms.errors import BadValue, UnknownKnob
from paceline.web.operations import Declaration, Operation

Meta = msgspec.Meta
KNOBS = {"digits.max_rows": 1024}


class Page(msgspec.Struct, frozen=True):
    knob: Annotated[str, Meta(min_length=1, description="Of which knob.")]
    limit: Annotated[int, Meta(ge=1, le=100, description="How many at most.")] = 10
    before: Annotated[int, Meta(ge=0, description="Older than this one.")] | None = None
    order: Literal["newest", "oldest"] = "newest"
    at_least: Annotated[float, Meta(ge=0)] = 0.0
    around: float = 0.0
    whole: bool = False


class Step(msgspec.Struct, frozen=True):
    version: int
    why: str | None


class Steps(msgspec.Struct, frozen=True):
    asked: Page
    steps: list[Step]


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One knob, set."""

    knob: Annotated[str, Meta(min_length=1, max_length=80, examples=[*KNOBS])]
    value: bool | int | float | str
    tags: dict[str, Annotated[int, Meta(ge=0)]] = {}
    after: list[Step] = []
    about: Any = None


class Changed(msgspec.Struct, frozen=True):
    who: str
    value: bool | int | float | str


HISTORY: Declaration[Page, None, Steps] = Declaration(
    "GET", "/api/sample/history", "What a knob was.", Steps, query=Page
)
CHANGE: Declaration[None, Change, Changed] = Declaration(
    "POST",
    "/api/sample/history",
    "Set a knob.",
    Changed,
    body=Change,
    status=201,
    errors=(UnknownKnob, BadValue),
)
FAIL: Declaration[None, None, Changed] = Declaration(
    "POST", "/api/sample/fail", "A bug.", Changed, status=202
)


async def history(query: Page, body: None, who: str) -> Steps:
    return Steps(query, [Step(1, None), Step(2, "because")][: query.limit])


async def change(query: None, body: Change, who: str) -> Changed:
    if body.knob not in KNOBS:
        raise UnknownKnob("no such knob", value=body.knob, remedy="Name another.")
    return Changed(who, body.value)


async def fail(query: None, body: None, who: str) -> Changed:
    return Changed(who, KNOBS[who])


def sound() -> list[Operation]:
    return [HISTORY.answered_by(history), CHANGE.answered_by(change)]
