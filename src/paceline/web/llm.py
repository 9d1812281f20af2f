"""LLM calls over HTTP, the hot path: addresses below /v1, headers, keys, bounds, answers.

Plain functions called by the connection, no task and no future a call, as in `inference.py`; what
every request passes is `door.py`. Bodies are read by the dialects, and where a call goes and what
comes back is `gateway/relay.py`'s business. Whatever is said to a caller, errors of the gate among
it, is said in the dialect of the address: Anthropic's below /v1/messages, OpenAI's at its own; and
where both vendors have one (models, files), Anthropic's to whoever names an `anthropic-version`.

One call, in order: `Llm.begin` (head), `_Call.took` (body), the relay's Run, `_Call.whole` or
`begin` … `finish`.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple, cast
from urllib.parse import parse_qs, unquote

import msgspec
import orjson

from paceline.access.gate import Caller
from paceline.gateway import anthropic, failures, openai
from paceline.gateway.call import Asked, Call, Dialect, Endpoint, Headers
from paceline.gateway.failures import Reply
from paceline.gateway.hearing import BUG
from paceline.gateway.relay import Relay, Run
from paceline.gateway.routes import STAR, Route
from paceline.gateway.said.keeping import Keeping, Words
from paceline.net.answers import rendered
from paceline.net.exchange import Exchange
from paceline.observe import log, traceparent
from paceline.observe.board import Board
from paceline.terms.errors import (
    NotAllowed,
    Overloaded,
    PacelineError,
    UnknownModel,
    WrongEncoding,
    WrongMethod,
)
from paceline.terms.limits import (
    LLM_ARRIVES_S,
    LLM_BODY_BYTES,
    LLM_DEADLINE_S,
    LLM_IN_FLIGHT,
    LLM_MODEL_CHARS,
    LLM_READ_IN_PLACE_BYTES,
    LLM_SHORT_BYTES,
)
from paceline.terms.metric import LLM_IN_FLIGHT as LLM_IN_FLIGHT_METRIC
from paceline.terms.request import Priority
from paceline.web.door import Door, Held, bug
from paceline.web.tracing import Tracing
from paceline.web.urgency import PRIORITY_HEADER, TIMEOUT_HEADER, priority_of, timeout_s_of

ABOVE = b"/v1"
BELOW = b"/v1/"

ENDPOINTS: Mapping[bytes, Endpoint] = {
    b"/v1/chat/completions": "chat",
    b"/v1/completions": "completions",
    b"/v1/embeddings": "embeddings",
    b"/v1/moderations": "moderations",
    b"/v1/responses": "responses",
    b"/v1/messages": "messages",
    b"/v1/messages/count_tokens": "count_tokens",
}
MESSAGES = b"/v1/messages"
MODELS = b"/v1/models"

OF_ONE_MODEL = frozenset({"/images/generations", "/audio/speech", "/rerank"})
"""Of the addresses that are relayed as they are, those whose calls say all that they are about in a
JSON body, with the one model that they use. A key that is bound to models may call no others: a
file, a batch or a query may lead to any model, and a form is not read."""

KNOWN = 1024
"""addresses that are remembered; beyond it all are forgotten, and found again"""

LIMIT_DIGITS = 9
"""of the most models to be listed; a page has fewer in any case"""

VERSION_HEADER = b"anthropic-version"
ENCODING_HEADER = b"content-encoding"

PASSED = frozenset(
    b"content-type accept user-agent idempotency-key x-client-request-id http-referer "
    b"x-title".split()
)
PASSED_OF = (b"openai-", b"anthropic-", b"x-stainless-")
"""What goes on to a provider: in any dialect, and in its own. Never keys, cookies, or where a call
comes from."""
NOT_PASSED = frozenset({b"openai-organization", b"openai-project"})
"""Whom a call is billed to. The key is ours, and so is that."""

REQUEST_IDS = frozenset(failures.REQUEST_ID.values())
TRACED = frozenset({traceparent.HEADER, traceparent.STATE})

KEEP_HEADER = b"x-paceline-keep"
"""Whatever it says but yes, nothing of what is said in the call is kept. Yes has no effect: what is
kept is the settings' business."""

COLON, END = b": ", b"\r\n"

SHARE: Mapping[Priority, float] = {"low": 0.5, "normal": 0.9, "high": 0.97, "critical": 1.0}
"""Of LLM_IN_FLIGHT, how much calls up to this priority may take: the lowest give way first."""
MOST: Mapping[Priority, float] = {each: LLM_IN_FLIGHT * share for each, share in SHARE.items()}

logger = log.get(__name__)


