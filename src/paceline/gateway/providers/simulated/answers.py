"""The nouns of simulated answers: what goes out, and when. Made by the dialects beside it
(`openai.py`, `responses.py`, `anthropic.py`), sent in time by `provider.py`."""

from collections.abc import Iterator
from typing import NamedTuple

from paceline.gateway.call import Headers

JSON = (b"content-type", b"application/json")
EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


class Piece(NamedTuple):
    """Bytes that go out once `tokens` more have been simulated."""

    data: bytes
    tokens: int


class Answer(NamedTuple):
    """`tokens` are those of all pieces; `broken` is what a stream ends with when it fails half-way,
    and None where the answer is no stream."""

    status: int
    headers: Headers
    pieces: Iterator[Piece]
    tokens: int
    broken: bytes | None = None


class Made(NamedTuple):
    """What distinguishes one answer from the others to the same body."""

    id: str
    at_s: float
    """Unix time"""


class Refused(Exception):
    """The request cannot be answered; a dialect says so in its own form."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param


def whole(body: bytes, tokens: int) -> Answer:
    headers = [JSON, (b"content-length", b"%d" % len(body))]
    return Answer(200, headers, iter((Piece(body, tokens),)), tokens)
