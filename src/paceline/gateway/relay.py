"""One call through all of it: its way (`attempts.py`), what each provider is sent, what comes back.

A Run has no task and no future. It is pushed by the providers of its attempts, which are its
`_Attempt`s, and pushes on to whoever called (`Told`). Until the first content of an answer nothing
is told, so what fails before it goes elsewhere; from then on there is one attempt, whose bytes go
on as they come. Where nothing must change they are the provider's own.

    run = relay.begin(call, route, told)
    run.stop()                             # the caller has gone; or pause(), resume()
    run.ended(status)                      # once, when the caller has its answer, or has gone

Called by `web/llm.py`, which knows the caller's connection; nothing of HTTP is known here.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from paceline.clock import Clock
from paceline.gateway import anthropic, failures, openai, sse
from paceline.gateway.attempts import NEVER, Attempts, Decision, GiveUp, Go, Tried
from paceline.gateway.call import Ask, Call, Dialect, Endpoint, Headers
from paceline.gateway.passing import Passing
from paceline.gateway.provider import Lost, Provider, Running
from paceline.gateway.routes import Route
from paceline.gateway.routing import Router
from paceline.gateway.tally import NOBODY, Tally
from paceline.gateway.translate import answers, errors, requests
from paceline.gateway.translate.streams import ToChat, ToMessages
from paceline.gateway.usage import Told as AnswerTold
from paceline.gateway.usage import Usage
from paceline.gateway.verdicts import Answer
from paceline.observe import log
from paceline.terms.errors import BadRequest, NotTranslatable, PacelineError, ProviderFailed
from paceline.terms.limits import (
    LLM_ERROR_BYTES,
    LLM_HELD_BYTES,
    LLM_TIMELINES,
    LLM_TRANSLATED_BYTES,
    LLM_WHOLE_BYTES,
    PARSE_IN_PLACE_BYTES,
)

Providers = Mapping[str, Sequence[Provider]]
"""By name; several of one name where it speaks more than one dialect."""

PATHS: Mapping[Dialect, str] = {"openai": "/chat/completions", "anthropic": "/messages"}
SPOKEN: frozenset[Endpoint] = frozenset({"chat", "messages"})
"""What can be said in the other dialect."""

TAIL_BYTES = PARSE_IN_PLACE_BYTES + 1
"""Of a long answer: more than is parsed, so that its usage is looked for, and no whole JSON."""

REFUSED_FROM = 300
CANNOT = 404
"""How routing is told that a target cannot do what a call asks; another may."""

JSON: Headers = [(b"content-type", b"application/json")]
EVENTS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]
EVENT_STREAM = b"text/event-stream"

LAST: Mapping[Dialect, sse.Event] = {
    "openai": sse.Event(None, openai.DONE, b""),
    "anthropic": sse.Event(b"message_stop", b'{"type":"message_stop"}', b""),
}
"""The mark of the end, where a provider leaves it out."""


logger = log.get(__name__)

BUG = "an LLM call failed inside Paceline"


class Told(Protocol):
    """The caller. Of an answer it is told once the whole, or its beginning, pieces and an end: all
    of it (`finish`), or a broken one (`break_off`); or it is refused."""

    def whole(self, status: int, headers: Headers, body: bytes) -> None: ...

    def begin(self, status: int, headers: Headers) -> None: ...

    def write(self, piece: bytes) -> None: ...

    def finish(self) -> None: ...

    def break_off(self, last: bytes) -> None: ...

    def refuse(
        self, error: PacelineError, after_s: float | None = None, retry: bool | None = None
    ) -> None: ...


class _Gone:
    """In the place of a caller who has an end, and hears nothing more."""

    def whole(self, status: int, headers: Headers, body: bytes) -> None: ...

    def begin(self, status: int, headers: Headers) -> None: ...

    def write(self, piece: bytes) -> None: ...

    def finish(self) -> None: ...

    def break_off(self, last: bytes) -> None: ...

    def refuse(
        self, error: PacelineError, after_s: float | None = None, retry: bool | None = None
    ) -> None: ...


GONE: Told = _Gone()


class Timeline(msgspec.Struct, frozen=True):
    """What is remembered of a call: when, where and how much; nothing of what was said."""

    id: str
    endpoint: Endpoint
    model: str
    route: str
    key_id: str | None
    received_s: float
    first_s: float | None
    ended_s: float
    status: int
    tried: tuple[Tried, ...]
    usage: Usage | None


class Relay:
    def __init__(self, providers: Providers, router: Router, tally: Tally, clock: Clock) -> None:
        self.providers = providers
        self.router = router
        self.tally = tally
        self.clock = clock
        self.now = clock.now
        self.wall = clock.wall
        self.loop = asyncio.get_running_loop()
        self.timelines: deque[Timeline] = deque(maxlen=LLM_TIMELINES)
        self._provider: dict[tuple[str, Dialect], Provider] = {}

    def begin(self, call: Call, route: Route, told: Told) -> "Run":
        run = Run(self, call, route, told)
        run.start()
        return run

    def provider(self, name: str, dialect: Dialect) -> Provider:
        """Of that name, the one that speaks the caller's dialect where there is one."""
        found = self._provider.get((name, dialect))
        if found is None:
            of_name = self.providers[name]
            found = next((each for each in of_name if each.dialect == dialect), of_name[0])
            self._provider[name, dialect] = found
        return found

    async def close(self) -> None:
        for of_name in self.providers.values():
            for each in of_name:
                await each.close()


