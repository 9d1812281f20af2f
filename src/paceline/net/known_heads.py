"""Heads that come again. A client sends the same head with each request, but for the length of the
body: what the parser has understood once it need not read again.

Only a head that came in one piece with its whole body is learnt, and what is told of the second is
what the parser would have said, to the last header (tests/test_known_heads.py).
"""

import re

from paceline.net.exchange import Exchange, Wire
from paceline.terms.limits import LEARNT_BYTES

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([1-9]\d{0,8})[ \t]*\r\n", re.IGNORECASE)


class KnownHead:
    """A head that the parser has understood. When the same bytes come again, but for the digits of
    Content-Length, they mean the same, and need not be parsed."""

    __slots__ = ("after", "before", "method", "own", "size", "steady", "target")

    def __init__(self, before: bytes, after: bytes, pattern: Exchange) -> None:
        self.before = before
        self.after = after
        self.size = len(before) + len(after)
        self.method = pattern.method  # and not the pattern itself: it holds body and call
        self.target = pattern.target
        self.steady = pattern.steady_headers
        self.own = [each for each in pattern.own_headers if each[0] != b"content-length"]

    @classmethod
    def of(cls, data: bytes, exchange: Exchange) -> "KnownHead | None":
        """Of a request that came whole, in one piece with nothing else."""
        size = len(data) - exchange.length
        if exchange.length == 0 or exchange.chunked or exchange.expects or size > LEARNT_BYTES:
            return None
        if exchange.version != "1.1" or not exchange.keeps_alive:  # nothing comes after it
            return None
        head = data[:size]
        found = LENGTH.findall(head)
        if data[size:] != exchange.body:
            return None
        if head[-4:] != b"\r\n\r\n" or len(found) != 1 or int(found[0]) != exchange.length:
            return None
        at = LENGTH.search(head)
        assert at is not None
        if not head.startswith(b"\r", at.end(1)):  # the parser takes blanks for part of the value
            return None
        return cls(head[: at.start(1)], head[at.end(1) :], exchange)

    def again(self, data: bytes, connection: Wire) -> Exchange | None:
        """The request, if this is one with such a head, whole and alone."""
        beyond = len(data) - self.size  # a body, and its length in digits
        length = beyond - len(str(beyond))
        digits = b"%d" % length
        if length + len(digits) != beyond:  # it has one digit fewer than both together
            length += 1
            digits = b"%d" % length
        head = self.before + digits + self.after
        if length <= 0 or len(head) + length != len(data) or not data.startswith(head):
            return None
        exchange = Exchange(
            connection,
            self.method,
            self.target,
            self.steady,
            [*self.own, (b"content-length", digits)],
        )
        exchange.length = exchange.received = length
        exchange.body = data[len(head) :]
        exchange.complete = True
        return exchange
