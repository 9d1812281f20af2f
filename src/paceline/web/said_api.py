"""The control API of what was said in LLM calls, where the settings have it kept: read, and erased.

Admins alone get here, as anywhere below /api; who erased what is in the journal, without its
words. The file is `gateway/said/file.py`'s; the command calls the same operations while no owner
runs.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from paceline.gateway.said.file import Row, SaidFile
from paceline.journal.entries import Forgotten
from paceline.journal.journal import Journal
from paceline.terms.errors import BadRequest, NotFound, Unavailable
from paceline.terms.limits import SAID_TOLD
from paceline.web.operations import AnyDeclaration, Declaration, Operation

CallId = Annotated[str, Meta(max_length=300, description="As its caller was told.")]
KeyId = Annotated[str, Meta(max_length=100, description="The id of a caller's key.")]


class KeptView(msgspec.Struct, frozen=True):
    """One call of which is kept what was said."""

    id: CallId
    at: Annotated[float, Meta(description="When it ended, in Unix seconds.")]
    until: Annotated[float, Meta(description="When it goes, in Unix seconds.")]
    key: Annotated[str | None, Meta(description="The id of the caller's key; null: none.")]
    endpoint: str
    model: str
    route: str
    status: Annotated[int, Meta(description="Of the answer; 0: its caller left.")]
    asked_bytes: Annotated[int, Meta(description="Of what was asked, before any of it was hidden.")]
    answered_bytes: Annotated[int, Meta(description="Of the answer, likewise.")]


class SaidView(KeptView, frozen=True):
    """With its words."""

    asked: Annotated[str, Meta(description="The body, with what was hidden in it as [e-mail].")]
    answered: Annotated[str, Meta(description="The answer; a stream is put together.")]


class KeptQuery(msgspec.Struct, frozen=True):
    key: KeyId | None = None
    limit: Annotated[int, Meta(ge=1, le=SAID_TOLD, description="The most to answer.")] = 20


class SaidQuery(msgspec.Struct, frozen=True):
    call: CallId


class KeptCallsView(msgspec.Struct, frozen=True):
    calls: Annotated[tuple[KeptView, ...], Meta(description="The newest first.")]


class SaidCallsView(msgspec.Struct, frozen=True):
    calls: Annotated[
        tuple[SaidView, ...], Meta(description="Several where callers gave the same id.")
    ]


class ForgetBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of them."""

    call: CallId | None = None
    key: KeyId | None = None
    everything: Annotated[bool, Meta(description="All that is kept.")] = False


class ForgottenView(msgspec.Struct, frozen=True):
    forgotten: Annotated[int, Meta(description="Calls of which nothing is kept any more.")]


KEPT: Declaration[KeptQuery, None, KeptCallsView] = Declaration(
    "GET",
    "/api/said",
    "The LLM calls of which is kept what was said; without their words.",
    KeptCallsView,
    query=KeptQuery,
    errors=(Unavailable,),
)
SAID: Declaration[SaidQuery, None, SaidCallsView] = Declaration(
    "GET",
    "/api/said/call",
    "What was said in one LLM call, as far as it is kept.",
    SaidCallsView,
    query=SaidQuery,
    errors=(NotFound, Unavailable),
)
FORGET: Declaration[None, ForgetBody, ForgottenView] = Declaration(
    "POST",
    "/api/said/forget",
    "Erase what was said in one LLM call, in all of a key, or in all there are.",
    ForgottenView,
    body=ForgetBody,
    errors=(Unavailable,),
)
DECLARED: tuple[AnyDeclaration, ...] = (KEPT, SAID, FORGET)

What = TypeVar("What")
View = TypeVar("View", bound="KeptView")


def operations(folder: Path, wall: Callable[[], float], journal: Journal) -> tuple[Operation, ...]:
    async def kept(query: KeptQuery, body: None, who: str) -> KeptCallsView:
        file = SaidFile(folder)
        rows = await _done(lambda: file.rows(wall(), query.limit, query.key))
        return KeptCallsView(tuple(_view(each, KeptView) for each in rows))

    async def said(query: SaidQuery, body: None, who: str) -> SaidCallsView:
        file = SaidFile(folder)
        rows = await _done(lambda: file.of(query.call, wall(), SAID_TOLD))
        if not rows:
            raise NotFound(
                "nothing is kept of what was said in this call",
                value=query.call,
                remedy="`paceline said list` shows those there are; what is kept is the settings' "
                "business: [said], days.",
            )
        return SaidCallsView(tuple(_view(each, SaidView) for each in rows))

    async def forget(query: None, body: ForgetBody, who: str) -> ForgottenView:
        if (body.call is not None) + (body.key is not None) + body.everything != 1:
            raise BadRequest(
                "what is to be forgotten must be said, and in one way",
                remedy="Name a call, a key, or everything; one of them.",
            )
        file = SaidFile(folder)
        gone = await _done(lambda: file.forget(body.call, body.key))
        if gone:
            entry = Forgotten(gone, body.key, body.everything)
            await journal.write(lambda _: [entry], who)
        return ForgottenView(gone)

    return (KEPT.answered_by(kept), SAID.answered_by(said), FORGET.answered_by(forget))


async def _done(what: Callable[[], What]) -> What:
    """Beside the loop: it reads and writes a disk."""
    try:
        return await asyncio.to_thread(what)
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(
            "the file of what was said cannot be used",
            value=str(error),
            remedy="Try again; see who may read and write said.db in the state directory.",
        ) from error


def _view(row: Row, view: type[View]) -> View:
    return msgspec.convert(row, view, from_attributes=True)
