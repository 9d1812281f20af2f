"""Entries of the journal and what is in them, in words: one line each, for people.

Pure. Reasons and names were written by others: what could confuse a terminal is taken out, what is
long is cut. Called by `paceline journal tail`, and by the views behind `why` and the page.
"""

from collections.abc import Iterable

import msgspec

from paceline.journal.entries import (
    Adjusted,
    AdjustedOften,
    AlertMoved,
    AlertsSummed,
    AlertsTold,
    Compacted,
    Entry,
    Forgotten,
    GoalsChanged,
    Outcome,
    PlanChanged,
    Salvaged,
    Scored,
    SettingsChanged,
    Silenced,
    SilenceEnded,
)
from paceline.terms.alert import Moved
from paceline.terms.amounts import moment
from paceline.terms.plan import Address, Change, Diff, Line, Prediction, Step, Value, Verdict, shown

TEXT_CHARS = 300
"""of a reason or a piece of evidence; the rest is cut"""

STEPS = 3
"""of one change that are told; the others are counted"""

OUTCOMES: dict[Outcome, str] = {
    "came true": "which came true",
    "did not": "which did not come true",
    "cannot tell": "of which nothing can be told",
}


MOVES: dict[Moved, str] = {
    "fired": "fires",
    "worse": "got worse",
    "acknowledged": "is acknowledged",
    "told": "is as it was",
    "again": "still fires",
    "escalated": "still fires, and nobody has acknowledged it",
    "resolved": "is over",
}


def words(entry: Entry) -> str:
    """What the entry says; its number, time and author are the reader's to show."""
    match entry.body:
        case PlanChanged(version, _, change):
            return f"plan {version}: {_of_change(change)}"
        case Adjusted(adjustment):
            move = f"{adjustment.knob} adjusted {_move(adjustment.before, adjustment.after)}"
            return _one_line(
                move + _expecting(adjustment.predictions) + _because(adjustment.reason)
            )
        case AdjustedOften() as often:
            times = f"{often.times} times" if often.times != 1 else "once"
            scored = f"; of its predictions {often.came_true} came true, {often.did_not} did not"
            return _one_line(
                f"{often.knob} adjusted {times}, {_move(often.first, often.last)}"
                + (scored if often.came_true or often.did_not else "")
            )
        case Scored() as scored_body:
            told = of_prediction(scored_body.prediction, scored_body.outcome, scored_body.measured)
            evidence = f" ({text(scored_body.evidence)})" if scored_body.evidence else ""
            return f"entry {scored_body.of} {told}{evidence}"
        case GoalsChanged(goals):
            told = "; ".join(
                f"{workload} {', '.join(stated) or 'none'}" for workload, stated in goals.items()
            )
            return f"goals: {text(told) or 'none'}"
        case SettingsChanged(changes):
            return f"settings: {text('; '.join(changes))}"
        case Forgotten(calls, key, everything):
            of_what = "all" if everything else f"all of key {key}" if key else "one"
            return _one_line(f"what was said in LLM calls was erased: {of_what}, {calls} in number")
        case Compacted(before_unix_s, removed):
            entries = "entry" if removed == 1 else "entries"
            return (
                f"compacted: adjustments from before {moment(before_unix_s)} are summaries now, "
                f"{removed} {entries} fewer"
            )
        case Salvaged(lost, added, gaps):
            entries = "entry" if lost == 1 else "entries"
            stand = f"; {added} stand in their place" if added else ""
            return f"saved from a damaged journal: {lost} {entries} lost{_around(gaps)}{stand}"
        case AlertMoved(alert, what, tell):
            told = (
                f"alert {alert.id} ({alert.severity}) {MOVES[what]}: {alert.cause}, {alert.value}"
            )
            return _one_line(told + (f"; to tell: {', '.join(tell)}" if tell else ""))
        case AlertsTold(channel, up_to, sent, why):
            told = "was told of alerts" if sent else "could not be told of alerts"
            because = "" if sent else f": {text(why)}"
            return f"{_one_line(channel)} {told}, up to entry {up_to}{because}"
        case Silenced(silence):
            for_what = f"silence for {silence.matches} until {moment(silence.until_unix_s)}"
            return _one_line(for_what) + _because(silence.reason)
        case SilenceEnded(_, matches):
            return _one_line(f"the silence for {matches} ended")
        case AlertsSummed(entries_, fired):
            times = ", ".join(f"{rule} {count}" for rule, count in fired.items()) or "none"
            return f"alerts until here, {entries_} entries: fired by rule: {times}"


