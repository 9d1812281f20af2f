"""What steering promises: it moves what certainly pays, takes back what does not; else it is still.

Most of it on a made-up place that answers as much as its settings allow; some in the simulator.
"""

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from paceline.clock import Chance
from paceline.evidence.latencies import Latency, line
from paceline.evidence.simulate import Run, Simulation, World
from paceline.evidence.traces import poisson
from paceline.flow.queue import NEVER, Waiting
from paceline.serve.admission import Admission
from paceline.serve.batch import Tuning
from paceline.serve.batcher import Dynamic
from paceline.serve.classes import classes
from paceline.serve.core import Core
from paceline.serve.effects import Interval
from paceline.serve.latency import LatencyModel
from paceline.serve.look import LOOK, Ran
from paceline.serve.steering import LEAVE_S, Bounds, Looks, Move, Steering

BOTH: Bounds = {"executors": (1, 3), "max_batch": (1, 64), "margin": (0.0, 0.5)}
SLO_S = 0.2


def row_s(rows: int) -> float:
    return 0.010 + 0.002 * rows


def learned(takes: Callable[[int], float]) -> LatencyModel:
    model = LatencyModel()
    for size in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(30):
            model.observe(size, takes(size))
    return model


class Place:
    """Batches of one row take 12 ms and of 16 rows 42 ms, if alone. It fills them, and answers what
    it can, `share` of it in time. What is looked at may look better than it is: `flatter` is by how
    much. Batches scatter by 10 % to either side, times `noise`, what is answered by `swing`."""

    def __init__(self, tuning: Tuning, offered: float, seed: int = 0) -> None:
        self.tuning = tuning
        self.offered = offered
        self.beside = 1.0
        self.takes: Callable[[int], float] = row_s
        self.flatter = 1.0
        self.share = 1.0
        self.noise = 1.0
        self.swing = 0.02
        self.now = 0.0
        self.moves: list[tuple[float, Move]] = []
        self.looks: list[Tuning] = []
        self.obeys = True
        self.learned = learned(row_s)
        self.looked: list[tuple[Tuning, Ran]] = []
        self._chance = Chance(seed)

    def batch_s(self, tuning: Tuning) -> float:
        return self.takes(tuning.max_batch) * self.beside ** (tuning.executors - 1)

    def rate(self, tuning: Tuning) -> float:
        """Of what it can answer."""
        return tuning.executors * tuning.max_batch / self.batch_s(tuning)

    def ran(self, tuning: Tuning, batches: int, flatter: float = 1.0) -> Ran:
        ran = Ran()
        expected_s = self.learned.typical(tuning.max_batch)
        for _ in range(batches):
            seconds = self.batch_s(tuning) / flatter * math.exp(self._scatter())
            ran.count(tuning.max_batch, seconds, expected_s)
        return ran

    def interval(self) -> Interval:
        offered = self.offered * (1 + 0.4 * self._chance.uniform(-0.1, 0.1))
        can = self.rate(self.tuning)
        can *= 1 + self._chance.uniform(-self.swing, self.swing)
        answered = round(min(offered, can))
        busy_s = self.tuning.executors * min(1.0, offered / can)
        batches = round(busy_s / self.batch_s(self.tuning))
        looked, self.looked = tuple(self.looked), []
        return Interval(
            seconds=1.0,
            offered=round(offered),
            refused=max(0, round(offered) - answered),
            answered=answered,
            in_time=round(self.share * answered),
            batches=batches,
            rows=answered,
            busy_s=busy_s,
            ran=self.ran(self.tuning, batches),
            looked=looked,
        )

    def second(self, steering: Steering) -> Move | None:
        """One more; what steering wants is done."""
        self.now += 1.0
        answer = steering.observe(self.now, self.interval(), self.tuning, self.learned)
        if isinstance(answer, Looks):
            self.looks += answer.tunings
            self.looked = [(each, self.ran(each, LOOK, self.flatter)) for each in answer.tunings]
        elif answer is not None:
            self.moves.append((self.now, answer))
            if self.obeys:
                self.tuning = replace(self.tuning, **{answer.knob: answer.value})
            return answer
        return None

    def seconds(self, steering: Steering, count: int) -> list[Move]:
        found = (self.second(steering) for _ in range(count))
        return [each for each in found if each is not None]

    def until_moved(self, steering: Steering, most_s: int = 60) -> Move:
        for _ in range(most_s):
            move = self.second(steering)
            if move is not None:
                return move
        raise AssertionError("nothing was moved")

    def _scatter(self) -> float:
        return self.noise * self._chance.uniform(-0.1, 0.1)


