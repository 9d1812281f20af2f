"""The Plan: completely how each workload is served, by named knobs; and what changes it.

Values and the arithmetic on them, nothing else: who may change a Plan is decided in `changes/`,
the journal remembers, and whoever serves reads settings. Called by all of them.

A *knob* is what can be turned, and in which bounds. A *line* of the Plan says for one knob the
value it starts from and the *envelope*: among which values adjustments may move it. The value in
force is the *setting*; adjustments leave the Plan and its version alone.
"""

import difflib
import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from paceline.terms.errors import BadValue, Conflict, UnknownKnob

Value = bool | int | float | str

Address = str
"""A knob of a workload, as people write it: `digits.max_rows`."""


# --- Knobs ----------------------------------------------------------------------------------------


class Range(msgspec.Struct, frozen=True, tag="range"):
    """Numbers from `low` to `high`, both included; whole ones when both bounds are."""

    low: int | float
    high: int | float


class LogRange(msgspec.Struct, frozen=True, tag="log_range"):
    """A Range in which a step is a factor: 1 to 2 is as far as 512 to 1024."""

    low: int | float
    high: int | float


class Choice(msgspec.Struct, frozen=True, tag="choice"):
    names: tuple[str, ...]


class Boolean(msgspec.Struct, frozen=True, tag="boolean"):
    pass


Kind = Range | LogRange | Choice | Boolean


class Span(msgspec.Struct, frozen=True, tag="span"):
    """An envelope of numbers, both bounds included."""

    low: int | float
    high: int | float

    def __contains__(self, value: Value) -> bool:
        return not isinstance(value, str) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{shown(self.low)}..{shown(self.high)}"


class Among(msgspec.Struct, frozen=True, tag="among"):
    """An envelope of names, or of yes and no."""

    values: tuple[str | bool, ...]

    def __contains__(self, value: Value) -> bool:
        return any(
            value is each or (isinstance(each, str) and value == each) for each in self.values
        )

    def __str__(self) -> str:
        return "|".join(shown(value) for value in self.values)


Envelope = Span | Among


class Knob(msgspec.Struct, frozen=True):
    """`meaning` is one line for people; `unit` is empty where the number counts nothing else."""

    name: str
    kind: Kind
    default: Value
    unit: str
    meaning: str

    def __post_init__(self) -> None:
        """Bounds and default are all whole or all not: equal Plans must have equal hashes."""
        match self.kind:
            case Range(low, high) | LogRange(low, high):
                assert type(low) is type(high) is type(self.default), self.name

    @property
    def whole(self) -> Envelope:
        """The envelope that allows everything the knob can be."""
        match self.kind:
            case Range(low, high) | LogRange(low, high):
                return Span(low, high)
            case Choice(names):
                return Among(names)
            case Boolean():
                return Among((False, True))

    def check(self, value: object) -> Value:
        """The value as this knob has it (2.0 becomes 2 where numbers are whole, and the other way
        round where they are not), or BadValue."""
        fits: Value | None
        match self.kind:
            case Range(low, high) | LogRange(low, high):
                fits = _number(value, low, high)
            case Choice(names):
                fits = value if isinstance(value, str) and value in names else None
            case Boolean():
                fits = value if isinstance(value, bool) else None
        if fits is None:
            raise BadValue(
                f"{self.name} takes {self.takes}",
                value=value,
                remedy=self._near(value),
            )
        return fits

    def parse(self, text: str) -> Value:
        """As `check`, from what somebody typed."""
        match self.kind:
            case Choice():
                return self.check(text)
            case Boolean():
                return self.check({"true": True, "false": False}.get(text.lower(), text))
            case Range() | LogRange():
                try:
                    return self.check(msgspec.json.decode(text, type=int | float))
                except (msgspec.DecodeError, UnicodeEncodeError):
                    return self.check(text)

    def parse_envelope(self, text: str) -> Envelope:
        """`4..64`, or names with bars between them: `low|normal`."""
        match self.kind:
            case Range() | LogRange():
                low, dots, high = text.partition("..")
                if not dots:
                    raise BadValue(
                        f"an envelope of {self.name} is two numbers with two dots between them",
                        value=text,
                        remedy=f"Write for example {self.whole}.",
                    )
                bounds = (self.parse(low), self.parse(high))
                return self.check_envelope(
                    msgspec.convert({"type": "span", "low": bounds[0], "high": bounds[1]}, Span)
                )
            case Choice() | Boolean():
                values = [self.parse(each) for each in text.split("|")]
                return self.check_envelope(
                    msgspec.convert({"type": "among", "values": values}, Among)
                )

    def check_envelope(self, envelope: Envelope) -> Envelope:
        """The envelope as this knob can have it, or BadValue."""
        match envelope, self.whole:
            case Span(), Span():
                low, high = self.check(envelope.low), self.check(envelope.high)
                assert not isinstance(low, str)
                assert not isinstance(high, str)
                if low <= high:
                    return Span(low, high)
            case Among(values), Among(possible) if values and len(set(values)) == len(values):
                for value in values:
                    self.check(value)
                return Among(tuple(each for each in possible if each in values))
        raise BadValue(
            f"this is no envelope of {self.name}",
            value=str(envelope),
            remedy=f"It lies within {self.whole}, and holds one value at least.",
        )

    @property
    def takes(self) -> str:
        match self.kind:
            case Range(low, high) | LogRange(low, high):
                kind = "a whole number" if _whole(low, high) else "a number"
                unit = f" {self.unit}" if self.unit else ""
                return f"{kind} from {shown(low)} to {shown(high)}{unit}"
            case Choice(names):
                return "one of " + ", ".join(names)
            case Boolean():
                return "true or false"

    def _near(self, value: object) -> str:
        if isinstance(self.kind, Choice):
            near = difflib.get_close_matches(str(value), self.kind.names, n=1)
            if near:
                return f"Did you mean {near[0]}?"
        return f"{self.meaning} Its default is {shown(self.default)}."


