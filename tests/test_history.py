"""The past: what happened between two readings, by seconds, minutes and hours, and in a file."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.observe.board import QUANTILES, Board
from paceline.stats.sketch import COUNT, MAX, MIN, UNDER, Sketch
from paceline.terms.measurement import Measurement
from paceline.terms.metric import (
    CPU_SECONDS,
    FAILED_SECONDS,
    QUEUED,
    REQUEST_SECONDS,
    REQUESTS,
    ROWS,
)
from paceline.watch.archive import archive
from paceline.watch.cells import add, as_sketch, empty, grown, pack, quantiles, unpack
from paceline.watch.history import History
from paceline.watch.names import Names
from paceline.watch.past import Past
from paceline.watch.rollup import DAY, HOUR, MINUTE, Kept
from paceline.watch.sampling import Reader, between, first
from paceline.watch.store import FILE, MetricsFile

WALL_S = 1_800_000_000.0
"""A full hour."""

FULL_DAY_S = WALL_S // DAY * DAY

values_s = st.lists(
    st.one_of(st.floats(0, 1e6), st.floats(1e-4, 1.0), st.just(0.0), st.floats(-1, 0)), max_size=30
)


class Life:
    """A server's boards, its looks at them each second, and what it keeps; in made-up time."""

    def __init__(self, folder: Path | None = None, wall_s: float = WALL_S, fronts: int = 1) -> None:
        self.at_s = 0.0
        self.wall_s = wall_s
        self.boards = [Board() for _ in range(fronts)]
        self.names = Names()
        self.past = History(self.names, self.at_s, wall_s)
        self.file = None if folder is None else MetricsFile(folder, self.names)
        if self.file is not None:
            for size_s in (HOUR, MINUTE):
                for kept in self.file.read(size_s, 0.0, repair=True):
                    self.past.restore(kept)
        self.others: list[Measurement] = []
        self.reader = Reader(self.boards, self.names)
        seen = self.reader.read(self.at_s, self.wall_s, self.others)
        self.before = first(
            self.at_s, self.wall_s, seen, self.reader.read(self.at_s, self.wall_s, ())
        )

    def pass_s(self, seconds: float = 1.0) -> None:
        """Then it looks."""
        self.at_s += seconds
        self.wall_s += seconds
        now = self.reader.read(self.at_s, self.wall_s, self.others, self.before)
        self.past.take(between(self.names, self.before, now))
        self.before = now

    def answer(self, requests: int = 1, latency_s: float = 0.01, model: str = "m") -> None:
        board = self.boards[0]
        board.counter(REQUESTS, model, "normal", "200").add(requests)
        board.sketch(REQUEST_SECONDS, model).record(latency_s, requests)

    def write(self, *, whole: bool = True) -> list[Kept]:
        finished = self.past.finished(whole=whole)
        if self.file is not None:
            self.file.write(finished)
        return finished

    def end(self) -> None:
        self.write(whole=False)
        assert self.file is not None
        self.file.close()


def of_values(recorded: Sequence[float]) -> Sketch:
    cells = empty()
    sketch = Sketch(memoryview(cells.data))
    for value in recorded:
        sketch.record(value)
    return sketch


def cells_of(sketch: Sketch) -> Any:
    return np.asarray(sketch._cells)


# --- Sketches as arrays ---------------------------------------------------------------------------


@examples(50)
@given(values_s, values_s)
def test_arrays_of_sketches_say_what_sketches_say(before: list[float], later: list[float]) -> None:
    whole = of_values(before + later)
    early = of_values(before)
    came = grown(cells_of(early), cells_of(whole))
    by_sketch = whole.since(early)
    assert came[COUNT] == by_sketch.count
    assert came[UNDER:].tolist() == cells_of(by_sketch)[UNDER:].tolist()
    if came[COUNT]:
        assert came[[MIN, MAX]] == pytest.approx(cells_of(by_sketch)[[MIN, MAX]], rel=1e-9)
    asked = quantiles(cells_of(whole))
    expected = whole.quantiles(QUANTILES)
    if asked is None:
        assert expected == [None] * len(QUANTILES)
    else:
        assert asked.tolist() == pytest.approx(expected, rel=1e-9)