ONE = Tuning(executors=1, max_batch=16)
CAN = 16 / row_s(16)
"""Of one executor, 381 requests a second."""


def only(knob: str) -> Bounds:
    return {each: between for each, between in BOTH.items() if each == knob}


# --- Moving ---------------------------------------------------------------------------------------


def test_what_is_answered_in_time_is_left_alone() -> None:
    place = Place(ONE, 0.95 * CAN)
    assert not place.seconds(Steering(BOTH, SLO_S), 120)
    assert not place.looks


def test_a_move_says_what_it_will_bring_in_figures() -> None:
    place = Place(ONE, 1.5 * CAN)
    move = place.until_moved(Steering(only("executors"), SLO_S))
    assert (move.knob, move.value, move.undoes) == ("executors", 2, False)
    assert place.now <= 5.0, "as soon as it knows how it is and has looked"
    assert "2 executors instead of 1" in move.reason
    assert re.search(r"5\d\d requests/s in time instead of 38\d(\.\d)?, \+4\d%", move.reason)
    assert re.search(r"take (0.9|1.0)\d times as long", move.reason)
    assert move.expects.metric == "goodput_rps"
    assert move.expects.low == pytest.approx(1.05 * CAN, rel=0.03)


@pytest.mark.parametrize(("beside", "moved"), [(1.7, True), (1.95, False), (2.5, False)])
def test_only_what_brings_more_than_a_twentieth_is_moved(beside: float, moved: bool) -> None:
    place = Place(ONE, 1.5 * CAN)
    place.beside = beside
    assert bool(place.seconds(Steering(only("executors"), SLO_S), 60)) == moved
    assert replace(ONE, executors=2) in place.looks


def test_executors_that_disturb_each_other_become_fewer() -> None:
    place = Place(replace(ONE, executors=2), 1.5 * CAN)
    steering = Steering(only("executors"), SLO_S)
    assert not place.seconds(steering, 30)
    place.beside = 2.5
    assert place.until_moved(steering).value == 1
    assert place.now <= 40.0
    assert not place.seconds(steering, 60)


def test_batches_shrink_to_where_a_knee_begins_in_one_move() -> None:
    place = Place(replace(ONE, max_batch=32), 1.5 * CAN)
    place.takes = lambda rows: row_s(rows) + 0.005 * max(0, rows - 8)
    move = place.until_moved(Steering(only("max_batch"), 1.0))
    assert (move.knob, move.value) == ("max_batch", 8)
    assert "batches of at most 8 instead of 32" in move.reason


def test_batches_grow_where_they_are_held_by_the_cap() -> None:
    place = Place(replace(ONE, max_batch=2), 1.5 * CAN)
    assert place.until_moved(Steering(only("max_batch"), SLO_S)).value >= 16


def test_bounds_that_are_no_power_of_two_are_reached_and_not_left() -> None:
    place = Place(replace(ONE, max_batch=32), 1.5 * CAN)
    place.takes = lambda rows: row_s(rows) + 0.015 * max(0, rows - 3)
    assert place.until_moved(Steering({"max_batch": (5, 32)}, 2.0)).value == 5
    assert min(tuning.max_batch for tuning in place.looks) == 5
    place = Place(replace(ONE, max_batch=4), 1.5 * CAN)
    assert place.until_moved(Steering({"max_batch": (4, 24)}, SLO_S)).value == 24
    assert max(tuning.max_batch for tuning in place.looks) == 24


def test_batches_that_leave_no_time_for_the_next_are_never_proposed() -> None:
    place = Place(replace(ONE, max_batch=2), 5 * CAN)
    move = place.until_moved(Steering(only("max_batch"), SLO_S))
    assert 2 * row_s(int(move.value)) <= SLO_S


