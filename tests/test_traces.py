"""What traces promise: the rate and scatter asked for, the same by seed, and a fault's own line."""

import gzip
import math
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.traces import dispersion, five

from paceline.evidence import recordings
from paceline.evidence.traces import (
    MIXED,
    PLAIN,
    Mix,
    Trace,
    bursty,
    diurnal,
    from_rates,
    load,
    poisson,
    recorded,
)
from paceline.flow.queue import NEVER
from paceline.terms.errors import BadInput, LimitReached

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "benchmarks" / "data"

Made = Callable[[float, float, int, Mix], Trace]
MADE: list[Made] = [poisson, bursty, diurnal]


def evenly(rate: float, seconds: float, seed: int, mix: Mix) -> Trace:
    return from_rates([0, 1], [1, 1], 0.5, rate, seconds, seed, mix)


def per_part(trace: Trace, seconds: float, parts: int) -> list[int]:
    counts = np.histogram(trace.arrived_s, parts, (0, seconds))[0]
    return [int(count) for count in counts]


# --- Made -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("made", [*MADE, evenly])
def test_the_rate_is_the_one_asked_for_and_nobody_arrives_outside_the_time(
    made: Made, seed: int
) -> None:
    trace = made(400.0, 50.0, seed, PLAIN)
    assert len(trace) == pytest.approx(20_000, abs=5 * math.sqrt(20_000))
    assert trace.rate == pytest.approx(400.0, rel=0.05)
    assert all(first <= then for first, then in pairwise(trace.arrived_s))
    assert trace.arrived_s[0] >= 0
    assert trace.seconds == trace.arrived_s[-1] < 50.0


@pytest.mark.parametrize("cv", [0.0, 0.3, 1.0, 4.0])
def test_short_traces_are_not_too_full_whatever_the_scatter(cv: float) -> None:
    """Without a start in equilibrium a CV of 4 would bring 7.5 requests too many to each."""
    counts = [len(from_rates([0, 1], [1, 1], cv, 20.0, 1.0, seed)) for seed in range(800)]
    assert np.mean(counts) == pytest.approx(20, abs=4 * max(float(np.std(counts)), 0.5) / 28)


@pytest.mark.parametrize("made", [*MADE, evenly])
def test_the_same_seed_gives_the_same_trace_and_another_one_another(made: Made) -> None:
    assert made(200.0, 5.0, 7, MIXED) == made(200.0, 5.0, 7, MIXED)
    assert made(200.0, 5.0, 7, MIXED).arrived_s != made(200.0, 5.0, 8, MIXED).arrived_s
    assert made(200.0, 5.0, 7, MIXED).arrived_s == made(200.0, 5.0, 7, PLAIN).arrived_s


def test_poisson_scatters_as_poisson_does_and_bursts_scatter_more() -> None:
    assert dispersion(poisson(1000, 100, 1), 0.01) == pytest.approx(1.0, abs=0.06)
    assert dispersion(bursty(1000, 100, 1), 0.01) > 5
    mild = dispersion(bursty(1000, 100, 1, burstiness=2), 0.01)
    assert 1.2 < mild < dispersion(bursty(1000, 100, 1), 0.01)


def test_longer_bursts_scatter_over_longer_times() -> None:
    short = bursty(1000, 100, 1, burst_s=0.05, quiet_s=0.2)
    assert dispersion(short, 1.0) < 0.5 * dispersion(bursty(1000, 100, 1), 1.0)


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0, 5.0])
def test_gaps_scatter_as_they_are_told_to(cv: float) -> None:
    gaps = np.diff(from_rates([0, 1], [1, 1], cv, 1000.0, 100.0, 3).arrived_s)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.06)


def test_a_scatter_that_so_few_requests_cannot_have_does_not_swallow_them() -> None:
    """As where ten minutes with a CV of 500 are squeezed into a fraction of a second."""
    t_s, cv = range(100), [1.0, 2.0] * 49 + [500.0, 1.0]
    counts = per_part(from_rates(t_s, [1.0] * 100, cv, 100.0, 100.0, 4), 100, 4)
    assert counts == pytest.approx([2500] * 4, rel=0.25)


def test_with_no_scatter_gaps_are_even() -> None:
    gaps = np.diff(from_rates([0, 1], [1, 1], 0, 100.0, 10.0, 3).arrived_s)
    assert gaps == pytest.approx(0.01)