def about(entry: Entry, knob: Address) -> str:
    """The same, as far as it is about this knob."""
    match entry.body:
        case PlanChanged(version, hash_, change):
            steps = tuple(step for step in change.diff if step.knob == knob)
            body = PlanChanged(version, hash_, msgspec.structs.replace(change, diff=steps))
            return words(msgspec.structs.replace(entry, body=body))
        case _:
            return words(entry)


def of_step(step: Step) -> str:
    """What happened to one knob: `digits.max_rows 1024 → 256, envelope 1..1024 → 1..512`."""
    match step.before, step.after:
        case None, None:
            told = ["as it was"]
        case None, Line() as line:
            told = [f"new at {shown(line.value)}", *_pinned(None, line)]
        case Line(), None:
            told = ["gone"]
        case Line() as before, Line() as after:
            told = [*_moved(before, after), *_pinned(before, after)] or ["as it was"]
    return _one_line(f"{step.knob} {', '.join(told)}")


def of_diff(steps: Diff) -> str:
    """The first few steps, and how many there are more; many new knobs are counted."""
    arrived = [step for step in steps if step.before is None]
    if len(arrived) > STEPS:
        rest = tuple(step for step in steps if step.before is not None)
        new = f"{len(arrived)} new knobs"
        return f"{new}; {of_diff(rest)}" if rest else new
    told = [of_step(step) for step in steps[:STEPS]]
    if len(steps) > STEPS:
        told.append(f"and {len(steps) - STEPS} more")
    return "; ".join(told)


def of_verdict(verdict: Verdict) -> str:
    """`untested`, or the answer with what it rests on."""
    if not verdict.evidence:
        return verdict.answer
    return f"{verdict.answer} ({text(verdict.evidence)})"


def of_prediction(
    prediction: Prediction, outcome: Outcome | None, measured: float | None = None
) -> str:
    """`expected p95_ms <= 30, which came true (measured 24.1)`."""
    told = "not scored yet" if outcome is None else OUTCOMES[outcome]
    number = "" if measured is None else f" (measured {measured:g})"
    return _one_line(f"expected {prediction}, {told}{number}")


def text(written: str) -> str:
    """What somebody wrote, on one line and not too long."""
    line = _one_line(written[: 2 * TEXT_CHARS])
    return line if len(line) <= TEXT_CHARS else line[: TEXT_CHARS - 1] + "…"


def _of_change(change: Change) -> str:
    told = of_diff(change.diff) or "nothing"
    if change.undoes is not None:
        told = f"plan {change.undoes} taken back: {told}"
    if change.restores is not None:
        told = f"plan {change.restores} brought back: {told}"
    expecting = _one_line(_expecting(change.predictions))
    return f"{told}, {of_verdict(change.verdict)}{expecting}{_because(change.reason)}"


def _around(gaps: tuple[tuple[int, int | None], ...]) -> str:
    told = ", ".join(
        f"{first} and on" if last is None else str(first) if first == last else f"{first} to {last}"
        for first, last in gaps[:STEPS]
    )
    more = f" and in {len(gaps) - STEPS} more places" if len(gaps) > STEPS else ""
    return f", around {told}{more}" if told else ""


def _moved(before: Line, after: Line) -> Iterable[str]:
    if before.value != after.value or type(before.value) is not type(after.value):
        yield _move(before.value, after.value)
    if before.envelope != after.envelope:
        yield f"envelope {before.envelope} → {after.envelope}"


def _pinned(before: Line | None, after: Line) -> Iterable[str]:
    """Both pins; the one in the settings wins, and so is told last."""
    was = (None, None) if before is None else (before.pin, before.file_pin)
    freed = False
    for old, new, by in zip(
        was, (after.pin, after.file_pin), ("", " by the settings"), strict=True
    ):
        if old == new:
            continue
        if new is None:
            freed = True
            if after.pinned:
                yield f"no longer pinned{by or ' by hand'}"
        elif old is None:
            yield f"pinned at {shown(new)}{by}"
        else:
            yield f"pinned at {_move(old, new)}{by}"
    if freed and not after.pinned:
        yield f"free again at {shown(after.start)}"


def _move(before: Value, after: Value) -> str:
    return f"{shown(before)} → {shown(after)}"


def _expecting(predictions: tuple[Prediction, ...]) -> str:
    return ", expecting " + ", ".join(map(str, predictions)) if predictions else ""


def _because(reason: str) -> str:
    return f"; reason: {text(reason)}" if reason else ""


def _one_line(written: str) -> str:
    """Without line ends and without what moves a terminal's cursor."""
    line = " ".join(written.split())
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)
