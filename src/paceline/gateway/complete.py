"""Whether JSON that passes by, piece by piece, is all there: as many brackets closed as opened.

For answers that end with their connection, of which HTTP itself does not tell whether they are
whole. Nothing is kept of them and nothing else is checked. Called by `hearing.py`.
"""

import re

STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


class Brackets:
    __slots__ = ("_begun", "_depth", "_string")

    def __init__(self) -> None:
        self._depth = 0
        self._begun = False
        self._string = b""
        """how a string goes on that has begun, or nothing: a quote, and a backslash where the next
        sign belongs to it"""

    @property
    def complete(self) -> bool:
        return self._begun and self._depth == 0 and not self._string

    def feed(self, piece: bytes) -> None:
        text = STRING.sub(b"", self._string + piece)
        at = text.find(b'"')  # one that does not end here
        if at < 0:
            self._string = b""
        else:
            last = len(text) - len(text.rstrip(b"\\"))
            self._string = b'"\\' if last % 2 else b'"'
            text = text[:at]
        opened = text.count(b"{") + text.count(b"[")
        self._begun = self._begun or opened > 0
        self._depth += opened - text.count(b"}") - text.count(b"]")
