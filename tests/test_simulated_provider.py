"""The simulated provider: when its answers come, how they fail, and what they say."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.clock import Chance, SimulatedClock, run_simulated
from paceline.gateway.call import Ask, Dialect, Headers
from paceline.gateway.provider import Lost, Running
from paceline.gateway.providers.simulated import MODELS, SimulatedProvider, Simulation, offers
from paceline.gateway.providers.simulated.wishes import FAULTS
from paceline.terms.errors import BadValue
from paceline.testing.provider_contract import Recorder

DEADLINE_S = 30.0
AT_ONCE = Simulation(latency_ms=0, token_ms=0)
STEADY = Simulation(latency_ms=100, token_ms=10, spread=0)
HI = [{"role": "user", "content": "Hi"}]

ADDRESSES: list[tuple[Dialect, str, dict[str, Any]]] = [
    ("openai", "/chat/completions", {"messages": HI}),
    ("openai", "/completions", {"prompt": "Hi"}),
    ("openai", "/responses", {"input": "Hi"}),
    ("anthropic", "/messages", {"messages": HI, "max_tokens": 1000}),
]


class Heard:
    """What came, and when; `react` is called with each thing's name, as it comes."""

    def __init__(self, clock: SimulatedClock) -> None:
        self.clock = clock
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.told: list[tuple[str, float]] = []
        self.why: Lost | None = None
        self.react: Callable[[str], None] = lambda what: None

    def head(self, status: int, headers: Headers) -> None:
        self.status, self.headers = status, dict(headers)
        assert len(self.headers) == len(headers), "a header came twice"
        self._tell("head")

    def body(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self._tell("body")

    def end(self) -> None:
        self._tell("end")

    def lost(self, why: Lost, detail: str) -> None:
        assert detail
        self.why = why
        self._tell("lost")

    def _tell(self, what: str) -> None:
        self.told.append((what, round(self.clock.now(), 6)))
        self.react(what)

    @property
    def whats(self) -> list[str]:
        return [what for what, _ in self.told]

    @property
    def json(self) -> Any:
        return json.loads(b"".join(self.pieces))

    @property
    def ended_s(self) -> float:
        return self.told[-1][1]


class Scene(NamedTuple):
    clock: SimulatedClock
    provider: SimulatedProvider

    def ask(self, path: str, body: object, method: str = "POST") -> tuple[Heard, Running]:
        heard = Heard(self.clock)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        ask = Ask(method, path, [], raw, self.clock.now() + DEADLINE_S)
        running = self.provider.complete(ask, heard)
        assert not heard.told, "something was called back before `complete` returned"
        return heard, running

    async def pass_s(self, seconds: float) -> None:
        await self.clock.until(self.clock.now() + seconds)


def scene(
    dialect: Dialect, clock: SimulatedClock, simulation: Simulation = STEADY, seed: int = 1
) -> Scene:
    return Scene(clock, SimulatedProvider(dialect, simulation, clock, Chance(seed)))


def heard(
    dialect: Dialect,
    path: str,
    body: object,
    simulation: Simulation = STEADY,
    method: str = "POST",
    seed: int = 1,
) -> Heard:
    """One call, to its end."""

    async def main(clock: SimulatedClock, chance: Chance) -> Heard:
        here = scene(dialect, clock, simulation, seed)
        told, _ = here.ask(path, body, method)
        await here.pass_s(2 * DEADLINE_S)
        assert not here.provider.running
        return told

    return run_simulated(main)


def chat(model: str = "sim-small", simulation: Simulation = STEADY, **fields: Any) -> Heard:
    body = {"model": model, "messages": HI, **fields}
    return heard("openai", "/chat/completions", body, simulation)


def events(told: Heard) -> list[Any]:
    """The data of each event that is JSON."""
    lines = b"".join(told.pieces).decode().splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return [json.loads(each) for each in data if each != "[DONE]"]


# --- Time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dialect", "path", "fields"), ADDRESSES)
def test_a_whole_answer_comes_when_its_last_token_would(
    dialect: Dialect, path: str, fields: dict[str, Any]
) -> None:
    told = heard(dialect, path, {"model": "sim-small:tokens=40", **fields})
    assert told.whats == ["head", "body", "end"]
    assert told.status == 200
    assert {moment for _, moment in told.told} == {0.5}
    assert told.headers[b"content-length"] == b"%d" % len(told.pieces[0])


@pytest.mark.parametrize(("dialect", "path", "fields"), ADDRESSES)
def test_a_stream_comes_token_by_token(dialect: Dialect, path: str, fields: dict[str, Any]) -> None:
    told = heard(dialect, path, {"model": "sim-small:tokens=40", "stream": True, **fields})
    assert told.told[0] == ("head", 0.1)
    assert told.told[-1] == ("end", 0.5)
    moments = sorted({moment for what, moment in told.told if what == "body"})
    assert moments[-40:] == [pytest.approx(0.1 + 0.01 * token) for token in range(1, 41)]
    assert all(piece.endswith(b"\n\n") for piece in told.pieces)


def test_the_large_model_takes_three_times_as_long() -> None:
    assert chat("sim-large:tokens=40").ended_s == pytest.approx(1.5)


def test_a_caller_may_wish_for_another_speed() -> None:
    assert chat("sim-small:tokens=40:latency_ms=200:token_ms=1").ended_s == pytest.approx(0.24)


def test_answers_differ_in_speed_by_the_spread_alone() -> None:
    simulation = Simulation(latency_ms=100, token_ms=10, spread=0.5)
    bodies = [{"model": "sim-small:tokens=40", "messages": HI}] * 50
    took = [
        heard("openai", "/chat/completions", body, simulation, seed=seed).ended_s
        for seed, body in enumerate(bodies)
    ]
    assert 0.25 <= min(took) < 0.3
    assert 0.7 < max(took) <= 0.75


def test_the_same_seed_gives_the_same_answers_byte_for_byte() -> None:
    one = heard("openai", "/chat/completions", {"model": "sim-small", "messages": HI}, seed=4)
    other = heard("openai", "/chat/completions", {"model": "sim-small", "messages": HI}, seed=4)
    another = heard("openai", "/chat/completions", {"model": "sim-small", "messages": HI}, seed=5)
    assert (one.told, one.pieces) == (other.told, other.pieces)
    assert one.json["id"] != another.json["id"]
    assert one.json["choices"] == another.json["choices"]


def test_one_answer_without_delays_does_not_hold_up_the_loop() -> None:
    """Others get their turn at least every 64 pieces."""

    async def main(clock: SimulatedClock, chance: Chance) -> None:
        here = scene("openai", clock, AT_ONCE)
        body = {"model": "sim-small:tokens=2000", "messages": HI, "stream": True}
        told, _ = here.ask("/chat/completions", body)
        most = before = 0
        while "end" not in told.whats:
            await here.pass_s(0)
            most, before = max(most, len(told.pieces) - before), len(told.pieces)
        assert len(told.pieces) > 2000
        assert most <= 64

    run_simulated(main, shuffle=False)


# --- Stop, pause, close ---------------------------------------------------------------------------


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("stream", [True, False])
def test_whoever_stops_hears_nothing_more(after_s: float, stream: bool) -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        here = scene("openai", clock)
        body = {"model": "sim-small:tokens=50", "messages": HI, "stream": stream}
        told, running = here.ask("/chat/completions", body)
        await here.pass_s(after_s)
        before = list(told.told)
        running.stop()
        assert not here.provider.running
        await here.pass_s(2 * DEADLINE_S)
        assert told.told == before
        running.stop()
        running.pause()
        running.resume()
        await here.pass_s(1)
        assert told.told == before

    run_simulated(main)


@pytest.mark.parametrize("what", ["head", "body"])
@pytest.mark.parametrize("model", ["sim-small", "sim-small:cut", "sim-small:error"])
@pytest.mark.parametrize("stream", [True, False])
def test_whoever_stops_while_something_is_told_hears_nothing_more(
    what: str, model: str, stream: bool
) -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        for simulation in (STEADY, AT_ONCE):
            here = scene("openai", clock, simulation)
            body = {"model": model, "messages": HI, "stream": stream}
            told, running = here.ask("/chat/completions", body)

            def stop(told: str, running: Running = running) -> None:
                if told == what:
                    running.stop()

            told.react = stop
            await here.pass_s(2 * DEADLINE_S)
            assert told.whats.count(what) == 1
            assert told.whats[-1] == what
            assert not here.provider.running

    run_simulated(main)


def test_nothing_comes_while_its_hearer_pauses_and_the_rest_follows_in_order() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        here = scene("openai", clock)
        told, running = here.ask("/chat/completions", body)
        await here.pass_s(0.301)
        running.pause()
        running.pause()
        before = list(told.told)
        await here.pass_s(10)
        assert told.told == before
        running.resume()
        assert told.told == before, "something was called back within `resume`"
        await here.pass_s(10)
        assert b"".join(told.pieces) == b"".join(whole.pieces)
        assert told.ended_s == pytest.approx(10.301)

    body = {"model": "sim-small:tokens=50", "messages": HI, "stream": True}
    whole = heard("openai", "/chat/completions", body)
    run_simulated(main)


def test_whoever_pauses_at_a_piece_hears_no_other() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        here = scene("openai", clock, AT_ONCE)
        body = {"model": "sim-small:tokens=50", "messages": HI, "stream": True}
        told, running = here.ask("/chat/completions", body)
        told.react = lambda what: running.pause()
        for count in range(1, 54):  # the head, the first chunk, 50 tokens, the chunk that ends
            await here.pass_s(0.1)
            assert told.whats == ["head", *["body"] * (count - 1)]
            running.resume()

    run_simulated(main)


def test_the_deadline_ends_a_pause() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        here = scene("openai", clock)
        told, running = here.ask("/chat/completions", {"model": "sim-small", "messages": HI})
        running.pause()
        await here.pass_s(2 * DEADLINE_S)
        assert (told.whats, told.why, told.ended_s) == (["lost"], "late", DEADLINE_S)

    run_simulated(main)


def test_closing_ends_what_is_open() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        here = scene("openai", clock)
        told, _ = here.ask("/chat/completions", {"model": "sim-small", "messages": HI})
        await here.provider.close()
        await here.pass_s(2 * DEADLINE_S)
        assert (told.whats, told.ended_s) == (["lost"], 0)

    run_simulated(main)


@examples(60)
@given(st.integers(0, 2**32))
def test_whatever_its_hearer_does_each_call_ends_once_and_in_time(seed: int) -> None:
    """Calls of all kinds at the same time, whose hearers pause, resume and stop as they like."""

    async def main(clock: SimulatedClock, order: Chance) -> None:
        chance = Chance(seed)
        simulation = Simulation(error_share=0.1, cut_share=0.1, hang_share=0.1, rate_limit_per_s=20)
        here = scene("openai", clock, simulation, seed)
        calls: list[tuple[Recorder, Running, float]] = []
        for _ in range(12):
            wished = chance.choice(["", *(f":{fault}" for fault in FAULTS), ":tokens=300"])
            body = {
                "model": f"sim-small{wished}:token_ms={chance.choice([0, 0.1, 20])}",
                "messages": HI,
                "stream": chance.uniform() < 0.7,
            }
            recorder, deadline_s = Recorder(), clock.now() + chance.uniform(0, 2)
            ask = Ask("POST", "/chat/completions", [], json.dumps(body).encode(), deadline_s)
            running = here.provider.complete(ask, recorder)
            recorder.returned = True
            calls.append((recorder, running, deadline_s))
            for _ in range(chance.integer(0, 6)):
                await here.pass_s(chance.choice([0, 0.01, chance.uniform(0, 0.3)]))
                told, moved, _ = chance.choice(calls)
                if chance.uniform() < 0.1:
                    moved.stop()
                    told.stopped = True
                else:
                    chance.choice([moved.pause, moved.resume])()
        await here.pass_s(3)
        assert not here.provider.running
        for told, _, _ in calls:
            told.check()
            assert told.stopped or told.whats[-1] in ("end", "lost")

    run_simulated(main, seed)


# --- Faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "why", "ended_s"),
    [
        ("unreachable", "unreachable", 0.1),
        ("closed", "closed", 0.1),
        ("garbled", "garbled", 0.1),
        ("hang", "late", DEADLINE_S),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_fails_before_it_begins(
    fault: str, why: str, ended_s: float, stream: bool
) -> None:
    told = chat(f"sim-small:token_ms=0:{fault}", stream=stream)
    assert (told.whats, told.why, told.ended_s) == (["lost"], why, ended_s)


@pytest.mark.parametrize(("dialect", "path", "fields"), ADDRESSES)
@pytest.mark.parametrize(("fault", "why"), [("cut", "cut"), ("stall", "late")])
def test_a_stream_fails_in_the_middle(
    dialect: Dialect, path: str, fields: dict[str, Any], fault: str, why: str
) -> None:
    body = {"model": f"sim-small:tokens=40:{fault}", "stream": True, **fields}
    told = heard(dialect, path, body)
    fine = heard(dialect, path, {**body, "model": "sim-small:tokens=40"})
    assert (told.whats[-1], told.why) == ("lost", why)
    assert told.pieces == fine.pieces[: len(told.pieces)]
    assert 0.4 < len(told.pieces) / len(fine.pieces) < 0.7


@pytest.mark.parametrize(("dialect", "path", "fields"), ADDRESSES)
def test_a_whole_answer_is_cut_in_the_middle(
    dialect: Dialect, path: str, fields: dict[str, Any]
) -> None:
    told = heard(dialect, path, {"model": "sim-small:cut", **fields})
    assert told.whats == ["head", "body", "lost"]
    assert len(told.pieces[0]) == int(told.headers[b"content-length"]) // 2


@pytest.mark.parametrize(("dialect", "path", "fields"), ADDRESSES)
def test_a_stream_ends_in_the_error_event_of_its_dialect(
    dialect: Dialect, path: str, fields: dict[str, Any]
) -> None:
    told = heard(dialect, path, {"model": "sim-small:error", "stream": True, **fields})
    assert told.whats[-1] == "end"
    assert b"[DONE]" not in b"".join(told.pieces)
    last = events(told)[-1]
    if path == "/responses":
        assert (last["type"], last["code"]) == ("error", "server_error")
    elif dialect == "anthropic":
        assert told.pieces[-1].startswith(b"event: error\n")
        assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")
    else:
        assert last["error"]["type"] == "server_error"


def test_a_whole_answer_that_is_to_end_in_an_error_is_one() -> None:
    assert chat("sim-small:error").status == 500


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 529])
def test_a_status_is_answered_as_the_vendors_do(status: int) -> None:
    ours = chat(f"sim-small:{status}")
    assert ours.status == status
    assert set(ours.json) == {"error"}
    assert set(ours.json["error"]) == {"message", "type", "param", "code"}
    body = {"model": f"sim-small:{status}", "messages": HI, "max_tokens": 9}
    theirs = heard("anthropic", "/messages", body)
    assert theirs.status == status
    assert theirs.json["type"] == "error"
    assert theirs.json["request_id"] == theirs.headers[b"request-id"].decode()
    assert theirs.json["error"]["message"]
    assert (b"retry-after" in ours.headers) == (status in (429, 503, 529))
    assert (b"retry-after-ms" in ours.headers) == (status in (429, 503, 529))


