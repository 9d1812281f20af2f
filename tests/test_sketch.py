"""The sketch is right within one per cent, merges in any order, and lives in any memory."""

import contextlib
import math
import mmap
import multiprocessing
import random
from array import array
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.stats.sketch import (
    BUCKETS,
    CELLS,
    COUNT,
    FIRST,
    MAX,
    MIN,
    OVER,
    RANGE_HIGH,
    RANGE_LOW,
    RELATIVE_ERROR,
    UNDER,
    WIDTH,
    Cells,
    Sketch,
)

QUANTILES = [0.01, 0.1, 0.5, 0.9, 0.99, 0.999]
BYTES = 8 * CELLS

DISTRIBUTIONS: dict[str, Callable[[random.Random], float]] = {
    "uniform": lambda die: die.uniform(1e-3, 1.0),
    "exponential": lambda die: die.expovariate(1 / 0.02),
    "lognormal": lambda die: die.lognormvariate(-5, 2),
    "pareto": lambda die: 1e-3 * die.paretovariate(1.1),
    "bimodal": lambda die: die.gauss(1.0, 0.1) * (1e-3 if die.random() < 0.7 else 1.0),
}

in_range = st.floats(min_value=RANGE_LOW, max_value=RANGE_HIGH, exclude_max=True)
anywhere = st.floats(min_value=0, max_value=1e300)


def _of(values: list[float]) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.record(value)
    return sketch


def _exact(values: list[float], q: float) -> float:
    return sorted(values)[int(q * (len(values) - 1))]


def _asked(sketch: Sketch) -> list[object]:
    """All that must not depend on order."""
    return [
        sketch.count,
        sketch.min,
        sketch.max,
        sketch.refused,
        *(sketch.quantile(q) for q in QUANTILES),
    ]


# --- One per cent ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_every_quantile_is_within_one_per_cent(name: str, seed: int) -> None:
    die = random.Random(seed)
    values = [DISTRIBUTIONS[name](die) for _ in range(20_000)]
    sketch = _of(values)
    for q in QUANTILES:
        assert sketch.quantile(q) == pytest.approx(_exact(values, q), rel=RELATIVE_ERROR), q


@given(st.lists(in_range, min_size=1), st.floats(min_value=0, max_value=1))
def test_any_quantile_of_any_values_in_range_is_within_one_per_cent(
    values: list[float], q: float
) -> None:
    found, exact = _of(values).quantile(q), _exact(values, q)
    assert found is not None
    assert abs(found - exact) <= RELATIVE_ERROR * exact


def test_values_at_both_borders_of_every_bucket_are_within_one_per_cent() -> None:
    for border in range(BUCKETS + 1):
        at = RANGE_LOW * math.exp(border * WIDTH)
        for value in (at * (1 - 1e-9), at, at * (1 + 1e-9), math.nextafter(at, 0)):
            if RANGE_LOW <= value < RANGE_HIGH:
                found = _of([0.0, value, 1e9]).quantile(0.5)
                assert found is not None
                assert abs(found - value) <= RELATIVE_ERROR * value


def test_the_ends_are_exact() -> None:
    sketch = _of([0.0123, 0.2, 7.77])
    assert (sketch.quantile(0), sketch.min) == (0.0123, 0.0123)
    assert (sketch.quantile(1), sketch.max) == (7.77, 7.77)
    assert sketch.sum == pytest.approx(7.9823)


@given(in_range, st.integers(min_value=1, max_value=10**9))
def test_a_batch_counts_as_that_many_values(value: float, times: int) -> None:
    sketch = _of([1.0])
    sketch.record(value, times)
    assert sketch.count == times + 1
    assert sketch.sum == pytest.approx(1.0 + value * times)


@given(st.lists(st.lists(st.floats() | in_range | st.just(math.nan), max_size=6), max_size=3))
def test_values_recorded_together_count_as_each_by_itself(together: list[list[float]]) -> None:
    sketch = Sketch()
    for values in together:
        sketch.record_all(values)
    alone = _of([each for values in together for each in values])
    assert _asked(sketch) == _asked(alone)
    assert sketch.sum == pytest.approx(alone.sum)


# --- Merging --------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(anywhere, st.integers(0, 4))),
    st.permutations(range(5)),
    st.permutations(range(5)),
)
def test_any_partition_merged_in_any_order_equals_recording_everything(
    dealt: list[tuple[float, int]], one_order: list[int], other_order: list[int]
) -> None:
    parts = [_of([value for value, part in dealt if part == index]) for index in range(5)]
    whole = _of([value for value, _ in dealt])
    chain, tree = Sketch(), Sketch()
    for index in one_order:
        chain.merge(parts[index])
    for left, right in (other_order[:2], other_order[2:4]):
        pair = Sketch()
        pair.merge(parts[left])
        pair.merge(parts[right])
        tree.merge(pair)
    tree.merge(parts[other_order[4]])
    assert _asked(chain) == _asked(tree) == _asked(whole)
    assert chain.sum == pytest.approx(whole.sum)
    assert tree.sum == pytest.approx(whole.sum)


