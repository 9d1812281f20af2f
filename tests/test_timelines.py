"""Where the time of requests went: which are kept, what is told of them, who finds them.

`Kept` is told times and looked at; a real server is asked, and its command and API are.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.clock import Chance
from paceline.observe import traceparent
from paceline.observe.traceparent import Context
from paceline.serve import digits
from paceline.serve.batch import Dispatched
from paceline.terms.limits import (
    TRACES_ASKED_PER_S,
    TRACES_BAD_PER_S,
    TRACES_RECENT,
    TRACES_SLOT_S,
    TRACES_SLOWEST,
    TRACES_SPAN_S,
    TRACES_TURNED_AWAY_PER_S,
)
from paceline.web.timelines import Kept, Timeline, Why
from paceline.web.traces_api import TracesQuery, kept, parts
from servers import Server
from test_cli import here

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAID = f"00-{TRACE}-{SPAN}-01"

CLOCK_S = 5000.0


def timeline(
    ended_s: float,
    seconds: float,
    why: tuple[Why, ...] = ("slow",),
    name: str = "",
    status: int = 200,
) -> Timeline:
    received_s = ended_s - seconds
    return Timeline(
        name or f"r{ended_s}",
        "digits",
        "v2",
        why,
        TRACE,
        SPAN,
        "",
        received_s,
        received_s,
        received_s,
        None,
        ended_s,
        status,
        "",
        "normal",
        1,
    )


def ended(of: Kept, now: float, seconds: float, *, asked: bool | None = None) -> tuple[Why, ...]:
    """As a request at its end does: few comparisons, and only then a question."""
    of.left -= 1
    if not (seconds > of.over_s or of.left < 0 or now >= of.until_s or asked):
        return ()
    why = of.why(now, seconds, asked=asked)
    if why:
        of.keep(timeline(now, seconds, why))
    return why


# --- Which are kept -------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.floats(0.0001, 2.0)), min_size=1, max_size=200))
def test_the_slowest_are_kept_whatever_came_in_which_order(
    requests: list[tuple[float, float]],
) -> None:
    of, now, all_s = Kept(CLOCK_S, Chance(1)), CLOCK_S, []
    for gap_s, seconds in requests:
        now += gap_s
        if now - CLOCK_S < TRACES_SPAN_S:  # beyond it what is told is of an hour
            ended(of, now, seconds)
            all_s.append(now - (now - seconds))
    told = [each.ended_s - each.received_s for each in of.all()]
    slowest = sorted(all_s, reverse=True)[:TRACES_SLOWEST]
    assert sorted(told, reverse=True)[:TRACES_SLOWEST] == slowest
    slots = math.ceil(TRACES_SPAN_S / TRACES_SLOT_S) + 1
    assert len(told) <= slots * TRACES_SLOWEST


def test_of_many_equally_fast_requests_hardly_any_is_looked_at() -> None:
    of, looked, chance = Kept(CLOCK_S, Chance(1)), 0, Chance(2)
    of.why(CLOCK_S, 0.0)
    for number in range(10_000):
        looked += bool(ended(of, CLOCK_S + number * 1e-3, chance.uniform(0.001, 0.002)))
    assert TRACES_SLOWEST < looked < 12 * TRACES_SLOWEST  # as records do: with the logarithm


def test_another_time_has_its_own_slowest() -> None:
    of = Kept(CLOCK_S, Chance(1))
    for number in range(TRACES_SLOWEST):
        assert ended(of, CLOCK_S + number, 9.0) == ("slow",)
    assert ended(of, CLOCK_S + 20, 0.1) == ()
    assert ended(of, CLOCK_S + TRACES_SLOT_S, 0.1) == ("slow",)


def test_what_was_slow_is_forgotten_after_an_hour() -> None:
    of = Kept(CLOCK_S, Chance(1))
    ended(of, CLOCK_S, 9.0)
    query = TracesQuery()
    later_s = CLOCK_S + TRACES_SPAN_S
    assert len(kept(of.all(), query, later_s, 0.0)) == 1
    assert not kept(of.all(), query, later_s + 1, 0.0)
    for number in range(20):
        ended(of, CLOCK_S + number * TRACES_SLOT_S, 1.0)
    assert 9.0 not in [each.ended_s - each.received_s for each in of.all()]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 1.0])
def test_so_many_are_drawn_as_are_to_be(share: float) -> None:
    of = Kept(CLOCK_S, Chance(7), share)
    drawn = sum("sampled" in ended(of, CLOCK_S + n * 1e-3, 0.001) for n in range(20_000))
    assert drawn == pytest.approx(share * 20_000, rel=0.15)


def test_nothing_faster_than_the_slowest_is_kept_for_being_slow() -> None:
    of = Kept(CLOCK_S, Chance(1))
    for number in range(TRACES_SLOWEST):
        assert ended(of, CLOCK_S, 1.0 + number) == ("slow",)
    assert ended(of, CLOCK_S, 0.99) == ()
    assert ended(of, CLOCK_S, 1.5) == ("slow",)  # in the place of the one that took 1 s
    assert ended(of, CLOCK_S, 1.4) == ()
    assert ended(of, CLOCK_S, 1.6) == ("slow",)


def test_what_is_late_is_kept_up_to_so_many_a_second_and_then_costs_nothing() -> None:
    of = Kept(CLOCK_S, Chance(1))
    for _ in range(TRACES_SLOWEST):
        ended(of, CLOCK_S, 9.0)
    of.objective(0.010)
    late = [ended(of, CLOCK_S + 0.001 * n, 0.011) for n in range(100)]
    assert late.count(("late",)) == TRACES_BAD_PER_S
    assert of.over_s > 0.011  # who is late now is not even looked at
    assert ended(of, CLOCK_S + 1.2, 0.011) == ("late",)
    assert ended(of, CLOCK_S + 1.3, 0.009) == ()
    of.objective(None)
    assert ended(of, CLOCK_S + 2, 0.011) == ()


def test_as_many_failures_are_kept_as_can_be_told_apart() -> None:
    of = Kept(CLOCK_S, Chance(1))
    why = [of.why_failed(CLOCK_S) for _ in range(1000)]
    assert why.count(("failed",)) == TRACES_BAD_PER_S
    for second in range(100):
        of.keep(timeline(CLOCK_S + second, 1.0, of.why_failed(CLOCK_S + second + 1.0)))
    assert len(list(of.all())) == TRACES_RECENT


@given(st.lists(st.floats(0.0, 0.3), min_size=1, max_size=300))
def test_of_those_that_are_turned_away_few_are_kept_each_second_and_all_where_they_are_few(
    gaps_s: list[float],
) -> None:
    of, now, looked = Kept(CLOCK_S, Chance(1)), CLOCK_S, 0
    kept_s: list[float] = []
    for gap_s in gaps_s:
        now += gap_s
        if now >= of.away_until_s:  # as whoever turns away does
            looked += 1
            of.keep_turned_away(timeline(now, 0.01, ("failed",), name=f"{len(kept_s)}"))
            kept_s.append(now)
    assert looked == len(kept_s), "who is not kept is not looked at"
    assert len(list(of.all())) == min(len(kept_s), TRACES_RECENT)
    most = TRACES_TURNED_AWAY_PER_S
    for at, first_s in enumerate(kept_s):
        within = [each for each in kept_s[at:] if each - first_s < 1.0]
        assert len(within) <= 2 * most, "a burst, and what comes in the second after"
    if len(gaps_s) <= most:
        assert len(kept_s) == len(gaps_s)


def test_who_is_turned_away_hides_nobody_who_failed_later() -> None:
    of = Kept(CLOCK_S, Chance(1))
    of.keep(timeline(CLOCK_S, 1.0, of.why_failed(CLOCK_S), "failed"))
    for number in range(100):
        of.keep_turned_away(timeline(CLOCK_S + number, 0.01, ("failed",), "turned away"))
    assert of.why_failed(CLOCK_S + 99) == ("failed",)
    names = [each.id for each in of.all()]
    assert names.count("failed") == 1
    assert names.count("turned away") == TRACES_RECENT


def test_a_caller_who_has_all_recorded_is_held_to_a_number_a_second() -> None:
    of = Kept(CLOCK_S, Chance(1))
    why = [ended(of, CLOCK_S, 0.0, asked=True) for _ in range(1000)]
    assert sum("asked" in each for each in why) == TRACES_ASKED_PER_S
    assert sum(bool(each) for each in why) <= TRACES_ASKED_PER_S + TRACES_SLOWEST


def test_whoever_is_kept_for_two_reasons_is_told_once() -> None:
    of = Kept(CLOCK_S, Chance(1), 1.0)
    of.objective(0.5)
    assert ended(of, CLOCK_S, 1.0, asked=True) == ("asked", "late", "slow")
    assert len(list(of.all())) == 1


def test_chance_decides_only_where_no_caller_does() -> None:
    of = Kept(CLOCK_S, Chance(1), 1.0)
    for _ in range(TRACES_SLOWEST):
        assert "sampled" in ended(of, CLOCK_S, 1.0)
    assert ended(of, CLOCK_S, 0.5) == ("sampled",)
    assert ended(of, CLOCK_S, 0.5, asked=False) == ()
    assert ended(of, CLOCK_S, 0.5, asked=True) == ("asked",)


# --- Where the time went --------------------------------------------------------------------------

moments = st.lists(st.floats(0.0, 10.0), min_size=7, max_size=7).map(sorted)


@given(moments, st.integers(0, 3), st.booleans(), st.booleans())
def test_parts_are_the_whole(at_s: list[float], reached: int, failed: bool, stood: bool) -> None:
    received_s, turn_s, heard_s, queued_s, begun_s, told_s, end_s = at_s
    third_s = (told_s - begun_s) / 4
    timed = (None, None, None) if failed else (third_s, third_s, third_s)
    one = timeline(end_s, end_s - received_s)
    values = {
        **{name: getattr(one, name) for name in one.__struct_fields__},
        "received_s": received_s,
        "heard_s": heard_s if reached >= 1 else None,
        "queued_s": queued_s if reached >= 2 else None,
        "turn_s": turn_s if stood else None,
        "dispatched": Dispatched("size reached", 1, 1, begun_s, told_s, *timed)
        if reached >= 3
        else None,
    }
    told = list(parts(Timeline(**values)))
    assert sum(seconds for _, seconds in told) == pytest.approx(end_s - received_s)
    assert all(seconds >= -1e-9 for _, seconds in told)
    last = {0: "body", 1: "read", 2: "queue", 3: "answer"}[reached]
    assert told[-1][0] == last or turn_s == end_s
    assert ("line" in dict(told)) == (stood and turn_s > received_s)


def test_all_the_time_of_one_that_was_turned_away_was_in_line() -> None:
    one = msgspec.structs.replace(timeline(9.0, 2.0, ("failed",)), queued_s=None, turn_s=9.0)
    assert list(parts(one)) == [("line", 2.0)]


# --- traceparent ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"00-{TRACE}-{SPAN}-fe", False),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", True),
        (f"cc-{TRACE}-{SPAN}-01-", True),
    ],
)
def test_a_context_is_read(value: str, sampled: bool) -> None:
    assert traceparent.read(value.encode()) == Context(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.what",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_is_no_context_means_nothing(value: str) -> None:
    assert traceparent.read(value.encode()) is None


def test_a_context_that_is_said_twice_means_nothing() -> None:
    once = [(b"traceparent", SAID.encode())]
    assert traceparent.of(once) == Context(TRACE, SPAN, sampled=True)
    assert traceparent.of(once * 2) is None
    assert traceparent.of([]) is None


hexes = st.text("0123456789abcdef", min_size=16, max_size=16).filter(lambda each: int(each, 16))


@given(hexes, hexes, st.booleans())
def test_what_is_written_is_read(trace: str, span: str, sampled: bool) -> None:
    context = Context(trace * 2, span, sampled)
    assert traceparent.read(traceparent.written(context)) == context


# --- A server -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    state = tmp_path_factory.mktemp("timelines") / "state"
    with Server(state, "--drain-s", "1", environ={"PACELINE_TRACES__SAMPLE": "0"}) as running:
        yield running


def test_the_slowest_are_told_with_where_their_time_went(server: Server) -> None:
    for number in range(3):
        headers = {"x-request-id": f"slow-{number}"}
        server.ask("POST", "/predict/digits", digits.SAMPLE_ROW, headers=headers)
    answer = server.ask("GET", "/api/traces?model=digits&limit=100")
    told = answer.json["traces"]
    took = [each["took_ms"] for each in told]
    assert took == sorted(took, reverse=True)
    (one,) = [each for each in told if each["id"] == "slow-1"]
    assert (one["model"], one["form"], one["status"]) == ("digits", "predict", 200)
    assert one["why"] == ["slow"]
    assert (one["rows"], one["batch"]["rows"]) == (1, 1)
    names = [each["name"] for each in one["parts"]]
    assert names[-5:] == ["handover", "input", "compute", "output", "answer"]
    assert sum(each["ms"] for each in one["parts"]) == pytest.approx(one["took_ms"], abs=0.01)
    assert str(digits.SAMPLE_ROW[5]) + "," + str(digits.SAMPLE_ROW[6]) not in answer.body.decode()
    assert server.ask("GET", "/api/traces?id=nothing").json == {"traces": []}


def test_a_trace_that_is_recorded_is_kept_and_found_by_either_id(server: Server) -> None:
    for _ in range(15):  # else it would be among the slowest
        server.ask("POST", "/predict/digits", digits.SAMPLE_ROW)
    headers = {"traceparent": SAID, "x-request-id": "recorded"}
    answer = server.ask("POST", "/predict/digits", digits.SAMPLE_ROW, headers=headers)
    assert answer.headers["x-request-id"] == "recorded"
    for asked in ("recorded", TRACE):
        (one,) = server.ask("GET", f"/api/traces?id={asked}").json["traces"]
        assert (one["id"], one["trace_id"]) == ("recorded", TRACE)
        assert "asked" in one["why"]
    headers = {"traceparent": SAID[:-1] + "0", "x-request-id": "unrecorded"}
    server.ask("POST", "/predict/digits", digits.SAMPLE_ROW, headers=headers)
    told = server.ask("GET", "/api/traces?why=asked&order=newest").json["traces"]
    assert [each["id"] for each in told] == ["recorded"]


@pytest.mark.parametrize("rows", [40, 1000], ids=["at once", "in a thread"])
def test_an_answer_that_is_written_later_is_told_its_own_batch(server: Server, rows: int) -> None:
    name = f"later-{rows}"
    headers = {"traceparent": SAID, "x-request-id": name, "accept-encoding": "gzip"}
    headers["content-type"] = "application/json"
    body = json.dumps([digits.SAMPLE_ROW] * rows).encode()
    assert server.ask("POST", "/predict/digits", raw=body, headers=headers).status == 200
    (one,) = server.ask("GET", f"/api/traces?id={name}&order=newest").json["traces"]
    assert one["batch"]["rows"] == one["rows"] == rows
    assert "compute" in [each["name"] for each in one["parts"]]


def test_what_failed_is_told_with_its_error(server: Server) -> None:
    headers = {"x-request-id": "failed", "x-timeout-ms": "0.001"}
    answer = server.ask("POST", "/predict/digits", digits.SAMPLE_ROW, headers=headers)
    assert answer.status in (503, 504)
    (one,) = server.ask("GET", "/api/traces?id=failed&order=newest").json["traces"]
    assert (one["status"], one["error"]) == (answer.status, answer.json["code"])
    assert one["why"] == ["failed"]
    assert one["cause"]
    assert one["cause"] in answer.json["error"]
    told = here("traces", "--id", "failed", "--state", str(server.state)).stdout
    assert told.splitlines()[2].strip() == one["cause"]
    assert server.ask("POST", "/predict/digits", [1, 2]).status == 400
    failed = server.ask("GET", "/api/traces?why=failed&order=newest").json["traces"]
    assert [each["id"] for each in failed] == ["failed"]


def test_a_model_that_is_not_there_is_told_with_those_that_are(server: Server) -> None:
    answer = server.ask("GET", "/api/traces?model=digit")
    assert (answer.status, answer.json["code"]) == (404, "unknown_model")
    assert "Did you mean digits?" in answer.json["remedy"]


def test_the_command_line_tells_the_same_with_bars(server: Server, tmp_path: Path) -> None:
    headers = {"traceparent": SAID.replace("4bf", "4b0"), "x-request-id": "barred"}
    server.ask("POST", "/predict/digits", digits.SAMPLE_ROW, headers=headers)
    state = ("--state", str(server.state))
    head, bar = here("traces", "digits", "--id", "barred", *state).stdout.splitlines()
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d  digits: 200, [\d.]+ ms, 1 row in a batch of 1 \(.+\); asked.*; barred",
        head,
    )
    drawn = bar.split()[0]
    assert re.fullmatch("b*r*q*h*i*c*o*a*", drawn)
    assert len(drawn) == 32
    assert "compute" in bar
    told = json.loads(here("traces", "--id", "barred", "--json", *state).stdout)["traces"]
    assert told == server.ask("GET", "/api/traces?id=barred").json["traces"]
    assert "No such" in here("traces", "--id", "nothing", *state).stdout
    assert "Models here: digits" in here("traces", "nothing", *state).stderr
    nobody = here("traces", "--state", str(tmp_path))
    assert "paceline up" in nobody.stderr