def test_a_day_has_its_peak_at_noon_and_its_trough_at_midnight() -> None:
    night, morning, noon, afternoon, evening = per_part(diurnal(10_000, 10, 1), 10, 5)
    assert noon > 1.5 * max(morning, afternoon) / 1.2 > max(night, evening)
    assert noon == pytest.approx(20_000 * (1 + 0.8 * math.sin(math.pi / 5) * 5 / math.pi), rel=0.03)
    assert max(per_part(diurnal(10_000, 10, 1, swing=0), 10, 5)) < 20_600


# --- Along recorded rates -------------------------------------------------------------------------


def test_requests_follow_recorded_rates_and_none_come_where_there_are_none() -> None:
    trace = from_rates([100, 110, 120, 130], [50, 0, 200, 100], seed=2)
    counts = per_part(trace, 40, 4)
    assert counts[1] == 0
    assert counts == pytest.approx([500, 0, 2000, 1000], abs=150)


def test_rates_are_raised_to_a_mean_and_squeezed_into_a_length() -> None:
    trace = from_rates([0, 10, 20, 30], [50, 0, 200, 100], rate=700, seconds=4, seed=2)
    assert per_part(trace, 4, 4) == pytest.approx([400, 0, 1600, 800], abs=130)


def test_a_scatter_holds_for_its_own_stretch() -> None:
    arrived_s = np.array(from_rates([0, 10], [1000, 1000], [0.2, 3.0], seed=2).arrived_s)
    calm, wild = np.diff(arrived_s[arrived_s < 10]), np.diff(arrived_s[arrived_s > 10])
    assert calm.std() / calm.mean() == pytest.approx(0.2, rel=0.05)
    assert wild.std() / wild.mean() == pytest.approx(3.0, rel=0.15)


# --- Recorded requests ----------------------------------------------------------------------------

MOMENTS = [5.0, 5.5, 8.0, 9.0]  # with the mean gap behind them they last 16/3 s


def test_a_recording_is_taken_as_it_is_from_its_first_request_on() -> None:
    assert recorded(MOMENTS).arrived_s == [0.0, 0.5, 3.0, 4.0]
    assert recorded([3.0]).arrived_s == [0.0]


def test_a_recording_is_stretched_to_a_rate() -> None:
    trace = recorded(MOMENTS, rate=1.5)
    assert trace.arrived_s == pytest.approx([0.0, 0.25, 1.5, 2.0])


def test_a_recording_is_cut_or_repeated_to_a_length() -> None:
    assert recorded(MOMENTS, seconds=3.5).arrived_s == pytest.approx([0.0, 0.5, 3.0])
    again = 16 / 3
    assert recorded(MOMENTS, seconds=again + 1).arrived_s == pytest.approx(
        [0.0, 0.5, 3.0, 4.0, again, again + 0.5]
    )
    assert len(recorded(MOMENTS, rate=100, seconds=30)) == 3000


def test_a_recording_may_begin_within_and_its_first_part_comes_last() -> None:
    again = 16 / 3
    trace = recorded(MOMENTS, seconds=again, begin=0.5, columns={"rows": np.array([1, 2, 3, 4.0])})
    assert trace.arrived_s == pytest.approx([x - again / 2 for x in (3, 4, again, again + 0.5)])
    assert trace.rows == [3, 4, 1, 2]


def test_what_a_recording_says_of_a_request_stays_with_it() -> None:
    columns = {"priority": np.array([0, 1, 2, 3.0]), "leaves_ms": np.array([100, np.inf, 200, 300])}
    trace = recorded(MOMENTS, rate=1.5, seconds=4, mix=MIXED, columns=columns)
    assert trace.ranks == [0, 1, 2, 3, 0, 1]
    left_s = [leaves_s - arrived_s for arrived_s, leaves_s in zip(*times(trace), strict=True)]
    assert left_s == pytest.approx([0.1, NEVER, 0.2, 0.3, 0.1, NEVER])
    assert set(trace.shapes) == {0, 1}, "of what it does not say the mix says the rest"


def times(trace: Trace) -> tuple[list[float], list[float]]:
    return trace.arrived_s, trace.leaves_s


