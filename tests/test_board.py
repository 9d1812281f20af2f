"""Recording in shared memory, and its exposition as Prometheus text."""

import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.flow.queue import NEVER, Waiting
from paceline.observe import exposition
from paceline.observe.board import Board, merged, read
from paceline.serve.batch import Batch, Broken, Tuning
from paceline.serve.classes import classes
from paceline.serve.core import Core
from paceline.serve.latency import TRIED_AGAIN
from paceline.serve.tally import Tally
from paceline.stats.sketch import COUNT, SUM
from paceline.terms.limits import MODEL_NAME_CHARS, MODELS, SERIES_PER_PROCESS
from paceline.terms.measurement import Distribution, Measurement
from paceline.terms.metric import (
    BATCH_LEFT_ROWS,
    FAILED_SECONDS,
    IN_FLIGHT,
    METRICS,
    MODEL_INFO,
    REFUSED,
    REQUEST_SECONDS,
    REQUESTS,
    ROWS,
    SERIES_DROPPED,
    Metric,
)
from paceline.terms.request import PRIORITIES


def value_of(boards: list[Board], metric: Metric, *labels: str) -> float | Distribution:
    return next(m.value for m in read(boards) if m.metric is metric and m.labels == labels)


def test_what_one_board_writes_another_view_of_the_memory_reads() -> None:
    fd = Board.make()
    writer, reader = Board(fd), Board(fd)
    writer.counter(ROWS, "digits").add(3)
    writer.gauge(IN_FLIGHT).set(2)
    writer.sketch(REQUEST_SECONDS, "digits").record(0.5)
    assert value_of([reader], ROWS, "digits") == 3
    assert value_of([reader], IN_FLIGHT) == 2
    seen = value_of([reader], REQUEST_SECONDS, "digits")
    assert isinstance(seen, Distribution)
    assert seen.count == 1
    assert dict(seen.quantiles)[0.5] == pytest.approx(0.5, rel=0.01)


def test_a_killed_writers_counts_stay_and_its_successor_goes_on() -> None:
    fd = Board.make()
    count_and_die = (
        f"import os; from paceline.observe.board import Board; from paceline.terms.metric import *;"
        f"board = Board({fd}); board.counter(ROWS, 'digits').add(41);"
        f"board.gauge(IN_FLIGHT).set(7); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", count_and_die], pass_fds=[fd], check=False)
    board = Board(fd)
    assert value_of([board], IN_FLIGHT) == 7
    board.reset_gauges()
    board.counter(ROWS, "digits").add()
    assert value_of([Board(fd)], ROWS, "digits") == 42
    assert value_of([Board(fd)], IN_FLIGHT) == 0


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 1000)), max_size=50))
def test_boards_add_up(additions: list[tuple[str, int]]) -> None:
    boards = [Board(), Board()]
    for number, (model, amount) in enumerate(additions):
        boards[number % 2].counter(ROWS, model).add(amount)
    for model in {model for model, _ in additions}:
        expected = sum(amount for name, amount in additions if name == model)
        assert value_of(boards, ROWS, model) == expected


def test_a_reader_finds_what_was_added_since_it_last_looked() -> None:
    fd = Board.make()
    writer, reader = Board(fd), Board(fd)
    for number in range(3):
        writer.counter(ROWS, f"model-{number}").add(number)
        assert value_of([reader], ROWS, f"model-{number}") == number
    reader.counter(REFUSED, "late").add()
    writer.counter(REFUSED, "late").add()
    assert value_of([reader], REFUSED, "late") == 2
    assert merged([reader], REQUEST_SECONDS, ("digits",)).count == 0
    for seconds in (0.1, 0.2):
        writer.sketch(REQUEST_SECONDS, "digits").record(seconds)
        assert merged([reader], REQUEST_SECONDS, ("digits",)).max == seconds


def test_what_a_killed_writer_left_between_header_and_buckets_is_read() -> None:
    board = Board()
    sketch = board.sketch(REQUEST_SECONDS, "digits")
    assert sketch.untouched
    cells = board.cells_of(REQUEST_SECONDS, ("digits",))
    assert cells is not None
    sketch.record(0.5)
    cells[COUNT] = cells[SUM] = 0.0  # as if it had come no further
    seen = value_of([board], REQUEST_SECONDS, "digits")
    assert isinstance(seen, Distribution)
    assert seen.count == 1


def test_every_series_of_as_many_models_as_there_may_be_has_room() -> None:
    board = Board()
    names = [f"{number:03}".ljust(MODEL_NAME_CHARS, "x") for number in range(MODELS)]
    for model in names:
        tally = Tally(board, model)
        tally.began(batch_of(1), core())
        board.sketch(REQUEST_SECONDS, model).record(0.1)
        board.counter(FAILED_SECONDS, model)
        board.gauge(MODEL_INFO, model, "x" * MODEL_NAME_CHARS)
        for priority in PRIORITIES:
            for status in ("200", "400", "413", "499", "500", "503"):
                board.counter(REQUESTS, model, priority, status).add()
    assert value_of([board], SERIES_DROPPED) == 0
    assert value_of([board], REQUESTS, names[-1], "normal", "503") == 1


