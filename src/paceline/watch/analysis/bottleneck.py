"""Which part makes the requests of a model slow, or turns them away: named, with what shows it.

The part that has most of the requests' time is the bottleneck, and what the machine did meanwhile
says why: a queue before executors that are busy is another thing than one before executors that
wait, and a slow model another than one that has no core. Called by `findings.py`; what to do about
it is `advice.py`.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from paceline.watch.analysis.finding import Evidence
from paceline.watch.analysis.parts import Parts

Part = Literal["limits", "saturation", "network", "parsing", "queue", "compute", "front"]

LEAST_REQUESTS = 30
"""Of fewer nothing is said."""

TURNED_AWAY = 0.05
"""of the requests is a bottleneck by itself, whatever those wait for that were let in"""

STARVED = 0.4
"""of the time at work without a core is too much"""

FULL = 0.85
"""of the cores, and more, is all of them"""

NOTHING_S = 0.0005
"""A mean below this is quick, wherever it goes."""

WHAT = {
    "limits": "requests are turned away by a limit of ours, not for lack of power",
    "saturation": "there are too few cores for what is to be done",
    "network": "requests wait for their own bodies: callers, or the way to them, are slow",
    "parsing": "requests wait for their bodies to be parsed",
    "queue": "requests wait in the queue for an executor",
    "compute": "the model itself takes the time",
    "front": "the front takes the time: heads, short bodies, answers, turns of its loop",
}


class Bottleneck(msgspec.Struct, frozen=True):
    """`share` of the requests' time, or of the requests, is why it is this one."""

    part: Part
    share: float
    why: str


def bottleneck(found: Parts) -> Bottleneck | None:
    """None where too little was asked, or nothing is slow."""
    if found.asked < LEAST_REQUESTS:
        return None
    return _turning_away(found) or _slow(found)


def _turning_away(found: Parts) -> Bottleneck | None:
    share = found.refused / found.asked
    if share < TURNED_AWAY:
        return None
    by_limits = max(0.0, found.refused - found.not_run)
    if by_limits > found.not_run:
        why = f"{share:.0%} of the requests were turned away before the queue was asked"
        return Bottleneck("limits", share, why)
    why = f"{share:.0%} of the requests were turned away, for they would have been too late"
    if found.cpu_share >= FULL or found.starved >= STARVED:
        return Bottleneck("saturation", share, f"{why}; the cores are {_cores(found)}")
    return Bottleneck("queue", share, f"{why}; executors are the limit, and not cores")


def _slow(found: Parts) -> Bottleneck | None:
    if not found.total_s or found.mean_s < NOTHING_S:
        return None
    shares = shares_of(found)
    part: Part = max(shares, key=shares.__getitem__)
    share = shares[part]
    if part == "network":
        return Bottleneck(part, share, f"bodies are on their way for {share:.0%} of the time")
    # Everything else needs a core, and a missing one shows as whatever it was that needed it.
    if found.cpu_share >= FULL and found.starved >= STARVED:
        why = f"threads that could work had no core for {found.starved:.0%} of the time"
        whose = "others use" if _by_others(found) else "all that runs uses"
        amount = found.others_share if _by_others(found) else found.cpu_share
        return Bottleneck("saturation", found.starved, f"{why}; {whose} {amount:.0%} of the cores")
    return Bottleneck(part, share, _why(found, part, share))


def shares_of(found: Parts) -> dict[Part, float]:
    """Of the requests' time."""
    total_s = found.total_s or 1.0
    return {
        "network": found.body_s / total_s,
        "parsing": found.parse_s / total_s,
        "queue": found.queue_s / total_s,
        "compute": found.run_s / total_s,
        "front": found.front_s / total_s,
    }


def _why(found: Parts, part: Part, share: float) -> str:
    if part == "queue":
        why = f"{found.queued:.1f} of {found.in_flight:.1f} requests wait at a time"
        if found.left_paying_rows > found.rows * 0.1:
            left = found.left_paying_rows / found.batches if found.batches else 0.0
            return f"{why}; batches leave {left:.0f} rows behind that would have cost little more"
        if found.full_batches > found.batches / 2:
            return f"{why}; batches are full at {found.batch_rows:.0f} rows"
        if found.waited_batches > found.batches / 2:
            return f"{why}, while batches are held back for company"
        return f"{why}; {found.executors_busy:.1f} executors are busy on average"
    if part == "compute":
        run_ms = 1e3 * found.busy_s / found.batches if found.batches else 0.0
        return (
            f"a batch of {found.batch_rows:.1f} rows runs {run_ms:.3g} ms, {share:.0%} of the time"
        )
    return f"{share:.0%} of the time"


def _by_others(found: Parts) -> bool:
    """They use more than we do."""
    return found.others_share > found.cpu_share / 2


def _cores(found: Parts) -> str:
    return f"used to {found.cpu_share:.0%}"


def evidence(found: Parts) -> tuple[Evidence, ...]:
    """What any bottleneck stands on."""
    named = [
        Evidence("asked", found.asked, "requests"),
        Evidence("turned away", found.refused, "requests"),
        Evidence("mean", found.mean_s * 1e3, "ms"),
        Evidence("in flight", found.in_flight, "requests"),
        Evidence("waiting", found.queued, "requests"),
        Evidence("busy", found.executors_busy, "executors"),
        Evidence("in a batch", found.batch_rows, "rows"),
        Evidence("cores used", found.cpu_share, ""),
        Evidence("cores used by others", found.others_share, ""),
        Evidence("without a core", found.starved, ""),
    ]
    of_time = [Evidence(f"share of {part}", each, "") for part, each in shares_of(found).items()]
    return (*named, *of_time)


def agreement(steps: Sequence[Parts], part: Part) -> float:
    """How sure it is: the share of the steps that name the same, as if there were one more for it
    and one against."""
    named = [each for each in map(bottleneck_of_step, steps) if each is not None]
    return (sum(each == part for each in named) + 1) / (len(named) + 2)


def bottleneck_of_step(step: Parts) -> Part | None:
    """However little was asked in it."""
    if not step.asked:
        return None
    found = _turning_away(step) or _slow(step)
    return None if found is None else found.part
