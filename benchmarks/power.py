"""What losses of power leave of a server, drawn thousands of times: all that was acknowledged?

The lives, the images and the judgement of tests/test_power_loss.py, in several recordings, for no
two are alike; and planted faults, with how many images it takes to find each.
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import record
from paceline.terms.limits import JOURNAL_SNAPSHOT_ENTRIES

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from power_lives import (
    BRIEF,
    KEYS_ALONE,
    KEYS_NOT_SYNCED,
    KILLED,
    PLANTED,
    STOPPED,
    History,
    Life,
    Lived,
    imported,
    judge,
    lived,
    long,
    second,
    start_again,
)
from power_loss import Image

INSTANT = re.compile(r"power lost at step (\d+) of")
DRAWN = re.compile(r"image (\d+) of seed")
FOUND_WITHIN = 50
"""images, in which each planted fault must be found"""
START_EVERY = 100
"""On one image of so many a real server is started too."""
SHOWN = 5


class Places(NamedTuple):
    """For recordings, on a disk as servers have one; for images, in memory, where none waits."""

    disk: Path
    memory: Path


class Seen(NamedTuple):
    """Of one recording."""

    about: str
    images: int
    instants: int
    """at which the power went, each counted once"""
    amiss: Sequence[str]
    started: int
    last: Image


def look(life: Lived, seed: int, count: int, places: Places) -> Seen:
    instants, amiss, started = set(), [], 0
    for number, each in enumerate(judge(life, seed, count, places.memory)):
        instants.add(_number(INSTANT, each.image))
        if each.amiss:
            amiss.append(each.amiss)
        elif life.life.work and number % START_EVERY == START_EVERY // 2:
            place = Path(tempfile.mkdtemp(dir=places.disk))
            start_again(life, each.image, place / "disk")
            started += 1
    print(f"  {life.life.about}: {count} images, seed {seed}, {len(amiss)} with something amiss")
    for found in amiss[:SHOWN]:
        print(f"    {found}")
    return Seen(life.life.about, count, len(instants), amiss, started, each.image)


def _number(pattern: re.Pattern[str], image: Image) -> int:
    match = pattern.search(image.description)
    assert match is not None
    return int(match[1])


def lives(history: History, seed: int, count: int, places: Places) -> Iterator[Seen]:
    """A recording of each life."""

    def seen(life: Life) -> Seen:
        place = Path(tempfile.mkdtemp(dir=places.disk)) / "life"
        return look(lived(life, place), seed, count, places)

    yield seen(STOPPED)
    killed = seen(KILLED)
    yield killed
    left = Path(tempfile.mkdtemp(dir=places.disk)) / "left"
    for life in (second(killed.last, left), long(history), imported(history), KEYS_ALONE):
        yield seen(life)


def found_after(life: Life, fault: str, seed: int, places: Places) -> int:
    """How many images it takes to find the fault; one more than FOUND_WITHIN where those do not."""
    spoiled = lived(life, Path(tempfile.mkdtemp(dir=places.disk)) / "life", fault)
    judged = judge(spoiled, seed, FOUND_WITHIN, places.memory)
    drawn = [_number(DRAWN, each.image) for each in judged if each.amiss]
    return 1 + min(drawn, default=FOUND_WITHIN)


def of_lives(seen: Sequence[Seen]) -> tuple[list[record.Figure], list[record.Verdict]]:
    figures = [
        record.figure(
            f"{about}: instants at which the power went",
            "in a recording",
            [each.instants for each in seen if each.about == about],
        )
        for about in dict.fromkeys(each.about for each in seen)
    ]
    images, instants = sum(each.images for each in seen), sum(each.instants for each in seen)
    amiss, started = sum(len(each.amiss) for each in seen), sum(each.started for each in seen)
    return figures, [
        record.Verdict(
            "power lost at any instant: no acknowledged entry is lost, the file opens, the Plan is "
            "old or new",
            f"{images} images of {instants} instants in {len(seen)} recordings, {amiss} with "
            f"something amiss; a server was started on {started}",
            not amiss,
        )
    ]


def of_planted(
    found: Mapping[str, Sequence[int]],
) -> tuple[list[record.Figure], list[record.Verdict]]:
    figures = [
        record.figure(f"planted, {name}: found", "images drawn", drawn)
        for name, drawn in found.items()
    ]
    latest = max(figure.high for figure in figures)
    return figures, [
        record.Verdict(
            "each planted fault is found: " + ", ".join(found),
            f"{len(found)} faults in {figures[0].runs} recordings each, after {latest:.0f} images "
            "at most",
            latest <= FOUND_WITHIN,
        )
    ]


def main() -> None:
    options = argparse.ArgumentParser(prog="./bench power", description=__doc__)
    options.add_argument("--recordings", type=int, default=4, metavar="N", help="of each life")
    options.add_argument("--images", type=int, default=300, metavar="N", help="of each recording")
    options.add_argument(
        "--seed", type=int, default=1, metavar="N", help="the first; then the next"
    )
    asked = options.parse_args()
    if shutil.which("strace") is None:
        raise SystemExit("there is no strace on PATH; apt-get install strace")
    seeds = range(asked.seed, asked.seed + asked.recordings)
    with (
        tempfile.TemporaryDirectory(prefix="paceline-power-") as disk,
        tempfile.TemporaryDirectory(prefix="paceline-power-", dir="/dev/shm") as memory,
    ):
        places = Places(Path(disk), Path(memory))
        history = History.written(places.disk / "history", JOURNAL_SNAPSHOT_ENTRIES - 10)
        seen = [each for seed in seeds for each in lives(history, seed, asked.images, places)]
        planted = {
            **{name: (BRIEF, fault) for name, fault in PLANTED.items()},
            "keys not synced": (KEYS_ALONE, KEYS_NOT_SYNCED),
        }
        found = {
            name: [found_after(life, fault, seed, places) for seed in seeds]
            for name, (life, fault) in planted.items()
        }
    figures, verdicts = of_lives(seen)
    of_faults = of_planted(found)
    record.write(
        "power",
        workload={
            "recordings": f"{len(seeds)} of each life, by strace",
            "images": f"{asked.images} of each, seeds {seeds[0]} to {seeds[-1]}",
            "un-synced operations": "lost, kept, torn at 512 B, each for itself",
            "a real server": f"is started on one image of {START_EVERY}",
        },
        figures=[*figures, *of_faults[0]],
        verdicts=[*verdicts, *of_faults[1]],
    )


if __name__ == "__main__":
    main()