def test_batches_shrink_to_what_was_learned_to_be_best_however_far_that_is() -> None:
    place = Place(ONE, 1.5 * CAN)
    place.takes = lambda rows: 0.004 if rows == 1 else 0.006 + 0.006 * rows
    place.learned = learned(place.takes)
    assert place.until_moved(Steering(only("max_batch"), 2 * SLO_S)).value == 1


def test_what_is_promising_is_looked_at_again_until_it_is_certain() -> None:
    place = Place(ONE, 2 * CAN)
    place.beside = 1.6
    place.noise = 4.0
    two = replace(ONE, executors=2)
    assert place.until_moved(Steering(only("executors"), SLO_S)).value == 2
    assert place.looks[-2:] == [two, two]
    assert place.now < 15.0, "one look after the other"


def test_what_is_answered_too_late_now_is_not_predicted_to_be_in_time() -> None:
    place = Place(ONE, 2 * CAN)
    place.share = 0.8
    move = place.until_moved(Steering(only("executors"), SLO_S))
    predicted, good = re.findall(r"(\d+)\S* requests/s in time instead of (\d+)", move.reason)[0]
    assert int(good) == pytest.approx(0.8 * CAN, rel=0.03)
    assert int(predicted) == pytest.approx(2 * 0.8 * CAN, rel=0.07)


class Shy(Place):
    """Executors are idle for the share of the time that is the margin."""

    def interval(self) -> Interval:
        found = super().interval()
        share = 1 - self.tuning.margin
        answered = round(found.answered * share)
        return replace(
            found,
            answered=answered,
            in_time=round(answered * self.share),
            refused=found.offered - answered,
            busy_s=share,
        )


def test_a_margin_that_keeps_executors_idle_shrinks() -> None:
    place = Shy(replace(ONE, margin=0.4), 1.1 * CAN)
    place.seconds(Steering(only("margin"), SLO_S), 90)
    assert [move.value for _, move in place.moves][:2] == [0.2, 0.1]
    assert "a margin of 0.2 instead of 0.4" in place.moves[0][1].reason


def test_a_margin_stays_where_answers_are_too_late() -> None:
    place = Shy(replace(ONE, margin=0.4), 1.1 * CAN)
    place.share = 0.9
    assert not place.seconds(Steering(only("margin"), SLO_S), 60)


# --- Taking back ----------------------------------------------------------------------------------


def flattered() -> Place:
    """Looks promise a quarter more; but a second executor takes more than it brings."""
    place = Place(ONE, 2 * CAN)
    place.beside = 2.4
    place.flatter = 1.5
    return place


def test_what_did_not_come_true_is_taken_back_with_what_was_measured() -> None:
    place = flattered()
    steering = Steering(only("executors"), SLO_S)
    done = place.until_moved(steering)
    moved_s = place.now
    back = place.until_moved(steering)
    assert done.value == 2
    assert (back.knob, back.value, back.undoes) == ("executors", 1, True)
    assert place.now - moved_s == pytest.approx(10.0), "no sooner than a knob may be moved again"
    assert "1 executor again" in back.reason
    assert "predicted" in back.reason


def test_what_failed_is_left_alone_for_longer_each_time() -> None:
    place = flattered()
    place.seconds(Steering(only("executors"), SLO_S), 1000)
    tries_s = [at_s for at_s, move in place.moves if not move.undoes]
    pauses_s = [after_s - before_s for before_s, after_s in pairwise(tries_s)]
    assert 3 <= len(tries_s) <= 5
    assert pauses_s[0] >= LEAVE_S
    assert all(later >= 1.5 * sooner for sooner, later in pairwise(pauses_s))


