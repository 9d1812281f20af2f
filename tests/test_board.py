"""Recording in shared memory, and its exposition as Prometheus text."""

import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.observe import exposition
from paceline.observe.board import Board, read
from paceline.terms.limits import SERIES_PER_PROCESS
from paceline.terms.measurement import Distribution, Measurement
from paceline.terms.metric import (
    IN_FLIGHT,
    METRICS,
    REFUSED,
    REQUEST_SECONDS,
    REQUESTS,
    ROWS,
    SERIES_DROPPED,
    Metric,
)


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