def core(max_batch: int = 64) -> Core:
    """One that has found batches cheaper by the row up to four rows, and not beyond."""
    made = Core(lambda waiting, end: None, classes(None, 0.0, 30.0), Tuning(max_batch))
    for _ in range(TRIED_AGAIN):
        for rows, seconds in ((1, 1.0), (2, 1.05), (4, 1.1), (8, 3.0), (16, 7.0), (32, 16.0)):
            made.learned("shape").observe(rows, seconds)
    made.learned("shape").observe(4, 1.1)
    return made


def wait(made: Core, rows: int) -> None:
    for _ in range(rows):
        assert made.arrive(0.0, Waiting(1, "shape", 1, 8, 0.0, 60.0, NEVER)) is None


def batch_of(rows: int, whole: Broken | None = None) -> Batch:
    members = [Waiting(1, "shape", 1, 8, 0.0, 60.0, NEVER) for _ in range(rows)]
    return Batch("shape", members, rows, "adaptive", 0.0, 1.0, whole)


@pytest.mark.parametrize(
    ("rows", "waiting", "most", "paying", "beyond"),
    [
        (4, 0, 64, 0, 0),
        (4, 10, 64, 0, 10),  # cut where more make it no cheaper
        (1, 10, 64, 3, 7),  # cut before that
        (1, 2, 64, 2, 0),
        (1, 10, 6, 3, 2),  # five more had room
        (4, 10, 4, 0, 0),
        (8, 10, 64, 0, 10),
        (2, 10, 1, 0, 0),  # one request of more rows than may be run together
    ],
)
def test_what_a_batch_leaves_waiting_is_counted_up_to_what_it_could_have_had(
    rows: int, waiting: int, most: int, paying: int, beyond: int
) -> None:
    board, made = Board(), core(max_batch=most)
    wait(made, waiting)
    Tally(board, "digits").began(batch_of(rows), made)
    assert value_of([board], BATCH_LEFT_ROWS, "digits", "yes") == paying
    assert value_of([board], BATCH_LEFT_ROWS, "digits", "no") == beyond


def test_a_part_of_what_failed_leaves_nobody_waiting() -> None:
    board, made = Board(), core()
    wait(made, 10)
    Tally(board, "digits").began(batch_of(1, Broken(batch_of(2))), made)
    assert value_of([board], BATCH_LEFT_ROWS, "digits", "yes") == 0


def test_others_of_another_shape_are_not_left_by_a_batch() -> None:
    board, made = Board(), core()
    assert made.arrive(0.0, Waiting(1, "other", 1, 8, 0.0, 60.0, NEVER)) is None
    Tally(board, "digits").began(batch_of(1), made)
    assert value_of([board], BATCH_LEFT_ROWS, "digits", "yes") == 0


def test_a_full_board_counts_what_it_drops_and_keeps_the_rest_right() -> None:
    board = Board()
    board.counter(ROWS, "first").add(5)
    for number in range(SERIES_PER_PROCESS + 10):
        board.counter(REFUSED, f"code-{number}").add()
        board.sketch(REQUEST_SECONDS, f"model-{number}").record(1.0)
    assert value_of([board], ROWS, "first") == 5
    dropped = value_of([board], SERIES_DROPPED)
    kept = len({(m.metric.name, m.labels) for m in read([board])}) - 1
    assert dropped == 1 + 2 * (SERIES_PER_PROCESS + 10) - kept


def everything() -> list[Measurement]:
    """One measurement of each metric there is, with labels that need escaping."""
    awkward = 'a "b" \\ c\nd'
    distribution = Distribution(2, 0.3, ((0.5, 0.1), (0.99, 0.2)))
    return [
        Measurement(
            metric,
            (awkward,) * len(metric.labels),
            distribution if metric.kind == "sketch" else 1.5,
        )
        for metric in METRICS
    ]


@pytest.mark.slow
@pytest.mark.needs("promtool")
def test_promtool_accepts_every_metric_there_is() -> None:
    promtool = shutil.which("promtool")
    assert promtool
    text = exposition.render(everything())
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    assert all(metric.name in text for metric in METRICS)
    broken = subprocess.run(
        [promtool, "check", "metrics"], input=text + "no metric", capture_output=True, text=True
    )
    assert broken.returncode != 0


def test_labels_are_escaped_and_series_sorted() -> None:
    text = exposition.render(
        [
            Measurement(REQUESTS, ("b", "normal", "200"), 1.0),
            Measurement(REQUESTS, ('a"\n\\', "normal", "200"), 2.0),
        ]
    )
    assert text.splitlines()[2:] == [
        'paceline_requests_total{model="a\\"\\n\\\\",priority="normal",status="200"} 2.0',
        'paceline_requests_total{model="b",priority="normal",status="200"} 1.0',
    ]
