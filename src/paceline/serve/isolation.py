"""Who broke a batch, and how large batches should be while there are such requests.

A model is *pure* here: whether a run fails depends on its members alone, so a failed batch has a
culprit, and running parts of it again finds out whom. `Bisection` says which part is next,
`PoisonRate` what share of members fails alone, `best_cap` the batch size that brings most. It runs
nothing, answers nobody, and knows of no rows: a member is a request, however many rows it has.

This is group testing (Dorfman 1943; Sobel and Groll 1959), with two rules of its own: a culprit is
blamed only after it failed alone, and nobody waits for another batch. Known bad is what failed, and
the rest of what failed once its first part was clean; that is not run again whole, but split. Where
the culprit is in the first part, a split costs two runs (the first part, and the rest, of which
nothing is known); otherwise one. Hence the first part is the smaller one, by the golden section:
a Fibonacci number of members falls into the two before it, and no split has a better worst case.

*Bound*: among b members one culprit costs at most 2 * log2(b) + 1 further runs (about
1.44 * log2(b) + 1.7), several cost at most the sum of what each alone would, and all together,
also of a model that is not pure after all, fewer than 2 * b.

Pure. Called by `serve/core.py`; `LatencyModel.typical` fits as `seconds`.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

FIRST = (3 - math.sqrt(5)) / 2
"""Of what is known bad, the share that is run first."""

WINDOW = 300
"""Members after which what was seen of them counts a third (1 / e)."""

Member = TypeVar("Member", bound=Hashable)


class Settled(NamedTuple, Generic[Member]):
    """Who has a result, which the run just made holds; and who has its error. Never who left."""

    good: Sequence[Member]
    culprits: Sequence[Member]


class Bisection(Generic[Member]):
    """`members` are all that were in the batch that failed; one part at a time is run again."""

    def __init__(self, members: Sequence[Member]) -> None:
        assert len(members) > 1, "who failed alone needs no search"
        self._left: list[tuple[Sequence[Member], bool]] = [(members, True)]  # whether known bad
        self._part: Sequence[Member] = ()
        self._rest: Sequence[Member] = ()
        self._gone: set[Member] = set()

    def next(self) -> Sequence[Member] | None:
        """What to run; None while a part runs, and when all are settled."""
        if self._part:
            return None
        while self._left and not self._part:
            members, bad = self._left.pop()
            here = [each for each in members if each not in self._gone]
            cut = len(here)
            if bad and cut == len(members) > 1:  # with one gone, that one may have been the culprit
                cut = first_part(cut)
            self._part, self._rest = here[:cut], here[cut:]
        return self._part or None

    def ran(self, part: Sequence[Member], ok: bool) -> Settled[Member]:
        assert part is self._part, "only the part that `next` gave last"
        rest, self._part, self._rest = self._rest, (), ()
        if rest:
            self._left.append((rest, ok))
        if not ok and len(part) > 1:
            self._left.append((part, True))
            return Settled((), ())
        settled = [each for each in part if each not in self._gone]
        return Settled(settled, ()) if ok else Settled((), settled)

    def drop(self, member: Member) -> None:
        """It has left: neither run again nor settled. Costs the others at most one run."""
        self._gone.add(member)


def first_part(members: int) -> int:
    """How many of so many that are known bad are run first."""
    return round(members * FIRST)


class PoisonRate:
    """The share of members that fail alone, lately.

    The mode of a Beta distribution that began with `WINDOW` clean members and no culprit: a lone
    failure does not move it.
    """

    def __init__(self) -> None:
        self._members = float(WINDOW)
        self._culprits = 0.0

    def observe(self, members: int, culprits: int) -> None:
        """So many were settled, so many of them as culprits. Clean batches are told as well."""
        kept = math.exp(-members / WINDOW)
        self._members = self._members * kept + members
        self._culprits = self._culprits * kept + culprits

    @property
    def share(self) -> float:
        return max(0.0, self._culprits - 1) / self._members


def best_cap(share: float, seconds: Callable[[int], float], most: int) -> int:
    """How many members a batch should have at most, for most good ones a second. `seconds` that so
    many take: those of as many rows, where each has one. Without poison it is `most`."""
    if 1 - share == 1:
        return most
    expected = _Expected(share, seconds)
    return min(_sizes(most), key=lambda size: expected.unknown(size) / size)


def _sizes(most: int) -> list[int]:
    """Enough to choose from, the largest first. No size is farther than a factor of 1.28 from a
    Fibonacci number, over which a smooth cost changes little, and the parts of those are Fibonacci
    numbers again, so few sizes are ever asked for. Powers of two, because steps come after them."""
    sizes = {most, *(1 << power for power in range((most - 1).bit_length()))}
    size, after = 1, 2
    while size < most:
        sizes.add(size)
        size, after = after, size + after
    return sorted(sizes, reverse=True)


def expected_goodput(share: float, seconds: Callable[[int], float], size: int) -> float:
    """Good members a second when every batch has this size and failing ones are bisected."""
    return (1 - share) * size / _Expected(share, seconds).unknown(size)


class _Expected:
    """Seconds until so many members are settled, each a culprit by itself with the same chance."""

    def __init__(self, share: float, seconds: Callable[[int], float]) -> None:
        self._clean = 1 - share
        self._seconds = seconds
        self._unknown: dict[int, float] = {}
        self._bad: dict[int, float] = {1: 0.0}

    def unknown(self, size: int) -> float:
        """Of which nothing is known: run whole."""
        found = self._unknown.get(size)
        if found is None:
            found = self._seconds(size)
            failing = 1 - self._clean**size
            if failing:
                found += failing * self.bad(size)
            self._unknown[size] = found
        return found

    def bad(self, size: int) -> float:
        """Which failed: split."""
        found = self._bad.get(size)
        if found is None:
            first = first_part(size)
            rest = size - first
            all_clean = self._clean**size
            ok = (self._clean**first - all_clean) / (1 - all_clean)
            rest_s = self.bad(rest) if rest > 1 else self._seconds(1)
            found = self._seconds(first) + ok * rest_s
            found += (1 - ok) * (self.bad(first) + self.unknown(rest))
            self._bad[size] = found
        return found