def test_merging_an_empty_sketch_changes_nothing() -> None:
    sketch = _of([0.5, 2.0])
    sketch.merge(Sketch())
    assert _asked(sketch) == _asked(_of([0.5, 2.0]))


def test_a_sketch_merged_with_itself_counts_twice() -> None:
    sketch = _of([0.5, 2.0])
    sketch.merge(sketch)
    assert (sketch.count, sketch.sum) == (4, 5.0)


# --- The edges ------------------------------------------------------------------------------------


def test_an_empty_sketch_has_no_quantile() -> None:
    sketch = Sketch()
    assert (sketch.count, sketch.sum, sketch.min, sketch.max) == (0, 0.0, None, None)
    assert sketch.quantile(0.5) is None


def test_zeros_are_zeros() -> None:
    sketch = _of([0.0] * 9 + [1.0])
    assert (sketch.quantile(0.5), sketch.min) == (0.0, 0.0)
    assert sketch.quantile(1) == 1.0


@given(st.lists(anywhere, min_size=1), st.floats(min_value=0, max_value=1))
def test_outside_the_range_a_quantile_errs_by_little_below_and_upwards_above(
    values: list[float], q: float
) -> None:
    found, exact = _of(values).quantile(q), _exact(values, q)
    assert found is not None
    if exact < RANGE_LOW:
        assert abs(found - exact) <= RANGE_LOW
    elif exact >= RANGE_HIGH:
        assert exact <= found <= max(values)
    else:
        assert abs(found - exact) <= RELATIVE_ERROR * exact


def test_values_outside_the_range_have_their_own_cells() -> None:
    cells = [0.0] * CELLS
    sketch = Sketch(cells)
    for value in (0.0, 1e-320, RANGE_LOW / 2, RANGE_LOW, RANGE_HIGH, 1e300):
        sketch.record(value)
    assert (cells[UNDER], cells[FIRST], cells[OVER]) == (3, 1, 2)
    assert sum(cells[UNDER:]) == 6


@pytest.mark.parametrize("value", [-1.0, -1e-9, float("-inf"), float("inf"), float("nan")])
def test_what_is_no_value_is_counted_as_refused_and_touches_nothing_else(value: float) -> None:
    sketch = _of([1.0, 2.0])
    sketch.record(value, 3)
    assert sketch.refused == 3
    assert _asked(sketch)[4:] == _asked(_of([1.0, 2.0]))[4:]
    assert (sketch.count, sketch.sum, sketch.min, sketch.max) == (2, 3.0, 1.0, 2.0)
    total = Sketch()
    total.merge(sketch)
    assert total.refused == 3


@pytest.mark.parametrize("value", [0.5, -1.0])
def test_no_times_is_nothing_and_fewer_is_a_bug(value: float) -> None:
    sketch = _of([1.0])
    sketch.record(value, 0)
    with pytest.raises(AssertionError, match="counts never fall"):
        sketch.record(value, -1)
    assert (sketch.count, sketch.refused, sketch.min) == (1, 0, 1.0)


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan")])
def test_a_quantile_outside_zero_and_one_is_refused(q: float) -> None:
    with pytest.raises(AssertionError, match="between 0 and 1"):
        _of([1.0]).quantile(q)


def test_cells_of_the_wrong_number_or_kind_are_refused() -> None:
    with pytest.raises(AssertionError, match=str(CELLS)):
        Sketch([0.0] * 10)
    with pytest.raises(AssertionError, match="cast"):
        Sketch(memoryview(bytearray(CELLS)))


# --- Any memory, any process ----------------------------------------------------------------------


def _list() -> Cells:
    return [0.0] * CELLS


def _array() -> Cells:
    return array("d", bytes(BYTES))


def _shared() -> Cells:
    return memoryview(mmap.mmap(-1, BYTES)).cast("d")


@pytest.mark.parametrize("make_cells", [_list, _array, _shared])
@pytest.mark.parametrize("old", [0.0, 1e-9, 3.0, 1e9])
def test_the_cells_are_all_there_is(make_cells: Callable[[], Cells], old: float) -> None:
    """A successor goes on in the memory of a predecessor, whatever the first value was."""
    values = [old, 0.25, 0.0, 4.0, 1e7]
    cells = make_cells()
    for value in values:
        Sketch(cells).record(value)
    assert _asked(Sketch(cells)) == _asked(_of(values))


def test_a_snapshot_stays_as_it_was_and_cannot_be_written() -> None:
    sketch = _of([1.0])
    snapshot = sketch.snapshot()
    sketch.record(2.0)
    assert (snapshot.count, snapshot.max, snapshot.quantile(1)) == (1, 1.0, 1.0)
    with pytest.raises(TypeError):
        snapshot.record(2.0)


