"""The serving core, one story at a time; whole traffic: test_simulate.py, test_core_watch.py."""

from collections.abc import Sequence

import pytest

from paceline.flow.queue import NEVER, Waiting
from paceline.serve.batch import Batch, Tuning
from paceline.serve.batcher import Dynamic
from paceline.serve.classes import classes
from paceline.serve.core import Core, End, Refused
from paceline.terms.limits import SHAPES

LOW, NORMAL, HIGH, CRITICAL = range(4)


class Served:
    """A core whose model takes 10 ms and 1 ms a row, and knows it; what became of whom, by name."""

    def __init__(
        self, slo_s: float | None = 0.1, policy: Dynamic | None = None, **tuning: object
    ) -> None:
        self.classes = classes(slo_s)
        self.core = Core(self._on_end, self.classes, Tuning(**{"max_batch": 8, **tuning}), policy)  # type: ignore[arg-type]
        self.ended: list[tuple[str, End]] = []
        self.told: list[str] = []
        for size in range(1, 17):
            for _ in range(4):
                self.core.learned("a").observe(size, 0.010 + 0.001 * size)

    def _on_end(self, waiting: Waiting, end: End) -> None:
        self.ended.append((waiting.work, end))

    def come(
        self,
        now: float,
        name: str,
        rank: int = NORMAL,
        *,
        timeout_s: float = NEVER,
        rows: int = 1,
        cost: int = 0,
        size_bytes: int = 0,
        shape: str = "a",
    ) -> Refused | None:
        target_s = now + self.classes.targets_s[rank]
        deadline_s = self.classes.deadline_s(rank, now, timeout_s)
        self.last = Waiting(rank, shape, rows, size_bytes, now, target_s, deadline_s, name, cost)
        return self.core.arrive(now, self.last)

    def all_come(self, now: float, names: str, rank: int = NORMAL) -> None:
        for name in names:
            assert self.come(now, name, rank) is None

    def batch(self, now: float) -> Batch:
        batch = self.core.next(now)
        assert batch is not None
        return batch


def names(members: Sequence[Waiting]) -> str:
    return "".join(each.work for each in members)


def test_a_free_executor_starts_at_once_and_what_piles_up_meanwhile_is_the_next_batch() -> None:
    served = Served()
    core = served.core
    served.all_come(0.0, "a")
    first = served.batch(0.0)
    assert (names(first.members), first.reason) == ("a", "idle worker")
    served.all_come(0.001, "bcd")
    assert core.next(0.001) is None
    assert names(core.done(0.011, first)) == "a"
    assert names(served.batch(0.011).members) == "bcd"
    assert core.dispatched["idle worker"] == 2


