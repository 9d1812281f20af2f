"""One inference request: in line for a turn of the loop, then from its body to its answer.

The codecs (`serve/v2`, `serve/predict`) know the bodies, a runner (`serve/runner`) queues and runs;
here it is decompressed, decoded, submitted, encoded, answered and measured, each step a plain
function that ends in an answer whatever happens in it. Which way it takes was found by
`inference.py`, which makes these.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

from paceline.flow.queue import Waiting
from paceline.net.answers import draining
from paceline.net.coding import folded, unfolded
from paceline.net.exchange import Exchange
from paceline.observe import log, traceparent
from paceline.observe.traceparent import Context
from paceline.serve import predict, v2
from paceline.serve.answers import Reply
from paceline.serve.batch import Dispatched
from paceline.serve.model import Tensors
from paceline.serve.reading import Read
from paceline.serve.runner import RANKS, Outcome
from paceline.terms.errors import BadInput, BadRequest, DeadlineExceeded, PacelineError, Unavailable
from paceline.terms.limits import (
    FOLD_BYTES,
    FOLD_IN_PLACE_BYTES,
    INFER_BODY_BYTES,
    PARSE_IN_PLACE_BYTES,
    PARSE_UNTIMED_BYTES,
)
from paceline.web.door import Door, Held, Refusal, bug
from paceline.web.timelines import Timeline, Why
from paceline.web.way import Way

LENGTH_HEADER = b"inference-header-content-length"

LENGTH_DIGITS = 9
"""of the length of a body's JSON, which is below INFER_BODY_BYTES"""

SAID_S = 0.005
"""for which one refusal is said to all whose turn would come too late: the figures of the first"""

JSON = b"content-type: application/json\r\n"
BINARY = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"

LEFT = "left"
"""In the place of an error's code: its caller has gone."""

Part: TypeAlias = "bytes | memoryview"

Begin = Callable[[Exchange, Door, Way, float], None]
"""Begins a request that stood in line; the moment is that at which it came."""

logger = log.get(__name__)


class InLine:
    """A request that waits for a turn of the loop, known by its head. It is in hand meanwhile."""

    __slots__ = (
        "_begin",
        "_door",
        "_exchange",
        "_over",
        "_way",
        "allowed_s",
        "came_s",
        "due_s",
        "endless",
        "rank",
    )

    def __init__(self, door: Door, exchange: Exchange, way: Way, begin: Begin) -> None:
        self._begin = begin
        self._door = door
        self._exchange = exchange
        self._way = way
        self._over = False
        self.rank = RANKS[way.priority]
        self.allowed_s = way.place.runner.allowed_s(way.priority, way.allowed_s)
        self.came_s = self.due_s = 0.0
        self.endless = False
        exchange.gone = self.left
        door.enter(self)

    def begin(self) -> None:
        if not self._ended():
            return
        exchange, door = self._exchange, self._door
        try:
            self._begin(exchange, door, self._way, self.came_s)
        except Exception:  # the last resort: the others in line are not to suffer from it
            request_id = door.request_id(exchange.own_headers)
            logger.exception("a request failed inside Paceline", request=request_id.decode())
            failed = bug(request_id.decode())
            door.refuse(exchange, Refusal(failed))
            keep_turned_away(self._way, exchange, request_id, self.came_s, failed)

    def turn_away(self, wait_s: float) -> None:
        if not self._ended():
            return
        place = self._way.place
        now = place.now()
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
            keep_turned_away(self._way, exchange, request_id, self.came_s, None)

    def cut(self) -> None:
        if self._ended():
            self._refuse(Refusal(draining()), self._way.place.now())

    def _refuse(self, refusal: Refusal, now: float) -> None:
        place = self._way.place
        request_id = self._door.refuse(self._exchange, refusal)
        place.count(self._way.priority, refusal.error.http)
        place.failed_s.add(max(0.0, now - self.came_s) if self.came_s else 0.0)
        if now >= place.kept.away_until_s:
            keep_turned_away(self._way, self._exchange, request_id, self.came_s, refusal.error)

    def _ended(self) -> bool:
        """It stands in line no more; whether it did until now."""
        if self._over:
            return False
        self._over = True
        self._exchange.gone = None
        self._door.leave(self)
        return True


def keep_turned_away(
    way: Way, exchange: Exchange, request_id: bytes, came_s: float, error: PacelineError | None
) -> None:
    """The timeline of a request that ends before it was read, if it is one of those that are kept.
    `came_s` is 0 where it is not known, for it has not waited; no error: its caller has left."""
    place = way.place
    now = place.now()
    if now < place.kept.away_until_s:
        return
    context = traceparent.of(exchange.own_headers)
    trace_id, span_id = place.kept.ids()
    received_s = min(came_s, now) if came_s else now
    timeline = Timeline(
        request_id.decode(),
        place.name,
        way.kind,
        ("failed",),
        trace_id if context is None else context.trace_id,
        span_id,
        "" if context is None else context.span_id,
        received_s,
        received_s,
        None,
        None,
        now,
        0 if error is None else error.http,
        LEFT if error is None else error.code,
        way.priority,
        0,
        now,
        _why_refused(error),
    )
    place.kept.keep_turned_away(timeline)