# --- The mix --------------------------------------------------------------------------------------


def test_plain_requests_are_all_alike() -> None:
    trace = poisson(1000, 1, 1)
    assert set(trace.ranks) == {1}
    assert set(trace.rows) == {1}
    assert set(trace.shapes) == {0}
    assert set(trace.timeouts_s) == set(trace.leaves_s) == {NEVER}


@pytest.mark.parametrize("seed", range(3))
def test_a_mix_has_its_shares(seed: int) -> None:
    trace = poisson(20_000, 1, seed, MIXED)
    count = len(trace)
    shares = [Counter(trace.ranks)[rank] / count for rank in range(4)]
    assert shares == pytest.approx([0.2, 0.6, 0.15, 0.05], abs=0.015)
    assert Counter(trace.shapes)[1] / count == pytest.approx(0.3, abs=0.02)
    timeouts_s = [each for each in trace.timeouts_s if each != NEVER]
    assert len(timeouts_s) / count == pytest.approx(0.1, abs=0.01)
    assert 0.05 <= min(timeouts_s) < 0.1 < 0.9 < max(timeouts_s) <= 1.0
    stays_s = [leaves_s - at for at, leaves_s in zip(*times(trace), strict=True)]
    assert sum(each != NEVER for each in stays_s) / count == pytest.approx(0.02, abs=0.006)
    assert min(stays_s) >= 0.01 - 1e-9
    assert max(each for each in stays_s if each != NEVER) <= 0.2 + 1e-9


def test_rows_are_geometric_around_their_mean_and_fit_in_a_request() -> None:
    rows = poisson(20_000, 1, 1, Mix(rows=5)).rows
    assert np.mean(rows) == pytest.approx(5, rel=0.03)
    assert rows.count(1) / len(rows) == pytest.approx(0.2, abs=0.015)
    assert max(poisson(2000, 1, 1, Mix(rows=900)).rows) == 1024


def test_one_share_changed_leaves_the_other_draws_as_they_are() -> None:
    more = Mix(ranks=MIXED.ranks, shapes=(1.0,), rows=3, timing_out=0.5, leaving=MIXED.leaving)
    first, then = poisson(1000, 2, 1, MIXED), poisson(1000, 2, 1, more)
    assert first.ranks == then.ranks
    assert first.leaves_s == then.leaves_s


# --- By what people write -------------------------------------------------------------------------


@pytest.mark.parametrize("made", MADE)
def test_a_trace_is_loaded_by_its_name(made: Callable[..., Trace]) -> None:
    name = made.__name__
    assert load(f"{name}:50", 3, MIXED) == made(50, 60, 3, MIXED)
    assert load(name, 3, rate=80, seconds=7) == made(80, 7, 3)


def test_a_file_of_requests_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(
        "\ufeffrows, note, t_s,priority,timeout_ms,shape\r\n"
        '4,"a, b",10.5,high,250,2\r\n'
        "\r\n"
        ",,11,,,\r\n"
    )
    trace = load(str(path), mix=MIXED)
    assert trace == Trace(
        "mine.csv", [0.0, 0.5], [2, 1], [4, 1], [2, 0], [0.25, NEVER], [NEVER] * 2
    )


