"""What the journal remembers: one struct per kind of entry, each with a version of its own.

Decisions, never telemetry. Every kind says which knobs it is about, so that `why` finds it again.
Called by `changes/` to write, by the fold and the views to read.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from paceline.journal.store import Record, damaged
from paceline.terms.alert import Alert, AlertBook, Moved, Silence
from paceline.terms.errors import JournalNewer
from paceline.terms.plan import Address, Adjustment, Change, Prediction, Value


class PlanChanged(msgspec.Struct, frozen=True, tag="plan_changed"):
    """The Plan has this version and this content from here on."""

    version: int
    hash: str
    change: Change


class Adjusted(msgspec.Struct, frozen=True, tag="adjusted"):
    """A setting moved within its envelope."""

    adjustment: Adjustment


class AdjustedOften(msgspec.Struct, frozen=True, tag="adjusted_often", omit_defaults=True):
    """What compaction leaves of one knob's adjustments of one day; stands where the last stood."""

    knob: Address
    times: int
    first: Value
    last: Value
    came_true: int = 0
    did_not: int = 0


Outcome = Literal["came true", "did not", "cannot tell"]


class Scored(msgspec.Struct, frozen=True, tag="scored", omit_defaults=True):
    """What came of a prediction made in entry `of`."""

    of: int
    knobs: tuple[Address, ...]
    prediction: Prediction
    outcome: Outcome
    of_adjustment: bool = False
    measured: float | None = None
    evidence: str = ""


class GoalsChanged(msgspec.Struct, frozen=True, tag="goals_changed"):
    """The goals by workload, as the settings state them now."""

    goals: dict[str, tuple[str, ...]]


class SettingsChanged(msgspec.Struct, frozen=True, tag="settings_changed"):
    """Settings beside the Plan and its goals that changed in a running server, in words."""

    changes: tuple[str, ...]


class Forgotten(msgspec.Struct, frozen=True, tag="forgotten", omit_defaults=True):
    """What was said in so many LLM calls was erased, because somebody asked for it: all of a key,
    everything, or else one call. Nothing of what was said is here, nor the id of a call, which its
    caller may have chosen."""

    calls: int
    key: str | None = None
    everything: bool = False


class Compacted(msgspec.Struct, frozen=True, tag="compacted"):
    """Adjustments from before `before_unix_s` gave way to `AdjustedOften`; `removed` entries."""

    before_unix_s: float
    removed: int


class Salvaged(msgspec.Struct, frozen=True, tag="salvaged"):
    """What a damaged journal had lost when it was saved: `lost` entries before this one, in or
    around `gaps`, each a first and a last number, or None where the end is lost. `added` entries
    stand where lost ones stood."""

    lost: int
    added: int
    gaps: tuple[tuple[int, int | None], ...]


class AlertMoved(msgspec.Struct, frozen=True, tag="alert_moved", omit_defaults=True):
    """An alert as it is from here on, and the channels that are to be told so."""

    alert: Alert
    what: Moved
    tell: tuple[str, ...] = ()


class AlertsTold(msgspec.Struct, frozen=True, tag="alerts_told", omit_defaults=True):
    """A channel was told all notices up to the one of entry `up_to`; or, where `sent` is false,
    they were given up, and why."""

    channel: str
    up_to: int
    sent: bool = True
    why: str = ""


class Silenced(msgspec.Struct, frozen=True, tag="silenced"):
    """Somebody wants to hear nothing of some alerts for a while."""

    silence: Silence


class SilenceEnded(msgspec.Struct, frozen=True, tag="silence_ended"):
    """Its time was over, or somebody ended it."""

    silence: int
    matches: str


class AlertsSummed(msgspec.Struct, frozen=True, tag="alerts_summed"):
    """What compaction leaves of all that was about alerts up to here: what they amounted to, and by
    rule how often one fired. Stands where the last stood; `entries` counts those it stands for."""

    entries: int
    fired: dict[str, int]
    book: AlertBook


AboutAlerts = AlertMoved | AlertsTold | Silenced | SilenceEnded | AlertsSummed

Body = (
    PlanChanged
    | Adjusted
    | AdjustedOften
    | Scored
    | GoalsChanged
    | SettingsChanged
    | Forgotten
    | Compacted
    | Salvaged
    | AlertMoved
    | AlertsTold
    | Silenced
    | SilenceEnded
    | AlertsSummed
)
KINDS: tuple[type[Body], ...] = (
    PlanChanged,
    Adjusted,
    AdjustedOften,
    Scored,
    GoalsChanged,
    SettingsChanged,
    Forgotten,
    Compacted,
    Salvaged,
    AlertMoved,
    AlertsTold,
    Silenced,
    SilenceEnded,
    AlertsSummed,
)

VERSIONS: Mapping[str, int] = {str(kind.__struct_config__.tag): 1 for kind in KINDS}
"""The version in which each kind is written now."""

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

UPGRADES: dict[tuple[str, int], Upgrade] = {}
"""From a version of a kind to the next, for entries that an older Paceline wrote."""


class Entry(msgspec.Struct, frozen=True):
    """`at` is unix seconds; `who` is for people: a key's name, a file's line, a version of ours."""

    seq: int
    at: float
    who: str
    body: Body


PLAN = "plan"
"""The name under which every change of the Plan is found; a knob's has a dot in it."""


def outcome_of(seq: int) -> str:
    """The name under which it is found what came of a change's predictions. What came of an
    adjustment's is found by its knob alone: the two are compacted together."""
    return f"#{seq}"


def of_alert(alert_id: str) -> str:
    """The name under which what happened to an alert is found; no knob's has a blank in it."""
    return f"alert {alert_id}"


def about(body: Body) -> tuple[str, ...]:
    match body:
        case PlanChanged(_, _, change):
            return (PLAN, *(step.knob for step in change.diff))
        case Adjusted(adjustment):
            return (adjustment.knob,)
        case AdjustedOften():
            return (body.knob,)
        case Scored():
            return body.knobs if body.of_adjustment else (outcome_of(body.of), *body.knobs)
        case AlertMoved(alert):
            return (of_alert(alert.id),)
        case GoalsChanged() | SettingsChanged() | Forgotten() | Compacted() | Salvaged():
            return ()
        case AlertsTold() | Silenced() | SilenceEnded() | AlertsSummed():
            return ()


def kind_of(body: Body) -> str:
    return str(body.__struct_config__.tag)


def to_record(entry: Entry) -> Record:
    kind = kind_of(entry.body)
    return Record(
        entry.seq,
        entry.at,
        entry.who,
        kind,
        VERSIONS[kind],
        msgspec.json.encode(entry.body).decode(),
        about(entry.body),
    )


_decoder = msgspec.json.Decoder(Body)


def to_entry(record: Record) -> Entry:
    newest = VERSIONS.get(record.kind)
    if newest is None or record.version > newest:
        raise JournalNewer(
            f"entry {record.seq} of the journal is of a kind that this Paceline does not know",
            value=f"{record.kind}, version {record.version}",
            remedy="Install the Paceline that wrote it, or a newer one.",
        )
    try:
        if record.version == newest:
            return Entry(record.seq, record.at, record.who, _decoder.decode(record.body))
        content = msgspec.json.decode(record.body, type=dict[str, Any])
        for version in range(record.version, newest):
            content = UPGRADES[record.kind, version](content)
        return Entry(record.seq, record.at, record.who, msgspec.convert(content, Body))
    except msgspec.MsgspecError as error:
        raise damaged(record.seq, f"it cannot be read as {record.kind}: {error}") from error