def test_what_can_be_seen_at_once_is_not_judged_by_the_first_moment() -> None:
    """Just after a move it still goes as before, and what is new is not learned yet."""

    class Turning(Place):
        turning = False

        def interval(self) -> Interval:
            found = super().interval()
            if not self.turning:
                return found
            self.turning = False
            slow = Ran()
            for _ in range(found.batches):
                slow.count(16, 2 * row_s(16), row_s(16))
            return replace(found, in_time=found.in_time // 2, ran=slow)

        def second(self, steering: Steering) -> Move | None:
            move = super().second(steering)
            self.turning = move is not None
            return move

    place = Turning(ONE, 2 * CAN)
    place.beside, place.flatter = 2.4, 1.5
    steering = Steering(only("executors"), SLO_S)
    place.until_moved(steering)
    assert place.until_moved(steering, 20).undoes


def test_a_gain_is_not_taken_back_for_the_noise_of_some_intervals() -> None:
    undone = 0
    for seed in range(40):
        place = Place(ONE, 2 * CAN, seed)
        place.beside, place.swing = 1.5, 0.3
        moves = place.seconds(Steering(only("executors"), SLO_S), 40)
        assert moves, seed
        undone += any(each.undoes for each in moves)
    assert undone <= 2


def test_what_came_true_stays() -> None:
    place = Place(ONE, 1.5 * CAN)
    steering = Steering(only("executors"), SLO_S)
    place.until_moved(steering)
    assert not place.seconds(steering, 200)
    assert place.tuning.executors == 2


def test_as_long_as_too_little_is_asked_for_it_cannot_tell_and_waits() -> None:
    place = flattered()
    steering = Steering(only("executors"), SLO_S)
    place.until_moved(steering)
    place.offered = 0.5 * CAN
    assert not place.seconds(steering, 200)
    assert place.tuning.executors == 2


def test_when_the_world_changes_meanwhile_nobody_is_blamed() -> None:
    place = Place(ONE, 3 * CAN)
    steering = Steering(only("executors"), SLO_S)
    place.until_moved(steering)
    place.seconds(steering, 2)
    place.takes = lambda rows: 3 * row_s(rows)
    moves = place.seconds(steering, 40)
    assert not any(each.undoes for each in moves)
    assert place.tuning.executors >= 2


def test_what_was_before_the_world_changed_is_no_measure_any_more() -> None:
    place = Place(ONE, 2 * CAN)
    place.beside = 2.1
    steering = Steering(only("executors"), SLO_S)
    assert not place.seconds(steering, 30)
    place.share, place.beside = 0.6, 1.0
    move = place.until_moved(steering)
    assert move.expects.low == pytest.approx(1.05 * 0.6 * CAN, rel=0.04)


def test_a_move_that_was_not_made_is_not_judged() -> None:
    place = flattered()
    place.obeys = False
    steering = Steering(only("executors"), SLO_S)
    moves = place.seconds(steering, 60)
    assert len(moves) >= 2
    assert not any(each.undoes for each in moves)


def test_a_move_that_is_made_a_little_later_is_judged_all_the_same() -> None:
    place = flattered()
    place.obeys = False
    steering = Steering(only("executors"), SLO_S)
    move = place.until_moved(steering)
    place.seconds(steering, 2)
    place.obeys = True
    place.tuning = replace(place.tuning, executors=int(move.value))
    assert place.until_moved(steering).undoes


def test_who_else_moves_a_setting_has_the_last_word() -> None:
    place = flattered()
    steering = Steering(only("executors"), SLO_S)
    place.until_moved(steering)
    place.tuning = replace(place.tuning, executors=3)
    place.flatter = 0.1
    assert not place.seconds(steering, 30)


def test_what_a_look_found_counts_for_nothing_once_the_world_is_another_one() -> None:
    place = Place(ONE, 2 * CAN)
    steering = Steering({"executors": (1, 2)}, SLO_S)
    while not place.looks:
        assert place.second(steering) is None
    found, place.looked = place.looked, []
    place.takes = lambda rows: 0.6 * row_s(rows)
    place.beside = 2.5
    place.seconds(steering, 2)
    place.looked = found
    assert not place.seconds(steering, 60)


# --- Being still ----------------------------------------------------------------------------------


def moved(place: Place, bounds: Bounds, seconds: int) -> list[Move]:
    return place.seconds(Steering(bounds, SLO_S), seconds)


@pytest.mark.parametrize("load", [0.5, 0.9, 1.3, 3.0])
def test_noise_moves_nothing(load: float) -> None:
    for seed in range(8):
        place = Place(replace(ONE, max_batch=32), load * 32 / row_s(32), seed)
        place.beside = 2.1
        assert not moved(place, {**BOTH, "max_batch": (1, 32)}, 60), seed


def test_slow_models_are_asked_no_less_and_judged_by_longer_intervals() -> None:
    place = Place(ONE, 0.15 * CAN)
    place.takes = lambda rows: 10 * row_s(rows)
    place.learned = learned(place.takes)
    steering = Steering(only("executors"), 5.0)
    while not place.looks:
        assert place.second(steering) is None
    assert place.now >= 3 * 20 * 10 * row_s(16), "three times twenty batches, the first to settle"
    assert place.until_moved(steering).value == 2


def test_when_all_callers_have_left_their_last_late_answers_are_no_reason() -> None:
    place = Place(ONE, 2 * CAN)
    place.share = 0.0
    steering = Steering(only("executors"), SLO_S)
    assert not place.seconds(steering, 5)
    answered = replace(place.interval(), offered=0, refused=0)
    found = []
    for _ in range(60):
        place.now += 1.0
        found.append(steering.observe(place.now, answered, place.tuning, place.learned))
    assert found[20:] == [None] * 40


ways = st.tuples(st.sampled_from([0.3, 1.0, 3.0]), st.floats(1, 3), st.floats(0.5, 3))


@given(st.lists(ways, min_size=1, max_size=6), st.integers(0, 99), st.integers(1, 3))
@settings(max_examples=12, deadline=None)
def test_whatever_happens_bounds_hold_and_a_knob_rests_for_ten_seconds(
    story: Sequence[tuple[float, float, float]], seed: int, executors: int
) -> None:
    def told() -> list[tuple[float, Move]]:
        place = Place(Tuning(executors=executors, max_batch=16), CAN, seed)
        steering = Steering({"executors": (1, 3), "max_batch": (4, 48)}, SLO_S)
        for load, beside, flatter in story:
            place.offered, place.beside, place.flatter = load * CAN, beside, flatter
            place.seconds(steering, 40)
        for tuning in (*place.looks, place.tuning):
            assert 1 <= tuning.executors <= 3
            assert 4 <= tuning.max_batch <= 48
        return place.moves

    moves = told()
    assert moves == told(), "the same again"
    for knob in ("executors", "max_batch"):
        moments_s = [at_s for at_s, move in moves if move.knob == knob]
        assert all(after_s - before_s >= 10.0 for before_s, after_s in pairwise(moments_s))


# --- Looks ----------------------------------------------------------------------------------------


class Busy:
    """A core that always has somebody waiting."""

    def __init__(self, **tuning: int) -> None:
        tuned = replace(Tuning(), **tuning)
        self.core = Core(lambda waiting, end: None, classes(None), tuned, admission=False)
        self.now = 0.0
        for _ in range(3):
            for size in range(1, 9):
                self.core.learned("a").observe(size, 0.01)
        self.core.measured()

    def batches(self, count: int, seconds: float = 0.01) -> list[tuple[int, int]]:
        """Of so many, how large each was, and how many ran when it was over."""
        found = []
        for _ in range(count):
            while len(self.core.queue) < 50:
                self.core.arrive(
                    self.now, Waiting(1, "a", 1, 0, self.now, self.now + 1, NEVER, "x")
                )
            while self.core.next(self.now) is not None:
                pass
            self.now += seconds
            first = self.core.running[0]
            found.append((first.rows, len(self.core.running)))
            self.core.done(self.now, first)
        return found


def test_a_look_runs_a_few_batches_with_other_settings_and_nothing_learns_from_it() -> None:
    busy = Busy(max_batch=8)
    busy.batches(10)
    before = busy.core.learned("a").batches
    small, many = busy.core.look([Tuning(max_batch=2), Tuning(max_batch=4)])
    found = busy.batches(2 * LOOK)
    assert [rows for rows, _ in found] == [2] * LOOK + [4] * LOOK
    assert not busy.core.looking
    assert (small.ran.batches, small.ran.rows) == (LOOK, 2 * LOOK)
    assert (many.ran.batches, many.ran.rows) == (LOOK, 4 * LOOK)
    assert busy.core.learned("a").batches == before
    assert busy.batches(1) == [(8, 1)]


def test_more_executors_are_looked_at_while_all_of_them_run() -> None:
    busy = Busy(max_batch=8)
    busy.batches(10)
    (look,) = busy.core.look([Tuning(max_batch=8, executors=2)])
    found = busy.batches(LOOK + 4)
    assert {running for _, running in found} == {1, 2}
    assert look.ran.batches == LOOK - 2, "the first began alone, and the last ended so"
    assert busy.batches(1)[0][1] == 1


def test_fewer_executors_are_looked_at_while_no_other_runs() -> None:
    busy = Busy(max_batch=8, executors=2)
    busy.batches(10)
    (look,) = busy.core.look([Tuning(max_batch=8, executors=1)])
    busy.batches(LOOK + 4)
    assert LOOK - 1 <= look.ran.batches <= LOOK
    assert busy.batches(1)[0][1] == 2


def test_settings_that_are_moved_end_a_look() -> None:
    busy = Busy(max_batch=8)
    busy.core.look([Tuning(max_batch=2), Tuning(max_batch=4)])
    busy.batches(1)
    busy.core.tune(Tuning(max_batch=6))
    assert not busy.core.looking
    assert busy.batches(3)[1:] == [(6, 1)] * 2


def test_one_slow_batch_says_little_of_a_setting() -> None:
    steady, odd = Ran(), Ran()
    for number in range(LOOK):
        steady.count(8, 0.01, 0.01)
        odd.count(8, 0.05 if number == 3 else 0.01, 0.01)
    assert steady.pace == pytest.approx(1.0)
    assert odd.pace < 1.4
    assert odd.spread > 0.5


def test_a_smaller_margin_leaves_what_lateness_added() -> None:
    admission = Admission((0.5, 0.1, 0.03, 0.01), 0.1)
    for _ in range(5):
        admission.ran(late=True)
    admission.keep_free(0.05)
    assert admission.margin == pytest.approx(0.15)
    admission.keep_free(0.4)
    assert admission.margin == pytest.approx(0.4)


# --- In the simulator -----------------------------------------------------------------------------

SCATTER = tuple(0.8 + 0.02 * step for step in range(21))


def world(*later: tuple[float, Latency], beside: float = 1.0) -> World:
    first = replace(line(0.005, 0.001, 64, SCATTER), side_by_side=beside)
    return World((first,), later=tuple((at_s, (each,)) for at_s, each in later))


def simulated(
    there: World,
    rate: float,
    seconds: float,
    seed: int,
    policy: Dynamic | None = None,
    **tuning: int,
) -> Run:
    return Simulation(
        poisson(rate, seconds, seed),
        there,
        classes(0.1),
        replace(Tuning(), **tuning),
        policy,
        seed=seed,
        steer=Steering({"executors": (1, 2), "max_batch": (1, 64)}, 0.1),
    ).run()


def test_in_traffic_executors_that_begin_to_disturb_each_other_are_taken_back() -> None:
    slow = replace(line(0.005, 0.001, 64, SCATTER), side_by_side=2.3)
    found = simulated(world((6.0, slow)), 1300, 20, 1, executors=2)
    (at_s, move), *more = found.moves
    assert (move.knob, move.value) == ("executors", 1)
    assert at_s <= 12.0
    assert not more


def test_in_traffic_batches_stay_below_a_knee() -> None:
    knee = Latency((1, 16, 64), (0.006, 0.021, 0.213), SCATTER)
    found = simulated(world((5.0, knee), beside=2.3), 1000, 25, 2, Dynamic(1, 64, 0.02))
    assert [move.value for _, move in found.moves if move.knob == "max_batch"] == [16]


@pytest.mark.parametrize("load", [0.5, 0.9, 1.3])
def test_in_traffic_noise_moves_nothing(load: float) -> None:
    assert not simulated(world(beside=2.3), 840 * load, 20, 1).moves


def test_without_steering_nothing_is_looked_at_and_the_same_happens() -> None:
    def ends(steer: Steering | None) -> list[float]:
        run = Simulation(
            poisson(300, 10, 3), world(), classes(0.1), Tuning(), seed=3, steer=steer
        ).run()
        return list(run.ended_s)

    assert ends(None) == ends(Steering(BOTH, 0.1))
