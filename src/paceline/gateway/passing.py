"""A stream of events as it passes: whether it has begun, ended or failed, and what it told.

Every event is shown once to `see`, which looks as little as it can at those in the middle. Nothing
is changed here and nothing kept but numbers and words. The dialects have one class for each form of
stream; `hearing.py` has one object for each stream that it passes on.
"""

from typing import Literal, Protocol

from paceline.gateway.sse import Event
from paceline.gateway.usage import Usage

Sign = Literal[
    "empty",  # a comment, a ping, or what precedes content: says nothing that could not be unsaid
    "content",  # part of the answer; with the first one, a call is bound to this provider
    "usage",  # nothing but usage, which a caller who did not ask for it is not to see
    "error",  # the provider says that it failed
    "end",  # the mark of the end: what follows no longer matters, what comes without it was cut
]


class Passing(Protocol):
    begun: bool
    """content has been seen"""
    ended: bool
    """the mark of the end has been seen. Of a stream that closes without it, `finish` may still be
    known: then all of the answer was there."""
    failed: bool
    usage: Usage | None
    """the latest; whoever bills an answer without it has to estimate"""
    finish: str | None
    model: str | None
    id: str | None

    def see(self, event: Event) -> Sign: ...

    @property
    def sequence(self) -> int:
        """The number that an event of ours would have now, where the dialect numbers them."""
        ...
