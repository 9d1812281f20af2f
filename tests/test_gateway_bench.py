"""The harness of `./bench gateway`: its upstream, its readers, its books and its judgement.

No peer is started here; the simulated upstream, asked directly, stands in for a gateway.
"""

import argparse
import asyncio
import itertools
import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchmarks import _gateway_behaviour as behaviours
from benchmarks import _gateway_tables as tables
from benchmarks import _gateway_verdicts as judging
from benchmarks import _open_loop, _streams, _wrk, gateway
from benchmarks._cells import Cell, Cells, Key
from benchmarks._gateway_behaviour import BEHAVIOURS, Came, came
from benchmarks._gateway_cells import LONG, WHATS
from benchmarks._quiet import Disturbance
from benchmarks._upstream import CONTENT, EXTRA_EVENTS, Manner, Seen
from benchmarks.peers import environment
from benchmarks.peers.contender import Command
from benchmarks.peers.environment import Unavailable
from benchmarks.peers.gateways import litellm, nginx, paceline, portkey
from benchmarks.peers.gateways.gateway import (
    CALLER_KEY,
    PROVIDER_KEY,
    Gateway,
    Place,
    bearer,
)
from benchmarks.peers.gateways.known import DIRECT, GATEWAYS, RIVALS
from benchmarks.peers.gateways.relaying import Relaying, Upstream, body, relaying, upstream
from hypothesis import given
from hypothesis import strategies as st

from paceline.clock import RealClock

NOWHERE = Path("/nowhere")


@pytest.fixture(scope="module")
def before() -> Iterator[Upstream]:
    with upstream() as up:
        yield up


@pytest.fixture
def direct(before: Upstream) -> Iterator[Relaying]:
    before.be(Manner())
    with relaying(DIRECT, before, NOWHERE) as up:
        yield up


# --- The upstream ---------------------------------------------------------------------------------


def test_it_answers_a_call_with_usage_and_counts_it(direct: Relaying) -> None:
    before = direct.upstream.seen().calls
    status, said = direct.answer(body())
    answer = json.loads(said)
    assert status == 200
    assert answer["choices"][0]["message"]["content"] == CONTENT
    assert answer["usage"]["total_tokens"] == 52
    assert 380 <= len(said) <= 420
    assert direct.upstream.seen().calls == before + 1


def test_a_stream_has_as_many_chunks_as_it_was_told_and_no_two_alike(direct: Relaying) -> None:
    direct.upstream.be(Manner(chunks=120))
    events = direct.answer(body(stream=True)).body.decode().split("\n\n")[:-1]
    assert len(events) == 120 + EXTRA_EVENTS == len(set(events))
    assert events[-1] == "data: [DONE]"
    said = [json.loads(each.removeprefix("data: "))["choices"][0] for each in events[:-1]]
    assert said[0]["delta"]["role"] == "assistant"
    assert said[-1]["finish_reason"] == "stop"


def test_a_stream_tells_its_usage_where_it_is_asked_for(direct: Relaying) -> None:
    asked = json.loads(body(stream=True)) | {"stream_options": {"include_usage": True}}
    said = direct.answer(json.dumps(asked).encode()).body
    assert b'"choices":[],"usage":{"prompt_tokens":24' in said


def test_the_official_client_sees_what_a_provider_would_do(direct: Relaying) -> None:
    """Refusals of the upstream are right in the table of bad input, whoever passes them on."""
    for what in judging.RIGHT:
        figures, words = came(direct, what)
        seen = Cell(0, "direct", "", "behaviour", "", what, dict(figures), note=words)
        assert judging.is_right(seen), (what, figures, words)
        assert figures["upstream_calls"] == 1


def test_a_cut_stream_is_no_clean_end(direct: Relaying) -> None:
    figures, words = came(direct, "upstream cuts the stream: SDK")
    assert figures == {"clean": 0, "pieces": 10}
    assert "APIConnectionError" in words
    figures, words = came(direct, "upstream cuts the stream: bytes")
    assert figures == {"error_event": 0, "done": 0, "whole": 0}
    assert words == "no error event, no [DONE], a cut body"


