"""Simulated time is exact, deterministic and closed; real time is never early."""

import asyncio
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from paceline.clock import WALL_AT_START_S, Clock, RealClock
from paceline.testing import (
    Chance,
    Deadlock,
    LeftBehind,
    Livelock,
    NotSimulated,
    SimulatedClock,
    SimulationFailed,
    run_simulated,
)

# --- Virtual time ---------------------------------------------------------------------------------


def test_a_year_passes_at_once_and_ends_at_the_exact_moment() -> None:
    async def main(clock: Clock, chance: Chance) -> float:
        for day in range(1, 366):
            await clock.until(day * 86400.0)
        return clock.now()

    assert run_simulated(main) == 365 * 86400.0


@given(st.lists(st.floats(min_value=0, max_value=1e9), max_size=20), st.integers())
def test_everybody_wakes_at_the_very_moment_they_asked_for(moments: list[float], seed: int) -> None:
    async def main(clock: Clock, chance: Chance) -> list[tuple[float, float]]:
        async def sleeper(moment: float) -> tuple[float, float]:
            await clock.until(moment)
            return moment, clock.now()

        return list(await asyncio.gather(*(sleeper(moment) for moment in moments)))

    assert all(asked == woken for asked, woken in run_simulated(main, seed))


def test_a_moment_that_has_passed_gives_the_others_a_turn() -> None:
    async def main(clock: Clock, chance: Chance) -> list[str]:
        seen: list[str] = []

        async def other() -> None:
            seen.append("other")

        task = asyncio.create_task(other())
        for _ in range(3):
            await clock.until(clock.now() - 1)
            await clock.until(clock.now())
        assert seen
        await task
        return seen

    assert run_simulated(main) == ["other"]


@pytest.mark.parametrize("moment", [math.inf, math.nan])
def test_waiting_for_ever_is_refused(moment: float) -> None:
    async def main(clock: Clock, chance: Chance) -> None:
        with pytest.raises(AssertionError, match=r"asyncio\.Event"):
            await clock.until(moment)

    run_simulated(main)
    asyncio.run(main(RealClock(), Chance()))


async def _timeout(clock: Clock) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.Event().wait()


async def _wait_for(clock: Clock) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 5)


async def _call_later(clock: Clock) -> None:
    rung = asyncio.Event()
    asyncio.get_running_loop().call_later(5, rung.set)
    await rung.wait()


async def _queue(clock: Clock) -> None:
    queue: asyncio.Queue[float] = asyncio.Queue(maxsize=1)

    async def producer() -> None:
        for moment in range(1, 6):
            await clock.until(moment)
            await queue.put(clock.now())

    async with asyncio.TaskGroup() as group:
        group.create_task(producer())
        assert [await queue.get() for _ in range(5)] == [1, 2, 3, 4, 5]


async def _task_group(clock: Clock) -> None:
    async def fail() -> None:
        await clock.until(5)
        raise ZeroDivisionError

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())
            group.create_task(clock.until(10))

    with pytest.raises(ExceptionGroup):
        await both()


async def _wait(clock: Clock) -> None:
    slow = asyncio.create_task(clock.until(10))
    done, pending = await asyncio.wait([slow], timeout=5)
    assert (done, pending) == (set(), {slow})
    slow.cancel()


async def _asynchronous_generator(clock: Clock) -> None:
    async def ticks() -> AsyncIterator[float]:
        while True:
            await clock.until(clock.now() + 1)
            yield clock.now()

    async for moment in ticks():
        if moment == 5:
            break


def test_a_generator_left_half_way_is_closed() -> None:
    closed: list[float] = []

    async def main(clock: Clock, chance: Chance) -> str:
        async def ticks() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                await clock.until(clock.now() + 7)
                closed.append(clock.now())

        async for _ in ticks():
            break
        return "done"

    assert (run_simulated(main), closed) == ("done", [7])


@pytest.mark.parametrize(
    "use",
    [_timeout, _wait_for, _call_later, _queue, _task_group, _wait, _asynchronous_generator],
)
@pytest.mark.parametrize("seed", range(3))
def test_asyncio_keeps_virtual_time(use: Callable[[Clock], Awaitable[None]], seed: int) -> None:
    async def main(clock: Clock, chance: Chance) -> float:
        await use(clock)
        return clock.now()

    assert run_simulated(main, seed) == 5


def test_wall_time_follows_and_may_jump_back_while_time_does_not() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        await clock.until(10)
        assert clock.wall() == WALL_AT_START_S + 10
        clock.shift_wall(-3600)
        assert clock.wall() == WALL_AT_START_S - 3590
        assert clock.now() == 10

    run_simulated(main)


def test_a_clock_set_by_hand_needs_no_simulation() -> None:
    clock = SimulatedClock()
    clock.advance(2.5)
    assert (clock.now(), clock.wall()) == (2.5, WALL_AT_START_S + 2.5)
    with pytest.raises(AssertionError, match="-1"):
        clock.advance(-1)