def test_shares_of_answers_fail() -> None:
    simulation = Simulation(
        latency_ms=0, token_ms=0, error_share=0.2, cut_share=0.2, hang_share=0.2
    )

    async def main(clock: SimulatedClock, chance: Chance) -> dict[str, int]:
        here = scene("anthropic", clock, simulation)
        body = {"model": "sim-small", "messages": HI, "max_tokens": 9}
        asked = [here.ask("/messages", body)[0] for _ in range(2000)]
        await here.pass_s(2 * DEADLINE_S)
        count: dict[str, int] = {}
        for each in asked:
            how = each.why or str(each.status)
            count[how] = count.get(how, 0) + 1
        return count

    count = run_simulated(main)
    assert set(count) == {"200", "500", "529", "cut", "late"}
    for how, share in {"200": 0.4, "500": 0.1, "529": 0.1, "cut": 0.2, "late": 0.2}.items():
        assert count[how] / 2000 == pytest.approx(share, abs=0.04), count


@pytest.mark.parametrize(
    ("dialect", "path", "name"),
    [
        ("openai", "/chat/completions", b"x-ratelimit-%s-requests"),
        ("anthropic", "/messages", b"anthropic-ratelimit-requests-%s"),
    ],
)
def test_more_calls_than_the_rate_limit_are_refused_and_told_when_to_come_back(
    dialect: Dialect, path: str, name: bytes
) -> None:
    limit, remaining = name % b"limit", name % b"remaining"

    async def main(clock: SimulatedClock, chance: Chance) -> None:
        here = scene(dialect, clock, Simulation(latency_ms=0, token_ms=0, rate_limit_per_s=5))
        body = {"model": "sim-small", "messages": HI, "max_tokens": 9}
        asked = [here.ask(path, body)[0] for _ in range(8)]
        await here.pass_s(1)
        assert [each.status for each in asked] == [200] * 5 + [429] * 3
        assert [each.headers[limit] for each in asked] == [b"5"] * 8
        assert [each.headers[remaining] for each in asked] == [b"4", b"3", b"2", b"1", *[b"0"] * 4]
        assert asked[-1].headers[b"retry-after"] == b"1"
        again, _ = here.ask(path, body)
        await here.pass_s(1)
        assert again.status == 200

    run_simulated(main)


