"""Heads that come again. A client sends the same head with each request, but for the length of the
body: what the parser has understood once it need not read again.

Only a head that came in one piece with its whole body is learnt, and what is told of the second is
what the parser would have said, to the last header (tests/test_known_heads.py).
"""

import re

from paceline.net.exchange import Exchange, Wire
from paceline.terms.limits import LEARNT_BYTES, LEARNT_SIZES

ZERO = ord("0")

LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([1-9]\d{0,8})[ \t]*\r\n", re.IGNORECASE)

OTHER: tuple[bytes, list[tuple[bytes, bytes]]] = (b"", [])
"""a head that is not known"""


class KnownHead:
    """A head that the parser has understood. When the same bytes come again, but for the digits of
    Content-Length, they mean the same, and need not be parsed."""

    __slots__ = ("_whole", "after", "before", "method", "own", "steady", "target")

    def __init__(self, before: bytes, after: bytes, pattern: Exchange) -> None:
        self.before = before
        self.after = after
        self.method = pattern.method  # and not the pattern itself: it holds body and call
        self.target = pattern.target
        self.steady = pattern.steady_headers
        self.own = [each for each in pattern.own_headers if each[0] != b"content-length"]
        self._whole: dict[int, tuple[bytes, list[tuple[bytes, bytes]]]] = {}
        """by the size of a request with its body: the head with its digits, and what is its own"""

    @classmethod
    def of(cls, data: bytes, exchange: Exchange) -> "KnownHead | None":
        """Of a request that came whole, in one piece with nothing else."""
        size = len(data) - exchange.length
        if exchange.length == 0 or exchange.chunked or exchange.expects or size > LEARNT_BYTES:
            return None
        if not exchange.keeps_alive:
            return None
        head = data[:size]
        found = LENGTH.findall(head)
        if data[size:] != exchange.body:
            return None
        if head[-4:] != b"\r\n\r\n" or len(found) != 1 or int(found[0]) != exchange.length:
            return None
        at = LENGTH.search(head)
        assert at is not None
        return cls(head[: at.start(1)], head[at.end(1) :], exchange)

    def again(self, data: bytes, connection: Wire) -> Exchange | None:
        """The request, if this is one with such a head, whole and alone."""
        size = len(data)
        head, own = self._whole.get(size) or self._learn(data)
        if not head or not data.startswith(head):
            return None
        exchange = Exchange(connection, self.method, self.target, self.steady, own)
        exchange.length = exchange.received = size - len(head)
        exchange.body = data[len(head) :]
        exchange.complete = True
        return exchange

    def _learn(self, data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Of a request of a size that was not here before; nothing where it has another head."""
        before, after = self.before, self.after
        if not data.startswith(before):
            return OTHER
        end = data.find(b"\r", len(before), len(before) + 10)
        digits = data[len(before) : end]
        if not digits.isdigit() or digits[0] == ZERO or not data.startswith(after, end):
            return OTHER
        if len(data) - end - len(after) != int(digits):
            return OTHER
        if len(self._whole) >= LEARNT_SIZES:
            self._whole.clear()
        head = data[: end + len(after)]
        known = self._whole[len(data)] = (head, [*self.own, (b"content-length", digits)])
        return known