def test_a_whole_stream_would_be_a_clean_end(
    direct: Relaying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behaviours, "CUT", Manner(chunks=10))
    assert came(direct, "upstream cuts the stream: SDK").figures == {"clean": 1, "pieces": 10}
    figures = came(direct, "upstream cuts the stream: bytes").figures
    assert figures == {"error_event": 0, "done": 1, "whole": 1}


def test_it_tells_when_a_caller_left(direct: Relaying) -> None:
    for what in ("caller leaves a plain call", "caller leaves a stream"):
        figures = came(direct, what).figures
        assert figures["seen"] == 1
        assert figures["worst_ms"] >= 0
    assert direct.upstream.seen().open == 0


def test_an_upstream_that_hears_of_no_leaver_is_told(
    direct: Relaying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behaviours, "PATIENCE_S", 0.02)
    monkeypatch.setattr(behaviours, "NEVER", Manner())
    figures, words = came(direct, "caller leaves a plain call")
    assert figures == {"within_100_ms": 0, "seen": 0}
    assert "goes on" in words


def test_each_of_a_hundred_identical_calls_counts(
    direct: Relaying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behaviours, "SLOW", Manner(delay_ms=20.0))
    figures = came(direct, "100 identical at once").figures
    assert figures == {"upstream_calls": 100, "again": 100, "answered": 100}


def test_a_gateway_that_answers_no_more_is_told(direct: Relaying) -> None:
    assert came(direct, "still answers") == Came({"right": 1}, "")
    direct.headers = bearer("another key")
    figures, words = came(direct, "still answers")
    assert figures == {"right": 0}
    assert "status 401" in words


# --- Readers of streams ---------------------------------------------------------------------------


