"""Compaction, decided purely: which adjustments give way to which summaries. Called by the journal.

Of one knob's adjustments of one day stays one entry, in the place of the last: the fold of the
whole is the same before and after, and `why` still tells what went on. Changes of the Plan stay for
ever.

A knob's day is summarized as a whole, never in parts: it goes in one transaction. That is no danger
as long as the desk lets a knob be adjusted once in ADJUST_EVERY_S: 8,640 times a day, and a score
for each prediction that came with one.
"""

from collections.abc import Iterable, Iterator

from paceline.journal.entries import Adjusted, AdjustedOften, Entry, Scored
from paceline.terms.plan import Address

DAY_S = 86400
INFINITY = float("inf")

Group = tuple[list[int], Entry]
"""The entries that go, and the summary that comes; it has the number of one of them."""


def summarize(
    entries: Iterable[Entry], before_unix_s: float, now_unix_s: float = INFINITY
) -> Iterator[Group]:
    """From the journal's beginning; it is read no further than the first entry that may stay. One
    from the future tells of a clock that was wrong, and of nothing that comes after it."""
    groups: dict[tuple[Address, int], list[Entry]] = {}
    for entry in entries:
        if entry.at > now_unix_s:
            continue
        if entry.at >= before_unix_s:
            break
        knob = _knob(entry)
        if knob:
            groups.setdefault((knob, int(entry.at // DAY_S)), []).append(entry)
    for (knob, _), group in groups.items():
        moves = [each for each in group if not isinstance(each.body, Scored)]
        if len(group) > 1 and moves:
            yield [each.seq for each in group], _summary(knob, moves, group)


def _knob(entry: Entry) -> Address | None:
    match entry.body:
        case Adjusted(adjustment):
            return adjustment.knob
        case AdjustedOften(knob):
            return knob
        case Scored(knobs=(knob,), of_adjustment=True):
            return knob
    return None


def _summary(knob: Address, moves: list[Entry], group: list[Entry]) -> Entry:
    times = came_true = did_not = 0
    first = last = None
    for entry in group:
        match entry.body:
            case Adjusted(adjustment):
                times += 1
                first = adjustment.before if first is None else first
                last = adjustment.after
            case AdjustedOften():
                times += entry.body.times
                came_true += entry.body.came_true
                did_not += entry.body.did_not
                first = entry.body.first if first is None else first
                last = entry.body.last
            case Scored():
                came_true += entry.body.outcome == "came true"
                did_not += entry.body.outcome == "did not"
    assert first is not None
    assert last is not None
    whose = {entry.who for entry in moves}
    who = moves[-1].who if len(whose) == 1 else "several"
    body = AdjustedOften(knob, times, first, last, came_true, did_not)
    return Entry(moves[-1].seq, moves[-1].at, who, body)
