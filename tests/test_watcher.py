"""The owner's look each second: on a clock of the test's, with a real thread and a real file."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Coroutine
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request as HttpRequest

from paceline.clock import Chance
from paceline.journal.entries import GoalsChanged
from paceline.journal.journal import Journal
from paceline.observe.board import Board, Counter
from paceline.terms.errors import Unavailable
from paceline.terms.measurement import Measurement
from paceline.terms.metric import CPU_SECONDS, FRONT_RESTARTS, REQUEST_SECONDS, REQUESTS
from paceline.testing import Kept, ListStore
from paceline.watch.alerts.desk import Alerts
from paceline.watch.alerts.latch import Bounds
from paceline.watch.alerts.life import Channel, Policy
from paceline.watch.alerts.messages import Message
from paceline.watch.alerts.postman import SENT, Outcome
from paceline.watch.alerts.rules import BURN
from paceline.watch.analysis.finding import Baseline
from paceline.watch.archive import archive
from paceline.watch.history import History
from paceline.watch.past import Past
from paceline.watch.store import FILE
from paceline.watch.watcher import Watcher
from paceline.web import history_api
from stores import WAIT_S

WALL_S = 1_800_000_000.0


class Hand:
    """A clock that somebody turns."""

    def __init__(self) -> None:
        self._now = 0.0
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return WALL_S + self._now

    async def until(self, moment: float) -> None:
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((moment, reached))
        await reached

    async def pass_s(self, seconds: float) -> None:
        """Returns when those who waited have gone on, and wait again."""
        self._now += seconds
        due = [each for each in self._waiting if each[0] <= self._now]
        self._waiting = [each for each in self._waiting if each not in due]
        for _, reached in due:
            reached.set_result(None)
        for _ in range(3):
            await asyncio.sleep(0)


class Laptop(Hand):
    """Suspended, its monotonic clock stands still and its wall clock goes on, as Linux has it."""

    def __init__(self) -> None:
        super().__init__()
        self._asleep_s = 0.0

    def wall(self) -> float:
        return super().wall() + self._asleep_s

    def sleep(self, seconds: float) -> None:
        self._asleep_s += seconds


class Watched:
    """A watcher of one board, and what it was told each second."""

    def __init__(self, folder: Path | None) -> None:
        self.clock, self.board = Hand(), Board()
        self.requests = self.board.counter(REQUESTS, "m", "normal", "200")
        self.began = asyncio.Event()
        self.told: list[float] = []
        self.breaks = False
        self.watcher = Watcher(
            folder, lambda: [self.board], self._others, self.clock, (self._each_second,)
        )

    async def start(self) -> None:
        self.watcher.start()
        await self.began.wait()
        await asyncio.sleep(0)

    def _others(self) -> list[Measurement]:
        self.began.set()
        return []

    def _each_second(self, past: Past) -> None:
        self.told.append(past.grew(REQUESTS, {}, 1))
        if self.breaks:
            raise RuntimeError("planted")


def run(test: Callable[[Watched], Coroutine[Any, Any, None]], folder: Path | None) -> None:
    async def main() -> None:
        await test(Watched(folder))

    asyncio.run(main())


def test_each_second_it_looks_tells_and_once_a_minute_it_writes(tmp_path: Path) -> None:
    async def live(watched: Watched) -> None:
        with pytest.raises(Unavailable):
            watched.watcher.past  # noqa: B018
        await watched.start()
        for second in range(130):
            watched.requests.add(second)
            await watched.clock.pass_s(1.0)
        assert watched.told == list(range(130))
        await watched.watcher.write()  # waits for the thread
        past = archive(tmp_path)
        assert past is not None
        assert past.grew(REQUESTS, {}, 3600) == sum(range(120))
        watched.requests.add(1000)
        await watched.clock.pass_s(0.5)
        await watched.watcher.close()

    run(live, tmp_path)
    past = archive(tmp_path)
    assert past is not None
    assert past.grew(REQUESTS, {}, 3600) == sum(range(130)) + 1000  # with what came last


def test_a_process_that_stood_still_looks_once_and_goes_on_in_time(tmp_path: Path) -> None:
    async def live(watched: Watched) -> None:
        await watched.start()
        watched.requests.add(7)
        await watched.clock.pass_s(30.25)
        await watched.clock.pass_s(0.5)  # not yet a second
        assert watched.told == [7]
        await watched.clock.pass_s(0.25)
        assert watched.told == [7, 0]
        steps = watched.watcher.past.steps(REQUESTS, {}, 60, 1)
        assert [(step.value, step.known_s) for step in steps] == [(7, 30.25), (0, 0.75)]
        await watched.watcher.close()

    run(live, tmp_path)


def test_who_asks_for_long_holds_the_next_look_and_not_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slow(past: History, *given: object) -> Baseline:
        begun.set()
        assert may_end.wait(WAIT_S)
        return Baseline("m", past.grew(REQUESTS, {}, 60), 0, 0, 0, 0, {})

    monkeypatch.setattr(history_api, "baseline_of", slow)

    async def live(watched: Watched) -> None:
        await watched.start()
        asking = {
            each.declared.path: each
            for each in history_api.operations(watched.watcher, watched.clock.wall)
        }[history_api.BASELINE.path]
        http = HttpRequest({"type": "http", "query_string": b"model=m"})
        asked = asyncio.ensure_future(asking.answer(http, "ann"))
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        watched.requests.add(7)
        await watched.clock.pass_s(1.0)
        assert watched.told == []  # what is asked does not change
        may_end.set()
        assert (await asked).status_code == 200
        await watched.clock.pass_s(0.0)
        assert watched.told == [7]
        await watched.watcher.close()

    run(live, None)


def test_who_fails_each_second_stops_neither_the_look_nor_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def live(watched: Watched) -> None:
        await watched.start()
        watched.breaks = True
        for _ in range(3):
            watched.requests.add()
            await watched.clock.pass_s(1.0)
        watched.breaks = False
        await watched.clock.pass_s(1.0)
        assert watched.told == [1, 1, 1, 0]
        assert watched.watcher.past.grew(REQUESTS, {}, 60) == 3
        await watched.watcher.close()

    run(live, tmp_path)
    assert "a look at the boards failed" in caplog.text


def test_what_cannot_be_written_ends_neither_the_past_nor_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(past: History, *, whole: bool = True) -> list[object]:
        raise RuntimeError("planted")

    async def live(watched: Watched) -> None:
        await watched.start()
        monkeypatch.setattr(History, "finished", planted)
        for _ in range(3):
            watched.requests.add()
            await watched.clock.pass_s(60.0)
        assert watched.watcher.past.grew(REQUESTS, {}, 600) == 3
        await watched.watcher.close()

    run(live, tmp_path)
    assert "the history was not written" in caplog.text


def test_a_file_whose_rows_are_damaged_is_begun_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def live(watched: Watched) -> None:
        watched.board.sketch(REQUEST_SECONDS, "m").record(0.5)
        await watched.start()
        await watched.clock.pass_s(1.0)
        assert watched.told == [0]
        await watched.watcher.close()

    run(live, tmp_path)
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        rows = database.execute("SELECT size, began, body FROM steps").fetchall()
        for size_s, began, body in rows:
            database.execute(
                "UPDATE steps SET body = ? WHERE size = ? AND began = ?",
                (body[:-4] + b"\0\0\0\0", size_s, began),
            )
        database.commit()
    run(live, tmp_path)
    assert caplog.text.count("is damaged and begins anew") == 1
    run(live, tmp_path)
    assert caplog.text.count("is damaged and begins anew") == 1


def test_without_a_folder_the_past_ends_with_the_process() -> None:
    async def live(watched: Watched) -> None:
        await watched.watcher.close()  # one that never began
        watched = Watched(None)
        await watched.start()
        watched.requests.add(2)
        await watched.clock.pass_s(1.0)
        assert watched.told == [2]
        await watched.watcher.close()

    run(live, None)


def test_a_front_that_died_before_the_first_look_is_counted() -> None:
    async def main() -> None:
        clock, began = Hand(), asyncio.Event()

        def others() -> list[Measurement]:
            began.set()
            return [Measurement(FRONT_RESTARTS, (), 1.0), Measurement(CPU_SECONDS, ("front",), 9.0)]

        watcher = Watcher(None, lambda: [Board()], others, clock)
        watcher.start()
        await began.wait()
        await asyncio.sleep(0)
        await clock.pass_s(1.0)
        assert watcher.past.grew(FRONT_RESTARTS, {}, 60) == 1
        assert watcher.past.grew(CPU_SECONDS, {}, 60) == 0  # it was used by what ran before
        await watcher.close()

    asyncio.run(main())


def test_alerts_look_again_after_a_failed_look_and_make_up_for_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The third look at the boards fails, and then the loop stands still for ten seconds. What
    happens later is found and told once."""
    looked: list[float] = []
    heard: list[tuple[str, str]] = []

    async def send(message: Message) -> Outcome:
        heard.extend((each.alert.id, each.what) for each in message.notices)
        return SENT

    async def main() -> None:
        clock, began = Hand(), asyncio.Event()

        def others() -> list[Measurement]:
            began.set()
            looked.append(clock.now())
            if len(looked) == 3:
                raise ZeroDivisionError
            return [Measurement(FRONT_RESTARTS, (), float(len(looked) > 6))]

        bounds = {"restarts": Bounds(1.0, 3.0, for_s=0.0)}
        journal = Journal(ListStore(Kept()), clock, at_once=True)
        policy = Policy((Channel("ops"),))
        chance = Chance(3)
        alerts = Alerts(journal, bounds, policy, {"ops": send}, [], "here:8080", clock, chance)
        alerts.start()
        found: list[tuple[float, bool]] = []

        def look(past: Past) -> None:
            alerts.look(past, clock.now())
            found.append((clock.now(), bool(alerts.book.alerts)))

        watcher = Watcher(None, lambda: [Board()], others, clock, (look,))
        watcher.start()
        await began.wait()
        await asyncio.sleep(0)
        for seconds in (1, 1, 1, 10, 1, 1, 1, 1, 1, 1):
            await clock.pass_s(seconds)
        assert looked[1:7] == [1, 2, 3, 13, 14, 15]
        assert next(at for at, fires in found if fires) == 16  # it was found by the look before
        await alerts.close()
        await watcher.close()
        await journal.close()

    asyncio.run(main())
    assert heard == [("restarts:host", "fired")]
    assert caplog.text.count("a look at the boards failed") == 1