def test_what_cannot_be_done_in_time_is_told_so_at_the_door_with_the_prediction() -> None:
    served = Served(slo_s=0.1)
    served.all_come(0.0, "a")
    served.batch(0.0)
    refused = None
    came = 0
    while refused is None and came < 1000:
        refused = served.come(0.001, "x")
        came += 1
    assert refused is not None
    assert refused.why == "late"
    assert 0.1 < refused.wait_s < 0.15
    full_batches = -(-(came - 1) // 8)
    assert 0.05 < 0.011 + full_batches * 0.018 < 0.11
    assert served.come(0.001, "y", LOW) is None, "low may take five times as long"


def test_a_timeout_too_short_for_one_row_is_refused_though_nothing_waits() -> None:
    served = Served()
    refused = served.come(0.0, "a", timeout_s=0.005)
    assert refused is not None
    assert refused.why == "late"
    assert refused.wait_s == pytest.approx(0.011, rel=0.1)
    assert served.come(0.0, "b", timeout_s=0.02) is None


def test_expired_work_is_answered_at_once_and_never_runs() -> None:
    served = Served(slo_s=None)
    served.all_come(0.0, "a")
    batch = served.batch(0.0)
    served.come(0.001, "b", timeout_s=0.05)
    served.come(0.002, "c")
    assert served.core.wake_s == pytest.approx(0.051), "not when the executor happens to be free"
    assert served.core.next(served.core.wake_s) is None
    assert served.ended == [("b", "expired")]
    served.core.done(0.1, batch)
    assert names(served.batch(0.1).members) == "c"


def test_who_left_is_not_run_and_who_leaves_while_running_is_not_told() -> None:
    served = Served()
    core = served.core
    served.all_come(0.0, "a")
    batch = served.batch(0.0)
    running = batch.members[0]
    served.all_come(0.001, "b")
    gone = served.last
    served.all_come(0.001, "c")
    assert core.leave(0.002, gone)
    assert not core.leave(0.002, gone), "only once"
    assert core.leave(0.003, running)
    assert core.done(0.011, batch) == []
    assert names(served.batch(0.011).members) == "c"


def test_a_full_queue_sheds_low_first_and_never_what_ranks_as_high() -> None:
    served = Served(slo_s=None, max_waiting=4)
    served.all_come(0.0, "x")
    served.batch(0.0)
    served.all_come(0.001, "ab", LOW)
    served.all_come(0.002, "cd", NORMAL)
    assert served.come(0.003, "e", LOW) == Refused("full", 0.0)
    served.all_come(0.004, "e", CRITICAL)
    served.all_come(0.005, "f", HIGH)
    assert served.ended == [("b", "shed"), ("a", "shed")]
    served.all_come(0.006, "g", CRITICAL)
    assert served.ended[2:] == [("d", "shed")]


def test_the_queue_is_bounded_in_bytes_too() -> None:
    served = Served(slo_s=None)
    served.all_come(0.0, "x")
    served.batch(0.0)
    assert served.come(0.0, "a", LOW, size_bytes=100 << 20) is None
    assert served.come(0.0, "b", LOW, size_bytes=100 << 20) == Refused("full", 0.0)
    assert served.come(0.0, "c", NORMAL, size_bytes=100 << 20) is None
    assert served.ended == [("a", "shed")]


def test_a_standing_queue_is_cut_back_to_what_can_be_waited_for_and_a_burst_is_not() -> None:
    """Without an objective, at twice what it can do; of a deadline of 30 s waits take 3 s."""
    served = Served(slo_s=None)
    core = served.core
    now, waits, refused = 0.0, [], 0
    served.all_come(0.0, "x")
    batch = served.batch(0.0)
    for number in range(200):
        assert served.come(0.0, "burst") is None, f"number {number} of a burst"
    for round_ in range(1500):
        now += 0.018
        for each in core.done(now, batch):
            waits.append(batch.begun_s - each.arrived_s)
        batch = served.batch(now)
        if round_ >= 20:
            refused += sum(served.come(now, "late") is not None for _ in range(16))
    assert refused > 0.4 * 16 * 1000
    assert sum(waits[-800:]) / 800 == pytest.approx(3.0, rel=0.2)


def test_callers_in_turns_are_never_refused_though_their_queue_stands_beyond_the_target() -> None:
    """A target drops no work: 64 callers of a model of 12 ms a row, without an objective, wait
    0.75 s each, where the usual target is 0.1 s."""
    served = Served(slo_s=None, max_batch=1)
    core = served.core
    now = 0.0
    for number in range(64):
        assert served.come(now, f"caller {number}") is None
    waits = []
    for round_ in range(2000):
        batch = served.batch(now)
        now += 0.012
        (told,) = core.done(now, batch)
        waits.append(batch.begun_s - told.arrived_s)
        assert served.come(now, "again") is None, f"after {round_} answers"
    assert waits[-1] == pytest.approx(63 * 0.012, rel=0.05)


def test_a_batch_stays_within_its_budget_of_cost() -> None:
    served = Served(batch_cost=100)
    served.all_come(0.0, "x")
    running = served.batch(0.0)
    for name, cost in zip("abcd", (50, 40, 20, 500), strict=True):
        served.come(0.0, name, cost=cost)
    for expected in ("ab", "c", "d"):
        served.core.done(0.0, running)
        running = served.batch(0.0)
        assert names(running.members) == expected


def test_shapes_are_not_mixed_and_neither_waits_for_the_other() -> None:
    served = Served(executors=2)
    for name, shape in zip("abcdef", "ababab", strict=True):
        served.come(0.0, name, shape=shape)
    assert names(served.batch(0.0).members) == "ace"
    assert names(served.batch(0.0).members) == "bdf"


def run_again(served: Served, batch: Batch, poison: str) -> tuple[list[str], int]:
    """Until nothing is left; the names that were told an error, and how often it was run again."""
    core, failed, runs, now = served.core, list[str](), 0, 0.0
    running: Batch | None = batch
    while running is not None:
        now += 0.001
        if any(each.work in poison for each in running.members):
            failed.append(names(core.failed(now, running)))
        else:
            served.told.append(names(core.done(now, running)))
        running = core.next(now)
        runs += running is not None
    return [each for each in failed if each], runs


def test_of_a_pure_model_the_culprit_alone_gets_the_error() -> None:
    served = Served(isolate=True)
    served.all_come(0.0, "abcdefgh")
    failed, runs = run_again(served, served.batch(0.0), poison="e")
    assert failed == ["e"]
    assert sorted("".join(served.told)) == list("abcdfgh")
    assert runs <= 2 * 3 + 1
    assert served.core.reruns == runs == served.core.dispatched["isolation"]


def test_of_any_other_model_each_of_the_batch_gets_the_error() -> None:
    served = Served(isolate=False)
    served.all_come(0.0, "abcdefgh")
    assert run_again(served, served.batch(0.0), poison="e") == (["abcdefgh"], 0)


def test_while_the_culprit_is_looked_for_deadlines_and_callers_who_leave_still_count() -> None:
    served = Served(isolate=True, slo_s=None)
    core = served.core
    for name in "abcdefgh":
        served.come(0.0, name, timeout_s=0.05 if name == "g" else NEVER)
        if name == "h":
            leaving = served.last
    batch = served.batch(0.0)
    assert core.failed(0.02, batch) == ()
    part = served.batch(0.02)
    assert core.leave(0.03, leaving)
    assert core.next(0.03) is None
    assert core.wake_s == pytest.approx(0.05)
    assert core.next(core.wake_s) is None
    assert served.ended == [("g", "expired")]
    failed, _ = run_again(served, part, poison="a")
    assert failed == ["a"]
    assert sorted("".join(served.told)) == list("bcdef")


def test_batches_shrink_while_requests_poison_each_other_and_grow_again() -> None:
    """The cost lies in the rows, so small batches lose nothing."""
    served = Served(isolate=True, max_batch=64, slo_s=None)
    core = served.core
    for size in range(1, 65):
        for _ in range(30):
            core.learned("a").observe(size, 0.001 * size)
    core.tune(core.tuning)
    assert core.cap == 64

    def serve(rounds: int, every: int) -> None:
        for number in range(rounds):
            served.come(0.0, "g" if number % every else "b")
            for _ in range(19):
                served.come(0.0, "g")
            running: Batch | None = served.batch(0.0)
            while running is not None:
                run = core.failed if any(e.work == "b" for e in running.members) else core.done
                run(0.001 * running.rows + running.begun_s, running)
                running = core.next(running.begun_s)

    serve(100, every=1)
    assert core.cap <= 8
    serve(400, every=1000)
    assert core.cap == 64


def test_an_executor_that_dies_takes_its_batch_and_its_place_until_it_is_back() -> None:
    served = Served(executors=1)
    served.all_come(0.0, "ab")
    assert names(served.core.lost(0.005, served.batch(0.0))) == "ab"
    served.all_come(0.006, "c")
    assert served.core.next(0.006) is None
    served.core.recovered()
    assert names(served.batch(0.01).members) == "c"


def test_a_part_that_is_lost_does_not_keep_the_rest_from_being_run_again() -> None:
    served = Served(isolate=True)
    served.all_come(0.0, "abcdefgh")
    served.core.failed(0.01, served.batch(0.0))
    lost = names(served.core.lost(0.02, served.batch(0.01)))
    assert served.core.next(0.02) is None
    served.core.recovered()
    failed, _ = run_again(served, served.batch(0.03), poison="h")
    assert failed == ["h"]
    assert sorted("".join(served.told) + lost) == list("abcdefg")


def test_what_is_tuned_counts_from_the_next_batch_on() -> None:
    served = Served(executors=1)
    served.all_come(0.0, "abcdefgh")
    served.core.tune(Tuning(max_batch=2, executors=2))
    assert names(served.batch(0.0).members) == "ab"
    assert names(served.batch(0.0).members) == "cd"
    served.core.tune(Tuning(max_batch=4, executors=1))
    assert served.core.next(0.0) is None, "one too many runs already"
    for running in list(served.core.running):
        assert served.core.next(0.0) is None
        served.core.done(0.01, running)
    assert names(served.batch(0.01).members) == "efgh"


def test_a_policy_that_waits_says_what_for_and_until_when() -> None:
    served = Served(policy=Dynamic(1, 4, 0.02))
    served.all_come(0.0, "a")
    assert served.core.next(0.0) is None
    assert served.core.waits["wait exceeded"] == 1
    assert served.core.wake_s == pytest.approx(0.02)
    assert served.batch(0.02).reason == "wait exceeded"


def test_the_margin_grows_when_what_was_let_in_is_late_and_shrinks_again() -> None:
    served = Served(slo_s=0.03)
    core = served.core
    assert core.admission is not None
    served.all_come(0.0, "a")
    slow = served.batch(0.0)
    served.all_come(0.001, "b")
    first = core.admission.margin
    core.done(0.05, slow)
    assert core.admission.margin == first, "late by chance: more room would not have helped"
    assert core.next(0.05) is None, "what waited behind it has expired"
    served.all_come(0.1, "c")
    behind = served.batch(0.1)
    served.all_come(0.101, "d")
    served.all_come(0.101, "e", LOW)
    core.done(0.125, behind)
    assert names(served.batch(0.125).members) == "e"
    assert served.ended[-1] == ("d", "expired")
    assert core.admission.margin > first, "let in, and there was no time left to run it"
    core.done(0.136, core.running[0])
    for number in range(5000):
        served.all_come(1.0 + number, "a")
        core.done(1.01 + number, served.batch(1.0 + number))
    assert core.admission.margin == 0.0


def test_low_is_not_let_in_where_what_comes_meanwhile_will_go_first() -> None:
    """Normal alone fills the model; low would be overtaken until it is late."""
    served = Served(slo_s=0.1)
    core = served.core
    now, refused = 0.0, [0, 0, 0, 0]
    served.all_come(now, "x")
    batch = served.batch(now)
    for _ in range(300):
        for each in range(8):
            for rank in (NORMAL, LOW):
                refused[rank] += served.come(now + each * 0.002, "x", rank) is not None
        now += 0.018
        core.done(now, batch)
        batch = served.batch(now)
    assert refused[LOW] > 0.8 * 2400
    assert refused[NORMAL] < 0.2 * 2400
    assert len(served.ended) < 50


def test_of_what_was_refused_for_a_while_one_at_a_time_is_tried() -> None:
    served = Served(slo_s=0.1)
    for _ in range(40):  # something slows everything down
        served.core.learned("a").observe(1, 0.2)
    assert served.come(0.0, "a") is not None
    assert served.come(0.9, "b") is not None
    assert served.come(1.1, "c") is None
    assert served.come(1.1, "d") is not None, "one at a time"
    batch = served.batch(1.1)
    assert names(batch.members) == "c"
    served.core.done(1.3, batch)
    assert served.come(5.0, "e") is not None, "in vain: not again before twenty times its time"
    assert served.come(5.2, "f") is None
    served.core.done(5.211, served.batch(5.2))
    assert served.come(5.22, "g") is None, "it went well: the next one at once"
    assert served.ended == []


def test_who_is_tried_and_leaves_or_expires_makes_room_for_the_next_try() -> None:
    served = Served(slo_s=0.1)
    for _ in range(40):
        served.core.learned("a").observe(1, 0.2)
    served.come(0.0, "a")
    served.core.idle = 0
    assert served.come(5.0, "b") is None
    served.core.leave(5.01, served.last)
    assert served.come(10.0, "c") is None
    assert served.core.admission is not None
    margin = served.core.admission.margin
    assert served.core.next(10.2) is None
    assert served.ended == [("c", "expired")]
    assert served.core.admission.margin == margin, "it was let in against the prediction"
    assert served.come(15.0, "d") is None


def test_however_many_shapes_come_the_one_that_is_still_run_is_not_forgotten() -> None:
    served = Served(slo_s=None)
    for number in range(3 * SHAPES):
        now = float(number)
        for shape in ("a", f"seen once {number}"):
            assert served.come(now, "x", shape=shape) is None
            served.core.done(now + 0.011, served.batch(now))
    assert served.core.learned("a").batches > 3 * SHAPES


def test_a_margin_that_alone_refuses_everybody_gives_way() -> None:
    served = Served(slo_s=0.015)
    core = served.core
    assert core.admission is not None
    for _ in range(20):
        core.admission.ran(late=True)
    for now in (0.0, 2.0, 2.02, 2.04):
        refused = served.come(now, "a")
        if refused is None:
            core.done(now + 0.011, served.batch(now))
    assert refused is None


def test_a_margin_that_is_asked_for_is_kept_free() -> None:
    served = Served(slo_s=0.1)
    served.core.tune(Tuning(max_batch=8, margin=0.5))
    served.all_come(0.0, "a")
    served.batch(0.0)
    refused = [served.come(0.001, "x") for _ in range(40)]
    assert sum(each is None for each in refused) <= 16, "two full batches, not five"


def test_who_was_refused_has_ended_and_leaves_nothing_behind() -> None:
    served = Served(slo_s=None, max_waiting=1)
    served.all_come(0.0, "a")
    served.core.next(0.0)
    served.all_come(0.0, "b")
    assert served.come(0.0, "c", timeout_s=0.001) is not None
    assert not served.core.leave(0.0, served.last)
    assert served.core.limiter is not None
    assert served.core.limiter.in_flight == 2


def test_without_any_deadline_batches_are_sized_all_the_same() -> None:
    ends: list[End] = []
    core = Core(
        lambda waiting, end: ends.append(end), classes(None, default_s=NEVER), Tuning(max_batch=4)
    )
    for number in range(6):
        assert core.arrive(0.0, Waiting(NORMAL, 0, 1, 0, 0.0, 0.1, NEVER, number)) is None
    batch = core.next(0.0)
    assert batch is not None
    core.done(0.1, batch)
    assert core.next(0.1) is not None
    assert core.arrive(0.1, Waiting(NORMAL, 0, 1, 0, 0.1, 0.2, 5.0, 7)) is None


def test_callers_who_take_turns_are_shared_among_the_executors() -> None:
    """64 of them at two executors: one who comes first, and 63 who come while it is served."""
    served = Served(slo_s=None, max_batch=64, executors=2)
    core = served.core

    def takes_s(rows: int) -> float:
        return 0.002 + 0.001 * rows

    for size in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(8):
            core.learned("c").observe(size, takes_s(size))

    def come(now: float, count: int) -> Batch:
        for _ in range(count):
            served.come(now, "c", shape="c")
        return served.batch(now)

    running = [come(0.0, 1), come(0.001, 63)]
    assert [batch.rows for batch in running] == [1, 32], "half of all"
    rows = []
    for _ in range(40):
        over = min(running, key=lambda each: each.begun_s + takes_s(each.rows))
        now = over.begun_s + takes_s(over.rows)
        running.remove(over)
        running.append(come(now, len(core.done(now, over))))
        rows.append(running[-1].rows)
    assert max(rows[10:]) <= 2 * min(rows[10:])


def test_a_batch_is_not_shared_where_smaller_ones_cost_an_executor_its_throughput() -> None:
    served = Served(slo_s=None, max_batch=64, executors=2)
    for size in (1, 2, 4, 8, 16, 32, 64):
        for _ in range(8):
            served.core.learned("b").observe(size, 0.030 + 0.0001 * size)
    for _ in range(40):
        served.come(0.0, "b", shape="b")
    assert served.batch(0.0).rows == 40