class Run:
    """One call, from its route to its end."""

    __slots__ = (
        "_attempts",
        "_began_s",
        "_deadline_s",
        "_paused",
        "_relay",
        "_running",
        "_timer",
        "_told",
        "_wrong",
        "call",
        "committed",
        "first_s",
        "over",
        "route",
        "usage",
    )

    def __init__(self, relay: Relay, call: Call, route: Route, told: Told) -> None:
        self._relay = relay
        self._told = told
        self._running: list[_Attempt] = []
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._wrong: PacelineError | None = None
        """why the last target could not be asked at all"""
        self.call = call
        self.route = route
        self.over = False
        """nobody works for it any more"""
        self.committed: _Attempt | None = None
        self.first_s: float | None = None
        self.usage: Usage | None = None
        self._began_s = now = relay.now()
        self._deadline_s = min(call.deadline_s, now + route.timeout_s)
        self._attempts: Attempts = relay.router.begin(
            route,
            now,
            call.deadline_s,
            call.asked.stream,
            call.endpoint != "other" or call.method in ("GET", "HEAD"),
        )

    def start(self) -> None:
        self._obey(self._attempts.start(self._began_s))

    # --- What the caller tells --------------------------------------------------------------------

    def stop(self) -> None:
        """It has gone, or its time is over: whoever works for it is to stop now."""
        if not self.over:
            self._end()
            if not self._attempts.over:
                self._attempts.left(self._relay.now())

    def pause(self) -> None:
        self._paused = True
        if self.committed is not None:
            self.committed.running.pause()

    def resume(self) -> None:
        self._paused = False
        if self.committed is not None:
            self.committed.running.resume()

    @property
    def created_s(self) -> int:
        """For dialects whose answers tell when they were made."""
        return int(self._relay.wall())

    def broken(self, error: PacelineError) -> bytes:
        """The event that ends a stream which cannot go on; nothing where none has begun."""
        attempt = self.committed
        if attempt is None or attempt.seen is None:
            return b""
        call = self.call
        return failures.broken(call.dialect, call.endpoint, error, call.id, attempt.seen.sequence)

    def ended(self, status: int) -> None:
        """It has its answer, or left before (0): counted, and remembered without its words."""
        relay, call, route = self._relay, self.call, self.route
        now = relay.now()
        tried = self._attempts.tried
        provider = NOBODY
        if self.committed is not None:
            provider = tried[self.committed.number].target.provider
        elif tried:
            provider = tried[-1].target.provider
        for each in tried:
            relay.tally.attempt(each.target.provider, each.why, each.ended)
        relay.tally.ended(
            call, route.name, provider, status, call.received_s, self.first_s, now, self.usage
        )
        relay.timelines.append(
            Timeline(
                call.id,
                call.endpoint,
                call.asked.model,
                route.name,
                call.key_id,
                call.received_s,
                self.first_s,
                now,
                status,
                tried,
                self.usage,
            )
        )
        self.committed = None  # they hold each other, and the collector rarely looks
        self._told = GONE

    # --- What its attempts tell -------------------------------------------------------------------

    def content(self, attempt: "_Attempt") -> None:
        """The first content: this one is the answer."""
        self.first_s = now = self._relay.now()
        self._attempts.content(attempt.number, now)
        self.committed = attempt
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if len(self._running) > 1:
            for other in self._running:
                if other is not attempt:
                    other.leave()
        self._running = [attempt]
        if self._paused:
            attempt.running.pause()

    def whole(self, attempt: "_Attempt", status: int, headers: Headers, body: bytes) -> None:
        """It came in one piece."""
        self.content(attempt)
        self._done()
        self._told.whole(status, headers, body)

    def begin(self, attempt: "_Attempt", status: int, headers: Headers) -> None:
        self.content(attempt)
        self._told.begin(status, headers)

    def write(self, piece: bytes) -> None:
        self._told.write(piece)

    def finish(self) -> None:
        """The last piece is written."""
        self._done()
        self._told.finish()

    def failed(
        self, attempt: "_Attempt", ended: Lost | Answer, detail: str = "", last: bytes | None = None
    ) -> None:
        """`last`: how its answer ends where that has begun; by default with an error of ours."""
        committed = self.committed is not None
        decision = self._attempts.failed(attempt.number, self._relay.now(), ended, detail)
        if not committed:
            if attempt in self._running:
                self._running.remove(attempt)
            self._obey(decision)
            return
        assert isinstance(decision, GiveUp)
        self._end()
        self._told.break_off(self.broken(decision.error) if last is None else last)

    def bug(self) -> None:
        """What should never happen is answered all the same."""
        self.stop()
        error = PacelineError(
            "an unexpected error inside Paceline",
            remedy=f"The server's log has the details under request {self.call.id}.",
        )
        if self.committed is None:
            self._told.refuse(error)
        else:
            self._told.break_off(self.broken(error))

    # --- What is to be done -----------------------------------------------------------------------

    def _obey(self, decision: Decision) -> None:
        while True:
            if isinstance(decision, GiveUp):
                self._give_up(decision)
                return
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            wrong = self._go(decision) if isinstance(decision, Go) else None
            if wrong is None:
                self._wake_at(decision.wake_s)
                return
            self._wrong = wrong
            assert isinstance(decision, Go)
            decision = self._attempts.failed(
                decision.number, self._relay.now(), Answer(CANNOT, [], b"")
            )

    def _go(self, go: Go) -> PacelineError | None:
        """Why the target cannot be asked, if it cannot."""
        if go.instead_of is not None:
            for other in self._running:
                if other.number == go.instead_of:
                    other.leave()
            self._running = [each for each in self._running if each.number != go.instead_of]
        call = self.call
        provider = self._relay.provider(go.target.provider, call.dialect)
        model = self.route.model_for(call.asked.model, go.target)
        try:
            ask = _ask(call, provider.dialect, model, self._deadline_s)
        except PacelineError as error:
            return error
        attempt = _Attempt(self, go.number, provider)
        try:
            attempt.running = provider.complete(ask, attempt)
        except BadRequest as error:  # no HTTP can be made of it
            return error
        self._running.append(attempt)
        return None

    def _wake_at(self, moment_s: float) -> None:
        if moment_s < NEVER:
            wait_s = max(0.0, moment_s - self._relay.now())
            self._timer = self._relay.loop.call_later(wait_s, self._due)

    def _due(self) -> None:
        self._timer = None
        try:
            self._obey(self._attempts.due(self._relay.now()))
        except Exception:  # the last resort: a bug of ours is answered, and logged whole
            logger.exception(BUG, request=self.call.id)
            self.bug()

    def _give_up(self, decision: GiveUp) -> None:
        again = len(self._attempts.tried) > 1
        answer = decision.answer
        self._end()
        if answer is None or (answer.status == CANNOT and not answer.body):
            error = decision.error if answer is None or self._wrong is None else self._wrong
            self._told.refuse(error, decision.retry_after_s, False if again else None)
            return
        headers = failures.passed(answer.headers, retry=False if again else None)
        self._told.whole(answer.status, headers, answer.body)

    def _done(self) -> None:
        self._attempts.done(
            self._relay.now(), 0 if self.usage is None else self.usage.output_tokens
        )
        self.over = True
        self._running = []

    def _end(self) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for attempt in self._running:
            attempt.leave()
        self._running = []


