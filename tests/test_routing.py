"""Which target a call goes to next, and whether at all: each rule; a day of traffic is in
test_routing_simulation.py."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.gateway.attempts import SOON_S, Attempts, Decision, GiveUp, Go, Wait
from paceline.gateway.provider import Lost
from paceline.gateway.routes import Hedge, Route, Tier
from paceline.gateway.routing import Router
from paceline.gateway.standing import FADE_CALLS, FADE_S, TargetStatus
from paceline.gateway.upstream import Target
from paceline.gateway.verdicts import Answer, Dropped, verdict_of
from paceline.terms.errors import (
    BadRequest,
    BadSetting,
    DeadlineExceeded,
    LimitReached,
    NotFound,
    Overloaded,
    PacelineError,
    ProviderFailed,
    Unavailable,
    UnknownModel,
)
from paceline.terms.limits import (
    BACKOFF_FIRST_S,
    BREAKER_LEAST_CALLS,
    BREAKER_OPEN_FIRST_S,
    BREAKER_PROBES,
    HEDGE_LEARN_FIRST,
    LLM_MODELS_APART,
    RETRY_AFTER_MOST_S,
    RETRY_LEAST_PER_S,
    RETRY_WINDOW_S,
    ROUTE_TARGETS,
    ROUTES,
)
from paceline.testing import Chance

A, B, C = Target("alpha", "m"), Target("beta", "m"), Target("gamma", "m")
SPARE_RETRIES = int(RETRY_LEAST_PER_S * RETRY_WINDOW_S)
"""of a provider that was asked nothing lately"""


def route(*tiers: Sequence[Target], name: str = "m", **options: object) -> Route:
    return Route(name, tuple(Tier(tuple(each)) for each in tiers), **options)  # type: ignore[arg-type]


def routed(*routes: Route, seed: int = 1) -> Router:
    return Router(routes, Chance(seed), 0.0)


def answer(status: int, **headers: str) -> Answer:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Answer(status, named, b"%d" % status)


def call(router: Router, now: float, within_s: float = 60.0, **options: Any) -> Attempts:
    return router.begin(router.resolve("m"), now, now + within_s, **options)


def go(decision: Decision) -> Go:
    assert isinstance(decision, Go), decision
    return decision


def wait(decision: Decision) -> Wait:
    assert isinstance(decision, Wait), decision
    return decision


def given_up(decision: Decision) -> GiveUp:
    assert isinstance(decision, GiveUp), decision
    return decision


def served(router: Router, now: float, first_s: float = 0.1) -> Target:
    """One call that goes well at the target where it goes first."""
    attempts = call(router, now)
    target = go(attempts.start(now)).target
    attempts.content(0, now + first_s)
    attempts.done(now + first_s)
    return target


def status(router: Router, target: Target, now: float) -> TargetStatus:
    return next(each for each in router.look(now) if each.target == target)


def broken(router: Router, now: float, target: Target, times: int = BREAKER_LEAST_CALLS) -> float:
    """So many calls at the target fail at once; the moment after."""
    alone = route([target], retries=0)
    for _ in range(times):
        attempts = router.begin(alone, now, now + 60)
        attempts.failed(go(attempts.start(now)).number, now, "unreachable")
    return now


# --- Routes ---------------------------------------------------------------------------------------


def test_the_very_name_comes_before_beginnings_and_the_longest_of_those_first() -> None:
    names = ["*", "gpt-*", "gpt-4o", "gpt-4*"]
    router = routed(*(route([A], name=name) for name in names))
    asked = {"gpt-4o": "gpt-4o", "gpt-4o-mini": "gpt-4*", "gpt-5": "gpt-*", "claude": "*", "": "*"}
    assert {model: router.resolve(model).name for model in asked} == asked
    assert sorted(router.names()) == sorted(names)


def test_of_an_unknown_model_the_nearest_names_are_told() -> None:
    router = routed(*(route([A], name=name) for name in ("gpt-4o", "claude-sonnet", "secret-4o")))
    with pytest.raises(UnknownModel) as caught:
        router.resolve("gpt4o")
    assert caught.value.http == 404
    assert caught.value.value == "gpt4o"
    assert "gpt-4o" in caught.value.remedy
    assert "claude" not in caught.value.remedy
    with pytest.raises(UnknownModel) as caught:
        router.resolve("secret-4", lambda name: not name.startswith("secret"))
    assert "secret" not in caught.value.remedy
    with pytest.raises(UnknownModel):
        router.resolve("x" * 1_000_000)


def test_a_target_is_asked_for_its_own_name_of_the_model() -> None:
    starred = route([A], name="openai/*")
    assert starred.model_for("openai/gpt-4o", Target("openai", "o1")) == "o1"
    assert starred.model_for("openai/gpt-4o", Target("openai")) == "openai/gpt-4o"
    assert starred.model_for("openai/gpt-4o", Target("openai", "*")) == "gpt-4o"
    assert starred.model_for("openai/gpt-4o", Target("azure", "eu/*")) == "eu/gpt-4o"
    assert route([A]).model_for("m", Target("openai")) == "m"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/files", True),
        ("/files?limit=1", True),
        ("/files/file-1/content", True),
        ("/files/a%20b", True),
        ("/files2", False),
        ("/", False),
        ("", False),
        ("files", False),
        ("/audio/speech", True),
        ("/audio/x", False),
        ("/files/..", False),
        ("/files/../admin", False),
        ("/files/%2e%2E/admin", False),
        ("/files/.%2e/admin", False),
        ("/files/%252e%252e/admin", False),
        ("/files/a%2fb", False),
        ("/files/..\\admin", False),
        ("/files/..%5cadmin", False),
        ("/files//admin", False),
        ("/files/./x", False),
    ],
)
def test_raw_paths_are_allowed_with_what_lies_below_and_nothing_leads_out(
    path: str, allowed: bool
) -> None:
    assert route([A], raw_paths=("/files", "/audio/speech")).allows(path) is allowed


@given(st.lists(st.sampled_from(["..", ".", "%2e%2e", "a", "", "%2f", "\\", "files"]), max_size=6))
def test_an_allowed_path_stays_below_however_it_is_read(parts: list[str]) -> None:
    path = "/files/" + "/".join(parts)
    if route([A], raw_paths=("/files",)).allows(path):
        assert set(parts) <= {"a", "files"}


def test_a_raw_call_takes_the_route_of_its_model_else_the_first_that_allows_it() -> None:
    router = routed(
        route([A], name="x"),
        route([A], name="y", raw_paths=("/files", "/images")),
        route([B], name="z", raw_paths=("/images",)),
    )
    assert router.resolve_raw("/images/generations").name == "y"
    assert router.resolve_raw("/images/generations", "z").name == "z"
    assert router.resolve_raw("/images/generations", "x").name == "y"
    with pytest.raises(UnknownModel):
        router.resolve_raw("/images/generations", "q")
    with pytest.raises(NotFound) as caught:
        router.resolve_raw("/batches")
    assert "/files, /images" in caught.value.remedy
    assert caught.value.value == "/v1/batches"


@pytest.mark.parametrize(
    "wrong",
    [
        route([A], name=""),
        route([A], name="a*b"),
        route(),
        route([]),
        route([A] * (ROUTE_TARGETS + 1)),
        Route("m", (Tier((A, B), (1.0,)),)),
        Route("m", (Tier((A,), (-1.0,)),)),
        Route("m", (Tier((A,), (math.nan,)),)),
        route([A], retries=-1),
        route([A], retries=11),
        route([A], retries_per_target=-1),
        route([A], patience_s=0.0),
        route([A], timeout_s=math.inf),
        route([A], hedge=Hedge(after_s=-1.0)),
        route([A], hedge=Hedge(share=2.0)),
    ],
)
def test_a_route_that_cannot_be_served_is_told_with_its_value_and_changes_nothing(
    wrong: Route,
) -> None:
    router = routed(route([A], name="before"))
    with pytest.raises(BadSetting) as caught:
        router.serve([route([B], name="after"), wrong], 0.0)
    assert caught.value.remedy
    assert router.names() == ["before"]


def test_names_are_not_given_twice_and_routes_are_bounded() -> None:
    with pytest.raises(BadSetting):
        routed(route([A]), route([B]))
    with pytest.raises(BadSetting):
        routed(*(route([A], name=f"m{number}") for number in range(ROUTES + 1)))


def test_what_is_known_of_a_target_outlives_a_change_of_routes_and_no_longer_than_its_last() -> (
    None
):
    router = routed(route([A], [B]))
    now = broken(router, 1.0, A)
    before = router.resolve("m")
    under_way = call(router, now)
    assert go(under_way.start(now)).target == B
    router.serve([route([B], [A])], now)
    assert status(router, A, now).state == "open"
    assert isinstance(under_way.failed(0, now, "unreachable"), Wait), "it goes on by its own route"
    assert go(router.begin(before, now, now + 9).start(now)).target == B
    router.serve([route([B])], now)
    router.serve([route([B], [A])], now)
    assert status(router, A, now).state == "closed"


# --- What an end means ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ended", "here", "elsewhere", "failure", "billed"),
    [
        ("unreachable", True, True, True, False),
        ("closed", True, True, True, True),
        ("cut", True, True, True, True),
        ("garbled", True, True, True, True),
        ("late", False, False, False, True),
        (answer(500), True, True, True, False),
        (answer(503), True, True, True, False),
        (answer(529), True, True, True, False),
        (answer(429), True, True, False, False),
        (answer(504), True, True, True, True),
        (answer(524), True, True, True, True),
        (answer(408), True, True, False, True),
        (answer(409), True, True, False, False),
        (answer(401), False, True, False, False),
        (answer(404), False, True, False, False),
        (answer(400), False, False, False, False),
        (answer(422), False, False, False, False),
        (answer(302), False, False, False, False),
        (answer(400, x_should_retry="true"), True, True, False, False),
        (answer(500, x_should_retry="false"), False, True, True, False),
        (answer(429, x_should_retry="false"), False, True, False, False),
        (answer(500, x_should_retry="perhaps"), True, True, True, False),
    ],
)
def test_what_an_end_means(
    ended: Lost | Answer, here: bool, elsewhere: bool, failure: bool, billed: bool
) -> None:
    verdict = verdict_of(ended)
    assert verdict[:4] == (here, elsewhere, failure, billed)


@pytest.mark.parametrize(
    ("ended", "again"),
    [
        ("unreachable", True),
        (answer(429), True),
        ("closed", False),
        ("cut", False),
        (answer(500), False),
        (answer(500, x_should_retry="true"), False),
        (answer(404), False),
    ],
)
def test_what_does_something_is_sent_again_only_if_nobody_can_have_begun_it(
    ended: Lost | Answer, again: bool
) -> None:
    verdict = verdict_of(ended, repeatable=False)
    assert (verdict.here, verdict.elsewhere) == (again, again)


DATE = "Mon, 30 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "after_s"),
    [
        ({}, None),
        ({"retry_after": "3"}, 3.0),
        ({"retry_after": "0.5"}, 0.5),
        ({"retry_after_ms": "250", "retry_after": "9"}, 0.25),
        ({"retry_after_ms": "x", "retry_after": "9"}, 9.0),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "1e9"}, RETRY_AFTER_MOST_S),
        ({"retry_after": "Mon, 30 Nov 2026 12:00:30 GMT", "date": DATE}, 30.0),
        ({"date": DATE, "retry_after": "Mon, 30 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry_after": "Mon, 30 Nov 2026 12:00:30 GMT"}, None),
        ({"retry_after": "soon", "date": DATE}, None),
    ],
)
def test_when_a_provider_wants_to_be_asked_again(
    headers: dict[str, str], after_s: float | None
) -> None:
    assert verdict_of(answer(429, **headers)).after_s == after_s


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=20))
def test_whatever_headers_hold_they_are_read(after: bytes, date: bytes, should: bytes) -> None:
    headers = [(b"retry-after", after), (b"date", date), (b"x-should-retry", should)]
    after_s = verdict_of(Answer(503, headers, b"")).after_s
    assert after_s is None or 0 <= after_s <= RETRY_AFTER_MOST_S


# --- One call -------------------------------------------------------------------------------------


def test_a_call_that_goes_well_has_one_attempt() -> None:
    router = routed(route([A]))
    attempts = call(router, 5.0)
    assert attempts.start(5.0) == Go(0, A, "first")
    assert status(router, A, 5.0).waiting == 1
    attempts.content(0, 5.2)
    attempts.done(6.0, tokens=42)
    (tried,) = attempts.tried
    assert (tried.target, tried.why, tried.ended, tried.tokens) == (A, "first", "done", 42)
    assert (tried.began_s, tried.content_s, tried.ended_s) == (5.0, 5.2, 6.0)
    assert status(router, A, 6.0).waiting == 0
    assert status(router, A, 6.0).whole_s == pytest.approx(0.2)
    assert status(router, A, 6.0).stream_first_s is None


def test_a_mistake_in_the_request_is_passed_on_at_once_and_blames_nobody() -> None:
    router = routed(route([A, B], [C]))
    for number in range(100):
        now = number * 0.01
        attempts = call(router, now)
        attempts.start(now)
        end = given_up(attempts.failed(0, now, answer(400)))
        assert end.answer == answer(400)
        assert len(attempts.tried) == 1
    assert {each.state for each in router.look(now)} == {"closed"}


def test_it_goes_through_the_tier_then_to_the_next_and_ends_with_the_last_answer() -> None:
    router = routed(route([A, B], [C], retries_per_target=0))
    attempts = call(router, 0.0)
    first = go(attempts.start(0.0))
    second = go(attempts.failed(0, 0.1, answer(503)))
    assert {first.target, second.target} == {A, B}
    assert second.why == "elsewhere"
    third = go(attempts.failed(1, 0.2, answer(500)))
    assert third.target == C
    end = given_up(attempts.failed(2, 0.3, "unreachable"))
    assert end.answer == answer(500), "the last answer that there was"
    assert [each.ended for each in attempts.tried] == ["answered", "answered", "unreachable"]
    assert [each.status for each in attempts.tried] == [503, 500, None]


def test_without_any_answer_it_is_an_error_of_ours() -> None:
    router = routed(route([A], retries=0))
    attempts = call(router, 0.0)
    attempts.start(0.0)
    end = given_up(attempts.failed(0, 0.1, "unreachable", "no address for alpha"))
    assert end.answer is None
    assert isinstance(end.error, ProviderFailed)
    assert end.error.http == 502
    assert "alpha/m cannot be reached" in end.error.cause
    assert end.error.value == "no address for alpha"


def test_the_same_target_is_tried_again_after_a_wait_before_a_fallback_is() -> None:
    router = routed(route([A], [B]))
    attempts = call(router, 0.0)
    attempts.start(0.0)
    until = wait(attempts.failed(0, 1.0, answer(500))).wake_s
    assert 1.0 <= until <= 1.0 + BACKOFF_FIRST_S
    assert attempts.due(until - 1e-9) == Wait(until) or until == 1.0
    assert go(attempts.due(until)) == Go(1, A, "again")
    assert go(attempts.failed(1, 2.0, answer(500))).target == B


def test_the_waits_of_calls_that_failed_together_are_spread() -> None:
    waits = []
    for seed in range(200):
        attempts = call(routed(route([A]), seed=seed), 0.0)
        attempts.start(0.0)
        waits.append(wait(attempts.failed(0, 0.0, answer(500))).wake_s)
    assert min(waits) < 0.1 * BACKOFF_FIRST_S
    assert max(waits) > 0.9 * BACKOFF_FIRST_S
    assert sum(waits) / len(waits) == pytest.approx(BACKOFF_FIRST_S / 2, rel=0.15)


@pytest.mark.parametrize("retries", [0, 1, 2, 5])
def test_retries_are_bounded_in_all(retries: int) -> None:
    router = routed(route([A, B, C], retries=retries, retries_per_target=9))
    attempts = call(router, 0.0)
    decision = attempts.start(0.0)
    now = 0.0
    while not isinstance(decision, GiveUp):
        now += 0.01
        if isinstance(decision, Wait):
            now = decision.wake_s
            decision = attempts.due(now)
        else:
            decision = attempts.failed(decision.number, now, answer(500))
    assert len(attempts.tried) == 1 + retries


def test_a_401_is_not_tried_again_there_but_elsewhere() -> None:
    router = routed(route([A], [B], retries=9, retries_per_target=9))
    attempts = call(router, 0.0)
    attempts.start(0.0)
    assert go(attempts.failed(0, 0.1, answer(401))).target == B
    assert given_up(attempts.failed(1, 0.2, answer(401))).answer == answer(401)


def test_a_target_that_cannot_be_asked_this_is_passed_by_and_nobody_is_to_blame() -> None:
    wrong = BadRequest("it has no words for this", remedy="Ask another.")
    router = routed(route([A], [B], [C], retries=0))
    now = broken(router, 1.0, A) + BREAKER_OPEN_FIRST_S
    attempts = call(router, now)
    assert go(attempts.start(now)).target == A
    assert go(attempts.failed(0, now, wrong)).target == B
    assert status(router, A, now).state == "half_open", "nothing was asked of it"
    assert go(attempts.failed(1, now, wrong)).target == C
    assert given_up(attempts.failed(2, now, wrong)).error is wrong
    assert [each.ended for each in attempts.tried] == ["cannot"] * 3
    router = routed(route([A], [B], retries_per_target=0))
    ends: list[Lost | Answer] = ["unreachable", answer(503)]
    for first in ends:
        attempts = call(router, 0.0)
        attempts.start(0.0)
        attempts.failed(0, 0.0, first)
        end = given_up(attempts.failed(1, 0.0, wrong))
        assert end.error is not wrong, "somebody was asked"
        assert end.answer == (first if isinstance(first, Answer) else None)


def test_after_content_nothing_is_tried_again() -> None:
    router = routed(route([A, B], [C], retries=9))
    attempts = call(router, 0.0, stream=True)
    attempts.start(0.0)
    attempts.content(0, 0.1)
    assert attempts.due(0.2) == Wait(math.inf)
    end = given_up(attempts.failed(0, 0.5, "cut"))
    assert end.answer is None
    assert isinstance(end.error, ProviderFailed)
    assert "within its answer" in end.error.cause
    assert [each.ended for each in attempts.tried] == ["cut"]


def test_streams_that_are_cut_after_content_open_the_breaker() -> None:
    router = routed(route([A]))
    for _ in range(BREAKER_LEAST_CALLS):
        attempts = call(router, 0.0)
        attempts.start(0.0)
        attempts.content(0, 0.0)
        attempts.failed(0, 0.0, "cut")
    assert status(router, A, 0.0).state == "open"


@pytest.mark.parametrize("tell", ["content", "done", "left", "failed", "due"])
def test_when_it_is_over_to_tell_it_more_is_a_bug(tell: str) -> None:
    attempts = call(routed(route([A])), 0.0)
    attempts.start(0.0)
    attempts.content(0, 0.1)
    attempts.done(0.2)
    arguments = {"content": (0, 0.3), "failed": (0, 0.3, "cut")}.get(tell, (0.3,))
    with pytest.raises(AssertionError):
        getattr(attempts, tell)(*arguments)


# --- The deadline ---------------------------------------------------------------------------------


def test_a_deadline_that_passed_is_504_and_nothing_is_tried() -> None:
    attempts = call(routed(route([A])), 1.0, within_s=0.0)
    assert isinstance(given_up(attempts.start(1.0)).error, DeadlineExceeded)
    attempts = call(routed(route([A, B], retries=9)), 0.0, within_s=1.0)
    attempts.start(0.0)
    end = given_up(attempts.failed(0, 1.0, "late"))
    assert isinstance(end.error, DeadlineExceeded)
    assert end.error.http == 504
    attempts = call(routed(route([A, B], retries=9)), 0.0, within_s=1.0)
    attempts.start(0.0)
    assert isinstance(given_up(attempts.failed(0, 1.5, "unreachable")).error, DeadlineExceeded)


def test_the_timeout_of_the_route_bounds_the_deadline() -> None:
    router = routed(route([A], timeout_s=1.0))
    attempts = call(router, 0.0, within_s=60.0)
    attempts.start(0.0)
    assert isinstance(given_up(attempts.failed(0, 1.0, answer(500))), GiveUp)
    attempts = call(router, 0.0, within_s=60.0)
    attempts.start(0.0)
    assert isinstance(attempts.failed(0, 0.5, answer(500)), Wait)


def test_no_wait_leaves_no_time_for_the_answer() -> None:
    router = routed(route([A]))
    served(router, 0.0, first_s=5.0)
    for within_s, waits in ((8.0, True), (5.0, False)):
        attempts = call(router, 10.0, within_s=within_s)
        attempts.start(10.0)
        decision = attempts.failed(0, 10.0, answer(500, retry_after="1"))
        assert isinstance(decision, Wait) is waits
        if not waits:
            assert given_up(decision).answer == answer(500, retry_after="1")


def test_who_is_late_is_blamed_only_if_it_had_time() -> None:
    for within_s, state in ((2.0, "open"), (0.5, "closed")):
        router = routed(route([A]))
        for _ in range(20):
            served(router, 0.0, first_s=0.3)
        now = 100.0
        for _ in range(BREAKER_LEAST_CALLS):
            attempts = call(router, now, within_s=within_s)
            attempts.start(now)
            attempts.failed(0, now + within_s, "late")
        assert status(router, A, now + within_s).state == state


def test_a_target_that_hangs_is_found_though_its_callers_leave_before_they_are_answered() -> None:
    for patience_s, state in ((2.0, "open"), (0.5, "closed")):
        router = routed(route([A]))
        for _ in range(20):
            served(router, 0.0, first_s=0.3)
        now = 100.0
        for _ in range(BREAKER_LEAST_CALLS):
            attempts = call(router, now)
            attempts.start(now)
            attempts.left(now + patience_s)
            assert attempts.tried[0].ended == "left"
        assert status(router, A, now + patience_s).state == state
        assert status(router, A, now + patience_s).waiting == 0


# --- Rate limits ----------------------------------------------------------------------------------


def test_whoever_limits_is_aside_until_it_says_and_its_breaker_stays_closed() -> None:
    router = routed(route([A], [B]))
    under_way = [call(router, 0.0) for _ in range(5 * BREAKER_LEAST_CALLS)]
    assert {go(each.start(0.0)).target for each in under_way} == {A}
    for each in under_way:
        each.failed(0, 0.0, answer(429, retry_after="30"))
    assert status(router, A, 20.0).state == "aside"
    assert status(router, A, 20.0).until_s == 30.0
    assert served(router, 20.0) == B
    assert status(router, A, 30.0).state == "closed"
    assert served(router, 30.0) == A


def test_a_call_that_was_limited_goes_elsewhere_at_once() -> None:
    router = routed(route([A], [B]))
    attempts = call(router, 0.0)
    attempts.start(0.0)
    assert go(attempts.failed(0, 0.1, answer(429, retry_after="30"))).target == B


def test_where_it_is_soon_the_same_tier_is_waited_for() -> None:
    router = routed(route([A], [B]))
    attempts = call(router, 0.0)
    attempts.start(0.0)
    until = wait(attempts.failed(0, 0.0, answer(429, retry_after_ms="1500"))).wake_s
    assert 1.5 <= until <= 1.5 + BACKOFF_FIRST_S
    assert go(attempts.due(until)).target == A


def test_what_it_says_is_waited_for_if_it_fits_into_the_deadline() -> None:
    for within_s, waits in ((60.0, True), (20.0, False)):
        router = routed(route([A]))
        attempts = call(router, 0.0, within_s=within_s)
        attempts.start(0.0)
        decision = attempts.failed(0, 0.0, answer(429, retry_after="30"))
        if waits:
            until = wait(decision).wake_s
            assert 30.0 <= until <= 30.0 + BACKOFF_FIRST_S
            assert go(attempts.due(until)).target == A
        else:
            assert given_up(decision).answer == answer(429, retry_after="30")


def test_a_new_call_is_told_when_to_come_back_if_all_are_limited() -> None:
    router = routed(route([A], [B]))
    for target in (A, B):
        attempts = router.begin(route([target], retries=0), 0.0, 60.0)
        attempts.start(0.0)
        attempts.failed(0, 0.0, answer(429, retry_after="30"))
    end = given_up(call(router, 10.0).start(10.0))
    assert isinstance(end.error, LimitReached)
    assert end.error.http == 429
    assert end.retry_after_s == pytest.approx(20.0)
    assert "20 s" in end.error.remedy
    attempts = call(router, 30.0 - SOON_S / 2)
    until = wait(attempts.start(30.0 - SOON_S / 2)).wake_s
    assert until >= 30.0
    assert go(attempts.due(until)).why == "first"


def test_those_who_wait_for_a_limited_target_are_few() -> None:
    router = routed(route([A]))
    attempts = call(router, 0.0)
    attempts.start(0.0)
    attempts.failed(0, 0.0, answer(429, retry_after="1"))
    decisions = [call(router, 0.5).start(0.5) for _ in range(100)]
    assert sum(isinstance(each, Wait) for each in decisions) < SPARE_RETRIES + 1


def test_without_a_moment_it_is_aside_for_longer_and_longer_until_it_answers() -> None:
    router = routed(route([A], retries=0))
    now, pauses = 0.0, []
    for _ in range(5):
        for _ in range(3):  # those under way then say the same
            attempts = call(router, now)
            decision = attempts.start(now)
            if isinstance(decision, Go):
                attempts.failed(0, now, answer(429))
        until_s = status(router, A, now).until_s
        assert until_s is not None
        pauses.append(until_s - now)
        now = until_s
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6])
    served(router, now)
    attempts = call(router, now)
    attempts.start(now)
    attempts.failed(0, now, answer(429))
    assert status(router, A, now).until_s == pytest.approx(now + 0.1)


# --- The budget -----------------------------------------------------------------------------------


def test_a_provider_that_fails_is_not_asked_more_than_its_budget_allows() -> None:
    router = routed(route([A], retries=9, retries_per_target=9))
    chance = Chance(1)
    calls, asked = 2000, 0
    for number in range(calls):
        now = number * 0.01
        attempts = call(router, now)
        decision = attempts.start(now)
        while not isinstance(decision, GiveUp):
            if isinstance(decision, Wait):
                now = decision.wake_s
                decision = attempts.due(now)
                continue
            asked += 1
            if chance.uniform() < 0.6:
                attempts.content(decision.number, now)
                attempts.done(now)
                break
            decision = attempts.failed(decision.number, now, answer(500))
    assert 1.15 * calls < asked <= 1.2 * calls + 2 * SPARE_RETRIES


def _spend(router: Router, target: Target) -> None:
    """All the retries that the provider has to spare."""
    alone = route([target], retries=10, retries_per_target=10)
    attempts = router.begin(alone, 0.0, 600.0)
    decision = attempts.start(0.0)
    while not isinstance(decision, GiveUp):
        if isinstance(decision, Wait):
            decision = attempts.due(decision.wake_s)
        else:
            decision = attempts.failed(decision.number, 0.0, answer(409))
    attempts = router.begin(alone, 0.0, 600.0)
    attempts.start(0.0)
    assert isinstance(attempts.failed(0, 0.0, answer(409)), GiveUp), "some are left"


def test_without_budget_it_goes_to_another_provider_after_a_refusal_but_not_back() -> None:
    router = routed(route([A], [B], retries=9, retries_per_target=9))
    _spend(router, A)
    attempts = call(router, 0.0)
    assert go(attempts.start(0.0)).target == A
    assert go(attempts.failed(0, 0.0, answer(500))).target == B
    assert isinstance(attempts.failed(1, 0.0, answer(400)), GiveUp)


@pytest.mark.parametrize(
    "lost", ["closed", "cut", "garbled", answer(408), answer(504), answer(524)]
)
def test_what_may_be_billed_is_tried_again_nowhere_without_budget(lost: Lost | Answer) -> None:
    for spent in (False, True):
        router = routed(route([A], [B], retries_per_target=0))
        if spent:
            _spend(router, A)
        attempts = call(router, 0.0)
        attempts.start(0.0)
        decision = attempts.failed(0, 0.0, lost)
        if spent:
            assert given_up(decision).error.http == 502
            assert given_up(decision).answer == (lost if isinstance(lost, Answer) else None)
        else:
            assert go(decision).target == B


def test_another_model_of_the_same_provider_is_paid_for_too() -> None:
    big = Target("alpha", "big")
    router = routed(route([A], [big], retries_per_target=0))
    attempts = call(router, 0.0)
    attempts.start(0.0)
    assert go(attempts.failed(0, 0.0, answer(500))).target == big
    _spend(router, A)
    attempts = call(router, 0.0)
    attempts.start(0.0)
    assert isinstance(attempts.failed(0, 0.0, answer(500)), GiveUp)


def test_a_file_that_may_have_been_taken_is_not_sent_again() -> None:
    router = routed(route([A], [B]))
    attempts = call(router, 0.0, repeatable=False)
    attempts.start(0.0)
    assert isinstance(attempts.failed(0, 0.0, "closed"), GiveUp)
    attempts = call(router, 0.0, repeatable=False)
    attempts.start(0.0)
    assert isinstance(attempts.failed(0, 0.0, answer(429, retry_after="9")), Go)


# --- The breaker ----------------------------------------------------------------------------------


def test_a_target_that_fails_is_left_alone_and_comes_back_by_probes() -> None:
    router = routed(route([A], [B]))
    now = broken(router, 1.0, A)
    assert status(router, A, now).state == "open"
    assert served(router, now) == B
    now += BREAKER_OPEN_FIRST_S
    probes = [call(router, now) for _ in range(BREAKER_PROBES + 3)]
    asked = [go(each.start(now)).target for each in probes]
    assert asked == [A] * BREAKER_PROBES + [B] * 3
    for each in probes[:BREAKER_PROBES]:
        each.content(0, now + 0.1)  # a stream that goes on: its content is news enough
    assert status(router, A, now + 0.1).state == "closed"
    assert served(router, now + 0.1) == A
    for each in probes[:BREAKER_PROBES]:
        each.done(now + 9)
    assert status(router, A, now + 9).state == "closed"


def test_the_breaker_is_the_models_and_not_the_providers() -> None:
    other = Target("alpha", "other")
    router = routed(route([A], name="m"), route([other], name="o"))
    now = broken(router, 1.0, A)
    end = given_up(call(router, now).start(now))
    assert isinstance(end.error, Unavailable)
    assert end.error.http == 503
    assert end.retry_after_s == pytest.approx(BREAKER_OPEN_FIRST_S)
    assert "unreachable" in str(end.error.value)
    assert isinstance(router.begin(router.resolve("o"), now, now + 9).start(now), Go)


def test_a_limited_or_refused_probe_says_what_it_says() -> None:
    router = routed(route([A]))
    now = broken(router, 1.0, A) + BREAKER_OPEN_FIRST_S
    for _ in range(BREAKER_PROBES):
        attempts = call(router, now)
        attempts.start(now)
        attempts.failed(0, now, answer(400))
    assert status(router, A, now).state == "closed", "it answers"
    now = broken(router, now, A) + 2 * BREAKER_OPEN_FIRST_S
    for _ in range(3 * BREAKER_PROBES):
        attempts = call(router, now)
        attempts.start(now)
        attempts.failed(0, now, answer(429, retry_after="0"))
        now += 1.0
        assert status(router, A, now).state == "half_open", "its place is free again"


# --- Choosing -------------------------------------------------------------------------------------


def test_weights_are_how_often_each_comes_first() -> None:
    router = routed(Route("m", (Tier((A, B, C), (6.0, 3.0, 1.0)),)))
    calls = 20_000
    counts = Counter(served(router, number * 0.01) for number in range(calls))
    for target, share in ((A, 0.6), (B, 0.3), (C, 0.1)):
        deviation = math.sqrt(share * (1 - share) * calls)
        assert abs(counts[target] - share * calls) < 4 * deviation


def test_weight_nothing_stands_by() -> None:
    for choose in ("by_weight", "least_latency"):
        router = routed(Route("m", (Tier((A, B), (1.0, 0.0), choose),)))
        assert {served(router, number * 0.01) for number in range(200)} == {A}
        now = broken(router, 100.0, A)
        assert served(router, now) == B


def latency(*targets: Target, weights: tuple[float, ...] = (), seed: int = 1) -> Router:
    return routed(Route("m", (Tier(targets, weights, "least_latency"),)), seed=seed)


@pytest.mark.parametrize("every_s", [0.5, 5.0, 60.0])
def test_the_soonest_gets_the_calls_and_a_slow_one_loses_them_within_a_few(every_s: float) -> None:
    router = latency(A, B)
    usual_s = {A: 0.2, B: 0.3}
    now = 0.0

    def serve(calls: int) -> list[Target]:
        nonlocal now
        targets = []
        for _ in range(calls):
            now += every_s
            attempts = call(router, now)
            targets.append(go(attempts.start(now)).target)
            attempts.content(0, now + usual_s[targets[-1]])
            attempts.done(now + usual_s[targets[-1]])
        return targets

    serve(50)
    assert serve(100).count(A) >= 88
    usual_s[A] = 2.0
    assert serve(10).count(A) <= 5, "one slow answer moves the average by an eighth"
    assert serve(200).count(A) <= 8, "now and then it is tried"
    usual_s[A] = 0.1
    calls_back = serve(400)
    assert calls_back[-100:].count(A) >= 88


def test_who_hangs_is_seen_by_those_who_wait_before_one_answer_is_late() -> None:
    router = latency(A, B)
    now = known(router, {A: 0.2, B: 0.2})
    waiting = 0
    for _ in range(1000):  # A hangs; each of B is done before the next
        now += 0.3
        attempts = call(router, now)
        if go(attempts.start(now)).target == A:
            waiting += 1
        else:
            attempts.content(0, now + 0.2)
            attempts.done(now + 0.2)
    assert waiting <= 2


def test_calls_that_come_together_do_not_run_to_the_same_target() -> None:
    router = latency(A, B, C)
    now = known(router, {A: 0.2, B: 0.2, C: 0.2})
    counts = Counter(go(call(router, now).start(now)).target for _ in range(30))
    assert counts == {A: 10, B: 10, C: 10}


def known(router: Router, first_s: dict[Target, float], times: int = 1) -> float:
    """Each has answered so often, in so long; the moment after."""
    now = 0.0
    for _ in range(times):
        for target, each_s in first_s.items():
            attempts = router.begin(route([target]), now, now + 60)
            attempts.start(now)
            now += each_s
            attempts.content(0, now)
            attempts.done(now)
    return now


def test_who_fails_fast_is_not_the_soonest() -> None:
    router = latency(A, B)
    now = known(router, {A: 0.2, B: 0.3})
    attempts = call(router, now)
    assert go(attempts.start(now)).target == A
    assert go(attempts.failed(0, now, answer(500))).target == B
    attempts.left(now)
    assert go(call(router, now).start(now)).target == B


def test_the_weight_is_how_much_one_can_take_beside_the_other() -> None:
    router = latency(A, B, weights=(3.0, 1.0))
    counts = Counter(go(call(router, 0.0).start(0.0)).target for _ in range(40))
    assert 28 <= counts[A] <= 32


def test_streams_and_whole_answers_have_paces_of_their_own() -> None:
    router = latency(A, B)
    for number in range(40):
        for target, first_s, whole_s in ((A, 0.1, 9.0), (B, 0.5, 2.0)):
            for stream, taken_s in ((True, first_s), (False, whole_s)):
                now = 20.0 * number
                attempts = router.begin(route([target]), now, now + 60, stream)
                attempts.start(now)
                attempts.content(0, now + taken_s)
                attempts.done(now + taken_s)
    assert go(call(router, 1000.0, stream=True).start(1000.0)).target == A
    router = latency(A, B)
    assert status(router, A, 0.0).stream_first_s is None


def test_what_was_slow_fades_by_time_and_by_calls() -> None:
    for every_s, until_s in ((0.01, FADE_S), (10.0, 10.0 * FADE_CALLS)):
        router = latency(A, B)
        now = began_s = known(router, {A: 10.0, B: 0.01})
        while served(router, now, 0.01) != A:
            now += every_s
        assert now - began_s == pytest.approx(until_s * math.log(10.0 / 0.01), rel=0.1)


# --- Hedges ---------------------------------------------------------------------------------------


def hedged(*tiers: Sequence[Target], after_s: float | None = 1.0, share: float = 0.05) -> Router:
    return routed(route(*tiers, hedge=Hedge(after_s, share)))


def test_a_hedge_goes_to_another_target_and_the_first_to_bring_content_wins() -> None:
    for winner in (0, 1):
        router = hedged([A], [B])
        attempts = call(router, 0.0)
        assert attempts.start(0.0) == Go(0, A, "first", 1.0)
        assert attempts.due(0.5) == Wait(1.0)
        assert attempts.due(1.0) == Go(1, B, "hedge")
        attempts.content(winner, 1.2)
        attempts.done(1.5)
        ended = ["outrun", "outrun"]
        ended[winner] = "done"
        assert [each.ended for each in attempts.tried] == ended
        assert {each.waiting for each in router.look(2.0)} == {0}
        assert {each.state for each in router.look(2.0)} == {"closed"}


def test_while_one_runs_the_failure_of_the_other_changes_nothing() -> None:
    router = routed(route([A], [B], [C], hedge=Hedge(1.0), retries_per_target=0))
    attempts = call(router, 0.0)
    attempts.start(0.0)
    attempts.due(1.0)
    assert wait(attempts.failed(0, 1.1, answer(500))).wake_s == math.inf
    assert go(attempts.failed(1, 1.2, answer(500))).target == C
    attempts = call(hedged([A], [B]), 0.0)
    attempts.start(0.0)
    attempts.due(1.0)
    assert given_up(attempts.failed(1, 1.1, answer(400))).answer == answer(400)
    assert [each.ended for each in attempts.tried] == ["outrun", "answered"]


def test_hedges_are_a_share_of_the_calls() -> None:
    router = hedged([A], [B], share=0.05)
    hedges = 0
    for number in range(2000):
        now = number * 0.1
        attempts = call(router, now)
        attempts.start(now)
        decision = attempts.due(now + 1.0)
        hedges += isinstance(decision, Go)
        attempts.content(0, now + 1.1)
        attempts.done(now + 1.1)
    assert 80 <= hedges <= 0.05 * 2000 + 0.1 * 200 + 20


def test_there_is_no_hedge_where_nobody_else_is_or_may_be_asked() -> None:
    attempts = call(hedged([A]), 0.0)
    assert attempts.start(0.0) == Go(0, A, "first")
    router = hedged([A], [B])
    now = broken(router, 0.0, B)
    attempts = call(router, now)
    attempts.start(now)
    assert isinstance(attempts.due(now + 1.0), Wait)
    attempts = call(routed(route([A], [B], hedge=Hedge(1.0), retries=0)), 0.0)
    assert attempts.start(0.0) == Go(0, A, "first"), "retries are bounded in all"


def test_the_moment_of_a_hedge_is_learned() -> None:
    router = hedged([A], [B], after_s=None)
    attempts = call(router, 0.0)
    assert go(attempts.start(0.0)).wake_s == math.inf, "nothing is known yet"
    attempts.left(0.0)
    for number in range(HEDGE_LEARN_FIRST * 10):
        served(router, float(number), 0.1 if number % 20 else 1.0)
    now = 1000.0
    after_s = go(call(router, now).start(now)).wake_s - now
    assert 0.09 < after_s < 1.01


# --- Patience -------------------------------------------------------------------------------------


def test_who_does_not_begin_hands_the_call_on() -> None:
    router = routed(route([A], [B], patience_s=2.0))
    attempts = call(router, 0.0)
    assert attempts.start(0.0) == Go(0, A, "first", 2.0)
    assert attempts.due(1.0) == Wait(2.0)
    assert attempts.due(2.0) == Go(1, B, "elsewhere", 4.0, instead_of=0)
    assert wait(attempts.due(4.0)).wake_s == math.inf, "nobody is left: it stays"
    attempts.content(1, 5.0)
    attempts.done(5.0)
    assert [each.ended for each in attempts.tried] == ["slow", "done"]


def test_where_nobody_else_is_a_slow_attempt_goes_on() -> None:
    for router in (
        routed(route([A], patience_s=2.0)),
        routed(route([A], [B], patience_s=2.0, retries=0)),
    ):
        attempts = call(router, 0.0)
        attempts.start(0.0)
        attempts.due(2.0)
        assert [each.ended for each in attempts.tried] == ["running"]
    router = routed(route([A], [B], patience_s=2.0))
    _spend(router, A)
    attempts = call(router, 0.0)
    attempts.start(0.0)
    assert isinstance(attempts.due(2.0), Wait), "it may be billed, and there is no budget"


# --- Whatever happens -----------------------------------------------------------------------------

ENDS: list[Lost | Answer | Dropped | PacelineError] = [
    BadRequest("it has no words for this", remedy="Ask another."),
    Dropped(Overloaded("no room", remedy="Ask later.")),
    *get_args(Lost),
    *(answer(each) for each in (400, 401, 408, 429, 500, 529)),
    answer(429, retry_after="5"),
    answer(503, retry_after="0.2"),
    answer(500, x_should_retry="false"),
]
TARGETS = [A, B, C, Target("alpha", "big"), Target("beta", "big")]

tiers = st.lists(
    st.builds(
        lambda targets, choose: Tier(tuple(targets), (), choose),
        st.lists(st.sampled_from(TARGETS), min_size=1, max_size=3, unique=True),
        st.sampled_from(["by_weight", "least_latency"]),
    ),
    min_size=1,
    max_size=3,
)
routes = st.builds(
    Route,
    st.just("m"),
    tiers.map(tuple),
    retries_per_target=st.integers(0, 3),
    retries=st.integers(0, 6),
    hedge=st.sampled_from([None, Hedge(0.5, 0.5), Hedge()]),
    patience_s=st.sampled_from([None, 1.0]),
)


@given(routes, st.data())
def test_whatever_happens_a_call_ends_once_in_time_and_goes_nowhere_after_content(
    way: Route, data: st.DataObject
) -> None:
    router = routed(way)
    now = 0.0
    for _ in range(data.draw(st.integers(1, 4))):
        within_s = data.draw(st.sampled_from([0.5, 5.0, 60.0]))
        now = _one_call(router, way, now, now + within_s, data)
        assert {each.waiting for each in router.look(now)} == {0}


def _one_call(
    router: Router, way: Route, now: float, deadline_s: float, data: st.DataObject
) -> float:
    attempts = router.begin(way, now, deadline_s, data.draw(st.booleans()))
    running: dict[int, Target] = {}
    asked: Counter[Target] = Counter()
    told: Decision = attempts.start(now)
    for _ in range(100):
        match told:
            case GiveUp():
                assert attempts.over
                break
            case Go():
                assert attempts.committed is None
                assert now < deadline_s
                assert told.target not in running.values(), "it runs there already"
                assert told.number == sum(asked.values())
                asked[told.target] += 1
                if told.instead_of is not None:
                    del running[told.instead_of]
                running[told.number] = told.target
                assert 1 <= len(running) <= 2
            case Wait():
                assert told.wake_s >= now
                assert running or told.wake_s < deadline_s, "it would never wake"
        wake_s = told.wake_s
        choices = ["due"] * (wake_s < deadline_s)
        choices += ["content", "failed", "late"] if running else []
        what = data.draw(st.sampled_from([*choices, "left"]))
        if what == "due":
            now = max(now, wake_s)
            told = attempts.due(now)
            continue
        if running and what != "late":
            now = min(deadline_s, now + data.draw(st.sampled_from([0.0, 0.1, 0.7])))
        if what == "left":
            attempts.left(now)
            break
        number = data.draw(st.sampled_from(sorted(running)))
        if what == "content":
            attempts.content(number, now)
            if data.draw(st.booleans()):
                attempts.done(now, 1)
            else:
                assert isinstance(attempts.failed(number, now, "cut"), GiveUp)
            break
        if what == "late":
            now = deadline_s
        del running[number]
        told = attempts.failed(number, now, "late" if what == "late" else _end(data))
    else:
        pytest.fail("it goes on and on")
    assert attempts.over
    tried = attempts.tried
    assert len(tried) == sum(asked.values())
    assert sum(each.ended != "cannot" for each in tried) <= 1 + way.retries
    assert all(times <= 1 + way.retries_per_target for times in asked.values())
    assert all(each.ended != "running" for each in tried)
    assert all(each.began_s <= (each.ended_s or 0.0) <= deadline_s for each in tried)
    return now


def _end(data: st.DataObject) -> Lost | Answer | Dropped | PacelineError:
    return data.draw(st.sampled_from([each for each in ENDS if each != "late"]))


# --- Targets that many models share ---------------------------------------------------------------


def overloads(router: Router, model: str, now: float, how: Answer | Lost) -> None:
    """So many calls of this model fail."""
    for _ in range(BREAKER_LEAST_CALLS):
        attempts = router.begin(router.resolve(model), now, now + 60, model=model)
        decision = attempts.start(now)
        if isinstance(decision, Go):
            attempts.failed(decision.number, now, how)


@pytest.mark.parametrize("target", [Target("alpha", "*"), Target("alpha")])
@pytest.mark.parametrize("how", ["unreachable", answer(429, retry_after="60")])
def test_one_model_of_many_that_fails_does_not_close_the_others(
    target: Target, how: Answer | Lost
) -> None:
    router = routed(route([target], name="alpha/*", retries=0), route([A], name="m", retries=0))
    bad, good = ("m", "n") if target.model else ("alpha/m", "alpha/n")
    overloads(router, "alpha/m", 1.0, how)
    closed = router.begin(router.resolve("alpha/m"), 1.0, 60.0, model="alpha/m").start(1.0)
    assert isinstance(closed, GiveUp)
    other = go(router.begin(router.resolve("alpha/n"), 1.0, 60.0, model="alpha/n").start(1.0))
    assert other.target == Target("alpha", good)
    states = {each.target: each.state for each in router.look(1.0)}
    assert states[Target("alpha", bad)] in ("open", "aside")
    if target.model:  # the same one, by whichever route
        assert isinstance(call(router, 1.0).start(1.0), GiveUp)


def test_what_is_relayed_as_it_is_has_the_target_of_the_settings() -> None:
    router = routed(route([Target("alpha", "*")], name="alpha/*"))
    way = router.resolve("alpha/m")
    assert go(router.begin(way, 1.0, 60.0).start(1.0)).target == Target("alpha", "*")


def test_only_so_many_models_are_known_and_the_one_used_last_is_kept() -> None:
    router = routed(route([Target("alpha", "*")], name="alpha/*", retries=0))
    overloads(router, "alpha/bad", 1.0, "unreachable")

    def is_open(model: str) -> bool:
        attempts = router.begin(router.resolve(model), 1.0, 60.0, model=model)
        return isinstance(attempts.start(1.0), GiveUp)

    for number in range(2 * LLM_MODELS_APART):
        assert not is_open(f"alpha/{number}")
        if number % 100 == 0:
            assert is_open("alpha/bad")
    assert len(router.look(1.0)) <= LLM_MODELS_APART + 1
    for number in range(LLM_MODELS_APART):
        is_open(f"alpha/{number}")
    assert not is_open("alpha/bad"), "nobody had asked for it for long"
    router.serve([route([B], name="alpha/*", retries=0)], 1.0)
    assert len(router.look(1.0)) == 1


# --- Several fronts -------------------------------------------------------------------------------


class Fronts:
    """Two of one server: what one tells, the other hears at once."""

    def __init__(self, *routes: Route) -> None:
        self.told: list[tuple[Target, float, str]] = []
        self.one = Router(routes, Chance(1), 0.0, self._tell)
        self.two = Router(routes, Chance(2), 0.0, self._tell)
        self.now = 0.0

    def _tell(self, target: Target, until_s: float, why: str) -> None:
        self.told.append((target, until_s, why))
        self.two.hear(target, until_s, why, self.now)


def test_a_pause_that_one_front_is_asked_for_holds_for_the_others() -> None:
    it = Fronts(route([A], [B], retries_per_target=0))
    under_way = [call(it.one, 0.0) for _ in range(3)]
    for each in under_way:
        each.start(0.0)
    for each in under_way:
        each.failed(0, 0.0, answer(429, retry_after="20"))
    assert it.told == [(A, 20.0, "")]
    assert go(call(it.two, 17.9).start(17.9)).target == B
    assert go(call(it.two, 20.1).start(20.1)).target == A
    attempts = call(it.one, 21.0)
    attempts.start(21.0)
    attempts.failed(0, 21.0, answer(429))
    assert len(it.told) == 1, "so short a pause is not worth the news"


def test_a_breaker_that_opens_on_one_front_keeps_the_others_away() -> None:
    it = Fronts(route([A], retries=0))
    now = it.now = broken(it.one, 1.0, A)
    ((target, until_s, why),) = it.told
    assert (target, until_s) == (A, now + BREAKER_OPEN_FIRST_S)
    end = given_up(call(it.two, now).start(now))
    assert isinstance(end.error, Unavailable)
    assert why in str(end.error.value)
    assert end.retry_after_s == pytest.approx(BREAKER_OPEN_FIRST_S)
    assert status(it.two, A, now).state == "open"
    assert served(it.two, until_s) == A
    assert status(it.two, A, until_s + 1).state == "closed"


def test_calls_that_fail_when_it_is_known_already_are_no_news() -> None:
    it = Fronts(route([A], retries=0))
    under_way = [call(it.one, 1.0) for _ in range(50)]
    for each in under_way:
        each.start(1.0)
    for each in under_way:
        each.failed(0, 1.1, "unreachable")
    assert len(it.told) == 1


def test_what_another_front_says_holds_no_longer_than_a_provider_is_believed() -> None:
    it = Fronts(route([A], [B]))
    it.two.hear(A, math.inf, "", 1.0)
    it.two.hear(C, 9.0, "", 1.0)
    assert go(call(it.two, 2.0).start(2.0)).target == B
    after_s = 1.0 + RETRY_AFTER_MOST_S
    assert go(call(it.two, after_s).start(after_s)).target == A
