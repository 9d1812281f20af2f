"""LLM calls over HTTP, the hot path: addresses below /v1, headers, keys, bounds, answers.

Plain functions called by the connection, no task and no future a call, as in `inference.py`; what
every request passes is `door.py`. Bodies are read by the dialects, and where a call goes and what
comes back is `gateway/relay.py`'s business. Whatever is said to a caller, errors of the gate among
it, is said in the dialect that it speaks: Anthropic's below /v1/messages and to whoever names an
`anthropic-version`, else OpenAI's.

One call, in order: `Llm.begin` (head), `_Call.took` (body), the relay's Run, `_Call.whole` or
`begin` … `finish`.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qs, unquote

import orjson

from paceline.access.gate import Caller
from paceline.gateway import anthropic, failures, openai
from paceline.gateway.call import Asked, Call, Dialect, Endpoint, Headers
from paceline.gateway.failures import Reply
from paceline.gateway.relay import Relay, Run
from paceline.gateway.routes import STAR, Route
from paceline.net.answers import rendered
from paceline.net.exchange import Exchange
from paceline.observe import log
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
)
from paceline.terms.metric import LLM_IN_FLIGHT as LLM_IN_FLIGHT_METRIC
from paceline.terms.request import Priority
from paceline.web.door import Door, Held, bug
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

VERSION_HEADER = b"anthropic-version"
ENCODING_HEADER = b"content-encoding"

PASSED = frozenset(
    b"content-type accept user-agent idempotency-key x-client-request-id http-referer "
    b"x-title".split()
)
PASSED_OF = (b"openai-", b"anthropic-", b"x-stainless-")
"""What goes on to a provider: in any dialect, and in its own. Never keys, cookies, or where a call
comes from."""

TRACED = frozenset({b"traceparent", b"tracestate"})

SHARE: Mapping[Priority, float] = {"low": 0.5, "normal": 0.9, "high": 0.97, "critical": 1.0}
"""Of LLM_IN_FLIGHT, how much calls up to this priority may take: the lowest give way first."""

logger = log.get(__name__)


class _Facts(NamedTuple):
    """What the headers that stay the same on a connection say."""

    caller: Caller
    dialect: Dialect
    priority: Priority
    timeout_s: float
    coded: bool
    headers: Headers
    plain_headers: Headers


class _Memo(NamedTuple):
    """Facts hold as long as method, headers and keys are the same."""

    method: bytes
    headers: list[tuple[bytes, bytes]]
    keys: object
    facts: _Facts


class Llm:
    """The calls of one front. `withheld` are routes that would lead to providers which may not be
    called, with the reason."""

    def __init__(
        self, relay: Relay, board: Board, withheld: Mapping[str, PacelineError] | None = None
    ) -> None:
        self.relay = relay
        self.in_hand = 0
        self._in_flight = board.gauge(LLM_IN_FLIGHT_METRIC)
        self._withheld = withheld or {}

    def begin(self, exchange: Exchange, door: Door) -> "Callable[[Exchange], None] | None":
        """A call by its head; None where it is for somebody else."""
        target = exchange.target
        if not target.startswith(BELOW):
            return None
        call = _Call(self, door, exchange)
        try:
            call.open()
        except PacelineError as error:
            call.fail(error)
        return call.took

    async def close(self) -> None:
        await self.relay.close()

    def facts(self, exchange: Exchange, door: Door) -> _Facts:
        memo = exchange.connection.memo
        keys = door.keys
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
        )
        if b"cookie" not in said:  # sessions end by themselves
            exchange.connection.memo = _Memo(exchange.method, exchange.steady_headers, keys, facts)
        return facts

    def enter(self, priority: Priority) -> None:
        if self.in_hand >= LLM_IN_FLIGHT * SHARE[priority]:
            raise Overloaded(
                f"this front holds as many LLM calls of priority {priority} as it may",
                value=self.in_hand,
                remedy="Send fewer at a time, or start more fronts with --fronts.",
            )
        self.in_hand += 1
        self._in_flight.set(self.in_hand)

    def leave(self) -> None:
        self.in_hand -= 1
        self._in_flight.set(self.in_hand)

    def route(self, model: str, caller: Caller) -> Route:
        if caller.models and not _allows(caller.models, model):
            raise NotAllowed(
                "this key may not call this model",
                value=model,
                remedy=f"It may call {', '.join(caller.models)}; "
                "`paceline key create NAME --models` makes one that may.",
            )
        route = self.relay.router.resolve(
            model, lambda name: not caller.models or _allows(caller.models, name)
        )
        if self._withheld and route.name in self._withheld:
            raise self._withheld[route.name]
        return route

    def raw_route(self, path: str, model: str, caller: Caller) -> Route:
        if caller.models and not (model and _allows(caller.models, model)):
            raise NotAllowed(
                "this key is bound to models, and this address is not one model's alone",
                value=f"/v1{path}",
                remedy="Call it with a key that may call every model.",
            )
        return self.relay.router.resolve_raw(path, model or None)

    def models(self, caller: Caller) -> list[str]:
        """Those that can be named: a route that ends in `*` cannot."""
        return [
            name
            for name in self.relay.router.names()
            if not name.endswith(STAR)
            and name not in self._withheld
            and (not caller.models or _allows(caller.models, name))
        ]


class _Call(Held):
    """One LLM call, from its head to its answer, and the caller's side of its Run."""

    __slots__ = (
        "_begun",
        "_endpoint",
        "_entered",
        "_llm",
        "_run",
        "_status",
        "dialect",
        "facts",
        "received_s",
    )

    def __init__(self, llm: Llm, door: Door, exchange: Exchange) -> None:
        super().__init__(door, exchange)
        target = exchange.target
        self._llm = llm
        self._run: Run | None = None
        self._begun = False
        """a part of the answer has been told"""
        self._status = 0
        self._entered = False
        self._endpoint: Endpoint = ENDPOINTS.get(target) or _endpoint(target)
        self.dialect: Dialect = "anthropic" if target.startswith(MESSAGES) else "openai"
        self.received_s = llm.relay.now()
        exchange.fail = self.fail
        exchange.gone = self.left
        exchange.gone_at_eof = True
        exchange.body_most = LLM_BODY_BYTES

    def open(self) -> None:
        """May it come in? By its head alone."""
        exchange = self.exchange
        self.door.check_open()
        facts = self.facts = self._llm.facts(exchange, self.door)
        if facts.dialect == "anthropic":
            self.dialect = "anthropic"
        self._llm.enter(facts.priority)
        self._entered = True
        if self._endpoint == "other":
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
            exchange.connection.within(min(facts.timeout_s, LLM_ARRIVES_S))

    def _open_other(self, exchange: Exchange) -> None:
        if _is_models(exchange.target):
            if exchange.method != b"GET":
                raise _wrong_method(exchange, "GET")
        else:
            self._llm.relay.router.resolve_raw(_path(exchange.target))

    def took(self, exchange: Exchange) -> None:
        """The body is there."""
        try:
            if self._endpoint == "other" and _is_models(exchange.target):
                self._list(exchange)
            else:
                self._relay(exchange)
        except PacelineError as error:
            self.fail(error)
        except Exception:  # the last resort: a bug of ours is answered, and logged whole
            logger.exception("an LLM call failed inside Paceline", request=self.id.decode())
            self.fail(bug(self.id.decode()))

    def _relay(self, exchange: Exchange) -> None:
        llm, facts = self._llm, self.facts
        endpoint = self._endpoint
        body = exchange.body
        if type(body) is not bytes:
            body = bytes(body)
        path = _path(exchange.target)
        if endpoint == "other":
            asked = openai.read(endpoint, body) if _is_json(facts.headers) else Asked("")
            route = llm.raw_route(path, asked.model, facts.caller)
        else:
            if self.dialect == "anthropic" and endpoint in ("messages", "count_tokens"):
                asked = anthropic.read(endpoint, body)
            else:
                asked = openai.read(endpoint, body)
            if len(asked.model) > LLM_MODEL_CHARS:
                raise UnknownModel(
                    "no model has so long a name",
                    value=asked.model,
                    remedy="GET /v1/models names all.",
                )
            route = llm.route(asked.model, facts.caller)
        headers, plain_headers = facts.headers, facts.plain_headers
        if len(exchange.own_headers) > 1:
            traced = [each for each in exchange.own_headers if each[0] in TRACED]
            if traced:
                headers, plain_headers = headers + traced, plain_headers + traced
        call = Call(
            self.id.decode(),
            self.dialect,
            endpoint,
            exchange.method.decode(),
            path,
            headers,
            body,
            asked,
            facts.priority,
            self.received_s + facts.timeout_s,
            self.received_s,
            plain_headers,
            facts.caller.key_id,
        )
        run = self._run = Run(llm.relay, call, route, self)
        run.start()

    def _list(self, exchange: Exchange) -> None:
        """GET /v1/models, or one of them."""
        path, _, query = exchange.target.partition(b"?")
        names = self._llm.models(self.facts.caller)
        name = unquote(path[len(MODELS) + 1 :].decode())
        said: object
        if name:
            if name not in names:
                self._llm.route(name, self.facts.caller)
            said = anthropic.model(name) if self.dialect == "anthropic" else openai.model(name)
        elif self.dialect == "anthropic":
            asked = parse_qs(query.decode("latin-1"))
            limit = asked.get("limit", [""])[0]
            said = anthropic.models(
                names,
                limit=int(limit) if limit.isascii() and limit.isdigit() else anthropic.PAGE_MODELS,
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
        self._begun = True
        self._status = status
        exchange = self.exchange
        exchange.on_full, exchange.on_room = self._full, self._room
        exchange.begin_answer(status, self._lines(headers))

    def write(self, piece: bytes) -> None:
        self.exchange.write(piece)

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
        if any(name == VERSION_HEADER for name, _ in self.exchange.steady_headers):
            self.dialect = "anthropic"  # it may be the gate that refuses
        reply: Reply = failures.refused(
            self.dialect, error, self.id.decode(), after_s=after_s, retry=retry
        )
        self.door.refused(error)
        headers = [each for each in reply.headers if each[0] != b"content-length"]
        self.answer(reply.status, rendered(headers), reply.body)

    def _lines(self, headers: Headers) -> bytes:
        lines = [b"%b: %b\r\n" % each for each in headers]
        name = failures.REQUEST_ID[self.dialect]
        if all(each[0] != name for each in headers):
            lines.append(b"%b: %b\r\n" % (name, self.id))
        return b"".join(lines)

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

    def ended(self, status: int) -> None:
        if self._entered:
            self._llm.leave()
        run, self._run = self._run, None
        if run is not None:
            run.ended(status)
        elif status:
            self._llm.relay.tally.refused(self._endpoint, status)


def _endpoint(target: bytes) -> Endpoint:
    return ENDPOINTS.get(target.partition(b"?")[0], "other")


def _path(target: bytes) -> str:
    return target[len(ABOVE) :].decode()


def _is_models(target: bytes) -> bool:
    path = target.partition(b"?")[0]
    return path == MODELS or path.startswith(MODELS + b"/")


def _is_passed(name: bytes) -> bool:
    return name in PASSED or name.startswith(PASSED_OF)


def _is_json(headers: Headers) -> bool:
    return any(
        name == b"content-type" and value.startswith(b"application/json") for name, value in headers
    )


def _allows(models: Iterable[str], model: str) -> bool:
    return any(
        model.startswith(each[:-1]) if each.endswith(STAR) else model == each for each in models
    )


def _wrong_method(exchange: Exchange, allowed: str) -> WrongMethod:
    return WrongMethod(
        f"this address takes {allowed}",
        value=exchange.method.decode(),
        remedy=f"Send {allowed}.",
        allowed=(allowed,),
    )