NIGHT_S = 8 * 3600.0
FAILS = "slo_burn:m.availability"


def test_a_laptop_that_sleeps_is_judged_by_the_time_in_which_it_ran(tmp_path: Path) -> None:
    """An outage goes on after a night, and another comes before the alert is over. At 99.9 % it is
    known after 52 s, and over after five minutes; nobody escalates in a night."""
    heard: list[tuple[float, str, str]] = []

    async def main() -> None:
        laptop, board, began = Laptop(), Board(), asyncio.Event()
        good = board.counter(REQUESTS, "m", "normal", "200")
        bad = board.counter(REQUESTS, "m", "normal", "500")

        async def send(message: Message) -> Outcome:
            heard.extend(
                (laptop.now(), each.alert.id, each.alert.state) for each in message.notices
            )
            return SENT

        def others() -> list[Measurement]:
            began.set()
            return []

        journal = Journal(ListStore(Kept()), laptop, at_once=True)
        stated = GoalsChanged({"m": ("availability >= 0.999",)})
        await journal.write(lambda _: [stated], "ann")
        policy = Policy((Channel("ops"), Channel("boss")), ("boss",), escalate_s=900.0)
        senders = {"ops": send, "boss": send}
        alerts = Alerts(
            journal, {BURN: None}, policy, senders, ["m"], "here:8080", laptop, Chance(3)
        )
        alerts.start()
        watcher = Watcher(
            tmp_path, lambda: [board], others, laptop,
            (lambda past: alerts.look(past, laptop.now()),),
        )  # fmt: skip
        watcher.start()
        await began.wait()
        await asyncio.sleep(0)

        async def runs(seconds: float, of: Counter, step_s: float = 1.0) -> None:
            for _ in range(int(seconds / step_s)):
                of.add(10 * step_s)
                await laptop.pass_s(step_s)

        def state() -> str:
            alert = alerts.book.alerts.get(FAILS)
            return "none" if alert is None else alert.state

        await runs(600, good, 5.0)
        await runs(30, bad)
        await alerts.silence("other:*", 3600.0, "ann", "")
        laptop.sleep(NIGHT_S)
        await runs(21, bad)
        assert state() == "none"
        await runs(4, bad)
        assert state() == "firing"
        since_s = alerts.book.alerts[FAILS].since_unix_s - WALL_S - NIGHT_S
        assert since_s == pytest.approx(652, abs=2)
        assert not alerts.book.silences  # an hour of anybody's clock is over
        await runs(100, good, 5.0)
        laptop.sleep(NIGHT_S)
        await runs(190, good, 5.0)
        assert state() == "firing"
        await runs(15, good)
        assert state() == "resolved"

        past = watcher.past
        assert past.known_s() == pytest.approx(laptop.now())
        assert past.grew(REQUESTS, {"status": "500"}, 305 + 55) == 550
        assert past.grew(REQUESTS, {"status": "500"}, 305) == 0
        steps = past.steps(REQUESTS, {}, 3600, 1)
        assert sum(step.known_s for step in steps) == pytest.approx(laptop.now())
        assert sum(step.value for step in steps) == 10 * laptop.now()
        await laptop.pass_s(5.0)
        await alerts.close()
        await watcher.close()
        await journal.close()

    asyncio.run(main())
    (first, *began), (second, *ended) = heard
    assert (began, ended) == ([FAILS, "firing"], [FAILS, "resolved"])
    assert first == pytest.approx(653, abs=3)
    assert second == pytest.approx(first + 300, abs=3)  # one notice in five minutes
    kept = archive(tmp_path)
    assert kept is not None
    minutes = kept.steps(REQUESTS, {}, 86400, 60)
    assert sum(step.value for step in minutes) == 9600
    labels = [step.wall_s - WALL_S for step in minutes]
    assert labels == sorted(labels)
    nights = [(a, b) for a, b in pairwise(labels) if b - a > 3600]
    assert [round((b - a) / 3600) for a, b in nights] == [8, 8]