def _why_refused(error: PacelineError | None) -> str:
    """In words of ours: what else fails may have those of a model, or of a request, in it."""
    return error.cause if isinstance(error, Unavailable | DeadlineExceeded) else ""


class InferCall(Held):
    """One request, from its head to its answer."""

    __slots__ = (
        "_dispatched",
        "_heard_s",
        "_place",
        "_queued_s",
        "_read",
        "_turn_s",
        "_waiting",
        "_way",
        "deadline_s",
        "priority",
        "request",
        "started_s",
    )

    # Not set until they are known: few ask for them, and all would pay.
    request: "v2.InferRequest | predict.PredictRequest"
    _queued_s: float
    _dispatched: Dispatched | None
    """only where its answer is not written while its batch is told"""
    _turn_s: float
    """only where it has stood in line"""

    def __init__(self, door: Door, exchange: Exchange, way: Way, came_s: float | None) -> None:
        """`came_s`: when its body was there, where it has stood in line."""
        Held.__init__(self, door, exchange)
        place = way.place
        place.in_hand += 1
        self._way = way
        self._place = place
        self._read: Read | None = None
        self._waiting: Waiting | None = None
        self.priority = way.priority
        started_s = place.now()
        if came_s is not None:
            self._turn_s, started_s = started_s, came_s
        self.started_s = started_s
        self._heard_s: float | None = started_s
        self.deadline_s = started_s + way.allowed_s
        exchange.fail = self.fail
        exchange.gone = self.left
        exchange.body_most = INFER_BODY_BYTES
        if not exchange.complete:
            self._heard_s = None
            exchange.connection.within(way.allowed_s)

    def took(self, exchange: Exchange) -> None:
        """The body is there. It is read behind all that has arrived in this turn of the loop."""
        place = self._place
        if self._heard_s is None:  # it came after its head
            self._heard_s = heard_s = place.now()
            place.body_s.add(heard_s - self.started_s)
        place.take(self)

    def read(self) -> None:
        if not self.answered:  # else it was given up meanwhile
            self._try(self._unfold, self.exchange.body)

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
        coding = self._way.said.coding
        if coding is None:
            self._decode(body)
        elif len(body) <= FOLD_IN_PLACE_BYTES:
            self._decode(unfolded(body, coding, INFER_BODY_BYTES))
        else:
            self._beside(partial(unfolded, body, coding, INFER_BODY_BYTES), self._decode)

    def _decode(self, body: "bytes | bytearray") -> None:
        place = self._place
        if len(body) > PARSE_UNTIMED_BYTES:
            self._decode_long(body)
        elif self._way.kind == "v2":
            self._asked(v2.decode(body, place.spec, _header_length(self.exchange), place.memo))
        else:
            self._asked(predict.decode(body, place.spec, place.row))

    def _decode_long(self, body: "bytes | bytearray") -> None:
        """By the reader process, or here with an eye on the clock."""
        place, kind = self._place, self._way.kind
        length = _header_length(self.exchange) if kind == "v2" else None
        if len(body) > PARSE_IN_PLACE_BYTES:
            place.runner.check_unread(self.priority, self.deadline_s, self._heard_s)
            place.reader.decode(kind, body, place.spec, length, self._was_read)
            return
        began_s = place.now()
        request: v2.InferRequest | predict.PredictRequest
        if kind == "v2":
            request = v2.decode(body, place.spec, length, place.memo)
        else:
            request = predict.decode(body, place.spec, place.row)
        place.parse_s.add(place.now() - began_s)
        self._asked(request)

    def _was_read(self, read: Read | PacelineError) -> None:
        if self._heard_s is not None:
            self._place.parse_s.add(self._place.now() - self._heard_s)
        if isinstance(read, PacelineError):
            self.fail(read)
        elif self.answered:  # given up meanwhile
            read.release()
        else:
            self._read = read
            self._try(self._asked, read.request)

    def _asked(self, request: v2.InferRequest | predict.PredictRequest) -> None:
        self.request = request
        if isinstance(request, v2.InferRequest):
            if request.timeout_s is not None:
                self.deadline_s = min(self.deadline_s, self.started_s + request.timeout_s)
            if request.priority is not None:
                self.priority = request.priority
        most_rows = self._way.rules.max_rows
        if request.rows > most_rows:
            raise BadInput(
                f"a request to {self._place.name} may bring {most_rows} rows",
                value=request.rows,
                remedy="Send several requests, or turn its knob max_rows up.",
            )
        self._place.submit(self)

    def submit(self) -> None:
        self._try(self._submit, self.request)

    def _submit(self, request: v2.InferRequest | predict.PredictRequest) -> None:
        self._waiting = self._place.runner.submit(
            request.inputs,
            request.rows,
            self.priority,
            self.deadline_s,
            self._told,
            self._heard_s,
        )

    def _told(self, outcome: Outcome) -> None:
        waiting = self._waiting
        if waiting is not None:
            self._waiting = None
            self._queued_s = waiting.arrived_s
        if isinstance(outcome, PacelineError):
            self.fail(outcome)
        else:
            self._try(self._encode, outcome)

    def send(self, reply: Reply) -> None:
        self._try(self._send, reply)

    def _send(self, reply: Reply) -> None:
        self._answer(reply, reply.parts, b"")

    def _encode(self, outputs: Tensors) -> None:
        spec, request = self._place.spec, self.request
        notes = self._place.notes
        if notes is not None:
            notes.note(self.id, request.rows, request.inputs, outputs)
        if isinstance(request, v2.InferRequest):
            reply = v2.encode(spec, request, outputs, self._place.memo)
        else:
            reply = predict.encode(spec, request, outputs)
        if reply.rest is None:
            if self._way.said.accepts is None:
                self._place.send(self, reply)
            else:
                self._fold(reply, reply.parts)
        else:
            self._dispatched = self._place.runner.dispatched()
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
        coding = self._way.said.accepts
        size = 0 if coding is None else sum(map(len, parts))
        if coding is None or size < FOLD_BYTES:
            self._answer(reply, parts, b"")
            return
        line = b"content-encoding: %b\r\n" % coding.encode()
        if size <= FOLD_IN_PLACE_BYTES:
            self._answer(reply, [folded(parts, coding)], line)
        else:
            work = partial(folded, parts, coding)
            if not hasattr(self, "_dispatched"):
                self._dispatched = self._place.runner.dispatched()
            self._beside(work, lambda whole: self._answer(reply, [whole], line))

    def _answer(self, reply: Reply, parts: "Sequence[Part]", coding: bytes) -> None:
        length = reply.header_length
        headers = b"%b%b%bx-request-id: %b\r\n" % (
            JSON if length is None else BINARY % length,
            coding,
            self._way.serving.stamp,
            self.id,
        )
        if self.answer(200, headers, *parts):
            place = self._place
            now = place.now()
            seconds = now - self.started_s
            place.answered(self.priority, seconds)
            kept = place.kept
            kept.left = left = kept.left - 1
            own = self.exchange.own_headers
            if (
                seconds > kept.over_s
                or left < 0
                or now >= kept.until_s
                or (len(own) > 1 and traceparent.may_be_sampled(own))
            ):
                self._perhaps_keep(now)

    def _perhaps_keep(self, now: float) -> None:
        """It is slow, or late, or drawn, or its caller's trace is recorded."""
        context = traceparent.of(self.exchange.own_headers)
        asked = None if context is None else context.sampled
        why = self._place.kept.why(now, now - self.started_s, asked=asked)
        if why:
            self._keep(now, why, 200, "", context)

    def _keep(
        self,
        now: float,
        why: tuple[Why, ...],
        status: int,
        error: str,
        context: Context | None,
        cause: str = "",
    ) -> None:
        place = self._place
        trace_id, span_id = place.kept.ids()
        request = getattr(self, "request", None)  # none, where its body was never read
        queued_s = getattr(self, "_queued_s", None)
        dispatched = getattr(self, "_dispatched", None)
        if dispatched is None and queued_s is not None:
            dispatched = place.runner.dispatched()
        timeline = Timeline(
            self.id.decode(),
            place.name,
            self._way.kind,
            why,
            trace_id if context is None else context.trace_id,
            span_id,
            "" if context is None else context.span_id,
            self.started_s,
            self._heard_s,
            queued_s,
            dispatched,
            now,
            status,
            error,
            self.priority,
            0 if request is None else request.rows,
            getattr(self, "_turn_s", None),
            cause,
        )
        place.kept.keep(timeline)

    def _keep_failed(self, status: int, error: str, cause: str = "") -> None:
        place = self._place
        now = place.now()
        why = place.kept.why_failed(now)
        if why:
            context = traceparent.of(self.exchange.own_headers)
            self._keep(now, why, status, error, context, cause)

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
        if not self.answered:
            self.end(0)
            self._keep_failed(0, LEFT)

    def fail(self, error: PacelineError) -> None:
        self._stop_waiting()
        if not self.answered:
            self.refuse(error)
            if error.http >= 500:
                self._keep_failed(error.http, error.code, _why_refused(error))

    def _stop_waiting(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._queued_s = waiting.arrived_s
            self._place.runner.leave(waiting)

    def ended(self, status: int) -> None:
        place = self._place
        place.in_hand -= 1
        if status != 200:  # those are recorded when they are said
            if status:
                place.count(self.priority, status)
            place.failed_s.add(place.now() - self.started_s)
        if self._read is not None:
            self._read.release()


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
