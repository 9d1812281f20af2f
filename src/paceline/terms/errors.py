"""Every error a person can meet: one tree, and one table that maps it to HTTP and exit codes.

An error says what happened (cause), with which value, and what to do (remedy). A bug in Paceline
is not in this tree: it is an assertion or a plain Python exception, and reads as `internal`.
Called by everyone; `web/` turns errors into answers, `cli/` into messages and exit codes.
"""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, ClassVar, Self

import msgspec

NO_VALUE: Any = object()
"""For errors about the absence of something, where there is no value to show."""


class PacelineError(Exception):
    """Cause, value, remedy. Subclasses carry the code under which the table knows them."""

    code: ClassVar[str] = "internal"

    def __init__(self, cause: str, *, remedy: str, value: object = NO_VALUE) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy
        self.value = value

    @property
    def http(self) -> int:
        return TABLE[self.code].http

    @property
    def exit(self) -> int:
        return TABLE[self.code].exit

    def as_fields(self) -> dict[str, str]:
        """The error as JSON has it; `error` is a plain string, as KServe V2 clients expect."""
        fields = {"error": self.cause, "code": self.code, "remedy": self.remedy}
        if self.value is not NO_VALUE:
            fields["value"] = _short(self.value)
        return fields

    def __str__(self) -> str:
        shown = "" if self.value is NO_VALUE else f" (value: {_short(self.value)})"
        return f"{self.cause}{shown}. {self.remedy}"


VALUE_CHARS = 200


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 1] + "…"


class BadRequest(PacelineError):
    code = "bad_request"


class BadJson(BadRequest):
    code = "bad_json"


class BadInput(BadRequest):
    code = "bad_input"


class BadField(BadRequest):
    """`param` is where in the body it stands, as `messages[2].content`; None: the whole body."""

    code = "bad_field"

    def __init__(
        self, cause: str, *, remedy: str, value: object = NO_VALUE, param: str | None = None
    ) -> None:
        super().__init__(cause, remedy=remedy, value=value)
        self.param = param


class MissingField(BadField):
    code = "missing_field"


class WrongType(BadField):
    code = "wrong_type"


class NotTranslatable(BadField):
    code = "not_translatable"


class TooLarge(BadRequest):
    code = "too_large"


class HeadTooLarge(BadRequest):
    code = "head_too_large"


class WrongVersion(BadRequest):
    code = "wrong_version"


class WrongEncoding(BadRequest):
    code = "wrong_encoding"


class WrongContentType(BadRequest):
    code = "wrong_content_type"


class NotFound(PacelineError):
    code = "not_found"