def test_a_packed_file_is_loaded_and_its_rows_are_chosen(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv.gz"
    path.write_bytes(gzip.compress(b"who,of,t_s\na,1,9\nb,1,2\na,2,1\nb,1,3\nb,2,4\n"))
    trace = load(f"{path}?who=b&of=1")
    assert (trace.name, trace.arrived_s) == ("mine.csv.gz?who=b&of=1", [0.0, 1.0])


@pytest.mark.parametrize("column", ["cv", "cv_rate_weighted"])
def test_a_file_of_rates_is_loaded(tmp_path: Path, column: str) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(f"t_s,rate_rps,{column}\n0,100,0\n10,50,0\n20,100,3\n")
    trace = load(str(path))
    assert np.diff([each for each in trace.arrived_s if each < 9.9]) == pytest.approx(0.01)
    assert np.diff(trace.arrived_s)[1600:].std() > 0.01
    assert trace == from_rates([0, 10, 20], [100, 50, 100], [0, 0, 3], name="rates.csv")


def test_without_a_column_of_scatter_rates_are_poisson(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text("t_s,rate_rps\n0,100\n60,100\n")
    assert dispersion(load(str(path), rate=1000), 0.01) == pytest.approx(1.0, abs=0.06)


def test_the_examples_of_the_reference_are_traces(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference" / "traces.md").read_text()
    examples = re.findall(r"^```csv\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    path = tmp_path / "example.csv"
    lengths = []
    for example in examples:
        path.write_text(example)
        lengths.append(len(load(str(path), rate=10)))
    assert lengths[0] == 4
    assert lengths[1] == pytest.approx(18_000, abs=2000)


def test_the_five_of_the_benchmarks_have_one_rate_and_differ_by_seed() -> None:
    traces = five(500, 20, 1, MIXED)
    assert [each.name for each in traces] == ["poisson", "bursty", "diurnal", "azure", "servegen"]
    for each, other in zip(traces, five(500, 20, 2, MIXED), strict=True):
        assert each.rate == pytest.approx(500, rel=0.15), each.name
        assert each.arrived_s != other.arrived_s, each.name
    assert traces == five(500, 20, 1, MIXED)
    steady, *others = (dispersion(each, 0.1) for each in traces)
    assert all(other > 2 * steady for other in others)


def test_the_recordings_are_whole() -> None:
    assert len(load(f"{DATA}/llm_azure2023.csv.gz")) == 28_185
    assert len(load(f"{DATA}/llm_azure2023.csv.gz?service=conv")) == 19_366
    for series in ("model=m-large", "model=m-small&gap=0", "model=deepseek-r1"):
        path = f"{DATA}/arrival_servegen_10min.csv.gz?{series}"
        trace = load(path, rate=100, seconds=50)
        assert len(trace) == pytest.approx(5000, rel=0.2), series


# --- Faults ---------------------------------------------------------------------------------------

FAULTS = {
    "": ("no column `t_s`", "here: nothing"),
    "t_s\n": ("the header alone", "one line for each request"),
    "time,rows\n1,2\n": ("no column `t_s`", "here: time, rows"),
    "t_s,t_s\n1,2\n": ("two columns `t_s`", ":1 "),
    "t_s\n1\nsoon\n": ("`t_s` is 'soon'", ":3 "),
    "t_s\n1\n\n\nnan\n": ("`t_s` is 'nan'", ":5 "),
    "t_s\n-1\n": ("`t_s` is '-1'", "a number from 0"),
    "t_s\ninf\n": ("`t_s` is 'inf'", ":2 "),
    "t_s\n1e11\n": ("`t_s` is '1e11'", ":2 "),
    "t_s,rows\n,1\n": ("`t_s` is ''", ":2 "),
    "t_s\n2\n1.5\n": ("falls from 2 to 1.5", ":3 "),
    "t_s,rows\n1,0\n": ("`rows` is '0'", "a whole number from 1 to 1024"),
    "t_s,rows\n1,1.5\n": ("`rows` is '1.5'", ":2 "),
    "t_s,shape\n1,64\n": ("`shape` is '64'", "from 0 to 63"),
    "t_s,priority\n1,urgent\n": ("`priority` is 'urgent'", "one of low, normal, high, critical"),
    "t_s,timeout_ms\n1,0\n": ("`timeout_ms` is '0'", ":2 "),
    "t_s,leaves_ms\n1,-5\n": ("`leaves_ms` is '-5'", ":2 "),
    "t_s,rows\n1,1\n2\n": ("1 cells", ":3 "),
    "t_s,rows\n1,1,1\n": ("3 cells", ":2 "),
    't_s,a\n1,"x\n2,y\n': ("unexpected end of data", "double quotes"),
    "t_s,rate_rps\n0,-1\n": ("`rate_rps` is '-1'", ":2 "),
    "t_s,rate_rps\n0,\n": ("`rate_rps` is ''", ":2 "),
    "t_s,rate_rps,cv\n0,1,1001\n": ("`cv` is '1001'", "from 0 to 1000"),
    "t_s,rate_rps\n0,0\n10,0\n": ("rates at 2 moments, the highest 0", "above 0"),
    "t_s,rate_rps\n5,100\n": ("rates at 1 moments", "at least two moments"),
}


@pytest.mark.parametrize("content", FAULTS)
def test_every_fault_of_a_file_is_told_with_its_value_and_its_line(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(BadInput) as told:
        load(str(path))
    for words in FAULTS[content]:
        assert words in str(told.value)
    assert "mine.csv" in told.value.cause


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("who", "FILE?COLUMN=VALUE"),
        ("where=a", "no column `where`"),
        ("who=c", "who=a, who=b"),
        ("who=a&who2=c", "no column `who2`"),
    ],
)
def test_rows_that_are_not_there_cannot_be_chosen(tmp_path: Path, query: str, words: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("t_s,who\n1,a\n2,b\n3,a\n")
    with pytest.raises(BadInput, match=re.escape(words)):
        load(f"{path}?{query}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", b"t_s\n1\n"),
        ("a.csv.gz", gzip.compress(b"t_s\n" + b"1\n" * 999, mtime=0)[:-12]),
        ("a.csv.gz", gzip.compress(b"t_s\n1\n", mtime=0)[:12] + b"\xff" * 30),
        ("a.csv", b"t_s\n\xff\n"),
        ("a.csv", gzip.compress(b"t_s\n1\n", mtime=0)),
    ],
    ids=["not packed", "cut off", "damaged", "no text", "packed unsaid"],
)
def test_what_is_no_text_is_no_trace(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match="cannot be read as text"):
        load(str(tmp_path / name))


def test_a_folder_is_no_trace(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read as text"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("poison:5", "Did you mean poisson:RATE?"),
        ("nowhere.csv", "Name a file, or poisson:RATE, bursty:RATE, diurnal:RATE."),
        ("", "Name a file"),
        ("poisson", "needs its rate once"),
        ("poisson:", "needs its rate once"),
        ("poisson:many", "poisson:many"),
        ("poisson:0", "cannot have this rate"),
        ("bursty:-3", "cannot have this rate"),
        ("diurnal:nan", "cannot have this rate"),
        ("poisson:inf", "cannot have this rate"),
    ],
)
def test_a_name_that_is_no_trace_is_told(spec: str, words: str) -> None:
    with pytest.raises(BadInput) as told:
        load(spec)
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"rate": 5.0}, "poisson:100, and a rate of 5"),
        ({"seconds": 0.0}, "cannot have this length in seconds"),
        ({"seconds": math.nan}, "cannot have this length in seconds"),
        ({"seed": -1}, "a seed is not negative"),
    ],
)
def test_numbers_that_cannot_be_are_told(more: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=re.escape(words)):
        load("poisson:100", **more)


