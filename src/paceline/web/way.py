"""What a request's head says of the way it takes: which model, by which rules, how urgent.

A client sends the same head again and again, so `inference.py` finds a `Way` once for a connection,
and it holds until the head, the keys or the plan are others. Decides nothing about one request;
`infer_call.py` follows it.
"""

import asyncio
from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from paceline.clock import Clock
from paceline.net.coding import Coding
from paceline.observe.board import Board, Counter
from paceline.serve import predict, v2
from paceline.serve.knobs import Rules
from paceline.serve.model import Model
from paceline.serve.reading import Reader
from paceline.serve.runner import Runner
from paceline.terms.metric import FAILED_SECONDS, MODEL_INFO, REQUEST_SECONDS, REQUESTS
from paceline.terms.request import Priority
from paceline.web.door import Refusal

Kind = Literal["v2", "predict"]

Address: TypeAlias = tuple[Kind, str, str | None]
"""The form of the body, the model, and its version where one is asked for."""


class Serving(NamedTuple):
    """How this front serves now: replaced as a whole, so that no request sees half a plan."""

    version: str
    stamp: bytes
    """the header line that names it"""
    rules: Mapping[str, Rules]


class Reads(Protocol):
    """A request of which the body is there."""

    def read(self) -> None: ...


class Place:
    """One model in this front."""

    __slots__ = (
        "_board",
        "_counters",
        "_taken",
        "failed_s",
        "in_hand",
        "memo",
        "name",
        "now",
        "reader",
        "refusal",
        "refusal_until_s",
        "row",
        "runner",
        "seconds",
        "spec",
    )

    refusal: Refusal
    """said to whoever is refused before `refusal_until_s`"""

    def __init__(
        self, name: str, model: Model, runner: Runner, board: Board, clock: Clock, reader: Reader
    ) -> None:
        self.name = name
        self.spec = model.spec
        self.runner = runner
        self.reader = reader
        self.now = clock.now
        self.seconds = board.sketch(REQUEST_SECONDS, name)
        self.memo = v2.Memo()
        self.row = predict.Row(model.spec)
        self.failed_s = board.counter(FAILED_SECONDS, name)
        self.in_hand = 0
        self.refusal_until_s = 0.0
        self._taken: list[Reads] = []
        self._board = board
        self._counters: dict[tuple[Priority, int], Counter] = {}
        board.gauge(MODEL_INFO, name, model.spec.version).set(1)

    def take(self, one: Reads) -> None:
        """It is read with all others of this turn of the loop."""
        self._taken.append(one)
        if len(self._taken) == 1:
            asyncio.get_running_loop().call_soon(self._read)

    def _read(self) -> None:
        taken, self._taken = self._taken, []
        self.runner.together([one.read for one in taken])

    def count(self, priority: Priority, status: int) -> None:
        """One request was answered so."""
        counter = self._counters.get((priority, status))
        if counter is None:
            counter = self._board.counter(REQUESTS, self.name, priority, str(status))
            self._counters[priority, status] = counter
        counter.add()


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