@examples(50)
@given(values_s)
def test_a_packed_sketch_is_the_same_to_the_last_cell(recorded: list[float]) -> None:
    cells = cells_of(of_values(recorded))
    assert unpack(pack(cells)).tolist() == cells.tolist()


def test_a_count_beyond_all_counting_is_packed_as_the_last_that_is_exact() -> None:
    sketch = of_values([0.01, 0.02])
    sketch.record(0.01, 10**30)
    kept = unpack(pack(cells_of(sketch)))
    assert kept[UNDER:].max() == 2.0**53
    assert np.count_nonzero(kept[UNDER:]) == 2


@examples(30)
@given(st.lists(values_s, max_size=5))
def test_sketches_added_up_are_the_sketch_of_all(parts: list[list[float]]) -> None:
    together = empty()
    for part in parts:
        add(together, cells_of(of_values(part)))
    at_once = of_values([value for part in parts for value in part])
    assert together[UNDER:].tolist() == cells_of(at_once)[UNDER:].tolist()
    assert together[[COUNT, MIN, MAX]].tolist() == cells_of(at_once)[[COUNT, MIN, MAX]].tolist()
    assert as_sketch(together).sum == pytest.approx(at_once.sum)


# --- What happened --------------------------------------------------------------------------------


def test_what_is_told_of_the_last_seconds_is_what_happened_in_them() -> None:
    life = Life(fronts=2)
    for second in range(10):
        life.answer(second)
        life.boards[1].counter(REQUESTS, "m", "normal", "500").add(1)
        life.boards[second % 2].gauge(QUEUED, "m", "normal").set(second)
        life.pass_s()
    past: Past = life.past
    assert past.grew(REQUESTS, {"model": "m", "status": "200"}, 3) == 9 + 8 + 7
    assert past.grew(REQUESTS, {"model": "m"}, 10) == 45 + 10
    assert past.grew(REQUESTS, {"model": "other"}, 10) == 0
    assert past.grew(REQUEST_SECONDS, {}, 4) == 9 + 8 + 7 + 6
    assert past.latest(QUEUED, {"model": "m"}) == 9 + 8  # of both fronts
    assert past.latest(QUEUED, {"model": "other"}) is None
    assert past.known_s() == 10
    steps = past.steps(REQUEST_SECONDS, {"model": "m"}, 10, 1)
    assert [step.value for step in steps] == list(range(10))
    assert steps[0].quantiles is None  # nothing came in it
    assert steps[9].quantiles == pytest.approx([0.01] * len(QUANTILES), rel=0.01)
    assert [step.wall_s for step in steps] == [WALL_S + second for second in range(10)]
    assert past.series(REQUEST_SECONDS) == [{"model": "m"}]


def test_a_front_that_dies_takes_no_count_along_and_its_gauges_with_it() -> None:
    life = Life()
    life.answer(5)
    life.boards[0].gauge(QUEUED, "m", "low").set(3)
    life.pass_s()
    life.boards[0].reset_gauges()  # as the owner does at the end of a front
    life.pass_s()
    life.answer(2)  # its successor, in the same cells
    life.pass_s()
    assert [step.value for step in life.past.steps(REQUESTS, {}, 3, 1)] == [5, 0, 2]
    assert [step.value for step in life.past.steps(QUEUED, {}, 3, 1)] == [3, 0, 0]