def test_a_process_that_was_suspended_finds_its_timers_overdue() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> float:
        waiting = asyncio.create_task(clock.until(1))
        await clock.until(0.5)
        clock.advance(60)
        await waiting
        return clock.now()

    assert run_simulated(main) == 60.5


# --- The same seed, the same run ------------------------------------------------------------------


async def _busy(clock: SimulatedClock, chance: Chance) -> str:
    """Chance, sets of tasks, cancellation, timers of the same moment: what could differ."""

    async def wanders() -> None:
        for _ in range(5):
            await clock.until(clock.now() + chance.integer(0, 2))

    async def fails() -> None:
        await clock.until(3)
        raise ZeroDivisionError

    for _ in range(3):
        tasks = [asyncio.create_task(wanders()) for _ in range(20)]
        await asyncio.wait(tasks, timeout=4)
        for task in tasks:
            task.cancel()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails())
                for _ in range(20):
                    group.create_task(asyncio.Event().wait(), name=f"waits-{_}")
        except ExceptionGroup:
            pass
    return clock.trace


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_same_seed_gives_the_same_run(shuffle: bool) -> None:
    litter: list[object] = []
    traces = set()
    for size in range(10):
        litter.append([object() for _ in range(size * 7)])  # other addresses in each run
        traces.add(run_simulated(_busy, seed=5, shuffle=shuffle))
    assert len(traces) == 1


def test_the_same_seed_gives_the_same_run_in_another_process() -> None:
    script = (
        "from test_clock import _busy; from paceline.clock import run_simulated;"
        "print(run_simulated(_busy, seed=5))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip() == run_simulated(_busy, seed=5)


def test_other_seeds_explore_other_orders_and_find_a_race() -> None:
    async def main(clock: Clock, chance: Chance) -> int:
        stock = 1
        sold = 0

        async def buy() -> None:
            nonlocal stock, sold
            if stock:
                await asyncio.sleep(0)
                stock -= 1
                sold += 1

        async def buy_later() -> None:
            await asyncio.sleep(0)
            await buy()

        async with asyncio.TaskGroup() as group:
            group.create_task(buy())
            group.create_task(buy_later())
        return sold

    assert {run_simulated(main, seed) for seed in range(20)} == {1, 2}
    assert {run_simulated(main, seed, shuffle=False) for seed in range(20)} == {1}


def test_without_shuffling_timers_of_one_moment_keep_their_order() -> None:
    async def main(clock: Clock, chance: Chance) -> list[int]:
        rung: list[int] = []
        loop = asyncio.get_running_loop()
        for number in range(50):
            loop.call_at(1 + number % 2, rung.append, number)
        await clock.until(3)
        return rung

    assert run_simulated(main, shuffle=False) == [*range(0, 50, 2), *range(1, 50, 2)]


# --- What fails a simulation ----------------------------------------------------------------------


def test_every_failure_names_its_seed() -> None:
    async def main(clock: Clock, chance: Chance) -> None:
        assert chance.seed == 41
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as failure:
        run_simulated(main, seed=41)
    assert "seed=41" in failure.value.__notes__[0]


def test_a_deadlock_names_who_waits_where() -> None:
    async def reader(queue: "asyncio.Queue[int]") -> None:
        await queue.get()

    async def main(clock: Clock, chance: Chance) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(reader(asyncio.Queue()), name="the reader")

    with pytest.raises(Deadlock) as failure:
        run_simulated(main)
    told = str(failure.value)
    assert "the reader in test_a_deadlock_names_who_waits_where.<locals>.reader" in told
    assert "(test_clock.py:" in told
    assert "in Queue.get" in told


def test_a_sleep_without_end_is_a_deadlock() -> None:
    async def main(clock: Clock, chance: Chance) -> None:
        await asyncio.wait_for(asyncio.Event().wait(), timeout=math.inf)

    with pytest.raises(Deadlock):
        run_simulated(main)


@pytest.mark.parametrize("pause_s", [0, 1])
def test_a_livelock_ends_at_its_bound(pause_s: int) -> None:
    async def spins(clock: Clock, chance: Chance) -> None:
        while True:
            await clock.until(clock.now() + pause_s)

    with pytest.raises(Livelock, match=r"1000 steps .*steps_max(.|\n)*spins"):
        run_simulated(spins, steps_max=1000)


def test_a_task_left_behind_is_named_and_stopped() -> None:
    ended: list[str] = []

    async def forgotten(clock: Clock) -> None:
        try:
            await clock.until(100)
        finally:
            ended.append("forgotten")

    async def main(clock: Clock, chance: Chance) -> asyncio.Task[None]:
        task = asyncio.create_task(forgotten(clock))
        await clock.until(1)
        return task

    with pytest.raises(LeftBehind, match="forgotten"):
        run_simulated(main)
    assert ended == ["forgotten"]


def test_a_task_that_was_cancelled_may_take_its_time_to_end() -> None:
    async def main(clock: Clock, chance: Chance) -> str:
        asyncio.create_task(clock.until(100), name="held by nobody").cancel()
        return "fine"

    assert run_simulated(main) == "fine"


def test_an_exception_nobody_awaits_fails_the_run() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    async def main(clock: Clock, chance: Chance) -> None:
        task = asyncio.create_task(fails())
        await clock.until(1)
        del task
        await clock.until(2)

    with pytest.raises(ZeroDivisionError) as failure:
        run_simulated(main)
    assert "nobody awaited it" in failure.value.__notes__[0]


def test_a_callback_that_raises_fails_the_run() -> None:
    async def main(clock: Clock, chance: Chance) -> None:
        asyncio.get_running_loop().call_later(1, lambda: 1 / 0)
        await clock.until(2)

    with pytest.raises(ZeroDivisionError):
        run_simulated(main)


def test_cancelled_timeouts_do_not_pile_up() -> None:
    async def main(clock: Clock, chance: Chance) -> int:
        for _ in range(5000):
            async with asyncio.timeout(1e6):
                await asyncio.sleep(0)
        timers: list[Any] = asyncio.get_running_loop()._timers  # type: ignore[attr-defined]
        return len(timers)

    assert run_simulated(main) < 500


# --- The outside world ----------------------------------------------------------------------------


async def _open_socket() -> None:
    await asyncio.open_connection("127.0.0.1", 1)


async def _start_server() -> None:
    await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)


