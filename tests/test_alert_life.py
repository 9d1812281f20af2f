"""The life of an alert: who is told what and when, through restarts, set clocks and dead channels.

Simulated: the same functions and classes as in the owner, on a clock of their own.
"""

from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.clock import Chance, SimulatedClock
from paceline.journal.entries import Entry, GoalsChanged, Silenced, SilenceEnded
from paceline.journal.fold import State, fold
from paceline.journal.journal import Journal
from paceline.journal.store import Compaction, Snapshot
from paceline.terms.alert import Alert, Notice, Severity, Silence
from paceline.terms.errors import Conflict, DiskFull, LimitReached, NotFound
from paceline.terms.limits import ALERT_GIVE_UP_S, ALERT_GROUP, ALERT_REFUSALS, SILENCES
from paceline.terms.metric import FRONT_RESTARTS, REQUESTS
from paceline.testing import Kept, ListStore, run_simulated
from paceline.watch.alerts import life
from paceline.watch.alerts.desk import Alerts
from paceline.watch.alerts.latch import Bounds
from paceline.watch.alerts.life import Ages, Channel, Policy
from paceline.watch.alerts.messages import Message, as_json, as_mail, as_slack, text
from paceline.watch.alerts.postman import SENT, Outcome, Send
from paceline.watch.alerts.watchdog import Finding
from pasts import MadePast, constant, steady

EVERY_S = 300.0
POLICY = Policy((Channel("log"), Channel("pager", "critical"), Channel("boss")), ("boss",))


# --- Decided purely -------------------------------------------------------------------------------


