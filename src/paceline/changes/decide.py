"""What follows from a wish to change the Plan: a diff, or a refusal that says why. Pure.

Called by the desk, which carries it out. An empty diff means that it is so already.
"""

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from paceline.terms.errors import BadValue, Conflict, LimitReached, Pinned
from paceline.terms.limits import KNOB_ADDRESS_CHARS, KNOBS
from paceline.terms.plan import (
    Address,
    Catalogue,
    Diff,
    Envelope,
    Knob,
    Line,
    Plan,
    Value,
    diff,
    find,
    inverse,
    shown,
)


class FilePin(msgspec.Struct, frozen=True):
    """A value that the settings state; `where` is the file and line, or the variable."""

    value: Value
    where: str


FilePins = Mapping[Address, FilePin]


def to_catalogue(plan: Plan, catalogue: Catalogue) -> Diff:
    """The Plan gets a line for each knob there is, and keeps none that is gone or cannot be."""
    if len(catalogue) > KNOBS:
        raise LimitReached(
            "there are more knobs than a Plan may have",
            value=len(catalogue),
            remedy="Serve fewer models here.",
        )
    for address in catalogue:
        if len(address) > KNOB_ADDRESS_CHARS:
            raise LimitReached(
                "the name of a workload is too long",
                value=address,
                remedy=f"With the knob's it may have {KNOB_ADDRESS_CHARS} characters.",
            )
    lines = {
        address: _fitting(plan.lines.get(address), knob) for address, knob in catalogue.items()
    }
    return diff(plan, Plan(plan.version, lines))


def _fitting(line: Line | None, knob: Knob) -> Line:
    """What of the line the knob can still have; the rest gives way to its defaults."""
    if line is None:
        return Line(knob.default, knob.whole)
    value = _still(line.value, knob)
    envelope = knob.whole
    with suppress(BadValue):
        envelope = knob.check_envelope(line.envelope)
    start = knob.default if value is None else value
    return Line(
        start,
        envelope if value is not None or start in envelope else knob.whole,
        _still(line.pin, knob),
        _still(line.file_pin, knob),
    )


def _still(value: Value | None, knob: Knob) -> Value | None:
    """As the knob has it; None where it cannot be any more."""
    with suppress(BadValue):
        return None if value is None else knob.check(value)
    return None


def to_file_pins(plan: Plan, catalogue: Catalogue, pins: FilePins) -> Diff:
    """What the settings pin now is pinned, and nothing else by them."""
    lines = dict(plan.lines)
    for address, line in plan.lines.items():
        pin = pins.get(address)
        value = None if pin is None else find(catalogue, address).check(pin.value)
        lines[address] = msgspec.structs.replace(line, file_pin=value)
    return diff(plan, Plan(plan.version, lines))


def to_value(
    plan: Plan,
    catalogue: Catalogue,
    address: Address,
    value: Value | None,
    envelope: str | None,
    pins: FilePins,
) -> Diff:
    """A value to start from, an envelope, or both. Strings are read as people write values."""
    knob = find(catalogue, address)
    line = plan.lines[address]
    _refuse_pinned(address, line, pins)
    within = line.envelope if envelope is None else knob.parse_envelope(envelope)
    start = line.value if value is None else _read(knob, value)
    if start not in within:
        raise BadValue(
            f"{shown(start)} is outside the envelope of {address}",
            value=str(within),
            remedy=_widen(address, knob, start, within, typed=value is not None),
        )
    return _one(plan, address, msgspec.structs.replace(line, value=start, envelope=within))


def to_pin(
    plan: Plan, catalogue: Catalogue, address: Address, value: Value, pins: FilePins
) -> Diff:
    knob = find(catalogue, address)
    line = plan.lines[address]
    if line.file_pin is not None:
        _refuse_pinned(address, line, pins)
    return _one(plan, address, msgspec.structs.replace(line, pin=_read(knob, value)))


def to_unpin(plan: Plan, catalogue: Catalogue, address: Address, pins: FilePins) -> Diff:
    find(catalogue, address)
    line = plan.lines[address]
    if line.file_pin is not None:
        _refuse_pinned(address, line, pins)
    return _one(plan, address, msgspec.structs.replace(line, pin=None))


def to_earlier(plan: Plan, then: Plan, catalogue: Catalogue) -> Diff:
    """The lines of an earlier Plan, for the knobs that are still there. What the settings pin
    stays as they have it: the file wins."""
    lines = dict(plan.lines)
    for address, line in plan.lines.items():
        earlier = then.lines.get(address)
        if earlier is not None and address in catalogue:
            free = msgspec.structs.replace(earlier, file_pin=None)
            lines[address] = msgspec.structs.replace(
                _fitting(free, catalogue[address]), file_pin=line.file_pin
            )
    return diff(plan, Plan(plan.version, lines))


def to_undone(steps: Diff, version: int, catalogue: Catalogue) -> Diff:
    """The inverse of a change, unless it was not anybody's to take back."""
    for step in steps:
        if step.before is None or step.after is None:
            raise Conflict(
                f"version {version} brought or took knobs; it cannot be undone",
                value=step.knob,
                remedy="Those come and go with models and with versions of Paceline.",
            )
        if step.before.file_pin != step.after.file_pin:
            raise Pinned(
                f"version {version} was made by the settings",
                value=step.knob,
                remedy="Change the settings file and reload it.",
            )
        knob = catalogue.get(step.knob)
        if knob is not None and _fitting(step.before, knob) != step.before:
            raise Conflict(
                f"{step.knob} can no longer be as it was before version {version}",
                value=step.knob,
                remedy=f"It takes {knob.takes} now; set it to what you want.",
            )
    return inverse(steps)


def to_setting(
    plan: Plan, catalogue: Catalogue, address: Address, value: Value, pins: FilePins
) -> Value:
    """The value as an adjustment may have it: inside the envelope, and of no pinned knob."""
    knob = find(catalogue, address)
    line = plan.lines[address]
    _refuse_pinned(address, line, pins)
    wanted = _read(knob, value)
    if not line.allows(wanted):
        raise BadValue(
            f"{shown(wanted)} is outside the envelope of {address}",
            value=str(line.envelope),
            remedy=f"Only a change of the Plan goes further: `paceline plan set {address} "
            f"{shown(wanted)} --within ENVELOPE`.",
        )
    return wanted


def _one(plan: Plan, address: Address, line: Line) -> Diff:
    return diff(plan, Plan(plan.version, {**plan.lines, address: line}))


def _read(knob: Knob, value: Value) -> Value:
    return knob.parse(value) if isinstance(value, str) else knob.check(value)


def _refuse_pinned(address: Address, line: Line, pins: FilePins) -> None:
    if line.file_pin is not None:
        pin = pins.get(address)
        where = "the settings file" if pin is None else pin.where
        raise Pinned(
            f"{address} is pinned at {shown(line.file_pin)} by {where}",
            value=address,
            remedy=f"Change or remove it there and reload: {where}.",
        )
    if line.pin is not None:
        raise Pinned(
            f"{address} is pinned at {shown(line.pin)}",
            value=address,
            remedy=f"`paceline why {address}` tells by whom; `paceline plan unpin {address}` "
            "sets it free.",
        )


def _widen(address: Address, knob: Knob, start: Value, within: Envelope, *, typed: bool) -> str:
    if typed:
        return f"Give a wider one with it: `--within {knob.whole}` is the widest."
    return (
        f"Its value would be outside: give one with it, "
        f"`paceline plan set {address} VALUE --within {within}`."
    )