def test_what_others_counted_before_the_first_look_is_not_this_servers() -> None:
    life = Life()
    life.others = [Measurement(CPU_SECONDS, ("front",), 100.0)]
    seen = life.reader.read(0.0, WALL_S, life.others)
    life.before = first(0.0, WALL_S, seen, life.reader.read(0.0, WALL_S, ()))
    life.answer(3)
    life.others = [Measurement(CPU_SECONDS, ("front",), 100.5)]
    life.pass_s()
    assert life.past.grew(CPU_SECONDS, {}, 10) == pytest.approx(0.5)
    assert life.past.grew(REQUESTS, {}, 10) == 3


def test_a_late_look_is_one_long_step_and_its_rate_is_true() -> None:
    life = Life()
    life.pass_s()
    life.answer(50)
    life.pass_s(5.0)
    life.answer(10)
    life.pass_s()
    steps = life.past.steps(REQUESTS, {}, 60, 1)
    assert [(step.value, step.known_s) for step in steps] == [(0, 1), (50, 5), (10, 1)]
    assert life.past.known_s() == 7
    assert life.past.grew(REQUESTS, {}, 7) == 60


def test_setting_the_clock_moves_labels_and_no_window() -> None:
    life = Life()
    for _ in range(90):
        life.answer()
        life.pass_s()
    life.wall_s -= 7200.0
    for _ in range(90):
        life.answer()
        life.pass_s()
    assert life.past.grew(REQUESTS, {}, 180) == 180
    assert life.past.grew(REQUESTS, {}, 91) == 91
    steps = life.past.steps(REQUESTS, {}, 180, 1)
    assert len(steps) == 180
    assert steps[-1].wall_s == WALL_S + 179 - 7200
    began_s = [each.began_s for each in life.write(whole=False)]
    assert began_s == [WALL_S, WALL_S + 60, WALL_S + 120 - 7200]


def test_a_gauge_has_a_mean_over_time_and_a_peak() -> None:
    life = Life()
    for level in (4.0, 8.0, 0.0):
        life.boards[0].gauge(QUEUED, "m", "normal").set(level)
        for _ in range(20):
            life.pass_s()
    for step_s in (10, 60):
        step, *_ = life.past.steps(QUEUED, {"model": "m"}, 60, 60)
        assert (step.sum / step.known_s, step.largest, step.value) == (4.0, 8.0, 0.0), step_s


# --- Longer times ---------------------------------------------------------------------------------


def test_quantiles_of_a_longer_time_are_of_merged_distributions() -> None:
    """Each second alone has one latency, so a mean of their quantiles would be one for all of them,
    and neither."""
    life = Life()
    for second in range(120):
        life.answer(10, 1.0 if second % 60 == 7 else 0.01)
        life.pass_s()
    minute = life.past.steps(REQUEST_SECONDS, {"model": "m"}, 120, 60)[0]
    assert minute.quantiles is not None
    one_in_60_is_slow = [1.0 if each > 1 - 1 / 60 else 0.01 for each in QUANTILES]
    assert set(one_in_60_is_slow) == {0.01, 1.0}
    assert minute.quantiles == pytest.approx(one_in_60_is_slow, rel=0.01)
    assert minute.largest == pytest.approx(1.0, rel=0.01)
    life.answer(1000, 0.5, model="other")
    life.pass_s()
    both = life.past.spread(REQUEST_SECONDS, {}, 10)
    assert both.quantile(0.5) == pytest.approx(0.5, rel=0.01)
    assert life.past.spread(REQUEST_SECONDS, {"model": "m"}, 3600).count == 2 * 600


def test_windows_of_hours_are_exact_where_they_begin_with_a_step() -> None:
    life = Life()
    for _ in range(3 * 360):
        life.boards[0].counter(ROWS, "m").add(20)
        life.pass_s(10.0)  # a third of a second for three hours
    past = life.past
    assert past.grew(ROWS, {}, 3600) == 2 * 3600
    assert past.grew(ROWS, {}, 2 * 3600) == 4 * 3600
    assert past.grew(ROWS, {}, 2 * 3600 + 30) == 4 * 3600 + 60  # half of a minute
    assert past.grew(ROWS, {}, 86400) == past.grew(ROWS, {}, 3 * 3600) == 6 * 3600
    assert [step.value for step in past.steps(ROWS, {}, 3 * 3600, 3600)] == [7200] * 3
    assert len(past.steps(ROWS, {}, 3 * 3600, 1)) == 180  # by minutes, that far back
    assert len(past.steps(ROWS, {}, 3600, 1)) == 360