class World:
    """Alerts in a journal's fold, decided once a second; findings come and go by hand. The clock of
    the wall may be set, and a restart forgets all but the fold."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.now_s, self.wall_s = 5000.0, 1.8e9
        self.state = State()
        self.ages = Ages()
        self.findings: dict[str, Finding] = {}
        self.told: list[tuple[float, str, str, Severity, tuple[str, ...]]] = []
        self.said_to_fire: dict[str, bool] = {}
        """by alert: whether it fires, as it was told last"""

    def find(self, about: str, severity: Severity = "warning") -> None:
        finding = Finding("errors", about, severity, "requests fail", "7 %", "Look.")
        self.findings[finding.id] = finding

    def lose(self, about: str) -> None:
        self.findings.pop(f"errors:{about}", None)

    def write(self, body: Any, who: str = "paceline") -> None:
        self.state = fold(self.state, Entry(self.state.seq + 1, self.wall_s, who, body))

    def turn(self, seconds: float = 1.0) -> None:
        self.now_s += seconds
        self.wall_s += seconds
        book = self.state.alerts
        self.ages.turn(self.now_s, self.wall_s, book)
        for body in life.moves(book, self.findings, (), self.policy, self.ages, self.wall_s):
            self.write(body)
            if body.tell:
                told = self.now_s, body.alert.id, body.what, body.alert.severity, body.tell
                self.told.append(told)
                self.said_to_fire[body.alert.id] = body.alert.open

    def pass_s(self, seconds: float, step_s: float = 1.0) -> None:
        until_s = self.now_s + seconds
        while self.now_s + step_s <= until_s:
            self.turn(step_s)

    def silence(self, matches: str, lasts_s: float) -> None:
        wall, seq = self.wall_s, self.state.seq + 1
        self.write(Silenced(Silence(seq, matches, wall, wall + lasts_s, "ann")))
        self.ages.turn(self.now_s, self.wall_s, self.state.alerts)

    def acknowledge(self, about: str) -> None:
        moved = life.acknowledged(self.state.alerts, f"errors:{about}", "ann", "on it")
        if moved is not None:
            self.write(moved, "ann")

    def restart(self) -> None:
        self.ages = Ages()
        self.now_s = 0.0  # another clock, after a boot

    def alert(self, about: str) -> Alert:
        return self.state.alerts.alerts[f"errors:{about}"]

    @property
    def whats(self) -> list[tuple[str, str]]:
        return [(alert_id.partition(":")[2], what) for _, alert_id, what, _, _ in self.told]


def test_an_alert_is_told_when_it_begins_and_when_it_ends() -> None:
    world = World()
    world.find("one")
    world.pass_s(600)
    world.lose("one")
    world.pass_s(10)
    assert [(what, tell) for _, _, what, _, tell in world.told] == [
        ("fired", ("log",)),
        ("resolved", ("log",)),
    ]
    assert world.alert("one").state == "resolved"
    world.pass_s(4000, 60.0)
    world.find("two")
    world.turn()
    assert "errors:one" not in world.state.alerts.alerts


def test_what_flaps_is_told_of_once_in_five_minutes_and_as_it_is_then() -> None:
    world = World()
    for _ in range(60):
        world.find("one")
        world.pass_s(5)
        world.lose("one")
        world.pass_s(10)
    moments = [at for at, *_ in world.told]
    assert len(moments) in (3, 4)
    assert all(later - sooner >= EVERY_S for sooner, later in pairwise(moments))
    assert world.told[0][2] == "fired"


def test_what_began_and_ended_between_two_notices_is_not_told_at_all() -> None:
    world = World()
    world.find("one")
    world.pass_s(2)
    world.lose("one")
    world.pass_s(400)  # its end is told after five minutes
    assert world.whats == [("one", "fired"), ("one", "told")]
    world.find("one")
    world.pass_s(3)
    world.lose("one")
    world.pass_s(1000)
    assert len(world.told) == 2


def test_what_gets_worse_is_told_at_once_and_must_be_acknowledged_anew() -> None:
    world = World()
    world.find("one")
    world.pass_s(2)
    world.acknowledge("one")
    assert world.alert("one").by == "ann"
    world.pass_s(2)
    world.find("one", "critical")
    world.pass_s(2)
    assert [(what, tell) for _, _, what, _, tell in world.told] == [
        ("fired", ("log",)),
        ("worse", ("log", "pager")),
    ]
    assert world.alert("one").state == "firing"


def test_nobody_is_reminded_who_has_acknowledged() -> None:
    world = World()
    world.find("one", "critical")
    world.turn()
    world.acknowledge("one")
    world.acknowledge("one")
    world.pass_s(10 * 3600, 30.0)
    assert world.whats == [("one", "fired")]
    world.lose("one")
    world.turn()
    assert world.whats[1:] == [("one", "resolved")]


def test_what_nobody_acknowledges_is_told_others_and_then_again() -> None:
    world = World()
    world.find("one", "critical")
    began_s = world.now_s
    world.pass_s(9 * 3600, 10.0)
    assert [(round(at - began_s, -1), what, tell) for at, _, what, _, tell in world.told] == [
        (10.0, "fired", ("log", "pager")),
        (910.0, "escalated", ("log", "pager", "boss")),
        (910.0 + 4 * 3600, "again", ("log", "pager", "boss")),
        (910.0 + 8 * 3600, "again", ("log", "pager", "boss")),
    ]
    world.lose("one")
    world.pass_s(10)
    assert world.told[-1][4] == ("log", "pager", "boss")


def test_who_was_told_the_worst_of_it_is_told_of_its_end_however_it_flapped() -> None:
    world = World()
    world.find("one", "critical")
    world.pass_s(1000, 10.0)
    assert world.told[-1][4] == ("log", "pager", "boss")
    world.lose("one")
    world.turn()  # too soon to tell
    world.find("one", "warning")
    world.pass_s(600, 10.0)
    world.lose("one")
    world.pass_s(600, 10.0)
    assert world.told[-1][2:] == ("resolved", "warning", ("log", "pager", "boss"))
    world.find("one", "warning")
    world.turn()
    world.lose("one")
    world.pass_s(600, 10.0)
    assert [tell for *_, tell in world.told[-2:]] == [("log",), ("log",)]


def test_what_got_worse_is_escalated_when_nobody_has_acknowledged_that() -> None:
    world = World()
    world.find("one")
    world.pass_s(2000, 10.0)
    world.acknowledge("one")
    world.find("one", "critical")
    began_s = world.now_s
    world.pass_s(1000, 10.0)
    assert [(round(at - began_s, -1), what) for at, _, what, _, _ in world.told[1:]] == [
        (10.0, "worse"),
        (910.0, "escalated"),
    ]


def test_what_is_silenced_is_told_when_the_silence_is_over_if_it_still_fires() -> None:
    world = World()
    world.silence("errors:o*", 3600.0)
    world.find("one")
    world.find("two")
    world.pass_s(1800, 10.0)
    assert world.whats == [("two", "fired")]
    world.lose("two")
    world.find("other")
    world.pass_s(1700, 10.0)
    world.lose("other")
    world.pass_s(200, 10.0)
    for silence in life.over(world.state.alerts, world.ages, world.wall_s):
        world.write(SilenceEnded(silence.id, silence.matches))
    world.pass_s(20)
    assert world.whats == [("two", "fired"), ("two", "resolved"), ("one", "told")]


@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0, -1e9])
def test_a_clock_that_is_set_moves_nothing_but_labels(jump_s: float) -> None:
    world = World()
    world.find("one", "critical")
    world.turn()
    began_s = world.now_s
    world.wall_s += jump_s
    world.pass_s(1200, 10.0)
    assert [(round(at - began_s, -1), what) for at, _, what, _, _ in world.told] == [
        (0.0, "fired"),
        (900.0, "escalated"),
    ]


def test_a_clock_that_is_set_lengthens_no_silence() -> None:
    for jump_s in (-86400.0, 0.0, 86400.0):
        world = World()
        world.silence("*", 600.0)
        world.wall_s += jump_s
        world.pass_s(599)
        over = [*life.over(world.state.alerts, world.ages, world.wall_s)]
        assert len(over) == (jump_s > 0)
        world.turn(2)
        assert [*life.over(world.state.alerts, world.ages, world.wall_s)]


def test_a_restart_keeps_the_time_since_the_last_notice_and_the_acknowledgement() -> None:
    world = World()
    world.find("one", "critical")
    world.find("two", "critical")
    world.turn()
    world.acknowledge("two")
    world.wall_s += 100.0  # it was down
    world.restart()
    began_s = world.now_s
    world.pass_s(2000, 10.0)
    assert [(round(at - began_s, -1), *rest) for at, *rest in world.told[2:]] == [
        (800.0, "errors:one", "escalated", "critical", ("log", "pager", "boss"))
    ]


def test_acknowledging_what_is_not_there_or_over_is_refused() -> None:
    world = World()
    with pytest.raises(NotFound):
        world.acknowledge("one")
    world.find("one")
    world.turn()
    world.lose("one")
    world.turn()
    with pytest.raises(Conflict):
        world.acknowledge("one")


class Event(NamedTuple):
    kind: str
    about: str
    severity: Severity
    seconds: float


events = st.builds(
    Event,
    st.sampled_from(["find", "find", "lose", "ack", "silence", "unsilence", "jump", "restart"]),
    st.sampled_from(["one", "two"]),
    st.sampled_from(["warning", "critical"]),
    st.sampled_from([1.0, 7.0, 60.0, 299.0, 301.0, 1000.0]),
)


@examples(30)
@given(st.lists(events, max_size=25))
def test_whatever_happens_nobody_is_told_too_often_or_what_is_not_so(happens: list[Event]) -> None:
    """And whoever was told of a beginning is told of the end. A server that is started anew after
    the clock was set does not know how long ago a notice was."""
    world = World()
    set_s = unsure_s = -1.0
    last: dict[str, tuple[float, Severity]] = {}
    for event in happens:
        match event.kind:
            case "find":
                world.find(event.about, event.severity)
            case "lose":
                world.lose(event.about)
            case "ack":
                with suppress(NotFound, Conflict):  # nothing fires, or no longer
                    world.acknowledge(event.about)
            case "silence":
                world.silence(f"errors:{event.about}", 5000.0)
            case "unsilence":
                for silence in world.state.alerts.silences:
                    world.write(SilenceEnded(silence.id, silence.matches))
            case "jump":
                world.wall_s += event.seconds * (1000 if event.severity == "critical" else -1000)
                set_s = world.now_s
            case "restart":
                world.ages = Ages()
                unsure_s = max(unsure_s, set_s)
        told = len(world.told)
        world.pass_s(event.seconds, max(1.0, event.seconds / 10))
        for at, alert_id, _, severity, _ in world.told[told:]:
            assert life.silenced(world.state.alerts, alert_id) is None
            before_s, before = last.get(alert_id, (-EVERY_S, severity))
            got_worse = (before, severity) == ("warning", "critical")
            assert at - before_s >= EVERY_S or got_worse or before_s <= unsure_s
            last[alert_id] = at, severity
    for silence in world.state.alerts.silences:
        world.write(SilenceEnded(silence.id, silence.matches))
    world.pass_s(2 * EVERY_S, 10.0)
    for alert in world.state.alerts.alerts.values():
        assert alert.open == (alert.id in world.findings)
        assert not alert.owed
    said_to_fire = {alert_id for alert_id, fires in world.said_to_fire.items() if fires}
    assert said_to_fire == world.findings.keys()


# --- Through journal and channels -----------------------------------------------------------------


class Ear:
    """A channel: down between two moments, slow, or one that refuses. Hears messages whole."""

    def __init__(self, clock: SimulatedClock) -> None:
        self.heard: list[tuple[float, Message]] = []
        self.tries = 0
        self.down_until_s = 0.0
        self.refuses = False
        self._clock = clock

    async def send(self, message: Message) -> Outcome:
        self.tries += 1
        await self._clock.until(self._clock.now() + 0.05)
        if self.refuses:
            return Outcome(sent=False, why="status 404", for_good=True)
        if self._clock.now() < self.down_until_s:
            return Outcome(sent=False, why="connection refused")
        self.heard.append((self._clock.now(), message))
        return SENT

    @property
    def whats(self) -> list[tuple[str, str]]:
        return [(each.alert.id, each.what) for _, one in self.heard for each in one.notices]


BOUNDS: Mapping[str, Bounds | None] = {
    "errors": Bounds(0.05, 0.15, for_s=30.0),
    "restarts": Bounds(1.0, 3.0, for_s=0.0),
    "slo_burn": None,
}


class Life:
    """Alerts as the owner runs them, for as long as one process lives."""

    def __init__(
        self,
        kept: Kept,
        clock: SimulatedClock,
        past: MadePast,
        senders: Mapping[str, Send],
    ) -> None:
        self.past = past
        self.clock = clock
        self.store = Refusing(kept)
        self.journal = Journal(self.store, clock, at_once=True)
        policy = Policy(tuple(Channel(name) for name in senders), escalate_s=None)
        models = ["m0", "m1", "m2"]
        self.alerts = Alerts(
            self.journal, BOUNDS, policy, senders, models, "here:8080", clock, Chance(3)
        )
        self.alerts.start()

    async def pass_s(self, seconds: float) -> None:
        moment = self.clock.now()
        for _ in range(int(seconds)):
            moment += 1.0
            await self.clock.until(moment)
            self.past.now_s = moment
            self.alerts.look(self.past, moment)

    async def stop(self) -> None:
        await self.alerts.close()
        await self.journal.close()


class Refusing(ListStore):
    full = False

    def append(
        self,
        records: Any,
        snapshot: Snapshot | None = None,
        compaction: Compaction | None = None,
    ) -> None:
        if self.full:
            raise DiskFull("no space is left", remedy="Free some.")
        super().append(records, snapshot, compaction)


def failing(past: MadePast, model: str, from_s: float, until_s: float) -> None:
    of = {"model": model, "priority": "normal"}
    past.make(REQUESTS, {**of, "status": "200"}, steady(10.0))
    past.make(REQUESTS, {**of, "status": "500"}, steady(5.0, from_s, until_s))


def test_a_channel_that_is_down_for_ten_minutes_loses_nothing_and_hears_no_storm() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        past = MadePast(clock.now())
        began_s = clock.now()
        for number in range(3):  # three models fail and recover one after the other
            failing(past, f"m{number}", began_s + 60 * number, began_s + 300 + 60 * number)
        down, up = Ear(clock), Ear(clock)
        down.down_until_s = began_s + 630.0
        life_ = Life(Kept(), clock, past, {"down": down.send, "up": up.send})
        await life_.pass_s(1000)
        assert len(up.whats) == 8  # two got worse
        assert down.whats == up.whats
        assert len(down.heard) == 2  # the one that failed, and all others together
        assert down.heard[0][0] - began_s < 630 + 62
        assert down.tries < 60
        ids = [each.id for _, message in down.heard for each in message.notices]
        assert ids == sorted(set(ids))
        assert life_.journal.state.alerts.owed == {}
        await life_.stop()

    run_simulated(main)


def test_what_was_owed_when_a_server_died_is_told_by_the_next() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        past, kept = MadePast(clock.now()), Kept()
        failing(past, "m0", clock.now(), clock.now() + 1e6)
        ear = Ear(clock)
        ear.down_until_s = clock.now() + 1e6
        first = Life(kept, clock, past, {"ops": ear.send})
        await first.pass_s(60)
        assert await first.alerts.acknowledge("errors:m0", "ann", "on it")
        assert not await first.alerts.acknowledge("errors:m0", "ann", "again")
        silence = await first.alerts.silence("restarts:*", 900.0, "ann", "deploying")
        await first.alerts.close()
        await first.journal.close()  # nothing is noted at the end: it is as if it was killed
        ear.down_until_s = 0.0
        second = Life(kept, clock, past, {"ops": ear.send})
        assert second.alerts.book.silences == (silence,)
        assert second.alerts.book.alerts["errors:m0"].by == "ann"
        await second.pass_s(120)
        assert ear.whats == [("errors:m0", "fired")]
        assert second.alerts.book.alerts["errors:m0"].state == "acknowledged"
        await second.stop()

    run_simulated(main)


def test_a_message_that_was_sent_and_not_noted_comes_again_under_its_id() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        past, kept = MadePast(clock.now()), Kept()
        failing(past, "m0", clock.now(), clock.now() + 1e6)
        ear = Ear(clock)
        first = Life(kept, clock, past, {"ops": ear.send})
        while not ear.heard:
            first.store.full = first.alerts.book.owed != {}
            await first.pass_s(1)
        await first.pass_s(100)
        assert len(ear.heard) == 1  # it knows, although it could not write
        await first.stop()
        second = Life(kept, clock, past, {"ops": ear.send})
        await second.pass_s(10)
        (_, one), (_, other) = ear.heard
        assert (one.id, one.notices) == (other.id, other.notices)
        await second.stop()

    run_simulated(main)


def test_what_a_channel_refuses_is_given_up_and_kept_and_others_go_on() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        past = MadePast(clock.now())
        failing(past, "m0", clock.now(), clock.now() + 1e6)
        ear, other = Ear(clock), Ear(clock)
        ear.refuses = True
        life_ = Life(Kept(), clock, past, {"ops": ear.send, "other": other.send})
        await life_.pass_s(120)
        assert ear.tries == ALERT_REFUSALS
        assert other.whats == [("errors:m0", "fired")]
        (dead,) = life_.alerts.book.dead
        assert (dead.channel, dead.why, dead.notice.alert.id) == ("ops", "status 404", "errors:m0")
        measured = {each.labels: each.value for each in life_.alerts.measure()}
        assert measured["ops", "given up"] == measured["other", "sent"] == 1
        assert measured["critical",] == 1
        await life_.stop()

    run_simulated(main)


def test_a_bug_in_a_channel_costs_its_message_and_not_the_next() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        past = MadePast(clock.now())
        failing(past, "m0", clock.now(), clock.now() + 100)
        ear = Ear(clock)

        async def send(message: Message) -> Outcome:
            if message.notices[0].what == "fired":
                raise ZeroDivisionError
            return await ear.send(message)

        life_ = Life(Kept(), clock, past, {"ops": send})
        await life_.pass_s(600)
        assert [each.notice.what for each in life_.alerts.book.dead] == ["fired"]
        assert ear.whats == [("errors:m0", "told")]  # that it is over
        await life_.stop()

    run_simulated(main)


def test_a_burn_rate_is_not_over_because_a_new_server_knows_nothing() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        kept, past = Kept(), MadePast(clock.now())
        of = {"model": "m0", "priority": "normal", "status": "500"}
        past.make(REQUESTS, of, steady(10.0))
        ear = Ear(clock)
        first = Life(kept, clock, past, {"ops": ear.send})
        await first.journal.write(
            lambda _: [GoalsChanged({"m0": ("availability >= 0.999",)})], "ann"
        )
        await first.pass_s(120)
        await first.stop()
        empty = MadePast(clock.now())
        empty.make(REQUESTS, {**of, "status": "200"}, steady(10.0))
        second = Life(kept, clock, empty, {"ops": ear.send})
        states = []
        for seconds in (290, 20):
            await second.pass_s(seconds)
            states.append(second.alerts.book.alerts["slo_burn:m0.availability"].state)
        assert states == ["firing", "resolved"]
        await second.stop()

    run_simulated(main)


def test_what_is_a_day_old_is_given_up() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        past = MadePast(clock.now())
        failing(past, "m0", clock.now(), clock.now() + 1e6)
        ear = Ear(clock)
        ear.down_until_s = float("inf")
        life_ = Life(Kept(), clock, past, {"ops": ear.send})
        await life_.pass_s(60)
        await clock.until(clock.now() + ALERT_GIVE_UP_S + 120)
        assert [each.why for each in life_.alerts.book.dead] == ["connection refused"]
        await life_.stop()

    run_simulated(main)


def test_a_channel_that_no_settings_name_any_more_is_owed_nothing() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        past, kept = MadePast(clock.now()), Kept()
        failing(past, "m0", clock.now(), clock.now() + 1e6)
        ear = Ear(clock)
        ear.down_until_s = float("inf")
        first = Life(kept, clock, past, {"old": ear.send})
        await first.pass_s(60)
        await first.stop()
        second = Life(kept, clock, past, {"new": ear.send})
        await second.pass_s(2)
        assert second.alerts.book.owed == {}
        assert [each.channel for each in second.alerts.book.dead] == ["old"]
        await second.stop()

    run_simulated(main)


def test_other_settings_are_followed_and_lose_nothing() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        past = MadePast(clock.now())
        failing(past, "m0", clock.now(), clock.now() + 1e6)
        same, old, new = Ear(clock), Ear(clock), Ear(clock)
        old.down_until_s = float("inf")
        life_ = Life(Kept(), clock, past, {"same": same.send, "ops": old.send, "gone": old.send})
        await life_.pass_s(60)
        assert (same.whats, new.whats) == ([("errors:m0", "fired")], [])

        async def follow(warning: float, senders: dict[str, Any]) -> None:
            policy = Policy(tuple(Channel(name) for name in senders), every_s=1.0)
            bounds = {**BOUNDS, "errors": Bounds(warning, 1.0, for_s=10.0)}
            await life_.alerts.follow(bounds, policy, senders)

        await follow(0.05, {"same": same.send, "ops": new.send})
        await life_.pass_s(5)
        # What was owed to a channel that is another now is told by that; whose is gone, given up.
        assert new.whats == [("errors:m0", "fired")]
        assert [each.channel for each in life_.alerts.book.dead] == ["gone"]
        assert len(same.heard) == 1
        # It stays an alert until it is seen to be on the right side of the new bound for a while.
        await follow(0.6, {"same": same.send, "ops": new.send})
        states = []
        for seconds in (5, 90):
            await life_.pass_s(seconds)
            states.append(life_.alerts.book.alerts["errors:m0"].state)
        assert states == ["firing", "resolved"]
        assert same.whats[-1] == ("errors:m0", "resolved")
        await follow(0.3, {"same": same.send})
        await life_.pass_s(30)
        assert same.whats[-1] == ("errors:m0", "fired")
        assert new.whats[-1] == ("errors:m0", "resolved")
        await life_.stop()

    run_simulated(main)


def test_a_full_disk_is_asked_again_and_then_all_is_told() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        past = MadePast(clock.now())
        failing(past, "m0", clock.now(), clock.now() + 1e6)
        ear = Ear(clock)
        life_ = Life(Kept(), clock, past, {"ops": ear.send})
        life_.store.full = True
        await life_.pass_s(100)
        assert (ear.whats, life_.alerts.book.alerts) == ([], {})
        life_.store.full = False
        await life_.pass_s(30)
        assert ear.whats == [("errors:m0", "fired")]
        await life_.stop()

    run_simulated(main)


def test_after_a_restart_nothing_is_over_until_it_is_seen_to_be() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        past, kept = MadePast(clock.now()), Kept()
        past.make(FRONT_RESTARTS, {}, lambda at: 1.0 * (at > began_s + 10))
        began_s = clock.now()
        ear = Ear(clock)
        first = Life(kept, clock, past, {"ops": ear.send})
        await first.pass_s(20)
        await first.stop()
        empty = MadePast(clock.now())
        empty.make(FRONT_RESTARTS, {}, constant(0.0))
        second = Life(kept, clock, empty, {"ops": ear.send})
        states = []
        for seconds in (30, 60):
            await second.pass_s(seconds)
            states.append(second.alerts.book.alerts["restarts:host"].state)
        assert states == ["firing", "resolved"]
        await second.stop()

    run_simulated(main)


def test_silences_end_by_themselves_and_are_bounded() -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        life_ = Life(Kept(), clock, MadePast(clock.now()), {})
        for _ in range(SILENCES):
            await life_.alerts.silence("x", 60.0, "ann", "")
        with pytest.raises(LimitReached):
            await life_.alerts.silence("x", 60.0, "ann", "")
        first = life_.alerts.book.silences[0]
        assert await life_.alerts.end_silence(first.id, "ann") == first
        with pytest.raises(NotFound):
            await life_.alerts.end_silence(first.id, "ann")
        await life_.pass_s(62)
        assert life_.alerts.book.silences == ()
        await life_.stop()

    run_simulated(main)


# --- Words ----------------------------------------------------------------------------------------


def notices(count: int) -> Message:
    alert = Alert(
        "slo_burn:m0.p95_ms", "slo_burn", "m0.p95_ms", "critical", "firing", 1e9,
        "m0 misses its goal p95_ms <= 30 <&>", "burns 15 times too fast", "Look into the log.",
        budget_left=0.42, exhausted_in_s=7200.0,
    )  # fmt: skip
    return Message(
        "ops", "here", tuple(Notice(n, 1e9, "fired", alert) for n in range(1, count + 1))
    )


def test_every_notice_says_cause_value_budget_time_and_what_to_do() -> None:
    said = text(notices(1))
    for words in (
        "FIRING critical: m0 misses its goal",
        "value: burns 15 times too fast",
        "budget left: 42.0 % of a month's",
        "exhausted in: 2 h at this rate",
        "what to do: Look into the log.",
        "paceline alerts ack 'slo_burn:m0.p95_ms'",
        "2001-09-09 01:46:40 UTC",
    ):
        assert words in said.replace("\N{NO-BREAK SPACE}", " ")
    assert b"&lt;&amp;&gt;" in as_slack(notices(1))


def test_many_notices_are_one_message_and_the_first_are_told() -> None:
    many = notices(ALERT_GROUP)
    assert text(many).count("value:") == 20
    assert "and 80 more" in text(many)
    assert len(as_json(many).split(b'"cause"')) == ALERT_GROUP + 1
    mail = as_mail(many, "a@example.org", ["b@example.org", "c@example.org"])
    assert mail["Message-ID"] == f"<here-ops-1-{ALERT_GROUP}@paceline>"
    assert mail["To"] == "b@example.org, c@example.org"