class _Facts(msgspec.Struct, frozen=True):
    """What the headers that stay the same on a connection say."""

    caller: Caller
    dialect: Dialect
    priority: Priority
    timeout_s: float
    coded: bool
    headers: Headers
    plain_headers: Headers
    may_keep: bool


class _Memo(msgspec.Struct, frozen=True):
    """Facts hold as long as method, headers and keys are the same."""

    method: bytes
    headers: list[tuple[bytes, bytes]]
    keys: object
    facts: _Facts


class Llm:
    """The calls of one front. `withheld` are routes that would lead to providers which may not be
    called, with the reason; `keeping` keeps what is said, where the settings ask for that."""

    def __init__(
        self,
        relay: Relay,
        board: Board,
        withheld: Mapping[str, PacelineError] | None = None,
        keeping: Keeping | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.relay = relay
        self.keeping = keeping
        self.tracing = tracing
        self._call = _Call if keeping is None else _KeptCall
        self.in_hand = 0
        self._in_flight = board.gauge(LLM_IN_FLIGHT_METRIC).cell
        self._withheld = withheld or {}
        self._addresses: dict[bytes, _Address] = {}

    def begin(self, exchange: Exchange, door: Door) -> "Callable[[Exchange], None] | None":
        """A call by its head; None where it is for somebody else."""
        target = exchange.target
        address = self._addresses.get(target)
        if address is None:
            if not target.startswith(BELOW):
                return None
            address = self._learn(target)
        call = self._call(self, door, exchange, address)
        try:
            call.open(exchange, door)
        except PacelineError as error:
            call.fail(error)
        return call.took

    def _learn(self, target: bytes) -> "_Address":
        if len(self._addresses) >= KNOWN:
            self._addresses.clear()
        address = self._addresses[target] = _address(target)
        return address

    async def close(self) -> None:
        await self.relay.close()
        if self.keeping is not None:
            await self.keeping.close()

    def facts(self, exchange: Exchange, door: Door) -> _Facts:
        memo = exchange.connection.memo
        keys = door.gate.ring
        if (
            type(memo) is _Memo  # the connection may have asked for an inference before
            and memo.keys is keys
            and memo.method == exchange.method
            and memo.headers == exchange.steady_headers
        ):
            return memo.facts
        headers = exchange.headers
        path = unquote(exchange.target.partition(b"?")[0].decode())
        caller = door.admit(exchange.method.decode(), path, headers)
        said = dict(headers)
        timeout_s = timeout_s_of(said.get(TIMEOUT_HEADER), LLM_DEADLINE_S)
        passed = [each for each in exchange.steady_headers if _is_passed(each[0])]
        facts = _Facts(
            caller,
            "anthropic" if VERSION_HEADER in said else "openai",
            priority_of(said.get(PRIORITY_HEADER)) or "normal",
            LLM_DEADLINE_S if timeout_s is None else timeout_s,
            said.get(ENCODING_HEADER, b"identity") != b"identity",
            passed,
            [each for each in passed if each[0] in PASSED],
            said.get(KEEP_HEADER, b"yes").strip().lower() == b"yes",
        )
        if b"cookie" not in said:  # sessions end by themselves
            exchange.connection.memo = _Memo(exchange.method, exchange.steady_headers, keys, facts)
        return facts

    def enter(self, priority: Priority) -> None:
        if self.in_hand >= MOST[priority]:
            raise Overloaded(
                f"this front holds as many LLM calls of priority {priority} as it may",
                value=self.in_hand,
                remedy="Send fewer at a time, or start more fronts with --fronts.",
            )
        self.in_hand += 1
        self._in_flight[0] = self.in_hand

    def leave(self) -> None:
        self.in_hand -= 1
        self._in_flight[0] = self.in_hand

    def route(self, model: str, caller: Caller) -> Route:
        if caller.models and not _allows(caller.models, model):
            raise NotAllowed(
                "this key may not call this model",
                value=model,
                remedy=f"It may call {', '.join(caller.models)}; "
                "`paceline key create NAME --models` makes one that may.",
            )
        if len(model) > LLM_MODEL_CHARS:
            raise UnknownModel(
                "no model has so long a name", value=model, remedy="GET /v1/models names all."
            )
        if caller.models:
            route = self.relay.router.resolve(model, partial(_allows, caller.models))
        else:
            route = self.relay.router.resolve(model)
        if self._withheld and route.name in self._withheld:
            raise self._withheld[route.name]
        return route

    def raw_route(self, method: str, path: str, model: str, caller: Caller) -> Route:
        if caller.models:
            return self._bound_raw_route(method, path, model, caller)
        route = self.relay.router.resolve_raw(path, model or None)
        if self._withheld and route.name in self._withheld:
            raise self._withheld[route.name]
        return route

    def _bound_raw_route(self, method: str, path: str, model: str, caller: Caller) -> Route:
        """That of the model which the body names, and no other."""
        if method != "POST" or path not in OF_ONE_MODEL or not model:
            raise NotAllowed(
                "this key is bound to models, and this call is not to one model alone",
                value=f"{method} /v1{path}",
                remedy="Call it with a key that may call every model.",
            )
        route = self.route(model, caller)
        if not route.allows(path):
            raise NotAllowed(
                "this key is bound to models, and the route of this one does not relay this",
                value=f"{model}: /v1{path}",
                remedy="Name it in `raw` of that route, or use a key that may call every model.",
            )
        return route

    def models(self, caller: Caller) -> list[str]:
        """Those that can be named: a route that ends in `*` cannot."""
        return [
            name
            for name in self.relay.router.names()
            if not name.endswith(STAR)
            and name not in self._withheld
            and (not caller.models or _allows(caller.models, name))
        ]


class _Address(NamedTuple):
    """What a target is. `path` is what follows /v1; `dialect` that of its bodies."""

    endpoint: Endpoint
    dialect: Dialect
    path: str
    models: bool = False


class _Call(Held):
    """One LLM call, from its head to its answer, and the caller's side of its Run."""

    __slots__ = (
        "_address",
        "_begun",
        "_entered",
        "_held_bytes",
        "_llm",
        "_run",
        "_status",
        "facts",
        "received_s",
    )

    facts: _Facts

    def __init__(self, llm: Llm, door: Door, exchange: Exchange, address: _Address) -> None:
        Held.__init__(self, door, exchange)
        self._llm = llm
        self._address = address
        self._run: Run | None = None
        self._begun = self._entered = False
        """a part of the answer has been told; it counts among those in hand"""
        self._status = 0
        self._held_bytes = 0
        """of a long body, in the room for those"""
        self.received_s = llm.relay.now()
        exchange.fail = self.fail
        exchange.gone = self.left
        exchange.gone_at_eof = True
        exchange.body_most = LLM_BODY_BYTES

    def open(self, exchange: Exchange, door: Door) -> None:
        """May it come in? By its head alone."""
        door.check_open()
        self.facts = facts = self._llm.facts(exchange, door)
        self._llm.enter(facts.priority)
        self._entered = True
        if self._address.endpoint == "other":
            self._open_other(exchange)
        elif exchange.method != b"POST":
            raise _wrong_method(exchange, "POST")
        if facts.coded:
            raise WrongEncoding(
                "the body of an LLM call is compressed",
                value=ENCODING_HEADER.decode(),
                remedy="Send it plain: it is read here, and at its provider.",
            )
        if not exchange.complete:
            if not self._llm.relay.room.has(exchange.length):  # it need not be sent to hear so
                raise _no_room(exchange.length)
            exchange.connection.within(min(facts.timeout_s, LLM_ARRIVES_S))

    def _open_other(self, exchange: Exchange) -> None:
        if not self._address.models:
            self._llm.relay.router.resolve_raw(self._address.path)
        elif exchange.method != b"GET":
            raise _wrong_method(exchange, "GET")

    def took(self, exchange: Exchange) -> None:
        """The body is there."""
        try:
            if self._address.models:
                self._list(exchange)
            else:
                self._read(exchange)
        except PacelineError as error:
            self.fail(error)
        except Exception:  # the last resort: a bug of ours is answered, and logged whole
            logger.exception(BUG, request=self.id.decode())
            self.fail(bug(self.id.decode()))

    def _read(self, exchange: Exchange) -> None:
        endpoint, dialect, _, _ = self._address
        if endpoint == "other":  # of which is read what can be, alike in both
            dialect = "openai"
        size = len(exchange.body)
        if size > LLM_SHORT_BYTES:
            if not self._llm.relay.room.take(size):
                raise _no_room(size)
            self._held_bytes = size
        is_long = size > LLM_READ_IN_PLACE_BYTES
        # A long one that came in pieces stays a bytearray, which is used as bytes are: a copy of it
        # would take as long as it must not.
        body = cast(bytes, exchange.body) if is_long else bytes(exchange.body)
        if endpoint == "other" and not _is_json(self.facts.headers):
            self._relay(body, Asked(""))
        elif is_long:
            self._llm.relay.beside.read(endpoint, dialect, body, partial(self._was_read, body))
        elif dialect == "openai":
            self._relay(body, openai.read(endpoint, body))
        else:
            self._relay(body, anthropic.read(endpoint, body))

    def _was_read(self, body: bytes, asked: Asked | PacelineError) -> None:
        if self.answered:  # it was given up meanwhile
            return
        if isinstance(asked, PacelineError):
            self.fail(asked)
            return
        try:
            self._relay(body, asked)
        except PacelineError as error:
            self.fail(error)
        except Exception:  # the last resort, as in `took`
            logger.exception(BUG, request=self.id.decode())
            self.fail(bug(self.id.decode()))

    def _relay(self, body: bytes, asked: Asked) -> None:
        llm, facts, exchange = self._llm, self.facts, self.exchange
        endpoint, dialect, path, _ = self._address
        method = "POST"
        if endpoint == "other":
            method = exchange.method.decode()
            if dialect == "openai":  # what lies below /v1/messages is Anthropic's, whoever asks
                dialect = facts.dialect
            route = llm.raw_route(method, path, asked.model, facts.caller)
        else:
            route = llm.route(asked.model, facts.caller)
        headers, plain_headers = facts.headers, facts.plain_headers
        own = exchange.own_headers
        context = None if llm.tracing is None else llm.tracing.begin(own)
        if len(own) > 1:
            traced = [each for each in own if each[0] in TRACED]
            if traced and context is not None:
                traced = traceparent.states(own)  # the provider is told another parent
            if traced:
                headers, plain_headers = headers + traced, plain_headers + traced
        received_s = self.received_s
        call = Call(
            self.id.decode(),
            dialect,
            endpoint,
            method,
            path,
            headers,
            body,
            asked,
            facts.priority,
            received_s + facts.timeout_s,
            received_s,
            plain_headers,
            facts.caller.key_id,
            context,
        )
        self._run = run = Run(llm.relay, call, route, self)
        run.start()

    def _list(self, exchange: Exchange) -> None:
        """GET /v1/models, or one of them."""
        path, _, query = exchange.target.partition(b"?")
        dialect = self.facts.dialect
        names = self._llm.models(self.facts.caller)
        name = unquote(path[len(MODELS) + 1 :].decode())
        said: object
        if name:
            if name not in names:
                self._llm.route(name, self.facts.caller)
            said = anthropic.model(name) if dialect == "anthropic" else openai.model(name)
        elif dialect == "anthropic":
            asked = parse_qs(query.decode("latin-1"))
            said_limit = asked.get("limit", [""])[0][:LIMIT_DIGITS]
            is_number = said_limit.isascii() and said_limit.isdigit()
            limit = int(said_limit) if is_number else anthropic.PAGE_MODELS
            said = anthropic.models(
                names,
                limit=limit,
                after=asked.get("after_id", [""])[0],
                before=asked.get("before_id", [""])[0],
            )
        else:
            said = openai.models(names)
        self.whole(200, [(b"content-type", b"application/json")], orjson.dumps(said))

    # --- What its Run tells -----------------------------------------------------------------------

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        self.answer(status, self._lines(headers), body)

    def begin(self, status: int, headers: Headers) -> None:
        if self._held_bytes:  # it is sent to nobody any more
            self._give_back()
        self._begun = True
        self._status = status
        exchange = self.exchange
        exchange.on_full, exchange.on_room = self._full, self._room
        exchange.begin_answer(status, self._lines(headers))

    def write(self, piece: bytes) -> None:
        out = self.exchange.out
        if out is not None:
            out.write(piece)

    def finish(self) -> None:
        self.exchange.finish_answer()
        self.end(self._status)

    def break_off(self, last: bytes) -> None:
        """No more comes, and what came is not the whole."""
        if self._begun:
            self.exchange.write(last)
            self.exchange.cut_answer()
            self.end(self._status)

    def refuse(
        self, error: PacelineError, after_s: float | None = None, retry: bool | None = None
    ) -> None:
        if self.answered:
            return
        reply: Reply = failures.refused(
            self._dialect(), error, self.id.decode(), after_s=after_s, retry=retry
        )
        self.door.refused(error)
        headers = [each for each in reply.headers if each[0] != b"content-length"]
        self.answer(reply.status, rendered(headers), reply.body)

    def _lines(self, headers: Headers) -> bytes:
        """Those of an answer; its id of the request, or ours, is named as its caller knows it."""
        lines: list[bytes] = []
        request_id = self.id
        for name, value in headers:
            if name in REQUEST_IDS:
                request_id = value
            else:
                lines += name, COLON, value, END
        lines += failures.REQUEST_ID[self._dialect()], COLON, request_id, END
        return b"".join(lines)

    def _dialect(self) -> Dialect:
        """In which it is spoken to: that of the address, or the one whose version it names."""
        if self._address.endpoint != "other":
            return self._address.dialect
        named = any(name == VERSION_HEADER for name, _ in self.exchange.steady_headers)
        return "anthropic" if named else self._address.dialect

    # --- What the connection and the door tell ----------------------------------------------------

    def left(self) -> None:
        """The caller has gone: its provider is to stop at once."""
        self._stop()
        self.end(0)

    def fail(self, error: PacelineError) -> None:
        """Before an answer, or within one."""
        run = self._run
        last = b"" if run is None else run.broken(error)
        self._stop()
        if self._begun and not self.answered:
            self.break_off(last)
        else:
            self.refuse(error)

    def _stop(self) -> None:
        if self._run is not None:
            self._run.stop()

    def _full(self) -> None:
        if self._run is not None:
            self._run.pause()

    def _room(self) -> None:
        if self._run is not None:
            self._run.resume()

    def _give_back(self) -> None:
        self._llm.relay.room.give_back(self._held_bytes)
        self._held_bytes = 0

    def ended(self, status: int) -> None:
        if self._entered:
            self._llm.leave()
        if self._held_bytes:
            self._give_back()
        run, self._run = self._run, None
        if run is not None:
            timeline = run.ended(status)
            tracing = self._llm.tracing
            if tracing is not None:
                tracing.ended(timeline, run.call, self.exchange.own_headers)
            if logger.debugs:
                logger.debug("llm call", request=timeline.id, **timeline.fields())
        elif status:
            self._llm.relay.tally.refused(self._address.endpoint, status)


class _KeptCall(_Call):
    """One of which what is said is kept: a class of its own, so that the others pay nothing."""

    __slots__ = ("_model", "_words")

    def __init__(self, llm: Llm, door: Door, exchange: Exchange, address: _Address) -> None:
        _Call.__init__(self, llm, door, exchange, address)
        self._words: Words | None = None
        self._model = ""

    def _relay(self, body: bytes, asked: Asked) -> None:
        keeping = self._llm.keeping
        if keeping is not None and self.facts.may_keep:
            self._words = keeping.begin(body)
            self._model = asked.model
        _Call._relay(self, body, asked)

    def whole(self, status: int, headers: Headers, body: bytes) -> None:
        if self._words is not None:
            self._words.add(body)
        _Call.whole(self, status, headers, body)

    def begin(self, status: int, headers: Headers) -> None:
        if self._words is not None:
            self._words.streams()
        _Call.begin(self, status, headers)

    def write(self, piece: bytes) -> None:
        if self._words is not None:
            self._words.add(piece)
        _Call.write(self, piece)

    def break_off(self, last: bytes) -> None:
        if self._words is not None:
            self._words.add(last)
        _Call.break_off(self, last)

    def ended(self, status: int) -> None:
        words, self._words = self._words, None
        run, keeping = self._run, self._llm.keeping
        _Call.ended(self, status)
        if words is None or keeping is None:
            return
        if run is None:
            keeping.never_mind(words)
            return
        keeping.ended(
            words,
            self.id.decode(),
            self.facts.caller.key_id,
            self._address.endpoint,
            self._model,
            run.route.name,
            status,
        )


def _address(target: bytes) -> _Address:
    path = target.partition(b"?")[0]
    endpoint = ENDPOINTS.get(path, "other")
    dialect: Dialect = "anthropic" if path.startswith(MESSAGES) else "openai"
    models = path == MODELS or path.startswith(MODELS + b"/")
    return _Address(endpoint, dialect, target[len(ABOVE) :].decode(), models)


def _is_passed(name: bytes) -> bool:
    return name in PASSED or (name.startswith(PASSED_OF) and name not in NOT_PASSED)


def _is_json(headers: Headers) -> bool:
    """Said once: of two types, its provider might believe the other."""
    said = [value for name, value in headers if name == b"content-type"]
    return len(said) == 1 and said[0].partition(b";")[0].strip().lower() == b"application/json"


def _allows(models: Iterable[str], model: str) -> bool:
    return any(
        model.startswith(each[:-1]) if each.endswith(STAR) else model == each for each in models
    )


def _no_room(size: int) -> Overloaded:
    return Overloaded(
        "this front holds as many long bodies and answers of LLM calls as it may",
        value=f"{size} bytes more",
        remedy="Send it again later, or send less in one call.",
    )


def _wrong_method(exchange: Exchange, allowed: str) -> WrongMethod:
    return WrongMethod(
        f"this address takes {allowed}",
        value=exchange.method.decode(),
        remedy=f"Send {allowed}.",
        allowed=(allowed,),
    )
