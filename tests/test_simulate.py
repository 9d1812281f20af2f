"""Whole traffic through the serving core, in virtual time: goodput, overload, fairness, crashes."""

import msgspec
import numpy as np
import pytest

from paceline.evidence.latencies import Latency, line
from paceline.evidence.simulate import (
    DONE,
    ENDS,
    FULL,
    LATE,
    LEFT,
    LOST,
    OPEN,
    STEER_S,
    Run,
    Simulation,
    World,
)
from paceline.evidence.traces import MIXED, PLAIN, Mix, Trace, bursty, poisson
from paceline.serve.batch import Tuning
from paceline.serve.batcher import Dynamic
from paceline.serve.classes import classes
from paceline.serve.steering import Steering

SCATTER = tuple(np.linspace(0.85, 1.2, 21).tolist())
ENCODER = line(0.002, 0.0015, 64, SCATTER)
SLO_S = 0.1
PEAK = 2 * 64 / 0.098
"""Rows a second of two executors with full batches."""


def run(
    trace: Trace, *, slo_s: float | None = SLO_S, world: World | None = None, **options: object
) -> Run:
    tuning = Tuning(executors=2, isolate=bool(world and world.poison))
    world = world or World((ENCODER, ENCODER))
    return Simulation(trace, world, classes(slo_s), tuning, seed=3, **options).run()  # type: ignore[arg-type]


def made(load: float, requests: int = 8000, mix: Mix = PLAIN) -> Trace:
    return poisson(load * PEAK, requests / (load * PEAK), 5, mix)


def share_by_rank(found: Run) -> list[float]:
    """In time, of those whose callers stayed."""
    ranks = np.asarray(found.trace.ranks)
    return [float(found.in_time[(ranks == r) & (found.ends != LEFT)].mean()) for r in range(4)]


def test_below_capacity_all_is_in_time() -> None:
    found = run(made(0.8))
    assert found.share_in_time > 0.99
    assert found.count(OPEN) == 0


@pytest.mark.parametrize("load", [1.0, 2.0, 3.0])
def test_beyond_capacity_goodput_stays_and_what_is_let_in_is_in_time(load: float) -> None:
    found = run(made(load, 12_000))
    assert found.goodput > 0.88 * PEAK
    assert np.quantile(found.accepted_s, 0.99) <= 1.0
    assert found.count(LATE) > 0


def test_without_admission_overload_ruins_it() -> None:
    """What the prediction is worth."""
    trace = made(1.5)
    assert run(trace).goodput > 2 * run(trace, admission=False, policy=Dynamic(1, 32, 0.01)).goodput


def test_under_overload_the_higher_class_is_served_first() -> None:
    found = run(made(2.0, 12_000, MIXED))
    shares = share_by_rank(found)
    assert shares == sorted(shares)
    assert shares[3] > 0.95
    assert shares[2] > 0.9
    assert shares[0] < 0.1


def test_without_an_objective_overload_is_refused_once_waits_are_a_tenth_of_the_deadline() -> None:
    found = run(made(2.0, 40_000), slo_s=None)
    waits_s = found.ended_s - np.asarray(found.trace.arrived_s)
    later = np.asarray(found.trace.arrived_s) > 10.0
    assert np.mean(waits_s[later & (found.ends == DONE)]) == pytest.approx(3.0, rel=0.2)
    assert found.count(FULL) > 0
    assert found.goodput > 0.9 * PEAK


def test_a_run_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    trace = bursty(0.7 * PEAK, 5.0, 1, MIXED)
    world = World((ENCODER, ENCODER), poison=0.01, crashes_per_s=0.2)

    def ends(seed: int) -> list[float]:
        tuning = Tuning(executors=2, isolate=True)
        found = Simulation(trace, world, classes(SLO_S), tuning, seed=seed).run()
        return [*found.ends.tolist(), *found.ended_s.tolist()]

    assert ends(1) == ends(1)
    assert ends(1) != ends(2)


