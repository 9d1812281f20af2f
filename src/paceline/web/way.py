"""What a request's head says of the way it takes: which model, by which rules, how urgent.

A client sends the same head again and again, so `inference.py` finds a `Way` once for a connection,
and it holds until the head, the keys or the plan are others. It leads to a `Place`, a model in this
front, where the requests of one turn of the loop go from stage to stage together. Decides nothing
about one request; `infer_call.py` follows it.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from paceline.clock import Clock
from paceline.net.coding import Coding
from paceline.observe.board import Board, Counter
from paceline.serve import predict, v2
from paceline.serve.answers import Reply
from paceline.serve.knobs import Rules
from paceline.serve.model import Model
from paceline.serve.notes import Notes
from paceline.serve.reading import Reader
from paceline.serve.runner import Runner
from paceline.terms.metric import (
    FAILED_SECONDS,
    MODEL_INFO,
    REQUEST_PART_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
)
from paceline.terms.request import Priority
from paceline.web.door import Refusal
from paceline.web.timelines import Kept

Kind = Literal["v2", "predict"]

Address: TypeAlias = tuple[Kind, str, str | None]
"""The form of the body, the model, and its version where one is asked for."""


class Serving(NamedTuple):
    """How this front serves now: replaced as a whole, so that no request sees half a plan."""

    stamp: bytes
    """the header line that names the plan's version; nothing before the first plan"""
    rules: Mapping[str, Rules]


class Staged(Protocol):
    """A request of which the body is there, on its way from stage to stage."""

    def read(self) -> None: ...

    def submit(self) -> None: ...

    def send(self, reply: Reply) -> None: ...


class Place:
    """One model in this front."""

    __slots__ = (
        "_answered",
        "_answered_s",
        "_asking",
        "_board",
        "_counters",
        "_seconds",
        "_sending",
        "_taken",
        "_written",
        "body_s",
        "failed_s",
        "in_hand",
        "kept",
        "memo",
        "model",
        "name",
        "notes",
        "now",
        "parse_s",
        "reader",
        "refusal",
        "refusal_until_s",
        "row",
        "runner",
        "spec",
    )

    refusal: Refusal
    """said to whoever is refused before `refusal_until_s`"""

    def __init__(
        self,
        name: str,
        model: Model,
        runner: Runner,
        board: Board,
        clock: Clock,
        reader: Reader,
        kept: Kept,
        notes: Notes | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.spec = model.spec
        self.runner = runner
        self.reader = reader
        self.now = clock.now
        self._seconds = board.sketch(REQUEST_SECONDS, name)
        self.memo = v2.Memo()
        self.row = predict.Row(model.spec)
        self.failed_s = board.counter(FAILED_SECONDS, name)
        self.body_s = board.counter(REQUEST_PART_SECONDS, name, "body")
        self.parse_s = board.counter(REQUEST_PART_SECONDS, name, "parse")
        self.in_hand = 0
        self.notes = notes
        """of its answers; None where none are kept"""
        self.kept = kept
        self.refusal_until_s = 0.0
        self._taken: list[Staged] = []
        self._asking: list[Callable[[], None]] | None = None
        """while those that were taken are read"""
        self._written: list[tuple[Staged, Reply]] = []
        self._sending = False
        self._answered: list[Priority] = []
        self._answered_s: list[float] = []
        """of those, what each took; not recorded yet"""
        runner.told_all = self._send
        self._board = board
        self._counters: dict[tuple[Priority, int], Counter] = {}
        board.gauge(MODEL_INFO, name, model.spec.version).set(1)

    # Requests of one turn of the loop go from stage to stage together: what the processor has at
    # hand for one of them serves all (docs/design/http.md has the figures).

    def take(self, one: Staged) -> None:
        """It is read behind all that arrives in this turn."""
        self._taken.append(one)
        if len(self._taken) == 1:
            asyncio.get_running_loop().call_soon(self._read)

    def submit(self, one: Staged) -> None:
        """Behind the last that is read with it, or at once."""
        if self._asking is None:
            one.submit()
        else:
            self._asking.append(one.submit)

    def send(self, one: Staged, reply: Reply) -> None:
        """Behind the last answer of its batch that is written."""
        self._written.append((one, reply))

    def _read(self) -> None:
        taken, self._taken = self._taken, []
        asking = self._asking = []
        try:
            for one in taken:
                one.read()
        finally:
            self._asking = None
        self.runner.together(asking)

    def _send(self) -> None:
        written, self._written = self._written, []
        self._sending = True
        try:
            for one, reply in written:
                one.send(reply)
        finally:
            self._sending = False
            self._record()

    def answered(self, priority: Priority, seconds: float) -> None:
        """One request was, with what it asked for. Recorded behind the last of those that are
        answered with it."""
        self._answered.append(priority)
        self._answered_s.append(seconds)
        if not self._sending:
            self._record()

    def _record(self) -> None:
        answered, answered_s = self._answered, self._answered_s
        if not answered:
            return
        self._answered, self._answered_s = [], []
        for priority in set(answered):
            self.count(priority, 200, answered.count(priority))
        self._seconds.record_all(answered_s)

    def count(self, priority: Priority, status: int, times: int = 1) -> None:
        """So many requests were answered so."""
        counter = self._counters.get((priority, status))
        if counter is None:
            counter = self._board.counter(REQUESTS, self.name, priority, str(status))
            self._counters[priority, status] = counter
        counter.add(times)


class Said(msgspec.Struct, frozen=True, eq=False):
    """By headers that stay the same on a connection."""

    priority: Priority | None
    timeout_s: float | None
    coding: Coding | None
    accepts: Coding | None
    stays: bool
    """whether the next request with the same headers says the same"""


class Way(msgspec.Struct, frozen=True, eq=False):
    """It holds as long as target, headers, keys and plan are those that it was found with."""

    target: bytes
    headers: list[tuple[bytes, bytes]]
    keys: object
    serving: Serving
    kind: Kind
    place: Place
    rules: Rules
    said: Said
    priority: Priority
    """by its headers, or by the plan"""
    allowed_s: float
    """to answer in, likewise"""
