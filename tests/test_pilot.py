"""From what a front measures to a setting that is moved, and to the story that `why` tells."""

import asyncio
from pathlib import Path

from typer.testing import CliRunner

from paceline.app import desk_without_owner
from paceline.cli.main import command_line
from paceline.config.source import Source
from paceline.flow.queue import Waiting
from paceline.serve import digits
from paceline.serve.batch import Tuning
from paceline.serve.classes import classes
from paceline.serve.core import Core
from paceline.serve.effects import Interval
from paceline.serve.knobs import catalogue
from paceline.serve.latency import LatencyModel
from paceline.serve.pilot import STEER_S, Pilot
from paceline.serve.steering import Looks, Move, Steering
from paceline.terms.plan import Prediction
from paceline.web.messages import Steer
from paceline.web.steered import Steered

MOVE = Move("max_batch", 8, "batches of at most 8 instead of 64", Prediction("goodput_rps", low=5))


class Asked(Steering):
    """Answers what it was told to, and keeps what it was asked."""

    def __init__(self, *answers: Move | Looks | None) -> None:
        super().__init__({}, None)
        self.answers = list(answers)
        self.intervals: list[Interval] = []

    def observe(
        self, now: float, interval: Interval, tuning: Tuning, learned: LatencyModel
    ) -> Move | Looks | None:
        self.intervals.append(interval)
        return self.answers.pop(0)


def piloted(*answers: Move | Looks | None) -> tuple[Pilot, Asked, Core, list[Move]]:
    wishes: list[Move] = []
    pilot = Pilot(wishes.append, 0.0)
    pilot._steering = asked = Asked(*answers)
    return pilot, asked, Core(lambda waiting, end: None, classes(0.1), Tuning()), wishes


def test_steering_is_told_what_was_measured_since_it_was_last_asked() -> None:
    pilot, asked, core, _ = piloted(None, None)
    for number in range(3):
        core.arrive(0.0, Waiting(1, 0, 1, 0, 0.0, 0.1, 0.1, number))
        pilot.came()
    pilot.came()
    pilot.refused()
    batch = core.next(0.0)
    assert batch is not None
    pilot.ran(batch, 0.25, in_time=2, answered=3)
    pilot.turn(STEER_S / 2, core)
    assert asked.intervals == [], "not that often"
    pilot.turn(2 * STEER_S, core)
    pilot.turn(4 * STEER_S, core)
    first, second = asked.intervals
    assert (first.seconds, first.offered, first.refused) == (2 * STEER_S, 4, 1)
    assert (first.answered, first.in_time, first.batches, first.rows) == (3, 2, 1, 3)
    assert first.busy_s == 0.25
    assert (second.offered, second.batches, second.busy_s) == (0, 0, 0.0)


def test_a_move_is_a_wish_and_a_look_is_carried_out() -> None:
    pilot, _, core, wishes = piloted(MOVE, Looks((Tuning(executors=2),)))
    pilot.turn(STEER_S, core)
    assert wishes == [MOVE]
    assert core.tuning == Tuning(), "whoever keeps the Plan decides"
    pilot.turn(2 * STEER_S, core)
    assert core.looking
    assert core.idle == 2


def test_a_wish_becomes_an_adjustment_whose_story_is_told(tmp_path: Path) -> None:
    state = tmp_path / "state"
    loaded = Source(
        file=None,
        environ={"PACELINE_SERVER__STATE": str(state)},
        flags={},
        catalogue=catalogue,
        models=[digits.NAME],
        cores=2,
    ).load()

    async def wished() -> None:
        async with desk_without_owner(loaded, writes=True) as desk:
            steered = Steered(desk)
            steer = Steer("digits.max_batch", 8, MOVE.reason, (MOVE.expects,))
            steered.wish(steer, 0)
            steered.wish(steer, 0)
            await steered.close()
            steered.wish(Steer("digits.max_batch", 10**9, "too far", ()), 0)
            await steered.close()

    asyncio.run(wished())
    told = CliRunner().invoke(command_line(), ["why", "digits.max_batch", "--state", str(state)])
    assert told.exit_code == 0, told.output
    words = " ".join(told.output.split())
    assert "steering (front 0)" in words
    assert MOVE.reason in words
    assert words.count("steering (front 0)") == 1, (
        "once for two wishes; and not out of its envelope"
    )