@examples(25)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(1e-4, 10.0)), min_size=1, max_size=200),
    st.integers(0, 59),
)
def test_minutes_are_what_their_seconds_were(seconds: list[tuple[int, float]], offset: int) -> None:
    """Counts and sums recomputed from what was recorded; sketches to the last cell."""
    life = Life(wall_s=WALL_S + offset)
    for requests, latency_s in seconds:
        if requests:
            life.answer(requests, latency_s)
            life.boards[0].counter(FAILED_SECONDS, "m").add(requests / 8)
        life.pass_s()
    kept = life.write(whole=False)
    number = {life.names.metrics[each].name: each for each in range(len(life.names))}
    raw: dict[float, list[tuple[int, float]]] = {}
    for second, each in enumerate(seconds):
        raw.setdefault((WALL_S + offset + second) // 60 * 60, []).append(each)
    assert [each.began_s for each in kept] == [*raw]
    for minute, of_it in zip(kept, raw.values(), strict=True):
        assert minute.known_s == len(of_it)
        values = dict(zip(minute.numbers.tolist(), minute.values.tolist(), strict=True))
        total = sum(requests for requests, _ in of_it)
        if not total:
            assert not minute.packs
            continue
        value, _, largest = values[number[REQUESTS.name]]
        assert (value, largest) == (total, max(requests for requests, _ in of_it))
        assert values[number[FAILED_SECONDS.name]][0] == total / 8
        alone = Sketch()
        for requests, latency_s in of_it:
            alone.record(latency_s, requests)
        cells = unpack(minute.packs[number[REQUEST_SECONDS.name]])
        assert cells[UNDER:].tolist() == cells_of(alone)[UNDER:].tolist()


def test_distributions_of_hours_are_whole_whenever_somebody_wrote_them_down(
    tmp_path: Path,
) -> None:
    """Of two lives, the second longer than single stretches of ten seconds are kept."""
    life = Life(tmp_path)
    for _ in range(6 * 30):
        life.answer(1)
        life.pass_s(10.0)
    life.end()
    again = Life(tmp_path, wall_s=life.wall_s + 25)
    for step in range(6 * 100):
        again.answer(2)
        again.pass_s(10.0)
        if step % 100 == 37:
            again.write(whole=False)
        passed = 10 * (step + 1)
        if step % 60 == 7:
            whole = again.past.spread(REQUEST_SECONDS, {}, 4 * 3600).count
            assert whole == 180 + 2 * (step + 1), passed
            last = again.past.spread(REQUEST_SECONDS, {}, 600).count
            assert 120 <= last <= 122 or passed < 600
    again.end()


def test_what_never_happens_takes_no_memory_and_there_is_a_bound() -> None:
    names = Names(most=3)
    numbers = [names.number(ROWS, (model,)) for model in "abcd"]
    assert numbers == [0, 1, 2, -1]
    assert names.refused == 1
    life = Life()
    for model in range(50):
        life.boards[0].counter(ROWS, f"m{model}")
    life.pass_s()
    idle = life.past.bytes_used
    life.boards[0].counter(ROWS, "m1").add()
    life.pass_s()
    assert idle == 0 < life.past.bytes_used


# --- The file -------------------------------------------------------------------------------------


def test_the_past_survives_a_restart_and_the_gap_is_a_gap(tmp_path: Path) -> None:
    life = Life(tmp_path)
    for _ in range(150):
        life.answer(2)
        life.pass_s()
    life.end()
    again = Life(tmp_path, wall_s=WALL_S + 150 + 600)
    for _ in range(30):
        again.answer(3)
        again.pass_s()
    past = again.past
    assert past.grew(REQUESTS, {}, 3600) == 300 + 90
    assert past.grew(REQUESTS, {}, 600) == 90
    steps = past.steps(REQUESTS, {}, 3600, 60)
    assert [(step.wall_s - WALL_S, step.value, step.known_s) for step in steps] == [
        (0, 120, 60),
        (60, 120, 60),
        (120, 60, 30),
        (720, 90, 30),
    ]
    assert past.spread(REQUEST_SECONDS, {}, 3600).count == 390
    assert past.known_s() == 780


def test_a_restart_within_a_minute_adds_to_it(tmp_path: Path) -> None:
    life = Life(tmp_path)
    for _ in range(20):
        life.answer(2, 0.01)
        life.pass_s()
    life.end()
    again = Life(tmp_path, wall_s=WALL_S + 30)
    for _ in range(40):
        again.answer(1, 1.0)
        again.pass_s()
    step, *_ = again.past.steps(REQUEST_SECONDS, {"model": "m"}, 120, 60)
    assert (step.value, step.known_s) == (40 + 30, 20 + 30)
    again.end()
    for size_s in (MINUTE, HOUR, DAY):
        names = Names()
        kept = [*MetricsFile(tmp_path, names).read(size_s, 0.0)]
        assert sum(each.known_s for each in kept) == 60
        number = names.number(REQUESTS, ("m", "normal", "200"))
        row = [each.values[each.numbers == number][0] for each in kept]
        assert sum(float(each[0]) for each in row) == 80


def test_a_file_tells_by_itself_what_was(tmp_path: Path) -> None:
    life = Life(tmp_path)
    for _ in range(720):
        life.answer(10, 0.02)
        life.pass_s(10.0)
        if life.past.has_finished:
            life.write()
    life.end()
    past = archive(tmp_path)
    assert past is not None
    assert past.grew(REQUESTS, {}, 7200) == 7200
    steps = past.steps(REQUEST_SECONDS, {}, 7200, 300)
    assert [step.value for step in steps] == [300] * 24
    assert all(step.quantiles is not None for step in steps)  # of merged minutes
    assert archive(tmp_path / "elsewhere") is None


def test_a_damaged_file_is_told_and_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    life = Life(tmp_path)
    assert "damaged" in caplog.text
    for _ in range(61):
        life.answer()
        life.pass_s()
    life.end()
    assert Life(tmp_path, wall_s=WALL_S + 61).past.grew(REQUESTS, {}, 3600) == 61


def test_a_file_that_breaks_while_it_is_used_is_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    life = Life(tmp_path)
    for _ in range(3):
        life.answer()
        for _ in range(60):
            life.pass_s()
        life.write()
        assert life.file is not None
        life.file.close()
        (tmp_path / FILE).write_bytes(b"no database" * 1000)
    assert "damaged" in caplog.text
    life.write()
    assert life.past.grew(REQUESTS, {}, 3600) == 3  # memory has it all the same


def test_a_full_disk_is_told_once_and_what_waited_is_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    life = Life(tmp_path)
    full = True

    class Disk(sqlite3.Connection):
        def execute(self, sql: str, *given: Any) -> sqlite3.Cursor:
            if full and sql.startswith("INSERT OR REPLACE INTO steps"):
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *given)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, factory=Disk, **k))
    for minute in range(5):
        full = minute < 3
        for _ in range(60):
            life.answer()
            life.pass_s()
        life.write()
    assert caplog.text.count("not kept") == 1
    assert caplog.text.count("kept in its file again") == 1
    life.end()
    assert Life(tmp_path, wall_s=WALL_S + 300).past.grew(REQUESTS, {}, 3600) == 300


