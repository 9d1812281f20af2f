"""How much the long bodies and answers of LLM calls take together, on one front; it decides nothing
but whether there is room for one more.

What is short is bounded by the number of calls (LLM_IN_FLIGHT). A long one takes its place when it
is there, not when it is announced, so that whoever sends slowly keeps nobody else out. Taken by
`web/llm.py` for bodies and by `hearing.py` for answers; given back by the same, once.
"""

from paceline.terms.limits import LLM_LONG_BYTES, LLM_SHORT_BYTES


class Room:
    __slots__ = ("most", "taken")

    def __init__(self, most: int = LLM_LONG_BYTES) -> None:
        self.most = most
        self.taken = 0

    def has(self, size: int) -> bool:
        return size <= LLM_SHORT_BYTES or self.taken + size <= self.most

    def take(self, size: int) -> bool:
        """Whether there was room; then it is to be given back."""
        if self.taken + size > self.most:
            return False
        self.taken += size
        return True

    def give_back(self, size: int) -> None:
        self.taken -= size
        assert self.taken >= 0, "given back twice"