@pytest.mark.parametrize(
    "wrong",
    [
        {"latency_ms": -1},
        {"token_ms": float("inf")},
        {"error_share": 1.1},
        {"spread": -0.1},
        {"error_share": 0.5, "cut_share": 0.6},
        {"rate_limit_per_s": float("nan")},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadValue):
        Simulation(**wrong)


# --- What cannot be answered ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", ["gpt-4o", "sim-tiny", "sim-small:700", "sim-small:42", "sim-small:tokens=0",
              "sim-small:tokens=x", "sim-small:nonsense", "sim-small:latency_ms=nan", "sim-small:"]
)  # fmt: skip
def test_a_model_that_there_is_not_is_404(model: str) -> None:
    told = chat(model)
    assert (told.status, told.json["error"]["code"]) == (404, "model_not_found")
    assert told.headers[b"x-paceline-simulated"] == b"true"
    body = {"model": model, "messages": HI, "max_tokens": 9}
    assert heard("anthropic", "/messages", body).json["error"]["type"] == "not_found_error"


def test_only_its_own_models_are_offered() -> None:
    assert all(offers(model) and offers(f"{model}:429") for model in MODELS)
    assert not any(offers(model) for model in ("gpt-4o", "", "sim", "sim-smaller", ":429"))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None),
        (b"[]", None),
        (b"\xff", None),
        (b'{"model":"sim-small"}', "messages"),
        (b'{"model":5}', "model"),
        ({"model": "sim-small", "messages": []}, "messages"),
        ({"model": "sim-small", "messages": "Hi"}, "messages"),
        ({"model": "sim-small", "messages": [{"content": "Hi"}]}, "messages"),
        ({"model": "sim-small", "messages": HI, "max_tokens": 0}, "max_tokens"),
        ({"model": "sim-small", "messages": HI, "n": 1000}, "n"),
        ({"model": "sim-small", "messages": HI, "tool_choice": "required"}, "tool_choice"),
        ({"model": "sim-embed", "messages": HI}, "model"),
    ],
)
def test_a_bad_request_is_told_where_it_is_wrong(body: object, param: str | None) -> None:
    told = heard("openai", "/chat/completions", body)
    assert told.status == 400
    assert told.json["error"]["type"] == "invalid_request_error"
    assert told.json["error"]["param"] == param


def test_other_addresses_and_methods_are_refused() -> None:
    assert heard("openai", "/audio/speech", {}).status == 404
    assert heard("openai", "/messages", {}).status == 404
    assert heard("openai", "/chat/completions", b"", method="GET").status == 405
    assert heard("anthropic", "/complete", {}).json["error"]["type"] == "not_found_error"


def test_its_models_are_listed() -> None:
    listed = heard("openai", "/models", b"", method="GET")
    assert [each["id"] for each in listed.json["data"]] == list(MODELS)
    one = heard("anthropic", "/models/sim-large", b"", method="GET")
    assert one.json["id"] == "sim-large"
    assert heard("openai", "/models/gpt-4o", b"", method="GET").status == 404