def test_streams_are_read_at_their_pace_and_counted(direct: Relaying) -> None:
    direct.upstream.be(Manner(gap_ms=5.0, chunks=10))
    request = _streams.raw(direct.asked(body(stream=True))).decode()
    wanted = _streams.Wanted(direct.port, request, 4, 0.1, 0.1, 0.5)
    told: list[str] = []
    seen = asyncio.run(_streams.watch(wanted, lambda: told.append("begun")))
    assert told == ["begun"]
    assert (seen.failed, seen.short) == (0, 0)
    assert 0 < seen.ended <= 24
    assert len(seen.first_ms) <= 24
    assert seen.first(0.5) == sorted(seen.first_ms)[len(seen.first_ms) // 2]
    offered = 4 * 10 / 0.1
    assert 0 < seen.chunks_a_second < 1.3 * offered


def test_streams_that_are_refused_fail(direct: Relaying) -> None:
    direct.headers = bearer("another key")
    request = _streams.raw(direct.asked(body(stream=True))).decode()
    wanted = _streams.Wanted(direct.port, request, 2, 0.02, 0.0, 0.1)
    seen = asyncio.run(_streams.watch(wanted, lambda: None))
    assert seen.failed == seen.ended > 0
    assert seen.first_ms == []
    assert seen.first(0.5) is None


EVENTS = b"".join(b'data: {"n":%d}\n\n' % number for number in range(6))


@given(st.lists(st.integers(0, len(EVENTS)), max_size=8))
def test_events_are_counted_wherever_the_pieces_are_cut(cuts: list[int]) -> None:
    async def counted() -> int:
        tally = _streams._Tally()
        tally.counts = True
        stream = _streams._Stream(tally, RealClock())
        stream.head(200, [])
        ends = [0, *sorted(cuts), len(EVENTS)]
        for start, end in itertools.pairwise(ends):
            if end > start:
                stream.body(EVENTS[start:end])
        return tally.events

    assert asyncio.run(counted()) == 6


# --- What is measured -----------------------------------------------------------------------------


def test_only_wants_of_each_kind_what_was_named_and_the_long_ones_by_name() -> None:
    key = Key(0, "portkey", "0 ms upstream", "throughput", "", "c=1")
    assert gateway.only("").wants(key)
    assert gateway.only("throughput, portkey").wants(key)
    assert not gateway.only("litellm").wants(key)
    assert not gateway.only("latency").wants(key)
    absent = Key(0, "portkey", "", "absent", "", "latency")
    assert gateway.only("latency").wants(absent)
    assert not gateway.only("start").wants(absent)
    assert set(gateway.only("").whats) == set(WHATS) - set(LONG)
    assert gateway.only("flat").whats == ["flat"]
    with pytest.raises(SystemExit, match="knows no litelm"):
        gateway.only("litelm")


def test_everybody_is_measured_beside_the_others_and_is_first_at_some_time() -> None:
    count = len(GATEWAYS)
    listed = list(gateway.turns(count, ["latency", "start"]))
    assert len(set((run, what, each.name) for run, what, each in listed)) == 2 * count**2
    assert {each.name for _, what, each in listed[:count]} == set(GATEWAYS)
    assert {what for _, what, _ in listed[:count]} == {"latency"}
    assert {listed[run * 2 * count][2].name for run in range(count)} == set(GATEWAYS)


def test_each_measurement_has_its_cells() -> None:
    def levels(name: str, what: str, run: int = 0) -> list[str]:
        return [f"{key.model} {key.level}" for key in gateway.keys_of(run, GATEWAYS[name], what)]

    assert levels("litellm", "throughput")[-2:] == ["50 ms upstream c=64", "50 ms upstream c=256"]
    assert levels("litellm", "latency") == ["0 ms upstream 50/s", "0 ms upstream 200/s"]
    assert levels("litellm", "streaming") == ["20 ms gaps ", "2 ms gaps ", "no gaps "]
    assert levels("litellm", "memory") == [" idle", " after 50,000"]
    assert len(levels("litellm", "behaviour")) == len(BEHAVIOURS)
    assert levels("litellm", "behaviour", run=1) == levels("litellm", "flat", run=1) == []
    assert levels("direct", "start") == levels("litellm-2-workers", "behaviour") == []


class Recorded(gateway.Bench):
    """Notes what it would measure."""

    def __init__(self, cells: Cells, runs: int, only: str) -> None:
        super().__init__(cells, _asked(runs), gateway.only(only))
        self.visited: list[tuple[int, str, str, int]] = []

    def _visit(
        self,
        run: int,
        gateway: Gateway,
        what: str,
        missing: list[Key],  # type: ignore[override]
    ) -> None:
        self.visited.append((run, gateway.name, what, len(missing)))
        for key in missing:
            self._cells.add(Cell(*key, {"rate": 1.0}))


def _asked(runs: int = 1) -> argparse.Namespace:
    return argparse.Namespace(peers=NOWHERE, seconds=1.0, quick=False, runs=runs)


def test_what_is_there_is_not_measured_again(tmp_path: Path) -> None:
    file = tmp_path / "cells.json"
    first = Recorded(Cells(file), 1, "portkey,latency,start")
    first.run()
    assert first.visited == [(0, "portkey", "start", 1), (0, "portkey", "latency", 2)]
    second = Recorded(Cells(file), 2, "portkey,latency,start")
    second.run()
    assert second.visited == [(1, "portkey", "start", 1), (1, "portkey", "latency", 2)]


@pytest.fixture
def answered(before: Upstream, monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """Whoever is started listens nowhere, and the upstream answers in its place."""
    before.be(Manner())
    monkeypatch.setattr("benchmarks.peers.gateways.relaying.free_port", lambda: before.port)
    return before


def stands_in(*argv: str, key: str = PROVIDER_KEY) -> Gateway:
    return Gateway("stand-in", "", lambda _: Command(argv, {}, bearer(key)), lambda _: "1")


def test_a_gateway_is_started_timed_and_stopped_whole(answered: Upstream) -> None:
    with relaying(stands_in("sleep", "60"), answered, NOWHERE) as up:
        assert up.started_s > 0
        assert up.pss_mb() > 0
        assert set(up.pids()).isdisjoint(answered.pids())
        assert up.both_cpu_s() >= answered.cpu_s() > 0
    assert not up.pids()


def test_a_gateway_that_refuses_its_key_is_unavailable(
    answered: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.peers.started.START_S", 0.1)
    refusing = stands_in("sleep", "60", key="wrong")
    with (
        pytest.raises(Unavailable, match=r"no right answer in .* status 401"),
        relaying(refusing, answered, NOWHERE),
    ):
        pass


def test_who_cannot_be_had_is_told_as_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Upstream
) -> None:
    @contextmanager
    def up() -> Iterator[Upstream]:
        yield before

    def none(*_: object) -> None:
        raise Unavailable("no matching distribution")

    monkeypatch.setattr(gateway, "upstream", up)
    monkeypatch.setattr(portkey, "node_packages_of", none)
    cells = Cells(tmp_path / "cells.json")
    gateway.Bench(cells, _asked(), gateway.only("portkey,latency")).run()
    (cell,) = cells.every()
    assert (cell.what, cell.level, cell.note) == ("absent", "latency", "no matching distribution")
    told = tables.in_words(cells, "portkey")
    assert told == {"portkey, absent": "absent from latency: no matching distribution"}


# --- How it is measured ---------------------------------------------------------------------------


class Fake(SimpleNamespace):
    """A gateway and its upstream, without processes; `calls` are those the upstream had."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, calls=0, mb=50.0, manners=[], url="")
        self.upstream = self

    def be(self, manner: Manner) -> None:
        self.manners.append(manner)

    def seen(self) -> SimpleNamespace:
        return SimpleNamespace(calls=self.calls, open=0)

    def asked(self, sent: bytes) -> Any:
        return SimpleNamespace(body=sent)

    def pss_mb(self) -> float:
        return float(self.mb)

    def cpu_s(self) -> float:
        return 0.0

    def both_cpu_s(self) -> float:
        return 0.0


def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[gateway.Bench, Cells, Fake]:
    """With a gateway that is asked nothing for real, and nothing that disturbs."""

    @contextmanager
    def without(*_: object) -> Iterator[Fake]:
        yield Fake("direct")

    monkeypatch.setattr(gateway, "relaying", without)
    monkeypatch.setattr(gateway, "SETTLED_S", 0.0)
    monkeypatch.setattr(gateway, "watched", lambda work, _: (work(), Disturbance(0.0, 0.0)))
    cells = Cells(tmp_path / "cells.json")
    return gateway.Bench(cells, _asked(), gateway.only("")), cells, Fake("ours")


def test_added_latency_is_that_of_the_gateway_less_that_of_the_upstream_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, cells, ours = bench(tmp_path, monkeypatch)
    order: list[str] = []

    def seen(side: Fake, asked: list[Any], rate: float, *_: object) -> _open_loop.Seen:
        assert len({each.body for each in asked}) == len(asked) > 1
        order.append(side.name)
        p50 = 0.5 if side.name == "ours" else 0.2
        times = _open_loop.Times(p50_ms=p50, p99_ms=3 * p50, p90_ms=2 * p50)
        return _open_loop.Seen(100, rate, rate, 100, 0, 0, times, None, None)

    monkeypatch.setattr(gateway, "open_loop", seen)
    for run in (0, 1):
        key = Key(run, "paceline", "0 ms upstream", "latency", "", "200/s")
        made._latency(key, ours)  # type: ignore[arg-type]
    assert order == ["direct", "ours", "ours", "direct"]
    added = cells.every()[0].figures
    assert added["added_p50_ms"] == pytest.approx(0.3)
    assert added["added_p99_ms"] == pytest.approx(0.9)
    assert added["direct_p90_ms"] == pytest.approx(0.4)


def test_the_next_measurement_waits_for_calls_that_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway, "SETTLED_S", 0.0)
    left = [(1, 0), (2, 1), (3, 1), (3, 1), (3, 0), (4, 0)]
    busy = SimpleNamespace(seen=lambda: Seen(*left.pop(0), []))
    gateway.settle(SimpleNamespace(upstream=busy))  # type: ignore[arg-type]
    assert left == [(4, 0)]


def test_latencies_that_are_not_told_add_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, cells, ours = bench(tmp_path, monkeypatch)
    late = _open_loop.Seen(100, 200.0, 200.0, 0, 0, 100, None, None, None, not_told="was late")
    monkeypatch.setattr(gateway, "open_loop", lambda *_: late)
    key = Key(0, "litellm", "0 ms upstream", "latency", "", "200/s")
    made._latency(key, ours)  # type: ignore[arg-type]
    (cell,) = cells.every()
    assert "added_p50_ms" not in cell.figures
    assert cell.figures["failed_share"] == 1.0
    assert "200/s not told: was late" in tables.tables(cells)


def test_who_is_so_far_behind_that_it_cannot_be_asked_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, cells, ours = bench(tmp_path, monkeypatch)

    def behind(*_: object) -> _open_loop.Seen:
        raise Unavailable("nothing answers in time")

    monkeypatch.setattr(gateway, "open_loop", behind)
    key = Key(0, "litellm", "0 ms upstream", "latency", "", "200/s")
    made._latency(key, ours)  # type: ignore[arg-type]
    assert "200/s not told: nothing answers in time" in tables.tables(cells)


def test_a_load_that_could_not_begin_says_why() -> None:
    with pytest.raises(Unavailable, match="nothing answers in time"):
        _open_loop.parsed('{"error":"the server cannot be asked: nothing answers in time"}')


def wrk(up: Fake, seconds: float, rate: float) -> _wrk.Seen:
    requests = round(rate * seconds)
    up.calls += requests
    return _wrk.Seen(requests, seconds, 0, 0, 0, 1.0, 2.0, 3.0)


def test_memory_is_taken_when_the_upstream_had_the_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, cells, ours = bench(tmp_path, monkeypatch)
    monkeypatch.setattr(gateway, "load", lambda up, *_, seconds, folder: wrk(up, seconds, 4e3))
    made._memory(Key(0, "a", "", "memory", "", "after 50,000"), ours)  # type: ignore[arg-type]
    assert 50_000 <= cells.every()[0].figures["calls"] <= 55_000


def test_who_is_slow_need_not_have_all_the_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, cells, ours = bench(tmp_path, monkeypatch)
    monkeypatch.setattr(gateway, "load", lambda up, *_, seconds, folder: wrk(up, seconds, 100.0))
    made._memory(Key(0, "a", "", "memory", "", "after 50,000"), ours)  # type: ignore[arg-type]
    calls = cells.every()[0].figures["calls"]
    assert 100 * gateway.MOST_S <= calls <= 100 * (gateway.MOST_S + gateway.STRETCH_S)


def test_a_million_calls_show_whether_memory_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, cells, ours = bench(tmp_path, monkeypatch)

    def load(up: Fake, *_: object, seconds: float, folder: Path) -> _wrk.Seen:
        up.mb += seconds
        return wrk(up, seconds, 20e3)

    monkeypatch.setattr(gateway, "load", load)
    made._flat(Key(0, "paceline", "", "flat"), ours)  # type: ignore[arg-type]
    (cell,) = cells.every()
    assert len([name for name in cell.figures if name.startswith("mb_")]) == 10
    assert cell.figures["growth_mb"] == pytest.approx(45, rel=0.1)
    assert cell.note == ""
    (told,) = [each for each in judging.verdicts(cells) if "a million calls" in each.line]
    assert told.holds is False


def test_a_million_calls_that_take_too_long_are_told_as_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, cells, ours = bench(tmp_path, monkeypatch)
    monkeypatch.setattr(gateway, "load", lambda up, *_, seconds, folder: wrk(up, seconds, 200.0))
    made._flat(Key(0, "litellm", "", "flat"), ours)  # type: ignore[arg-type]
    (cell,) = cells.every()
    assert sorted(cell.figures) == ["calls", "growth_mb", *(f"mb_{n}00000" for n in (1, 2, 3))]
    assert "no more in" in cell.note


# --- Judgement ------------------------------------------------------------------------------------


def holds(cells: Cells) -> dict[str, bool | None]:
    return {each.line: each.holds for each in judging.verdicts(cells)}


def at(name: str, what: str, figures: dict[str, float], model: str = "", level: str = "") -> Cell:
    return Cell(0, name, model, what, "", level, figures)


def test_the_lines_of_the_issue_are_judged_from_the_cells(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.json")
    added = {"added_p50_ms": 0.39, "added_p99_ms": 1.6}
    cells.add(at("paceline", "latency", added, "0 ms upstream", "200/s"))
    closed = {"rate": 15_001.0, "cpu_ms": 0.05}
    cells.add(at("paceline", "throughput", closed, "0 ms upstream", "c=64"))
    closed = {"rate": 100.0, "cpu_ms": 10.0}
    cells.add(at("litellm", "throughput", closed, "0 ms upstream", "c=64"))
    streamed = {"chunks": 21_400.0, "cpu_share": 0.56}
    cells.add(at("paceline", "streaming", streamed, "2 ms gaps"))
    cells.add(at("paceline", "memory", {"mb": 101.0}, "", "after 50,000"))
    found = holds(cells)
    assert found["added at 200/s, p50: at most 0.4 ms"] is True
    assert found["added at 200/s, p99: at most 1.5 ms"] is False
    rates = "one front, {} callers, 0 ms upstream: at least {} requests/s"
    assert found[rates.format(64, "15,000")] is True
    assert found[rates.format(256, "12,000")] is None
    assert found["CPU a call with 64 callers, of LiteLLM's: at most 0.01"] is True
    assert found["50 streams at 2 ms gaps: at least 21,000 chunks/s"] is True
    assert found["50 streams at 2 ms gaps: at most 0.55 of a core"] is False
    assert found["memory after 50,000 calls: at most 100 MB"] is False


def rates(cells: Cells, found: dict[str, float]) -> Any:
    for name, rate in found.items():
        cells.add(at(name, "throughput", {"rate": rate}, "0 ms upstream", "c=64"))
    lines = judging.verdicts(cells)
    return next(each for each in lines if each.line.startswith("rate with 64 callers"))


def test_losing_to_a_rival_fails_and_losing_to_the_limit_does_not(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.json")
    told = rates(cells, {"paceline": 20e3, "nginx": 40e3, "litellm": 100.0})
    assert told.holds is True
    assert "litellm 200" in told.found
    assert "portkey not told" in told.found
    assert "nginx 0.5" in told.found
    assert rates(cells, {"portkey": 21e3}).holds is False


def test_what_may_be_about_nothing_is_compared_by_difference(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.json")
    for name, p50 in (("paceline", 0.1), ("fastapi-httpx", -0.02), ("portkey", 3.0)):
        cells.add(at(name, "latency", {"added_p50_ms": p50}, "0 ms upstream", "200/s"))
    lines = judging.verdicts(cells)
    told = next(each for each in lines if each.line.startswith("added at 200/s, p50, ours"))
    assert told.holds is False
    assert "fastapi-httpx +0.12 ms" in told.found
    assert "portkey -2.9 ms" in told.found


def behaved(level: str, note: str, **figures: float) -> Cell:
    return Cell(0, "paceline", "", "behaviour", "", level, dict(figures), note=note)


@pytest.mark.parametrize(
    ("cell", "right"),
    [
        (behaved("malformed JSON", "BadRequestError code=None type=a: b", status=400), True),
        (behaved("malformed JSON", "InternalServerError code=None type=a", status=500), False),
        (behaved("unknown model", "no error", status=200), False),
        (behaved("wrong key", "BadRequestError code=None type=a", status=400), False),
        (behaved("upstream 500", "InternalServerError code=x type=a", status=502), True),
        (behaved("upstream 429", "RateLimitError code=rate_limit_exceeded t", status=429), True),
        (behaved("upstream 429", "RateLimitError code=429 type=throttling", status=429), False),
    ],
)
def test_bad_input_wants_status_class_and_the_code_of_the_upstream(cell: Cell, right: bool) -> None:
    assert judging.is_right(cell) is right


def test_a_cut_stream_that_ends_as_a_whole_one_fails(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.json")
    what = "upstream cuts the stream: bytes"
    line = "a cut stream ends with an error event, without [DONE], and is not whole"
    assert holds(cells)[line] is None
    cells.add(behaved(what, "", error_event=1, done=0, whole=0))
    assert holds(cells)[line] is True
    cells.add(behaved(what, "", error_event=1, done=1, whole=1))
    assert holds(cells)[line] is False
    what, line = "upstream cuts the stream: SDK", "a cut stream is an APIError for the SDK"
    cells.add(behaved(what, "APIConnectionError code=None", clean=0, pieces=1))
    judged = {name: each for name, each in holds(cells).items() if name.startswith(line)}
    assert list(judged.values()) == [False]


def test_the_tables_name_figures_and_losses(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.json")
    streamed = {"chunks": 1500.0, "cpu_share": 1.0, "failed": 3.0, "added_first_p50_ms": 700.0}
    cells.add(at("litellm", "streaming", streamed, "2 ms gaps"))
    cells.add(at("nginx", "throughput", {"rate": 41e3, "p99_ms": 3.2}, "50 ms upstream", "c=256"))
    told = tables.tables(cells)
    assert "2 ms gaps 1,500, 700 / –, 100%, 3 failed" in told
    assert "c=256 50 ms 41,000 (3.2)" in told


def test_the_plot_has_a_group_for_each_thing_that_was_measured(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.json")
    rates(cells, {"paceline": 20e3, "paceline-again": 19e3, "litellm": 100.0})
    drawn = tables.drawn(cells)
    assert "Requests/s, 0 ms upstream, c=64" in drawn
    assert drawn.index(">paceline<") < drawn.index(">litellm<")
    assert "paceline-again" not in drawn
    assert "Memory" not in drawn


# --- Peers ----------------------------------------------------------------------------------------


def test_what_peers_need_is_pinned() -> None:
    for name in ("litellm", "litellm-alone", "fastapi-httpx"):
        text = (environment.REQUIREMENTS / f"requirements-{name}.txt").read_text()
        wanted = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert wanted
        assert all("==" in line for line in wanted), name
    package = json.loads((environment.REQUIREMENTS / "package-portkey.json").read_text())
    assert package["dependencies"]["hono"] == package["overrides"]["hono"] == "4.9.7"
    assert set(RIVALS) < set(GATEWAYS)
    assert all(set(each.whats) <= set(WHATS) for each in GATEWAYS.values())


def place(tmp_path: Path) -> Place:
    return Place(21_234, "http://127.0.0.1:21999/v1", tmp_path, NOWHERE)


def test_nginx_listens_on_the_loopback_and_wants_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nginx, "_binary", lambda: "nginx")
    command = nginx.NGINX.command(place(tmp_path))
    written = (tmp_path / "nginx.conf").read_text()
    assert "listen 127.0.0.1:21234 " in written
    assert "server 127.0.0.1:21999;" in written
    assert f'"Bearer {CALLER_KEY}" 1;' in written
    assert command.headers == bearer(CALLER_KEY)


def test_litellm_is_given_one_deployment_and_no_retries() -> None:
    said: Any = litellm.config("http://127.0.0.1:21999/v1")
    (target,) = said["model_list"]
    assert target["litellm_params"]["api_base"] == "http://127.0.0.1:21999/v1"
    assert said["litellm_settings"]["num_retries"] == 0
    assert said["general_settings"]["master_key"] == CALLER_KEY


def test_ours_is_given_one_provider() -> None:
    said = tomllib.loads(paceline.settings("http://127.0.0.1:21999/v1"))
    (provider,) = said["providers"].values()
    assert provider["url"] == "http://127.0.0.1:21999/v1"
    assert PROVIDER_KEY not in str(said)


def test_packages_of_node_are_installed_once_and_again_when_the_list_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    wanted = lists / "package-small.json"
    wanted.write_text("{}")
    monkeypatch.setattr(environment, "REQUIREMENTS", lists)
    ran: list[tuple[str, ...]] = []

    def run(*command: str) -> str:
        ran.append(command)
        return ""

    monkeypatch.setattr(environment, "_run", run)
    with pytest.raises(Unavailable, match="small is not installed"):
        environment.node_packages_of("small", tmp_path / "peers", make=False)
    found = environment.node_packages_of("small", tmp_path / "peers")
    assert found == tmp_path / "peers" / "small" / "node_modules"
    environment.node_packages_of("small", tmp_path / "peers")
    assert len(ran) == 1
    assert "--ignore-scripts" in ran[0]
    wanted.write_text('{"private": true}')
    environment.node_packages_of("small", tmp_path / "peers")
    assert len(ran) == 2


def test_a_program_that_is_missing_makes_a_peer_unavailable() -> None:
    with pytest.raises(Unavailable, match="no-such-program is not installed"):
        environment._run("no-such-program", "install")
