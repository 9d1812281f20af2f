"""The seam to whoever answers LLM calls.

A provider is pushed an Ask and pushes back what it hears: a head, pieces of a body, an end, or that
the answer was lost. Nothing waits, and nothing is called back before `complete` has returned.
`paceline.testing` has the contract suite that every provider passes.
"""

from typing import Literal, Protocol

from paceline.gateway.call import Ask, Dialect, Headers
from paceline.gateway.upstream import TokensField

Lost = Literal[
    "unreachable",  # nothing was sent: no address, no connection, no TLS, refused by the guard
    "closed",  # closed before the first byte of an answer; the request may have been read
    "cut",  # closed within the answer
    "garbled",  # what came is no HTTP
    "late",  # the deadline passed
]
"""Why there is no whole answer."""


class Heard(Protocol):
    """One answer, as it comes. `head` once, then pieces, then `end`; or at any point `lost`, after
    which nothing comes. Whoever has stopped hears nothing more."""

    def head(self, status: int, headers: Headers) -> None: ...

    def body(self, piece: bytes) -> None: ...

    def end(self) -> None: ...

    def lost(self, why: Lost, detail: str) -> None: ...


class Running(Protocol):
    """An exchange with a provider, while it lasts."""

    def stop(self) -> None:
        """The caller has gone, or has its answer elsewhere: the provider is to stop working now."""
        ...

    def pause(self) -> None:
        """The caller does not take what comes: no more than a bounded rest is to come."""
        ...

    def resume(self) -> None: ...


class Provider(Protocol):
    name: str
    dialect: Dialect
    simulated: bool
    """told wherever its answers are seen"""
    tokens_field: TokensField
    """of a chat in OpenAI's dialect, what it is sent in the place of the newer name"""

    def complete(self, ask: Ask, heard: Heard) -> Running: ...

    async def close(self) -> None:
        """Ends what is open; called once, when nothing runs any more."""
        ...