# --- What is sent ---------------------------------------------------------------------------------


def _ask(call: Call, dialect: Dialect, model: str, deadline_s: float) -> Ask:
    asked = call.asked
    body = call.body
    if dialect == call.dialect or call.endpoint not in SPOKEN:
        if dialect != call.dialect and call.endpoint != "other":
            raise NotTranslatable(
                f"the provider of this model has no /v1{call.path.partition('?')[0]}",
                value=model,
                remedy="Ask for a model whose provider has it.",
            )
        if model != asked.model:
            body = openai.with_model(body, model)
        if asked.stream and not asked.wants_usage and call.endpoint in openai.ASKS_FOR_USAGE:
            body = openai.with_usage(body)
        return Ask(call.method, call.path, call.headers, body, deadline_s)
    if dialect == "anthropic":
        body = requests.to_messages(body, model)
    else:
        body = requests.to_chat(body, model)
    return Ask(call.method, PATHS[dialect], call.plain_headers, body, deadline_s)


# --- What comes back ------------------------------------------------------------------------------


class _Deaf:
    """In the place of an exchange that has not begun, or is over."""

    def stop(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


DEAF: Running = _Deaf()


class _Attempt:
    """One answer, as it is heard. How it is passed on is known with its head."""

    __slots__ = (
        "_headers",
        "_machine",
        "_parser",
        "_parts",
        "_provider",
        "_run",
        "_size",
        "_status",
        "_tail",
        "_take",
        "_withheld",
        "number",
        "running",
        "seen",
    )

    def __init__(self, run: Run, number: int, provider: Provider) -> None:
        self._run = run
        self._provider = provider
        self._parts: list[bytes] = []
        self._size = 0
        self._status = 0
        self._headers: Headers = []
        self._tail = b""
        self._machine: ToChat | ToMessages | None = None
        self._parser: sse.Parser | None = None
        self._withheld = False
        self.number = number
        self.running: Running = DEAF
        self.seen: Passing | None = None
        """of a stream"""

    @property
    def _foreign(self) -> bool:
        call = self._run.call
        return self._provider.dialect != call.dialect and call.endpoint in SPOKEN

    def leave(self) -> None:
        """Nothing more is to be heard."""
        running, self.running = self.running, DEAF
        running.stop()

    # --- What the provider tells ------------------------------------------------------------------

    _take: "Callable[[_Attempt, bytes], None]"
    """a function of the class: bound, it would hold the object that holds it"""

    def head(self, status: int, headers: Headers) -> None:
        try:
            self._head(status, headers)
        except Exception:
            logger.exception(BUG, request=self._run.call.id)
            self._run.bug()

    def _head(self, status: int, headers: Headers) -> None:
        self._status = status
        self._headers = headers
        call = self._run.call
        if status >= REFUSED_FROM:
            self._take = _Attempt._refusal
        elif call.endpoint == "other":
            self._run.begin(self, status, failures.passed(headers))
            self._take = _Attempt._pass
        elif call.asked.stream and _streams(headers):
            self._begin_stream(call)
            self._take = _Attempt._events
        elif call.asked.stream and self._foreign:
            self._garbled("a stream was asked for, and it answers with none")
        else:
            self._take = _Attempt._collect

    def body(self, piece: bytes) -> None:
        try:
            self._take(self, piece)
        except Exception:
            logger.exception(BUG, request=self._run.call.id)
            self._run.bug()

    def end(self) -> None:
        try:
            self._end()
        except Exception:
            logger.exception(BUG, request=self._run.call.id)
            self._run.bug()

    def _end(self) -> None:
        self.running = DEAF
        if self.seen is not None:
            self._end_stream(self.seen)
        elif self._status >= REFUSED_FROM:
            self._answered()
        elif self._run.committed is self:
            if self._run.call.endpoint != "other":
                self._run.usage = self._told(self._tail).usage
            self._run.finish()
        else:
            self._whole(b"".join(self._parts))

    def lost(self, why: Lost, detail: str) -> None:
        try:
            self._lost(why, detail)
        except Exception:
            logger.exception(BUG, request=self._run.call.id)
            self._run.bug()

    def _lost(self, why: Lost, detail: str) -> None:
        self.running = DEAF
        if self._machine is not None and self._run.committed is self:
            last = b"".join(self._machine.end())
            self._run.failed(self, why, detail, last)
        else:
            self._run.failed(self, why, detail)

    # --- Whole answers ----------------------------------------------------------------------------

    def _collect(self, piece: bytes) -> None:
        self._parts.append(piece)
        self._size += len(piece)
        if self._foreign:
            if self._size > LLM_TRANSLATED_BYTES:
                self._garbled("its answer is longer than one that is translated may be")
        elif self._size > LLM_WHOLE_BYTES:
            run = self._run
            run.begin(self, self._status, failures.passed(self._headers))
            parts, self._parts = self._parts, []
            self._take = _Attempt._pass
            for each in parts:
                self._pass(each)

    def _pass(self, piece: bytes) -> None:
        """Of a long answer; its end is kept for a moment, for its usage."""
        self._tail = (self._tail + piece)[-TAIL_BYTES:]
        self._run.write(piece)

    def _whole(self, body: bytes) -> None:
        run = self._run
        told = self._told(body)
        run.usage = told.usage
        if told.failed:  # with a status that says otherwise
            self._status, body = failures.answered(
                self._provider.dialect, sse.Event(None, body, body)
            )
            self._parts = [body]
            self._answered()
            return
        headers = failures.passed(self._headers)
        if self._foreign:
            try:
                body = self._translated(body)
            except ProviderFailed as wrong:
                self._garbled(str(wrong))
                return
            headers = _of_json(headers)
        run.whole(self, self._status, headers, body)

    def _translated(self, body: bytes) -> bytes:
        call = self._run.call
        if call.dialect == "anthropic":
            return answers.to_messages(body, call.asked.model)
        return answers.to_chat(body, call.asked.model, self._run.created_s)

    def _told(self, body: bytes) -> AnswerTold:
        if self._provider.dialect == "openai":
            return openai.told(body)
        return anthropic.told(body)

    # --- Errors -----------------------------------------------------------------------------------

    def _refusal(self, piece: bytes) -> None:
        if self._size < LLM_ERROR_BYTES:
            self._parts.append(piece)
            self._size += len(piece)

    def _answered(self) -> None:
        """With an error of its own, which is what the caller gets where nobody does better."""
        body = b"".join(self._parts)[:LLM_ERROR_BYTES]
        headers = self._headers
        call = self._run.call
        if self._foreign:
            if call.dialect == "anthropic":
                body = errors.to_messages(self._status, body, call.id)
            else:
                body = errors.to_chat(self._status, body)
            headers = _of_json(headers)
        self._run.failed(self, Answer(self._status, headers, body))

    def _garbled(self, detail: str) -> None:
        self.leave()
        self._run.failed(self, "garbled", detail)

    # --- Streams ----------------------------------------------------------------------------------

    def _begin_stream(self, call: Call) -> None:
        self._parser = sse.Parser()
        if self._provider.dialect == "anthropic":
            self.seen = anthropic.passing("messages")
        else:
            self.seen = openai.passing(call.endpoint)
        if self._foreign:
            if call.dialect == "anthropic":
                self._machine = ToMessages(call.asked.model)
            else:
                self._machine = ToChat(
                    call.asked.model, self._run.created_s, wants_usage=call.asked.wants_usage
                )
        else:
            self._withheld = not call.asked.wants_usage

    def _events(self, piece: bytes) -> None:
        run = self._run
        assert self._parser is not None
        too_long: sse.EventTooLong | None = None
        try:
            events = self._parser.feed(piece)
        except sse.EventTooLong as error:
            too_long = error
            events = error.before
        if run.committed is self:
            for event in events:
                self._event(event)
        else:
            for event in events:
                if not self._before(event):
                    return
        if too_long is not None and not run.over:
            self._garbled(str(too_long))

    def _before(self, event: sse.Event) -> bool:
        """An event that may be the first with content. False: there is nothing more to be heard."""
        run, seen = self._run, self.seen
        assert seen is not None
        if run.committed is self:
            self._event(event)
            return not run.over
        sign = seen.see(event)
        if sign == "error":
            status, body = failures.answered(self._provider.dialect, event)
            self.leave()
            self._status, self._parts = status, [body]
            self.seen = None
            self._answered()
            return False
        out = self._out(event, sign)
        if self._machine is not None and self._machine.state == "broken":
            self._garbled("its stream cannot be read")
            return False
        self._parts.append(out)
        self._size += len(out)
        if seen.begun or self._size > LLM_HELD_BYTES:
            headers = failures.passed(self._headers)
            run.begin(self, self._status, [*EVENTS, *_without_type(headers)])
            parts, self._parts = self._parts, []
            run.write(b"".join(parts))
        return True

    def _event(self, event: sse.Event) -> None:
        """Of the one stream that is the answer."""
        run, seen = self._run, self.seen
        if run.over:
            return
        assert seen is not None
        sign = seen.see(event)
        if sign == "error":
            last = event.raw if self._machine is None else b"".join(self._machine.feed(event))
            status, body = failures.answered(self._provider.dialect, event)
            self.leave()
            run.usage = seen.usage
            run.failed(self, Answer(status, self._headers, body), last=last)
            return
        out = self._out(event, sign)
        if self._machine is not None and self._machine.state == "broken":
            self.leave()
            run.usage = seen.usage
            run.failed(self, "garbled", "its stream cannot be read", out)
        elif out:
            run.write(out)

    def _out(self, event: sse.Event, sign: str) -> bytes:
        """What the caller gets of an event."""
        if self._machine is not None:
            return b"".join(self._machine.feed(event))
        if self._withheld:
            return b"" if sign == "usage" else openai.without_usage(event)
        return event.raw

    def _end_stream(self, seen: Passing) -> None:
        run, machine = self._run, self._machine
        run.usage = seen.usage
        if run.committed is not self:
            run.failed(self, "cut", "its stream ended without content")
        elif seen.ended:
            run.finish()
        elif seen.finish is not None:  # all of the answer was there
            if machine is not None:
                run.write(b"".join(machine.feed(LAST[self._provider.dialect])))
            run.finish()
        elif machine is not None:
            run.failed(self, "cut", "its stream ended early", b"".join(machine.end()))
        else:
            run.failed(self, "cut", "its stream ended early")


def _streams(headers: Headers) -> bool:
    for name, value in headers:
        if name == b"content-type":
            return value[:17].lower() == EVENT_STREAM
    return False


def _without_type(headers: Headers) -> Headers:
    return [each for each in headers if each[0] != b"content-type"]


def _of_json(headers: Headers) -> Headers:
    return [*JSON, *_without_type(headers)]
