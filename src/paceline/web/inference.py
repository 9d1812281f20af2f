"""Inference over HTTP, the hot path: from a request's head to a model's answer, measured.

Plain functions called by the connection (`net/connection.py`), no task and no future a request.
The codecs (`serve/v2`, `serve/predict`) know the bodies, `serve/reading` parses what is long
elsewhere, a runner for each model (`serve/runner`) queues and runs; here are addresses, headers,
deadlines, priorities, compression and counting. What every request passes is `door.py`.

One request, in order: `Inference.begin` (head), `_Call.took` (body), perhaps a wait for a turn of
the loop (`turns.py`), `_submit` (decoded), the runner, `_told` (outputs), `Exchange.answer`.
"""

import asyncio
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias
from urllib.parse import unquote

from paceline.access.gate import Caller
from paceline.clock import Clock
from paceline.flow.queue import Waiting
from paceline.net.answers import draining
from paceline.net.coding import Coding, accepted, coding_of, folded, unfolded
from paceline.net.exchange import Exchange
from paceline.observe import log
from paceline.observe.board import Board, Counter
from paceline.serve import predict, v2
from paceline.serve.answers import Reply
from paceline.serve.knobs import MAX_IN_FLIGHT, Rules, rules
from paceline.serve.model import Model, ModelSpec, Tensors
from paceline.serve.reading import Read, Reader
from paceline.serve.runner import RANKS, Outcome, Runner
from paceline.serve.steering import Move
from paceline.serve.tally import Tally
from paceline.terms.errors import (
    BadInput,
    BadRequest,
    Overloaded,
    PacelineError,
    Unavailable,
    UnknownModel,
)
from paceline.terms.limits import (
    DEADLINE_S,
    FOLD_BYTES,
    FOLD_IN_PLACE_BYTES,
    INFER_BODY_BYTES,
    PARSE_IN_PLACE_BYTES,
    PARSE_UNTIMED_BYTES,
)
from paceline.terms.metric import (
    FAILED_SECONDS,
    MODEL_INFO,
    PLAN_VERSION,
    REQUEST_PART_SECONDS,
    REQUEST_SECONDS,
    REQUESTS,
)
from paceline.terms.plan import InForce
from paceline.terms.request import Priority
from paceline.web.door import Door, Held, Refusal, bug
from paceline.web.messages import Steer
from paceline.web.turns import Turns
from paceline.web.urgency import PRIORITY_HEADER, TIMEOUT_HEADER, priority_of, timeout_s_of

LENGTH_HEADER = b"inference-header-content-length"
ENCODING_HEADER = b"content-encoding"
ACCEPT_HEADER = b"accept-encoding"

Kind = Literal["v2", "predict"]
Part: TypeAlias = "bytes | memoryview"

V2 = re.compile(rb"/v2/models/([^/?]+)(?:/versions/([^/?]+))?/infer(?:\?.*)?")
PREDICT = re.compile(rb"/predict/([^/?]+)(?:\?.*)?")

LENGTH_DIGITS = 9
"""of the length of a body's JSON, which is below INFER_BODY_BYTES"""

KNOWN = 4096
"""addresses that are remembered; beyond it all are forgotten, and found again"""

SAID_S = 0.005
"""for which one refusal is said to all whose turn would come too late: the figures of the first"""

REQUEST_PARTS = ("body", "parse")

JSON = b"content-type: application/json\r\n"
BINARY = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"

logger = log.get(__name__)


_Address = tuple[Kind, str, str | None]
"""The form of the body, the model, and its version where one is asked for."""


class _Facts(NamedTuple):
    """What the headers that stay the same on a connection say."""

    caller: Caller
    priority: Priority | None
    timeout_s: float | None
    coding: Coding | None
    accepts: Coding | None


class _Memo(NamedTuple):
    """Facts hold as long as the headers and the keys are the same."""

    headers: list[tuple[bytes, bytes]]
    keys: object
    facts: _Facts