@pytest.mark.parametrize("more", [{"rate": 0.0}, {"seconds": -1.0}, {"rate": math.inf}])
def test_a_recording_too_is_stretched_by_sane_numbers_only(more: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="cannot have this"):
        recorded(MOMENTS, **more)
    with pytest.raises(BadInput, match="cannot have this"):
        from_rates([0, 1], [5, 5], **more)


def test_one_moment_cannot_be_stretched() -> None:
    with pytest.raises(BadInput, match="3 requests within 0 s"):
        recorded([1.0, 1.0, 1.0], rate=10)


@pytest.mark.parametrize("spec", ["poisson:1e9", "bursty:1e9", "diurnal:1e9"])
def test_more_requests_than_a_trace_may_have_are_refused_before_they_are_made(spec: str) -> None:
    with pytest.raises(LimitReached, match="20000000 are the most"):
        load(spec)
    with pytest.raises(LimitReached, match="20000000 are the most"):
        recorded(MOMENTS, seconds=1e10)
    with pytest.raises(LimitReached, match="20000000 are the most"):
        bursty(1e-6, 1e9)


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        ("TRACE_BYTES", "more than 30 bytes"),
        ("TRACE_LINE_BYTES", "a line of more than 30 bytes"),
        ("TRACE_REQUESTS", "more than 30 rows"),
    ],
)
def test_a_file_is_read_no_further_than_its_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, words: str
) -> None:
    path = tmp_path / "bomb.csv.gz"
    line = "1" + " " * (40 if bound == "TRACE_LINE_BYTES" else 1)
    path.write_bytes(gzip.compress(f"t_s\n{line}\n".encode() + b"1\n" * 10_000))
    monkeypatch.setattr(recordings, bound, 30)
    with pytest.raises(LimitReached, match=words):
        load(str(path))