def _whole(*bounds: int | float) -> bool:
    return all(isinstance(bound, int) for bound in bounds)


def _number(value: object, low: int | float, high: int | float) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return None
    if not _whole(low, high):
        return float(value) + 0.0  # there is one zero, without a sign
    return int(value) if value == int(value) else None


def shown(value: Value) -> str:
    """As people write it, and as `Knob.parse` reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


Catalogue = Mapping[Address, Knob]
"""Every knob there is, in the order in which people read them."""


def find(catalogue: Catalogue, address: Address) -> Knob:
    knob = catalogue.get(address)
    if knob is None:
        near = difflib.get_close_matches(address, catalogue, n=1)
        hint = f"Did you mean {near[0]}?" if near else "`paceline plan show` lists them."
        raise UnknownKnob("no workload has a knob of this name", value=address, remedy=hint)
    return knob


# --- The Plan -------------------------------------------------------------------------------------


class Line(msgspec.Struct, frozen=True):
    """One knob's line. A pin is an envelope of one value; what it covers comes back with its end.

    `pin` was made by a person at run time, `file_pin` stands in the settings file and wins.
    """

    value: Value
    envelope: Envelope
    pin: Value | None = None
    file_pin: Value | None = None

    @property
    def pinned(self) -> bool:
        return self.pin is not None or self.file_pin is not None

    @property
    def start(self) -> Value:
        """The setting while nothing has adjusted it."""
        if self.file_pin is not None:
            return self.file_pin
        return self.value if self.pin is None else self.pin

    def allows(self, value: Value) -> bool:
        """Whether an adjustment may go there."""
        return value == self.start if self.pinned else value in self.envelope


class Plan(msgspec.Struct, frozen=True):
    version: int
    lines: dict[Address, Line]


EMPTY = Plan(0, {})


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a Change does to one knob. Without `before` the knob is new, without `after` gone."""

    knob: Address
    before: Line | None = None
    after: Line | None = None


Diff = tuple[Step, ...]


def diff(old: Plan, new: Plan) -> Diff:
    """What leads from one to the other, in the order of the new one; what is gone comes last."""
    knobs = [*new.lines, *(knob for knob in old.lines if knob not in new.lines)]
    steps = (Step(knob, old.lines.get(knob), new.lines.get(knob)) for knob in knobs)
    return tuple(step for step in steps if step.before != step.after)


def inverse(steps: Iterable[Step]) -> Diff:
    return tuple(Step(step.knob, step.after, step.before) for step in steps)


def changed(plan: Plan, steps: Iterable[Step], version: int) -> Plan:
    """The Plan after these steps. Each must find what it expects: an undo is exact or refused."""
    lines = dict(plan.lines)
    for step in steps:
        if lines.get(step.knob) != step.before:
            raise Conflict(
                f"{step.knob} has been changed since",
                value=step.knob,
                remedy=f"`paceline why {step.knob}` tells by what; set it to what you want.",
            )
        if step.after is None:
            del lines[step.knob]
        else:
            lines[step.knob] = step.after
    return Plan(version, lines)


def content_hash(plan: Plan) -> str:
    """The same for the same lines, whatever the version and the order: 16 hexadecimal digits."""
    content = msgspec.json.encode(sorted(plan.lines.items()))
    return hashlib.sha256(content).hexdigest()[:16]


# --- Changes --------------------------------------------------------------------------------------

Answer = Literal["better", "worse", "cannot tell", "untested"]


class Prediction(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a metric will lie afterwards: not below `low`, not above `high`."""

    metric: str
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.low is not None:
            parts.append(f"{self.metric} >= {self.low:g}")
        if self.high is not None:
            parts.append(f"{self.metric} <= {self.high:g}")
        return " and ".join(parts)

    def holds(self, measured: float) -> bool:
        return (self.low is None or measured >= self.low) and (
            self.high is None or measured <= self.high
        )


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """`evidence` says in a sentence what the answer rests on."""

    answer: Answer
    evidence: str = ""


UNTESTED = Verdict("untested")


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """From one Plan to the next. Its undo is the inverse of its diff."""

    diff: Diff
    reason: str
    verdict: Verdict = UNTESTED
    predictions: tuple[Prediction, ...] = ()
    undoes: int | None = None
    """the version whose Change this one takes back"""
    restores: int | None = None
    """the version whose Plan this one brings back"""


class Adjustment(msgspec.Struct, frozen=True, omit_defaults=True):
    """A setting moved within its envelope."""

    knob: Address
    before: Value
    after: Value
    reason: str
    predictions: tuple[Prediction, ...] = ()


class InForce(msgspec.Struct, frozen=True):
    """What whoever serves needs of a Plan: its version, every knob's setting, and within which
    numbers steering may move it; and of the goals the time that 99 % of a workload's answers may
    take, for it makes deadlines."""

    version: int
    hash: str
    settings: dict[Address, Value]
    slo_ms: dict[str, float] = {}
    spans: dict[Address, tuple[float, float]] = {}


def spans(plan: Plan) -> dict[Address, tuple[float, float]]:
    """Of the knobs that are numbers and are not pinned."""
    return {
        knob: (line.envelope.low, line.envelope.high)
        for knob, line in plan.lines.items()
        if isinstance(line.envelope, Span) and not line.pinned
    }


def settings(plan: Plan, adjusted: Mapping[Address, Value]) -> dict[Address, Value]:
    """Every knob's value in force."""
    return {knob: adjusted.get(knob, line.start) for knob, line in plan.lines.items()}