class UnknownModel(NotFound):
    code = "unknown_model"

    @classmethod
    def among(cls, name: str, models: Sequence[str]) -> Self:
        near = get_close_matches(name[:64], models, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        if models:
            remedy = f"{hint}Models here: {', '.join(models)}."
        else:
            remedy = "This server has none; name one in its settings, as in [models.digits]."
        return cls("no model has this name", value=name, remedy=remedy)


class UnknownKnob(NotFound):
    code = "unknown_knob"


class UnknownVersion(NotFound):
    code = "unknown_version"


class BadGoal(BadRequest):
    code = "bad_goal"


class BadValue(BadRequest):
    code = "bad_value"


class Conflict(PacelineError):
    code = "conflict"


class Pinned(Conflict):
    code = "pinned"


class PlanRefused(Conflict):
    code = "plan_refused"


class WrongMethod(PacelineError):
    """`allowed` are the methods that the address does answer."""

    code = "wrong_method"

    def __init__(
        self, cause: str, *, remedy: str, value: object = NO_VALUE, allowed: Sequence[str] = ()
    ) -> None:
        super().__init__(cause, remedy=remedy, value=value)
        self.allowed = allowed


class KeyRequired(PacelineError):
    code = "key_required"


class WrongKey(PacelineError):
    code = "wrong_key"


class NotAllowed(PacelineError):
    code = "not_allowed"


class ForeignHost(PacelineError):
    code = "foreign_host"


class ForeignOrigin(PacelineError):
    code = "foreign_origin"


class Unavailable(PacelineError):
    code = "unavailable"


class Draining(Unavailable):
    code = "draining"


class Overloaded(Unavailable):
    code = "overloaded"


class OwnerGone(Unavailable):
    code = "owner_gone"


class DeadlineExceeded(PacelineError):
    code = "deadline_exceeded"


class CannotStart(PacelineError):
    code = "cannot_start"


class PortTaken(CannotStart):
    code = "port_taken"


class StateInUse(CannotStart):
    code = "state_in_use"


class StateUnusable(CannotStart):
    code = "state_unusable"


class DiskFull(StateUnusable):
    code = "disk_full"


class KeysDamaged(StateUnusable):
    code = "keys_damaged"


class JournalDamaged(StateUnusable):
    code = "journal_damaged"


class JournalNewer(StateUnusable):
    code = "journal_newer"


class NoKey(CannotStart):
    code = "no_key"


class BadSetting(CannotStart):
    code = "bad_setting"


class BadModel(CannotStart):
    code = "bad_model"


class ModelFailed(PacelineError):
    code = "model_failed"


class NotOffered(PacelineError):
    code = "not_offered"


class MissingExtra(PacelineError):
    code = "missing_extra"


class LimitReached(PacelineError):
    code = "limit_reached"


class Misuse(PacelineError):
    code = "misuse"


class Unreachable(PacelineError):
    code = "unreachable"


class ProviderFailed(PacelineError):
    code = "provider_failed"


class EventTooLong(ProviderFailed):
    """`before` came whole in the same piece."""

    code = "event_too_long"

    def __init__(
        self, cause: str, *, remedy: str, value: object = NO_VALUE, before: list[Any] | None = None
    ) -> None:
        super().__init__(cause, remedy=remedy, value=value)
        self.before = before or []


class NotMeasured(PacelineError):
    code = "not_measured"


def from_fields(fields: Mapping[str, str]) -> PacelineError:
    """What `as_fields` told in another process; under a code not known here, its words alone."""
    known = (each for each in _tree(PacelineError) if each.code == fields["code"])
    told = next(known, PacelineError)
    return told(fields["error"], remedy=fields["remedy"], value=fields.get("value", NO_VALUE))


def _tree(kind: type[PacelineError]) -> Iterator[type[PacelineError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)


class Row(msgspec.Struct, frozen=True):
    http: int
    exit: int
    meaning: str


EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_START = 3
EXIT_STATE = 4
EXIT_ACCESS = 5
EXIT_UNREACHABLE = 6
EXIT_EXTRA = 7
EXIT_INTERRUPTED = 130

EXIT_CODES: Mapping[int, str] = {
    EXIT_OK: "done; for `up`: drained and stopped as asked",
    EXIT_INTERNAL: "a bug in Paceline",
    EXIT_USAGE: "the command line or its input is wrong",
    EXIT_START: "it cannot start as asked: port, address, key, setting or model",
    EXIT_STATE: "the state directory cannot be used: in use, read-only, full or damaged",
    EXIT_ACCESS: "not permitted",
    EXIT_UNREACHABLE: "the server is not there, is stopping, or is overloaded",
    EXIT_EXTRA: "an optional part is not installed; the message names it",
    EXIT_INTERRUPTED: "interrupted before it was done",
}

TABLE: Mapping[str, Row] = {
    "internal": Row(500, EXIT_INTERNAL, "a bug in Paceline; the log has the details"),
    "bad_request": Row(400, EXIT_USAGE, "the request cannot be understood"),
    "bad_json": Row(400, EXIT_USAGE, "the body is not valid JSON, or not of the expected form"),
    "bad_input": Row(400, EXIT_USAGE, "an input has the wrong name, type, shape or values"),
    "bad_field": Row(400, EXIT_USAGE, "a field of the body is missing, unknown or of a wrong form"),
    "missing_field": Row(400, EXIT_USAGE, "a field that is needed is not in the request"),
    "wrong_type": Row(400, EXIT_USAGE, "a field of the request has the wrong type"),
    "not_translatable": Row(
        400, EXIT_USAGE, "a call asks for what the provider's dialect has no word for"
    ),
    "too_large": Row(413, EXIT_USAGE, "the body is larger than the limit"),
    "head_too_large": Row(431, EXIT_USAGE, "line and headers are larger than the limit"),
    "wrong_version": Row(505, EXIT_USAGE, "a version of HTTP that is not spoken here"),
    "wrong_encoding": Row(415, EXIT_USAGE, "the body is compressed in a way that is not read"),
    "wrong_content_type": Row(415, EXIT_USAGE, "the body is not declared as application/json"),
    "not_found": Row(404, EXIT_USAGE, "nothing lives at this address"),
    "unknown_model": Row(404, EXIT_USAGE, "no model has this name"),
    "unknown_knob": Row(404, EXIT_USAGE, "no workload has a knob of this name"),
    "unknown_version": Row(404, EXIT_USAGE, "the Plan never had this version"),
    "bad_goal": Row(400, EXIT_USAGE, "the goal cannot be understood, or contradicts itself"),
    "bad_value": Row(400, EXIT_USAGE, "a knob cannot have this value"),
    "conflict": Row(409, EXIT_USAGE, "what is there already stands in the way"),
    "pinned": Row(409, EXIT_USAGE, "the knob is pinned, in the settings file or by a person"),
    "plan_refused": Row(409, EXIT_USAGE, "a front cannot serve by this plan; nothing changed"),
    "wrong_method": Row(405, EXIT_USAGE, "the address exists, but not for this method"),
    "key_required": Row(401, EXIT_ACCESS, "this server answers only with a key"),
    "wrong_key": Row(401, EXIT_ACCESS, "the key is unknown or revoked"),
    "not_allowed": Row(403, EXIT_ACCESS, "the key's role does not permit this call"),
    "foreign_host": Row(421, EXIT_ACCESS, "the Host header names another server"),
    "foreign_origin": Row(403, EXIT_ACCESS, "a web page of another origin sent the request"),
    "unavailable": Row(503, EXIT_UNREACHABLE, "no front is ready to answer"),
    "draining": Row(503, EXIT_UNREACHABLE, "the server is stopping"),
    "overloaded": Row(
        503, EXIT_UNREACHABLE, "more requests are there than may be, or can be served in time"
    ),
    "owner_gone": Row(503, EXIT_UNREACHABLE, "the owner process is gone; the server is stopping"),
    "deadline_exceeded": Row(
        504, EXIT_UNREACHABLE, "the request's deadline passed, or is too near"
    ),
    "cannot_start": Row(503, EXIT_START, "the server cannot start as asked"),
    "port_taken": Row(503, EXIT_START, "another program listens on the port"),
    "state_in_use": Row(503, EXIT_STATE, "another instance uses the state directory"),
    "state_unusable": Row(503, EXIT_STATE, "the state directory cannot be written or read"),
    "disk_full": Row(507, EXIT_STATE, "no space is left for the state directory"),
    "keys_damaged": Row(503, EXIT_STATE, "the key file cannot be read as one"),
    "journal_damaged": Row(503, EXIT_STATE, "the journal cannot be read to its end"),
    "journal_newer": Row(503, EXIT_STATE, "a newer Paceline wrote the journal"),
    "no_key": Row(503, EXIT_START, "an address other than loopback needs a key first"),
    "bad_setting": Row(400, EXIT_START, "a setting has a value it cannot have"),
    "bad_model": Row(503, EXIT_START, "the model file cannot be loaded"),
    "model_failed": Row(500, EXIT_START, "the model failed on this input, or answered NaN"),
    "not_offered": Row(501, EXIT_USAGE, "a part of a protocol that this server does not have"),
    "missing_extra": Row(501, EXIT_EXTRA, "an optional part is not installed"),
    "limit_reached": Row(429, EXIT_USAGE, "a named bound is reached"),
    "misuse": Row(400, EXIT_USAGE, "the command was used in a way it does not support"),
    "unreachable": Row(502, EXIT_UNREACHABLE, "nothing that can be used answers at the address"),
    "provider_failed": Row(
        502, EXIT_UNREACHABLE, "a provider of LLM calls gave no answer that can be passed on"
    ),
    "event_too_long": Row(
        502, EXIT_UNREACHABLE, "an event in a provider's stream is longer than the limit"
    ),
    "not_measured": Row(
        409, EXIT_USAGE, "there is too little to say what was asked for, or it would be wrong"
    ),
}
