"""What came of a prediction is measured a minute later, written down and told by `why`."""

from pathlib import Path

import msgspec
import pytest

from paceline.changes.desk import Desk, Nobody, Wanted, Wish
from paceline.changes.scoring import LEAST_REQUESTS, Totals, score
from paceline.clock import Chance, SimulatedClock, run_simulated
from paceline.journal.entries import Entry, Scored
from paceline.journal.journal import Journal
from paceline.journal.sqlite import SqliteStore
from paceline.serve.knobs import catalogue
from paceline.stats.sketch import Sketch
from paceline.terms.goal import predictions
from paceline.terms.limits import SCORE_AFTER_S
from paceline.web.scores import Scores


def totals(at_s: float, durations_ms: list[float], failed: int = 0) -> Totals:
    sketch = Sketch()
    for each in durations_ms:
        sketch.record(each / 1e3)
    return Totals(at_s, len(durations_ms), failed, sketch)


SLOW = [100.0] * 500
FAST = [10.0] * 190 + [40.0] * 10


@pytest.mark.parametrize(
    ("clause", "outcome", "measured"),
    [
        ("p50_ms <= 11", "came true", 10),
        ("p50_ms <= 9", "did not", 10),
        ("p99_ms <= 41", "came true", 40),
        ("p99_ms <= 30", "did not", 40),
        ("mean_ms <= 12", "came true", 11.5),
        ("mean_ms >= 12", "did not", 11.5),
        ("error_ratio <= 0.05", "came true", 0.05),
        ("availability >= 0.96", "did not", 0.95),
        ("throughput_rps >= 20", "came true", 20),
        ("throughput_rps >= 21", "did not", 20),
        ("quality >= 0.5", "cannot tell", None),
    ],
)
def test_only_what_came_after_the_change_counts(
    clause: str, outcome: str, measured: float | None
) -> None:
    (prediction,) = predictions([clause])
    before, after = totals(100, SLOW, failed=400), totals(110, SLOW + FAST, failed=410)
    result = score(prediction, before, after)
    assert result.outcome == outcome
    assert result.measured == (measured and pytest.approx(measured, rel=0.01))


def test_too_few_requests_tell_nothing() -> None:
    (prediction,) = predictions(["p50_ms <= 30"])
    few = score(prediction, totals(0, []), totals(60, [1.0] * (LEAST_REQUESTS - 1)))
    assert few.outcome == "cannot tell"
    assert score(prediction, totals(0, []), totals(60, [1.0] * LEAST_REQUESTS)).outcome == (
        "came true"
    )


def test_times_are_judged_by_requests_that_were_answered() -> None:
    (prediction,) = predictions(["p99_ms <= 20"])
    after = msgspec.structs.replace(totals(60, [1.0]), requests=5000.0, failed=4999.0)
    result = score(prediction, totals(0, []), after)
    assert result.outcome == "cannot tell"
    assert "1 of them answered" in result.evidence


class Traffic:
    """A workload that answers some requests each time it is looked at."""

    def __init__(self, clock: SimulatedClock) -> None:
        self.clock = clock
        self.looks = 0

    def totals(self, workload: str) -> Totals:
        assert workload == "digits"
        self.looks += 1
        return totals(self.clock.now(), [10.0] * 200 * self.looks)


def scored(journal: Journal) -> list[Scored]:
    return [each.body for each in journal.read() if isinstance(each.body, Scored)]


@pytest.mark.parametrize("meanwhile", ["nothing", "a change", "there and back", "a stop"])
def test_a_prediction_is_scored_a_minute_later(tmp_path: Path, meanwhile: str) -> None:
    async def main(clock: SimulatedClock, chance: Chance) -> None:
        journal = Journal(SqliteStore.open(tmp_path), clock, at_once=True)
        heard: list[Entry] = []

        def on_entry(entry: Entry) -> None:
            heard.append(entry)
            scores.watch(entry)

        desk = Desk(journal, catalogue(["digits"]), Nobody(), clock, on_entry)
        scores = Scores(desk, Traffic(clock).totals, clock)
        await desk.begin(Wanted(), "1.0")
        expects = predictions(["p95_ms <= 20", "p95_ms >= 1", "p50_ms <= 1"])
        await desk.set("digits.max_rows", 8, None, Wish("anna", "", expects))
        assert [entry.who for entry in heard] == ["paceline 1.0", "anna"]
        began_s = clock.now()
        if meanwhile == "a stop":
            await scores.close()
            assert clock.now() == began_s
        else:
            if meanwhile == "a change":
                await desk.set("digits.max_rows", 9, None, Wish("bob"))
            if meanwhile == "there and back":
                await desk.set("digits.max_rows", 9, None, Wish("bob"))
                await desk.set("digits.max_rows", 8, None, Wish("bob"))
            await clock.until(began_s + SCORE_AFTER_S - 1)
            assert scored(journal) == []
            await clock.until(began_s + SCORE_AFTER_S + 1)
            await scores.close()
        outcomes = [each.outcome for each in scored(journal)]
        evidence = {each.evidence for each in scored(journal)}
        if meanwhile == "nothing":
            assert outcomes == ["came true", "did not"]
        else:
            assert outcomes == ["cannot tell", "cannot tell"]
            again = "digits was changed again"
            said = {"a change": again, "there and back": again, "a stop": "the server stopped"}
            assert all(each.startswith(said[meanwhile]) for each in evidence)
        await journal.close()

    run_simulated(main)