def test_crashes_poison_and_callers_who_leave_are_all_accounted_for() -> None:
    world = World((ENCODER, ENCODER), poison=0.02, crashes_per_s=0.5, restart_s=0.3)
    mix = Mix(ranks=(0.2, 0.6, 0.1, 0.1), shapes=(0.5, 0.5), leaving=0.3, timing_out=0.3)
    found = run(made(0.7, 8000, mix), world=world)
    counts = dict(zip(ENDS, np.bincount(found.ends, minlength=len(ENDS)).tolist(), strict=True))
    assert counts["open"] == 0
    assert sum(counts.values()) == len(found.trace)
    assert counts["lost"] > 0 < counts["left"]
    assert 0.01 * len(found.trace) < counts["failed"] <= 0.025 * len(found.trace)
    assert found.reruns > counts["failed"]


def test_a_step_in_cost_is_learned() -> None:
    world = World((ENCODER,), steps=((4.0, 2.0),))
    trace = poisson(0.4 * PEAK, 12.0, 5, PLAIN)
    found = run(trace, world=world)
    settled = np.asarray(trace.arrived_s) > 5.0
    assert found.in_time[settled].mean() > 0.97


@pytest.mark.parametrize(("times", "slow_s"), [(20.0, 3.0), (60.0, 2.0)])
def test_after_a_while_in_which_nothing_could_be_in_time_it_serves_again(
    times: float, slow_s: float
) -> None:
    """What is refused is not run, and what is not run could not show that it is fast again."""
    world = World((ENCODER,), steps=((2.0, times), (2.0 + slow_s, 1.0)))
    found = run(poisson(60.0, 20.0), world=world)
    arrived_s = np.asarray(found.trace.arrived_s)
    assert found.in_time[arrived_s > 15.0].mean() > 0.97


def test_what_takes_too_long_for_its_objective_is_tried_now_and_then_and_others_hardly_notice() -> (
    None
):
    """The one shape never fits; the other one needs a tenth of the executors."""
    world = World((line(0.002, 0.0015), line(0.15, 0.0)))
    mix = Mix(shapes=(0.5, 0.5))
    found = run(poisson(50.0, 60.0, 5, mix), world=world)
    shapes = np.asarray(found.trace.shapes)
    assert found.in_time[shapes == 0].mean() > 0.97
    assert 10 < (found.ends[shapes == 1] == DONE).sum() < 25, "one in three seconds"


def test_a_latency_beyond_what_was_measured_goes_on_as_it_grew_last() -> None:
    measured = Latency((1, 2, 4), (0.010, 0.012, 0.016))
    assert measured.table(6) == pytest.approx([0.010, 0.010, 0.012, 0.014, 0.016, 0.018, 0.020])
    assert Latency((1,), (0.5,)).table(2)[2] == pytest.approx(1.0)


def test_a_server_that_learns_as_it_goes_gets_there_too() -> None:
    """Cold: nothing was run before the first request."""
    found = run(made(0.8, 20_000), warm=False)
    later = np.asarray(found.trace.arrived_s) > found.trace.seconds / 2
    assert found.in_time[later].mean() > 0.98


def test_steering_sleeps_while_nobody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a server; a year between two requests would be 30 million times to ask."""
    asked: list[float] = []

    def observe(self: Steering, now: float, *measured: object) -> None:
        asked.append(now)

    monkeypatch.setattr(Steering, "observe", observe)
    year_s = 365 * 86400.0
    trace = msgspec.structs.replace(made(0.5, 2), arrived_s=[0.5, year_s])
    run(trace, steer=Steering({}, SLO_S))
    assert asked[0] == pytest.approx(STEER_S)
    assert len(asked) < 5


def test_where_executors_do_not_come_back_what_waits_expires() -> None:
    world = World((ENCODER,), crashes_per_s=1000.0, restart_s=1e6)
    found = run(made(0.5, 200), world=world)
    assert found.count(LOST) > 0
    assert found.count(OPEN) == 0