class _Serving(NamedTuple):
    """How this front serves now: replaced as a whole, so that no request sees half a plan."""

    version: str
    stamp: bytes
    """the header line that names it"""
    rules: Mapping[str, Rules]


class _Place:
    """One model in this front."""

    __slots__ = (
        "body_s",
        "failed_s",
        "in_hand",
        "memo",
        "name",
        "parse_s",
        "refusal",
        "refusal_until_s",
        "runner",
        "seconds",
        "spec",
    )

    refusal: Refusal
    """said to whoever is refused before `refusal_until_s`"""

    def __init__(self, name: str, model: Model, runner: Runner, board: Board) -> None:
        self.name = name
        self.spec = model.spec
        self.runner = runner
        self.seconds = board.sketch(REQUEST_SECONDS, name)
        self.memo = v2.Memo()
        self.failed_s = board.counter(FAILED_SECONDS, name)
        self.body_s, self.parse_s = (
            board.counter(REQUEST_PART_SECONDS, name, part) for part in REQUEST_PARTS
        )
        self.in_hand = 0
        self.refusal_until_s = 0.0
        board.gauge(MODEL_INFO, name, model.spec.version).set(1)


class Inference:
    """Runs requests on the models of this front by the plan, and records them. Nothing is served
    before the first plan is there. `wish` hears what the steering of a model would move."""

    def __init__(
        self,
        models: Mapping[str, Model],
        board: Board,
        clock: Clock,
        reader: Reader,
        front: int = 0,
        wish: Callable[[Steer], None] | None = None,
    ) -> None:
        self._board = board
        self.clock = clock
        self.reader = reader
        self.turns = Turns(clock.now)
        self.serving = _Serving("0", b"", {})
        self._plan_version = board.gauge(PLAN_VERSION, str(front))
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._addresses: dict[bytes, _Address] = {}
        self._places = {
            name: _Place(
                name,
                model,
                Runner(model, clock, Tally(board, name, front), wish=wish and _wish_of(name, wish)),
                board,
            )
            for name, model in models.items()
        }

    def warm(self) -> None:
        """Tries the models; nothing is served meanwhile."""
        for place in self._places.values():
            place.runner.warm()

    def how(self) -> dict[str, str]:
        """Where batches of each model run."""
        return {name: place.runner.how for name, place in self._places.items()}

    def warm_on(self) -> None:
        """Tries what there was no time for, while nobody asks."""
        for place in self._places.values():
            place.runner.warm_on()

    def prepare(self, plan: InForce) -> Callable[[], None]:
        """What puts the plan in force; raises where this front cannot serve by it."""
        serving = _Serving(
            str(plan.version),
            b"x-plan-version: %d\r\n" % plan.version,
            {name: rules(name, plan) for name in self._places},
        )

        def serve() -> None:
            before, self.serving = self.serving.rules, serving
            for name, each in serving.rules.items():
                if before.get(name) != each:  # else a look of its steering would end for nothing
                    self._places[name].runner.tune(each)
            self._plan_version.set(plan.version)

        return serve

    def address(self, target: bytes) -> _Address | None:
        """What is asked of which model; None where the target is no address of inference."""
        known = self._addresses.get(target)
        if known is not None:
            return known
        version: str | None = None
        found = V2.fullmatch(target)
        kind: Kind = "v2"
        if found is not None:
            version = None if found[2] is None else unquote(found[2].decode())
        else:
            found, kind = PREDICT.fullmatch(target), "predict"
            if found is None:
                return None
        if len(self._addresses) >= KNOWN:
            self._addresses.clear()
        known = self._addresses[target] = (kind, unquote(found[1].decode()), version)
        return known

    def begin(self, exchange: Exchange, door: Door) -> "Callable[[Exchange], None] | None":
        """A request by its head; None where it is for somebody else."""
        address = self.address(exchange.target)
        if address is None or exchange.method != b"POST":
            return None
        if not self.turns.may_begin():
            one = self._in_line(exchange, door, address)
            if one is not None:
                self.turns.join(one)
                return _nothing
        call = self.call(exchange, door, address)
        return call.took if exchange.complete else call.arrived

    def call(
        self,
        exchange: Exchange,
        door: Door,
        address: _Address,
        came_s: float | None = None,
    ) -> "_Call":
        call = _Call(self, door, exchange, address, came_s)
        try:
            call.open()
        except PacelineError as error:
            call.fail(error)
        return call

    def _in_line(self, exchange: Exchange, door: Door, address: _Address) -> "_InLine | None":
        """Only what has come whole, is short, and of which the headers are known: it costs little
        to let it wait. Whoever would not come in at all is told so as everybody else."""
        memo = exchange.connection.memo
        place = self._places.get(address[1])
        if place is None or type(memo) is not _Memo or not exchange.complete:
            return None
        if memo.keys is not door.keys or len(exchange.body) > PARSE_IN_PLACE_BYTES:
            return None
        if memo.headers != exchange.steady_headers or not door.is_open:
            return None
        rules, facts = self.serving.rules[place.name], memo.facts
        priority = facts.priority or rules.priority
        deadline_s = rules.deadline_s if facts.timeout_s is None else facts.timeout_s
        allowed_s = place.runner.allowed_s(priority, deadline_s)
        return _InLine(self, door, exchange, address, place, priority, allowed_s)

    def facts(self, exchange: Exchange, door: Door) -> _Facts:
        memo = exchange.connection.memo
        keys = door.keys
        if (
            type(memo) is _Memo  # the connection may have called an LLM before
            and memo.keys is keys
            and memo.headers == exchange.steady_headers
        ):
            return memo.facts
        headers = exchange.headers
        path = unquote(exchange.target.partition(b"?")[0].decode())
        caller = door.admit("POST", path, headers)
        said = dict(headers)
        facts = _Facts(
            caller,
            priority_of(said.get(PRIORITY_HEADER)),
            timeout_s_of(said.get(TIMEOUT_HEADER), DEADLINE_S),
            coding_of(said.get(ENCODING_HEADER, b"")),
            accepted(said.get(ACCEPT_HEADER, b"")),
        )
        if b"cookie" not in said:  # sessions end by themselves
            exchange.connection.memo = _Memo(exchange.steady_headers, keys, facts)
        return facts

    def place(self, name: str, version: str | None) -> _Place:
        place = self._places.get(name)
        if place is None:
            raise _unknown_model(name, self._places)
        if version is not None and version != place.spec.version:
            raise UnknownModel(
                f"{name} has no such version",
                value=version,
                remedy=f"Its version is {place.spec.version}; or name none.",
            )
        return place

    @property
    def specs(self) -> Sequence[ModelSpec]:
        return [place.spec for place in self._places.values()]

    def spec(self, name: str, version: str | None) -> ModelSpec:
        return self.place(name, version).spec

    def count(self, model: str, priority: Priority, status: int) -> None:
        key = (model, priority, status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._board.counter(
                REQUESTS, model, priority, str(status)
            )
        counter.add()


class _InLine:
    """A request that waits for a turn of the loop, known by its head. It is in hand meanwhile."""

    __slots__ = (
        "_address",
        "_door",
        "_exchange",
        "_inference",
        "_over",
        "_place",
        "_priority",
        "allowed_s",
        "came_s",
        "due_s",
        "endless",
        "rank",
    )

    def __init__(
        self,
        inference: Inference,
        door: Door,
        exchange: Exchange,
        address: _Address,
        place: _Place,
        priority: Priority,
        allowed_s: float,
    ) -> None:
        self._inference = inference
        self._door = door
        self._exchange = exchange
        self._address = address
        self._place = place
        self._priority = priority
        self._over = False
        self.rank = RANKS[priority]
        self.allowed_s = allowed_s
        self.came_s = self.due_s = 0.0
        self.endless = False
        exchange.gone = self.left
        door.enter(self)

    def begin(self) -> None:
        if not self._ended():
            return
        exchange, door = self._exchange, self._door
        try:
            call = self._inference.call(exchange, door, self._address, self.came_s)
            if not call.answered:
                call.took(exchange)
        except Exception:  # the last resort: the others in line are not to suffer from it
            request_id = door.request_id(exchange.own_headers)
            logger.exception("a request failed inside Paceline", request=request_id.decode())
            door.refuse(exchange, Refusal(bug(request_id.decode())))

    def turn_away(self, wait_s: float) -> None:
        if not self._ended():
            return
        place, now = self._place, self._inference.clock.now()
        place.runner.turned_away()
        if now >= place.refusal_until_s:
            place.refusal_until_s = now + SAID_S
            place.refusal = Refusal(place.runner.too_late(wait_s, self.due_s - now))
        self._refuse(place.refusal, now)

    def left(self) -> None:
        """Its caller has gone."""
        if self._ended():
            exchange, door = self._exchange, self._door
            request_id = door.request_id(exchange.own_headers)
            door.count(exchange.method, exchange.target, request_id, 0)

    def cut(self) -> None:
        if self._ended():
            self._refuse(Refusal(draining()), self._inference.clock.now())

    def _refuse(self, refusal: Refusal, now: float) -> None:
        place, status = self._place, refusal.error.http
        self._door.refuse(self._exchange, refusal)
        self._inference.count(place.name, self._priority, status)
        place.failed_s.add(max(0.0, now - self.came_s) if self.came_s else 0.0)

    def _ended(self) -> bool:
        """It stands in line no more; whether it did until now."""
        if self._over:
            return False
        self._over = True
        self._exchange.gone = None
        self._door.leave(self)
        return True


class _Call(Held):
    """One inference request, from its head to its answer."""

    __slots__ = (
        "_heard_s",
        "_inference",
        "_kind",
        "_model",
        "_place",
        "_read",
        "_rules",
        "_serving",
        "_version",
        "_waiting",
        "deadline_s",
        "facts",
        "priority",
        "request",
        "started_s",
    )

    def __init__(
        self,
        inference: Inference,
        door: Door,
        exchange: Exchange,
        address: _Address,
        came_s: float | None,
    ) -> None:
        super().__init__(door, exchange)
        self._inference = inference
        self._kind, self._model, self._version = address
        self._place: _Place | None = None
        self._read: Read | None = None
        self._waiting: Waiting | None = None
        self._heard_s = came_s
        """when its body was there, where it is not read at once"""
        self.request: v2.InferRequest | predict.PredictRequest | None = None
        self.priority: Priority = "normal"
        self.started_s = inference.clock.now() if came_s is None else came_s
        exchange.fail = self.fail
        exchange.gone = self.left
        exchange.body_most = INFER_BODY_BYTES

    def open(self) -> None:
        """May it come in? By its head alone."""
        inference = self._inference
        self.door.check_open()
        self.facts = inference.facts(self.exchange, self.door)
        place = inference.place(self._model, self._version)
        serving = self._serving = inference.serving
        rules = self._rules = serving.rules[self._model]
        self.priority = self.facts.priority or rules.priority
        if not rules.enabled:
            self._turn_away(
                Unavailable(
                    f"{self._model} is switched off",
                    value=self._model,
                    remedy=f"`paceline plan set {self._model}.enabled true` switches it on.",
                )
            )
        if place.in_hand >= rules.max_in_flight:
            self._turn_away(
                Overloaded(
                    f"this front holds as many requests to {self._model} as it may",
                    value=rules.max_in_flight,
                    remedy=f"Send fewer at a time, or turn its knob {MAX_IN_FLIGHT.name} up.",
                )
            )
        place.in_hand += 1
        self._place = place
        timeout_s = self.facts.timeout_s
        self.deadline_s = self.started_s + (rules.deadline_s if timeout_s is None else timeout_s)
        if not self.exchange.complete:
            self.exchange.connection.within(self.deadline_s - self.started_s)

    def _turn_away(self, error: PacelineError) -> NoReturn:
        """Of a model that is known, so that it is counted; it was never in hand."""
        self._inference.count(self._model, self.priority, error.http)
        raise error

    def arrived(self, exchange: Exchange) -> None:
        """As `took`, of a body that did not come with its head."""
        if self._place is not None:
            self._place.body_s.add(self._inference.clock.now() - self.started_s)
        self.took(exchange)

    def took(self, exchange: Exchange) -> None:
        """The body is there."""
        self._try(self._unfold, exchange.body)

    def _try(self, step: Callable[[Any], None], given: Any) -> None:
        """Each step that somebody else's code calls: whatever happens in it, there is an answer."""
        try:
            step(given)
        except PacelineError as error:
            self.fail(error)
        except Exception:  # the last resort: a bug of ours is answered, and logged whole
            logger.exception("a request failed inside Paceline", request=self.id.decode())
            self.fail(bug(self.id.decode()))

    def _unfold(self, body: "bytes | bytearray") -> None:
        coding = self.facts.coding
        if coding is None:
            self._decode(body)
        elif len(body) <= FOLD_IN_PLACE_BYTES:
            self._decode(unfolded(body, coding, INFER_BODY_BYTES))
        else:
            self._beside(partial(unfolded, body, coding, INFER_BODY_BYTES), self._decode)

    def _decode(self, body: "bytes | bytearray") -> None:
        assert self._place is not None
        spec = self._place.spec
        kind = self._kind
        if len(body) <= PARSE_IN_PLACE_BYTES:
            begun_s = self._inference.clock.now() if len(body) > PARSE_UNTIMED_BYTES else 0.0
            if kind == "v2":
                asked = v2.decode(body, spec, _header_length(self.exchange), self._place.memo)
                if begun_s:
                    self._place.parse_s.add(self._inference.clock.now() - begun_s)
                self._asked_v2(asked)
            else:
                plain = predict.decode(body, spec)
                if begun_s:
                    self._place.parse_s.add(self._inference.clock.now() - begun_s)
                self.request = plain
                self._submit(plain.inputs, plain.rows)
        else:
            length = _header_length(self.exchange) if kind == "v2" else None
            self._place.runner.check_unread(self.priority, self.deadline_s, self._heard_s)
            if self._heard_s is None:
                self._heard_s = self._inference.clock.now()
            self._inference.reader.decode(kind, body, spec, length, self._was_read)

    def _was_read(self, read: Read | PacelineError) -> None:
        if self._place is not None and self._heard_s is not None:
            self._place.parse_s.add(self._inference.clock.now() - self._heard_s)
        if isinstance(read, PacelineError):
            self.fail(read)
        elif self.answered:  # given up meanwhile
            read.release()
        else:
            self._read = read
            self._try(self._asked, read.request)

    def _asked(self, request: v2.InferRequest | predict.PredictRequest) -> None:
        if isinstance(request, v2.InferRequest):
            self._asked_v2(request)
        else:
            self.request = request
            self._submit(request.inputs, request.rows)

    def _asked_v2(self, asked: v2.InferRequest) -> None:
        self.request = asked
        if asked.timeout_s is not None:
            self.deadline_s = min(self.deadline_s, self.started_s + asked.timeout_s)
        if asked.priority is not None:
            self.priority = asked.priority
        self._submit(asked.inputs, asked.rows)

    def _submit(self, inputs: Tensors, rows: int) -> None:
        assert self._place is not None
        if rows > self._rules.max_rows:
            raise BadInput(
                f"a request to {self._model} may bring {self._rules.max_rows} rows",
                value=rows,
                remedy="Send several requests, or turn its knob max_rows up.",
            )
        self._waiting = self._place.runner.submit(
            inputs, rows, self.priority, self.deadline_s, self._told, self._heard_s
        )

    def _told(self, outcome: Outcome) -> None:
        self._waiting = None
        if isinstance(outcome, PacelineError):
            self.fail(outcome)
        else:
            self._try(self._encode, outcome)

    def _encode(self, outputs: Tensors) -> None:
        place, request = self._place, self.request
        assert place is not None
        assert request is not None
        if isinstance(request, v2.InferRequest):
            reply = v2.encode(place.spec, request, outputs)
        else:
            reply = predict.encode(place.spec, request, outputs)
        if reply.rest is None:
            self._fold(reply, reply.parts)
        else:
            self._collect((reply, [*reply.parts], reply.rest))

    def _collect(self, so_far: "tuple[Reply, list[Part], Iterator[bytes]]") -> None:
        """A long answer is written piece by piece, and others get their turn in between."""
        if self.answered:
            return
        reply, parts, rest = so_far
        piece = next(rest, None)
        if piece is None:
            self._fold(reply, parts)
            return
        parts.append(piece)
        asyncio.get_running_loop().call_soon(self._try, self._collect, so_far)

    def _fold(self, reply: Reply, parts: "Sequence[Part]") -> None:
        coding = self.facts.accepts
        size = 0 if coding is None else sum(map(len, parts))
        if coding is None or size < FOLD_BYTES:
            self._answer(reply, parts, b"")
            return
        line = b"content-encoding: %b\r\n" % coding.encode()
        if size <= FOLD_IN_PLACE_BYTES:
            self._answer(reply, [folded(parts, coding)], line)
        else:
            work = partial(folded, parts, coding)
            self._beside(work, lambda whole: self._answer(reply, [whole], line))

    def _answer(self, reply: Reply, parts: "Sequence[Part]", coding: bytes) -> None:
        place = self._place
        assert place is not None
        length = reply.header_length
        headers = b"%b%b%bx-request-id: %b\r\n" % (
            JSON if length is None else BINARY % length,
            coding,
            self._serving.stamp,
            self.id,
        )
        if self.answer(200, headers, *parts):
            place.seconds.record(self._inference.clock.now() - self.started_s)

    def _beside(self, work: Callable[[], bytes], then: Callable[[bytes], None]) -> None:
        """What takes long and lets others work meanwhile, in a thread."""
        future = asyncio.get_running_loop().run_in_executor(None, work)

        def done(ran: "asyncio.Future[bytes]") -> None:
            if self.answered:
                ran.exception()  # nobody wants to know
            else:
                then(ran.result())

        future.add_done_callback(lambda ran: self._try(done, ran))

    def left(self) -> None:
        """Its caller has gone; what waits is not run."""
        self._stop_waiting()
        self.end(0)

    def fail(self, error: PacelineError) -> None:
        self._stop_waiting()
        self.refuse(error)

    def _stop_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and self._place is not None:
            self._place.runner.leave(waiting)

    def ended(self, status: int) -> None:
        place = self._place
        if place is not None:
            place.in_hand -= 1
            if status:
                self._inference.count(self._model, self.priority, status)
            if status != 200:
                place.failed_s.add(self._inference.clock.now() - self.started_s)
        if self._read is not None:
            self._read.release()


def _nothing(exchange: Exchange) -> None:
    """Hears the body of what was answered already."""


def _header_length(exchange: Exchange) -> int | None:
    for name, value in exchange.own_headers:
        if name == LENGTH_HEADER:
            if not value.isdigit() or len(value) > LENGTH_DIGITS:
                raise BadRequest(
                    "Inference-Header-Content-Length is not a number of bytes",
                    value=value[:40].decode("latin-1"),
                    remedy="Send the length of the JSON in bytes, or leave the header away.",
                )
            return int(value)
    return None


def _unknown_model(name: str, models: Mapping[str, object]) -> UnknownModel:
    near = difflib.get_close_matches(name[:64], models, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return UnknownModel(
        "no model has this name", value=name, remedy=f"{hint}Models here: {', '.join(models)}."
    )


def _wish_of(name: str, wish: Callable[[Steer], None]) -> Callable[[Move], None]:
    """Of one model: its moves with the addresses of the Plan."""

    def wished(move: Move) -> None:
        wish(Steer(f"{name}.{move.knob}", move.value, move.reason, (move.expects,)))

    return wished
