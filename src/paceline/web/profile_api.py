"""Profiles over the control API: begun, asked after, ended. What they take and answer is here; who
keeps them is `profiles.py`.

A profile takes longer than an answer may, so `POST /api/profile` begins one, and whoever wants it
asks after it, again and again: one that nobody asks after ends. Operations are added by the owner.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from paceline.observe.holdings import Memory
from paceline.observe.stacks import Stacks
from paceline.serve.operator_run import Operators
from paceline.terms.errors import (
    BadModel,
    Conflict,
    NotFound,
    NotMeasured,
    NotOffered,
    Unavailable,
    UnknownModel,
)
from paceline.terms.limits import PROFILE_MOST_LENGTH, PROFILE_MOST_S, ROWS
from paceline.web.operations import AnyDeclaration, Declaration

Of = Literal["stacks", "memory", "operators"]
Id = Annotated[str, Meta(min_length=1, max_length=20, description="As it was told at its begin.")]


class ProfileBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to look at."""

    of: Annotated[
        Of,
        Meta(
            description="Stacks and memory are those of a process; operators are those of a model "
            "in ONNX, which is run for that in a process of its own."
        ),
    ] = "stacks"
    process: Annotated[
        Literal["front", "owner", "model"],
        Meta(
            description="Whose stacks or memory. Models in Python have processes of their own, one "
            "for each front."
        ),
    ] = "front"
    front: Annotated[int, Meta(ge=0, le=1000, description="Which front, or the model's in it.")] = 0
    model: Annotated[
        str, Meta(max_length=200, description="Whose operators, or whose process.")
    ] = ""
    seconds: Annotated[
        Annotated[float, Meta(ge=0.1, le=PROFILE_MOST_S)] | None,
        Meta(
            description="How long; null: 10. Of memory: follow which lines of code take more "
            "meanwhile, which slows the process down; null: do not."
        ),
    ] = None
    rows: Annotated[
        Annotated[int, Meta(ge=1, le=ROWS)] | None,
        Meta(
            description="Of the batches that the model is run on; null: as many as half of its "
            "batches have had at most, or 1."
        ),
    ] = None
    length: Annotated[
        Annotated[int, Meta(ge=1, le=PROFILE_MOST_LENGTH)] | None,
        Meta(description="Of the other open dimensions of its inputs; null: 16."),
    ] = None


class ProfileBegun(msgspec.Struct, frozen=True):
    """It runs."""

    id: str
    of: Of
    whose: Annotated[str, Meta(description="The process, or the model.")]
    seconds: Annotated[float, Meta(description="After which it ends by itself.")]


class ProfileQuery(msgspec.Struct, frozen=True):
    id: Id


class ProfileView(msgspec.Struct, frozen=True):
    """Of the last three, the one that it is of; none while it runs."""

    id: str
    of: Of
    whose: str
    running: Annotated[bool, Meta(description="Ask again: after 2 seconds, this is answered.")]
    ended: Annotated[
        str, Meta(description="Why it ended early: asked, or nobody asked after it. Or empty.")
    ]
    stacks: Stacks | None = None
    memory: Memory | None = None
    operators: Operators | None = None


class EndProfileBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Id


class EndedView(msgspec.Struct, frozen=True):
    id: str
    was_running: Annotated[bool, Meta(description="Else it had ended already.")]


PROFILE: Declaration[None, ProfileBody, ProfileBegun] = Declaration(
    "POST",
    "/api/profile",
    "Begin to look at what a process does or holds, or at what a model's time goes to; one at a "
    "time for each. It ends by itself, and where nobody asks after it for 5 seconds.",
    ProfileBegun,
    body=ProfileBody,
    status=202,
    errors=(Conflict, NotFound, UnknownModel, NotOffered, Unavailable),
)
PROFILED: Declaration[ProfileQuery, None, ProfileView] = Declaration(
    "GET",
    "/api/profile",
    "What a profile has found; answered at its end, or after 2 seconds.",
    ProfileView,
    query=ProfileQuery,
    errors=(NotFound, Conflict, NotMeasured, BadModel, Unavailable),
)
END_PROFILE: Declaration[None, EndProfileBody, EndedView] = Declaration(
    "POST",
    "/api/profile/end",
    "End a profile early; what it has found until then is kept for a minute.",
    EndedView,
    body=EndProfileBody,
    errors=(NotFound,),
)

DECLARED: tuple[AnyDeclaration, ...] = (PROFILE, PROFILED, END_PROFILE)