async def _start_process() -> None:
    await asyncio.create_subprocess_exec("true")


async def _take_a_thread() -> None:
    await asyncio.to_thread(print)


async def _take_a_signal() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, print)


async def _look_up_a_name() -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def _take_the_real_clock() -> None:
    await RealClock().until(0)


async def _call_from_a_thread() -> None:
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def call() -> None:
        with pytest.raises(NotSimulated):
            loop.call_soon_threadsafe(woken.set)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    await woken.wait()


REACHES_OUT = [
    _open_socket,
    _start_server,
    _start_process,
    _take_a_thread,
    _take_a_signal,
    _look_up_a_name,
    _take_the_real_clock,
    _call_from_a_thread,
]


@pytest.mark.parametrize("reach_out", REACHES_OUT)
def test_the_outside_is_refused_with_the_wrong_line_and_the_right_one(
    reach_out: Callable[[], Awaitable[None]],
) -> None:
    async def main(clock: Clock, chance: Chance) -> None:
        await reach_out()

    with pytest.raises(NotSimulated, match=r"\n  wrong: .+\n  right: .+"):
        run_simulated(main)


def test_a_refusal_that_was_swallowed_still_fails_the_run() -> None:
    async def main(clock: Clock, chance: Chance) -> None:
        with pytest.raises(SimulationFailed):
            await _open_socket()
        await clock.until(1)

    with pytest.raises(NotSimulated):
        run_simulated(main)


def test_a_simulated_clock_outside_its_simulation_is_refused() -> None:
    with pytest.raises(NotSimulated, match="run_simulated"):
        asyncio.run(SimulatedClock().until(1))


# --- Real time ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_real_time_is_never_early(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    clock = RealClock()

    async def main() -> None:
        for wait_ms in (-1.0, 0.0, 0.3, 1.2, 2.5):
            moment = clock.now() + wait_ms / 1e3
            await clock.until(moment)
            assert clock.now() >= moment

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def test_real_wall_time_is_unix_time() -> None:
    before = time.time()
    assert before <= RealClock().wall() <= time.time()


# --- Chance ---------------------------------------------------------------------------------------


def _draws(chance: Chance) -> list[object]:
    cards = list(range(10))
    chance.shuffle(cards)
    return [
        chance.uniform(),
        chance.uniform(3, 4),
        chance.exponential(2.0),
        chance.integer(1, 6),
        chance.choice("abcdef"),
        cards,
    ]


@given(st.integers())
def test_the_same_seed_draws_the_same(seed: int) -> None:
    assert _draws(Chance(seed)) == _draws(Chance(seed))
    assert _draws(Chance(seed)) != _draws(Chance(seed).fork("other"))


def test_chance_without_a_seed_remembers_the_one_it_took() -> None:
    chance = Chance()
    assert chance.seed != Chance().seed
    assert _draws(chance) == _draws(Chance(chance.seed))


def test_a_fork_does_not_care_what_was_drawn_before_it() -> None:
    early, late = Chance(7), Chance(7)
    _draws(late)
    assert _draws(early.fork("arrivals")) == _draws(late.fork("arrivals"))
    assert _draws(early.fork("arrivals")) != _draws(early.fork("sizes"))


def test_draws_stay_in_their_bounds_and_near_their_means() -> None:
    chance = Chance(1)
    gaps = [chance.exponential(2.0) for _ in range(10_000)]
    assert min(gaps) >= 0
    assert sum(gaps) / len(gaps) == pytest.approx(2.0, rel=0.05)
    assert {chance.integer(1, 6) for _ in range(1000)} == {1, 2, 3, 4, 5, 6}
    assert all(3 <= chance.uniform(3, 4) <= 4 for _ in range(1000))
