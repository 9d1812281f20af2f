"""The past in memory: the last hour by seconds, a day by minutes, a month by hours;
and two years by days, where it was read from the file.

Numbers lie in arrays with a row for each series and a place for each step, which is used again when
it is too old; a row is taken by the first number that is not zero, so what never happens costs
nothing. Distributions are kept whole for ten seconds and for an hour each, packed; of other steps
their count, sum, largest and five quantiles are. Steps are counted by the monotonic clock from
where the wall clock stood at the start, so a step of 60 s begins at a full minute until somebody
sets the clock, which moves labels and nothing else.

It reads no boards and writes no file. Called by `watcher.py`, which tells it what happened, and
through `past.py` by whoever asks.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from paceline.observe.board import QUANTILES
from paceline.stats.sketch import COUNT, MAX, Sketch
from paceline.stats.sketch import SUM as CELL_SUM
from paceline.terms.limits import (
    HISTORY_HOURS,
    HISTORY_MINUTES,
    HISTORY_PACKED_BYTES,
    HISTORY_SECONDS,
    HISTORY_SERIES,
    HISTORY_SKETCH_HOURS,
    HISTORY_SKETCH_S,
    HISTORY_SKETCHES,
    METRICS_DAYS_KEPT_S,
)
from paceline.terms.metric import Metric
from paceline.watch.cells import Cells, add, as_sketch, empty, pack, quantiles, unpack
from paceline.watch.names import Names
from paceline.watch.past import Step
from paceline.watch.rollup import (
    COLUMNS,
    DAY,
    HOUR,
    LARGEST,
    MINUTE,
    SUM,
    VALUE,
    Kept,
    label,
    together,
)
from paceline.watch.sampling import Happened
from paceline.watch.tiers import NONE, STATS, Packs, Part, Tier, covered

ROUNDING = 1e-4
"""Of counts in the tables, which have seven digits."""


class History:
    """Answers as `past.Past`. A past `of_file` has no seconds, and days; and whole distributions of
    each minute, which a running server has by ten seconds."""

    def __init__(self, names: Names, at_s: float, wall_s: float, *, of_file: bool = False) -> None:
        self._names = names
        self._of_file = of_file
        self._started_at_s = at_s
        self._started = int(wall_s)
        self._odd_s = wall_s - self._started
        self._end = self._oldest = self._started
        """the second that comes next, as a number of seconds"""
        self._shares_minute = False
        """whether an earlier life ended in the minute in which this one began"""
        self._tiers: tuple[Tier, ...] = (
            Tier(1, HISTORY_SECONDS, np.float32),
            Tier(MINUTE, HISTORY_MINUTES, np.float32),
            Tier(HOUR, HISTORY_HOURS, np.float64),
        )
        self._packs: tuple[Packs, ...] = (
            Packs(HISTORY_SKETCH_S, HISTORY_SECONDS // HISTORY_SKETCH_S),
            Packs(MINUTE, HISTORY_MINUTES if of_file else HISTORY_SECONDS // MINUTE),
            Packs(HOUR, HISTORY_HOURS if of_file else HISTORY_SKETCH_HOURS),
        )
        if of_file:
            self._tiers += (Tier(DAY, METRICS_DAYS_KEPT_S // DAY, np.float64),)
            self._packs += (Packs(DAY, METRICS_DAYS_KEPT_S // DAY),)
        self._rows = np.full(HISTORY_SERIES, NONE, dtype=np.intp)
        """of each number, its row in the tables of values"""
        self._stat_rows = np.full(HISTORY_SERIES, NONE, dtype=np.intp)
        self._used = self._stats_used = 0
        self._says = np.zeros(0)
        """what gauges say, by number"""
        self._running: tuple[dict[int, Cells], ...] = tuple({} for _ in self._packs)
        """what the stretches of `_packs` that are not over have taken in, beside what the shorter
        ones have"""
        self._minute = np.zeros((0, COLUMNS))
        """of the minute that is not over, since it began or this process did"""
        self._minute_known_s = self._minute_wall_s = 0.0
        self._finished: list[Kept] = []

    # --- What happens -----------------------------------------------------------------------------

    def take(self, happened: Happened) -> None:
        """One second, or more where the look came late: then it is told as one long step."""
        passed = round(happened.at_s - self._started_at_s)
        second = max(self._started + passed - 1, self._end - 1)
        self._finish(second)
        self._end = second + 1
        self._says = happened.values
        values = happened.values
        self._row(np.flatnonzero(values))
        numbers = np.flatnonzero(self._rows[: len(values)] != NONE)
        rows, now = self._rows[numbers], values[numbers]
        grows = self._names.grows[numbers]
        # What the wall clock says more than the steps that were counted: nothing, until it is set.
        set_s = round(happened.wall_s - self._odd_s - (second + 1))
        for tier in self._tiers:
            size_s = tier.size_s
            step = second // size_s
            long_s = max(0, round(happened.lasted_s) - 1) if size_s == 1 else 0
            place = tier.place(step, step * size_s + set_s - long_s)
            tier.known_s[place] += happened.lasted_s
            tier.values[rows[grows], place] += now[grows]
            tier.values[rows[~grows], place] = now[~grows]
            if tier.sums_up:
                tier.sums[rows[~grows], place] += now[~grows] * happened.lasted_s
                best = now / np.where(grows, max(happened.lasted_s, 1.0), 1.0)
                tier.largest[rows, place] = np.maximum(tier.largest[rows, place], best)
        self._count(numbers, now, grows, happened, second // MINUTE * MINUTE + set_s)
        for number, cells in happened.grown.items():
            self._took(number, cells, second)

    def _row(self, numbers: NDArray[np.intp]) -> None:
        """Each has one from now on."""
        for number in numbers[self._rows[numbers] == NONE].tolist():
            self._rows[number] = self._used
            self._used += 1
        for tier in self._tiers:
            tier.rows = self._used

    def _stat_row(self, number: int) -> int:
        """NONE where there are as many as may be."""
        if self._stat_rows[number] == NONE and self._stats_used < HISTORY_SKETCHES:
            self._stat_rows[number] = self._stats_used
            self._stats_used += 1
            for tier in self._tiers:
                tier.stat_rows = self._stats_used
        return int(self._stat_rows[number])

    def _count(
        self,
        numbers: NDArray[np.intp],
        now: NDArray[np.float64],
        grows: NDArray[np.bool_],
        happened: Happened,
        wall_s: float,
    ) -> None:
        """In the minute that will be written to the file."""
        if len(self._minute) < len(happened.values):
            longer = np.zeros((len(happened.values), COLUMNS))
            longer[: len(self._minute)] = self._minute
            self._minute = longer
        if not self._minute_known_s:
            self._minute_wall_s = wall_s
        self._minute_known_s += happened.lasted_s
        self._minute[numbers[grows], VALUE] += now[grows]
        self._minute[numbers[~grows], VALUE] = now[~grows]
        self._minute[numbers[~grows], SUM] += now[~grows] * happened.lasted_s
        best = now / np.where(grows, max(happened.lasted_s, 1.0), 1.0)
        self._minute[numbers, LARGEST] = np.maximum(self._minute[numbers, LARGEST], best)

    def _took(self, number: int, cells: Cells, second: int) -> None:
        row = self._stat_row(number)
        if row == NONE:
            return
        now = _stats(cells)
        for tier in self._tiers:
            stats = tier.stats[row, second // tier.size_s % tier.steps]
            stats[2] = max(stats[2], now[2])
            stats[:2] += now[:2]
            if tier.size_s == 1:
                stats[3:] = now[3:]
        _put(self._running[0], number, cells)

    def _finish(self, second: int) -> None:
        """Whatever was over before this second began, the shortest first: of these the longer ones
        are made."""
        last = self._end - 1
        for index, packs in enumerate(self._packs):
            step = last // packs.size_s
            if step != second // packs.size_s:
                # A minute is made of what is kept by 10 s; but not where an earlier life began it.
                shared = step == self._started // MINUTE
                self._close(index, step, keep=index != 1 or shared or self._of_file)
        while sum(packs.bytes for packs in self._packs) > HISTORY_PACKED_BYTES:
            max(self._packs, key=lambda each: each.bytes).drop()

    def _close(self, index: int, step: int, *, keep: bool) -> None:
        packs, running = self._packs[index], self._running[index]
        packed = {number: pack(cells) for number, cells in running.items()}
        if index == 1 and self._minute_known_s:
            self._keep_minute(packed)
        for number, each in packed.items():
            before = packs.of.get(step, {}).get(number)
            if keep or before is not None:
                packs.put(step, number, each)
            if index:
                cells = running[number] if before is None else together((before, each))
                self._state(self._tiers[index], step, number, cells)
            if index + 1 < len(self._running):
                _put(self._running[index + 1], number, running[number])
        running.clear()

    def _state(self, tier: Tier, step: int, number: int, cells: Cells) -> None:
        """Count and quantiles of what a minute or an hour took in."""
        place = step % tier.steps
        if tier.at[place] == step:
            tier.stats[self._stat_rows[number], place] = _stats(cells)

    def _keep_minute(self, packs: dict[int, bytes]) -> None:
        numbers = np.flatnonzero(self._minute.any(axis=1))
        began_s = label(MINUTE, self._minute_wall_s + MINUTE / 2)
        values = self._minute[numbers]
        self._finished.append(Kept(MINUTE, began_s, self._minute_known_s, numbers, values, packs))
        self._minute[:] = 0
        self._minute_known_s = 0.0

    def finished(self, *, whole: bool = True) -> list[Kept]:
        """Minutes that are over, each told once; not `whole`, the one that is not over too."""
        if not whole and self._minute_known_s:
            for index in (0, 1):
                self._close(index, (self._end - 1) // self._packs[index].size_s, keep=True)
        finished, self._finished = self._finished, []
        return finished

    @property
    def has_finished(self) -> bool:
        return bool(self._finished)

    # --- What was before --------------------------------------------------------------------------

    def restore(self, kept: Kept) -> None:
        """A minute, an hour or a day of an earlier life, placed by the wall clock."""
        index = (1, MINUTE, HOUR, DAY).index(kept.size_s)
        tier = self._tiers[index]
        step = int(kept.began_s // tier.size_s)
        if step * tier.size_s >= self._end or step <= (self._end - 1) // tier.size_s - tier.steps:
            return
        self._oldest = min(self._oldest, int((step + 1) * tier.size_s - kept.known_s))
        if index == 1 and step == self._started // MINUTE:
            self._shares_minute = True
        fresh = tier.at[step % tier.steps] != step
        place = tier.place(step, kept.began_s)
        tier.known_s[place] += kept.known_s
        self._row(kept.numbers)
        rows, grows = self._rows[kept.numbers], self._names.grows[kept.numbers]
        values = kept.values
        tier.values[rows[grows], place] += values[grows, VALUE]
        if fresh:
            tier.values[rows[~grows], place] = values[~grows, VALUE]
        tier.sums[rows, place] += values[:, SUM]
        tier.largest[rows, place] = np.maximum(tier.largest[rows, place], values[:, LARGEST])
        packs = self._packs[index]
        for number, packed in kept.packs.items():
            row = self._stat_row(number)
            if row == NONE:
                continue
            if (self._end - 1) // packs.size_s - step < packs.most:
                packs.put(step, number, packed)
                packed = packs.of[step][number] if step in packs.of else packed
            tier.stats[row, place] = _stats(unpack(packed))

    # --- What is asked ----------------------------------------------------------------------------

    def known_s(self) -> float:
        oldest = self._end - self._tiers[-1].steps * self._tiers[-1].size_s
        return float(self._end - max(self._oldest, oldest))

    def grew(self, metric: Metric, where: Mapping[str, str], last_s: float) -> float:
        numbers = self._names.of(metric, where)
        sketch = metric.kind == "sketch"
        table = self._stat_rows if sketch else self._rows
        rows = [row for row in table[list(numbers)].tolist() if row != NONE]
        if not rows:
            return 0.0
        begin = self._end - last_s
        total = 0.0
        for part in self._cover(begin):
            tier = self._tiers[part.tier]
            steps, places = tier.places(part.low, part.high)
            if not len(steps):
                continue
            shares = np.ones(len(steps))
            if steps[0] * tier.size_s < begin:
                shares[0] = 1 - (begin - steps[0] * tier.size_s) / tier.size_s
            for row in rows:
                values = tier.stats[row, places, 0] if sketch else tier.values[row, places]
                total += float(values @ shares)
        return total

    def latest(self, metric: Metric, where: Mapping[str, str]) -> float | None:
        numbers = [each for each in self._names.of(metric, where) if each < len(self._says)]
        if numbers:
            return float(self._says[numbers].sum())
        steps = [] if len(self._says) else self.steps(metric, where, MINUTE, MINUTE)
        return steps[-1].value if steps else None  # as the file said last

    def spread(self, metric: Metric, where: Mapping[str, str], last_s: float) -> Sketch:
        numbers = self._names.of(metric, where)
        return as_sketch(self._merged(numbers, self._end - last_s, self._end))

    def steps(
        self, metric: Metric, where: Mapping[str, str], last_s: float, step_s: float
    ) -> Sequence[Step]:
        numbers = self._names.of(metric, where)
        index, size_s = self.resolution(last_s, step_s)
        tier = self._tiers[index]
        sketch = metric.kind == "sketch"
        table = self._stat_rows if sketch else self._rows
        rows = [row for row in table[list(numbers)].tolist() if row != NONE]
        if not numbers:
            return []
        low = max(int((self._end - last_s) // size_s) * size_s, tier.began(self._end))
        found, places = tier.places(low, self._end)
        if not len(found):
            return []
        groups = found * tier.size_s // size_s
        begins = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
        columns = self._columns(tier, rows, places, metric)
        told = []
        for first, last in pairwise(begins):
            inside = slice(first, last)
            value = columns[VALUE][inside]
            group = int(groups[first]) * size_s
            known_s = float(tier.known_s[places[inside]].sum())
            counts = metric.kind == "gauge"
            step = Step(
                wall_s=float(tier.wall_s[places[first]]),
                value=float(value[-1]) if counts else float(value.sum()),
                sum=float(columns[SUM][inside].sum()),
                largest=float(columns[LARGEST][inside].max()),
                known_s=known_s,
            )
            if sketch:
                step = self._distribution(step, tier, numbers, rows, places[inside], group, size_s)
            told.append(step)
        return told

    def series(self, metric: Metric) -> Sequence[Mapping[str, str]]:
        return [
            dict(zip(metric.labels, self._names.labels[number], strict=True))
            for number in self._names.of(metric, {})
        ]

    def resolution(self, last_s: float, step_s: float) -> tuple[int, int]:
        """Which tier answers, and with steps of how many seconds."""
        for index, tier in enumerate(self._tiers):
            if tier.first == NONE and index + 1 < len(self._tiers):
                continue  # a past read from a file has no seconds
            finest = tier.size_s if index or step_s <= 1 else HISTORY_SKETCH_S
            size_s = max(1, -int(-step_s // finest)) * finest
            further = self._tiers[index + 1].size_s if index + 1 < len(self._tiers) else None
            if further == DAY and self._tiers[-1].first == NONE:
                return index, size_s  # nobody asked for days
            if last_s <= tier.steps * tier.size_s and (further is None or size_s < further):
                return index, size_s
        return len(self._tiers) - 1, size_s

    @property
    def end(self) -> int:
        """The second that comes next."""
        return self._end

    @property
    def bytes_used(self) -> int:
        """Of numbers and distributions, when every place of the tables has been used."""
        total = sum(packs.bytes for packs in self._packs)
        for tier in self._tiers:
            width = tier.values.itemsize + (8 if tier.sums_up else 0)
            total += tier.steps * (self._used * width + self._stats_used * STATS * 4)
        return total + sum(each.nbytes for running in self._running for each in running.values())

    # --- How --------------------------------------------------------------------------------------

    def _cover(self, begin: float) -> Iterator[Part]:
        """The window from `begin` on, each second of it once, as finely as it is known."""
        firsts = [NONE if tier.first == NONE else tier.began(self._end) for tier in self._tiers]
        wholes = [tier.first == first for tier, first in zip(self._tiers, firsts, strict=True)]
        wholes[0] = wholes[0] and not self._shares_minute
        return covered(begin, self._end, firsts, [tier.size_s for tier in self._tiers], wholes)

    def _merged(self, numbers: Sequence[int], begin: float, end: int) -> Cells:
        """Every distribution that has a share in these seconds."""
        cells = empty()
        wanted = set(numbers)
        firsts = [packs.first for packs in self._packs]
        if self._running[0] and firsts[0] == NONE:
            firsts[0] = (self._end - 1) // HISTORY_SKETCH_S * HISTORY_SKETCH_S
        if self._packs[0].dropped:
            firsts[1] = NONE  # single minutes are those before this life, and there is a gap
        sizes = [packs.size_s for packs in self._packs]
        for part in covered(begin, end, firsts, sizes):
            packs = self._packs[part.tier]
            for step in range(part.low // packs.size_s, (part.high - 1) // packs.size_s + 1):
                there = packs.of.get(step, {})
                for number in wanted & there.keys():
                    add(cells, unpack(there[number]))
                if step == (self._end - 1) // packs.size_s:
                    for running in self._running[: part.tier + 1]:
                        for number in wanted & running.keys():
                            add(cells, running[number])
        return cells

    def _columns(
        self, tier: Tier, rows: Sequence[int], places: NDArray[np.int64], metric: Metric
    ) -> tuple[NDArray[np.float64], ...]:
        """Value, sum and largest in each place, of all rows together."""
        found = tuple(np.zeros(len(places)) for _ in range(COLUMNS))
        for row in rows:
            if metric.kind == "sketch":
                stats = tier.stats[row, places]
                found[VALUE][:] += stats[:, 0]
                found[SUM][:] += stats[:, 1]
                np.maximum(found[LARGEST], stats[:, 2], out=found[LARGEST])
                continue
            values = tier.values[row, places]
            found[VALUE][:] += values
            if tier.sums_up:
                found[SUM][:] += tier.sums[row, places]
                found[LARGEST][:] += tier.largest[row, places]
            else:
                gauge = metric.kind == "gauge"
                if gauge:
                    found[SUM][:] += values * tier.known_s[places]
                best = values if gauge else values / np.maximum(tier.known_s[places], 1.0)
                found[LARGEST][:] += best
        return found

    def _distribution(
        self,
        step: Step,
        tier: Tier,
        numbers: Sequence[int],
        rows: Sequence[int],
        places: NDArray[np.int64],
        group: int,
        size_s: int,
    ) -> Step:
        """With quantiles: those that were found when it ended, or of the merged distributions."""
        told = None
        running = tier.size_s > 1 and group + size_s >= self._end
        if len(rows) == 1 and len(places) == 1 and not running:
            stats = tier.stats[rows[0], places[0]]
            if stats[0]:
                told = tuple(float(each) for each in stats[3:])
        elif size_s % HISTORY_SKETCH_S == 0:
            cells = self._merged(numbers, group, min(group + size_s, self._end))
            found = quantiles(cells)
            if found is not None and cells[COUNT] <= step.value * (1 + ROUNDING):
                told = tuple(found.tolist())  # else they are of what is beside these seconds, too
        return Step(step.wall_s, step.value, step.sum, step.largest, told, step.known_s)


def _put(running: dict[int, Cells], number: int, cells: Cells) -> None:
    if number in running:
        add(running[number], cells)
    else:
        running[number] = cells.copy()


def _stats(cells: Cells) -> NDArray[np.float64]:
    found = quantiles(cells)
    head = (cells[COUNT], cells[CELL_SUM], cells[MAX])
    return np.array([*head, *([0.0] * len(QUANTILES) if found is None else found.tolist())])