def _record_and_die(cells: Cells, values: list[float]) -> None:
    sketch = Sketch(cells)
    for value in values:
        sketch.record(value)


def _record_by_name(name: str, values: list[float]) -> None:
    shared = SharedMemory(name)
    assert shared.buf is not None
    cells = shared.buf[:BYTES].cast("d")
    _record_and_die(cells, values)
    cells.release()
    shared.close()


VALUES = [random.Random(3).expovariate(50) for _ in range(1000)]


def test_a_forked_child_leaves_what_it_recorded() -> None:
    cells = memoryview(mmap.mmap(-1, BYTES)).cast("d")
    child = multiprocessing.get_context("fork").Process(
        target=_record_and_die, args=(cells, VALUES)
    )
    child.start()
    child.join()
    assert child.exitcode == 0
    assert _asked(Sketch(cells)) == _asked(_of(VALUES))


def test_a_spawned_child_leaves_what_it_recorded() -> None:
    shared = SharedMemory(create=True, size=BYTES)
    assert shared.buf is not None
    cells = shared.buf[:BYTES].cast("d")
    try:
        child = multiprocessing.get_context("spawn").Process(
            target=_record_by_name, args=(shared.name, VALUES)
        )
        child.start()
        child.join()
        assert child.exitcode == 0
        assert _asked(Sketch(cells)) == _asked(_of(VALUES))
    finally:
        cells.release()
        shared.close()
        shared.unlink()


class _Spied:
    """Cells that let a test step in between."""

    def __init__(self, cells: "array[float] | None" = None) -> None:
        self.cells = array("d", bytes(BYTES)) if cells is None else cells

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self) -> Iterator[float]:
        return iter(self.cells)

    def __getitem__(self, index: int, /) -> float:
        return self.cells[index]

    def __setitem__(self, index: int, value: float, /) -> None:
        self.cells[index] = value


class _WrittenWhileRead(_Spied):
    """The writer records between a reader's look at the header and at the buckets."""

    def __iter__(self) -> Iterator[float]:
        for index in range(CELLS):
            if index == FIRST:
                Sketch(self.cells).record(5.0)
            yield self.cells[index]


class _KilledAfter(_Spied):
    """The writer dies after some number of writes."""

    def __init__(self, cells: "array[float]", writes: int) -> None:
        super().__init__(cells)
        self.writes = writes

    def __setitem__(self, index: int, value: float, /) -> None:
        if not self.writes:
            raise KeyboardInterrupt
        self.writes -= 1
        super().__setitem__(index, value)


def test_a_first_record_in_the_midst_of_reading_is_read_whole() -> None:
    assert Sketch(_WrittenWhileRead()).quantile(0.5) == 5.0
    merged = Sketch()
    merged.merge(Sketch(_WrittenWhileRead()))
    assert (merged.count, merged.min, merged.max) == (1, 5.0, 5.0)


@given(
    st.lists(in_range, max_size=3), st.lists(in_range, min_size=1, max_size=4), st.integers(0, 8)
)
def test_half_of_those_recorded_together_lie_between_the_values_seen(
    before: list[float], last: list[float], writes: int
) -> None:
    cells = array("d", bytes(BYTES))
    Sketch(cells).record_all(before)
    with contextlib.suppress(KeyboardInterrupt):
        Sketch(_KilledAfter(cells, writes)).record_all(last)
    recorded = round(sum(cells[UNDER:]))
    assert len(before) <= recorded <= len(before) + len(last)
    for q in QUANTILES:
        found = Sketch(cells).quantile(q)
        assert found is None or min(before + last) <= found <= max(before + last)
    healed = Sketch()
    healed.merge(Sketch(cells))
    assert healed.count == recorded >= cells[COUNT]


@given(
    st.lists(anywhere, max_size=5),
    anywhere,
    st.integers(min_value=0, max_value=4),
    st.floats(min_value=0, max_value=1),
)
def test_a_half_written_record_leaves_every_quantile_between_the_values_seen(
    before: list[float], last: float, writes: int, q: float
) -> None:
    cells = array("d", bytes(BYTES))
    for value in before:
        Sketch(cells).record(value)
    with contextlib.suppress(KeyboardInterrupt):
        Sketch(_KilledAfter(cells, writes)).record(last)
    recorded = round(sum(cells[UNDER:]))
    assert recorded in (len(before), len(before) + 1)
    found = Sketch(cells).quantile(q)
    if recorded:
        assert found is not None
        assert min(*before, last, last) <= found <= max(*before, last, last)
        assert cells[MIN] <= found <= cells[MAX]
    healed = Sketch()
    healed.merge(Sketch(cells))
    assert healed.count == recorded >= cells[COUNT]
    assert healed.quantile(q) == found