def test_old_minutes_go_and_hours_stay(tmp_path: Path) -> None:
    names = Names()
    number = names.number(ROWS, ("m",))
    file = MetricsFile(tmp_path, names)
    for day in range(10):
        row = np.array([[1.0, 0.0, 1.0]])
        began_s = WALL_S + day * 86400
        file.write([Kept(MINUTE, began_s, 60.0, np.array([number]), row, {})])
    assert [len([*file.read(size_s, 0.0)]) for size_s in (MINUTE, HOUR, DAY)] == [4, 10, 10]
    file.close()


def test_what_is_older_than_single_hours_is_known_by_days(tmp_path: Path) -> None:
    """With whole distributions, and each second once."""
    names = Names()
    number = names.number(REQUESTS, ("m", "normal", "200"))
    sketch = names.number(REQUEST_SECONDS, ("m",))
    file = MetricsFile(tmp_path, names)
    days = 90
    for day in range(days):
        row = np.array([[10.0, 0.0, 1.0]])
        taken = pack(np.asarray(of_values([0.01 * (1 + day // 45)] * 10)._cells))
        began_s = FULL_DAY_S + day * DAY
        kept = Kept(MINUTE, began_s, 60.0, np.array([number]), row, {sketch: taken})
        file.write([kept])
    file.close()
    end_s = FULL_DAY_S + days * DAY
    month, year = archive(tmp_path, end_s), archive(tmp_path, end_s, 365 * DAY)
    assert month is not None
    assert year is not None
    assert month.grew(REQUESTS, {}, 365 * DAY) == 300
    assert year.grew(REQUESTS, {}, 365 * DAY) == 10 * days
    assert year.grew(REQUESTS, {}, 60 * DAY) == 600
    assert year.known_s() >= (days - 1) * DAY
    steps = year.steps(REQUEST_SECONDS, {}, 365 * DAY, 60)
    assert [step.value for step in steps] == [10] * days
    assert steps[0].quantiles is not None
    assert steps[0].quantiles[0] == pytest.approx(0.01, rel=0.01)
    assert year.spread(REQUEST_SECONDS, {}, 365 * DAY).quantile(0.9) == pytest.approx(
        0.02, rel=0.01
    )


def test_a_file_that_grows_too_large_loses_its_oldest_minutes(tmp_path: Path) -> None:
    names = Names()
    number = names.number(REQUEST_SECONDS, ("m",))
    file = MetricsFile(tmp_path, names, most_bytes=1_000_000)
    die = np.random.default_rng(7)
    for minute in range(250):
        cells = empty()
        cells[UNDER:] = die.integers(0, 60_000, len(cells) - UNDER)
        packs = {number: pack(cells)}
        nothing = np.zeros((0, 3))
        began_s = WALL_S + minute * 60
        file.write([Kept(MINUTE, began_s, 60.0, np.zeros(0, np.intp), nothing, packs)])
    kept = [each.began_s for each in file.read(MINUTE, 0.0)]
    file.close()
    assert len(pack(cells)) > 2000
    assert 50 < len(kept) < 200
    assert kept[-1] == WALL_S + 249 * 60  # the newest are there
    assert (tmp_path / FILE).stat().st_size < 2_000_000


@pytest.mark.parametrize("lived_s", [0, 4, 70])
def test_a_window_longer_than_a_server_lives_is_all_of_its_life(
    tmp_path: Path, lived_s: int
) -> None:
    """It began in the middle of an hour, and of a minute; an earlier one just before it, too, and
    ended in that minute."""
    wall_s = WALL_S + 1087
    if lived_s:
        earlier = Life(tmp_path, wall_s - lived_s - 2)
        for _ in range(lived_s):
            earlier.answer(2)
            earlier.pass_s()
        earlier.end()
    life = Life(tmp_path, wall_s)
    counted = 2 * lived_s
    for second in range(150):
        life.answer(3)
        life.pass_s()
        counted += 3
        for last_s in (300, 3600, 3 * 86400):
            assert life.past.grew(REQUESTS, {}, last_s) == pytest.approx(counted), (second, last_s)
