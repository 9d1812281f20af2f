"""One answer of a provider, as it is heard: how it is passed on, and what is read of it in passing.

An Attempt is what a provider pushes to (`provider.Heard`), and tells its Run (`relay.py`): that
content has come, pieces of it, an end, or that it failed. A whole answer is held until it is whole,
unless it is long; a stream until its first content, or until its Run waits for that no longer. What
a bug of ours does in here is answered by the Run; else the pool would take it for a fault of the
provider.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import orjson

from paceline.gateway import anthropic, failures, openai, sse
from paceline.gateway.call import Call, Dialect, Headers
from paceline.gateway.complete import Brackets
from paceline.gateway.passing import Passing, Sign
from paceline.gateway.provider import Lost, Provider, Running
from paceline.gateway.room import Room
from paceline.gateway.translate import answers, errors
from paceline.gateway.translate.streams import ToChat, ToMessages
from paceline.gateway.usage import Told, Usage, estimated_output
from paceline.gateway.verdicts import Answer, Dropped
from paceline.gateway.words import words_of
from paceline.observe import log
from paceline.terms.errors import Overloaded, PacelineError, ProviderFailed
from paceline.terms.limits import (
    LLM_ERROR_BYTES,
    LLM_HELD_BYTES,
    LLM_SAY_IN_PLACE_BYTES,
    LLM_SHORT_BYTES,
    LLM_TRANSLATED_BYTES,
    LLM_WHOLE_BYTES,
    PARSE_IN_PLACE_BYTES,
)

TAIL_BYTES = PARSE_IN_PLACE_BYTES + 1
"""Of a long answer: more than is parsed, so that its usage is looked for, and no whole JSON."""

REFUSED_FROM = 300

JSON: Headers = [(b"content-type", b"application/json")]
EVENTS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]
EVENT_STREAM = b"text/event-stream"
FIRST_OF_EVENTS = (b"data:", b"event:", b":")
"""Of a stream that does not say that it is one."""

AN_EVENT = 1 << 40
"""More than the bytes of any stream, so that both are counted by one addition for each event."""

NO_EVENT = sse.Event(None, b"", b"")

LAST: Mapping[Dialect, sse.Event] = {
    "openai": sse.Event(None, openai.DONE, b""),
    "anthropic": sse.Event(b"message_stop", b'{"type":"message_stop"}', b""),
}
"""The mark of the end, where a provider leaves it out."""

FRAMED = frozenset({b"content-length", b"transfer-encoding"})
"""With one of them an answer has an end of its own, and one that is cut is told by its provider."""

ENCODING = b"content-encoding"
WRITTEN_ANEW = frozenset({b"content-type", ENCODING})
"""What was said of a body that is not the one that goes on. Streams are always plain."""

BUG = "an LLM call failed inside Paceline"

logger = log.get(__name__)


class Writer(Protocol):
    """The caller, when an answer has begun."""

    def write(self, piece: bytes) -> None: ...


class Listener(Protocol):
    """The Run, as it is seen from here."""

    call: Call
    committed: "Attempt | None"
    over: bool
    usage: Usage | None

    @property
    def at_once(self) -> bool:
        """Whether a stream begins with its first event, whatever that is."""

    @property
    def told(self) -> Writer: ...

    @property
    def created_s(self) -> int: ...

    def whole(self, attempt: "Attempt", status: int, headers: Headers, body: bytes) -> None: ...

    def begin(self, attempt: "Attempt", status: int, headers: Headers) -> None: ...

    def silent(self, attempt: "Attempt") -> None: ...

    def begin_silent(self, attempt: "Attempt", status: int, headers: Headers) -> None: ...

    def heard(self, attempt: "Attempt") -> None: ...

    def content(self, attempt: "Attempt") -> None: ...

    def finish(self) -> None: ...

    def failed(
        self,
        attempt: "Attempt",
        ended: Lost | Answer | Dropped,
        detail: str = "",
        last: bytes | None = None,
    ) -> None: ...

    @property
    def room(self) -> Room: ...

    def say(
        self, body: bytes, dialect: Dialect, told: Callable[[bytes | PacelineError], None]
    ) -> None: ...

    def bug(self) -> None: ...


class _Deaf:
    """In the place of an exchange that has not begun, or is over."""

    def stop(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...


DEAF: Running = _Deaf()


class _Saying:
    """In the place of an exchange, while its long answer is said in the other dialect."""

    def __init__(self, attempt: "Attempt", usage: Usage | None) -> None:
        self._attempt: Attempt | None = attempt
        self._usage = usage

    def heard(self, body: bytes | PacelineError) -> None:
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.said(body, self._usage)

    def stop(self) -> None:
        self._attempt = None

    def pause(self) -> None: ...

    def resume(self) -> None: ...


Take = Callable[["Attempt", bytes], None]
"""What becomes of a piece: a function of the class, for a bound one would hold who holds it."""


class Attempt:
    __slots__ = (
        "_brackets",
        "_foreign",
        "_headers",
        "_heard",
        "_machine",
        "_parser",
        "_parts",
        "_provider",
        "_run",
        "_sample",
        "_size",
        "_status",
        "_tail",
        "_take",
        "_withheld",
        "number",
        "running",
        "seen",
    )

    _brackets: Brackets
    _heard: int
    """for an estimate: AN_EVENT for each with content, and its bytes"""
    _sample: sse.Event
    """one of them"""
    _machine: ToChat | ToMessages | None
    _parser: sse.Parser
    _tail: bytes
    _withheld: bool

    def __init__(self, run: Listener, number: int, provider: Provider, foreign: bool) -> None:
        self._run = run
        self._provider = provider
        self._foreign = foreign
        """whether the answer is said in another dialect than the call"""
        self._parts: list[bytes] = []
        self._size = 0
        self._take: Take | None = None
        """None: it is kept until it is whole, which is what most do"""
        self.number = number
        self.running: Running = DEAF
        self.seen: Passing | None = None
        """of a stream"""

    @property
    def provider_name(self) -> str:
        return self._provider.name

    @property
    def output_tokens(self) -> int:
        """Of its stream, so far, as an estimate."""
        events, size = divmod(self._heard, AN_EVENT)
        return estimated_output(events, size, _around(self._sample)) if events else 0

    def leave(self) -> None:
        """Nothing more is to be heard."""
        if self.seen is not None:
            self._run.heard(self)
        self._give_back()
        running, self.running = self.running, DEAF
        running.stop()

    def begin_silent(self) -> None:
        """Its Run waits for content no longer: the stream begins with what there is."""
        run = self._run
        try:
            self._take = Attempt._until_content
            run.begin_silent(self, self._status, self._headers_of_stream())
            held, self._parts = b"".join(self._parts), []
            if held:
                run.told.write(held)
        except Exception:
            logger.exception(BUG, request=run.call.id)
            run.bug()

    # --- What the provider tells ------------------------------------------------------------------

    def head(self, status: int, headers: Headers) -> None:
        self._status = status
        self._headers = headers
        try:
            call = self._run.call
            if status >= REFUSED_FROM:
                self._take = Attempt._refusal
            elif call.asked.stream:
                self._head_of_stream(call, headers)
            elif self._foreign:
                self._take = Attempt._to_translate
            elif call.endpoint == "other":
                self._pass_on(self._run)
        except Exception:
            logger.exception(BUG, request=self._run.call.id)
            self._run.bug()

    def body(self, piece: bytes) -> None:
        try:
            take = self._take
            if take is None:
                self._parts.append(piece)
                self._size += len(piece)
                if self._size > LLM_WHOLE_BYTES:
                    self._outgrown()
            else:
                take(self, piece)
        except Exception:
            logger.exception(BUG, request=self._run.call.id)
            self._run.bug()

    def end(self) -> None:
        self.running = DEAF
        run = self._run
        try:
            if self.seen is not None:
                self._end_of_stream(self.seen)
            elif self._status >= REFUSED_FROM:
                self._answered()
            elif run.committed is self:
                if run.call.endpoint != "other":
                    run.usage = self._told(self._tail).usage
                if self._take is Attempt._pass_unframed and not self._brackets.complete:
                    run.failed(self, "cut", "its answer ended early")
                else:
                    run.finish()
            else:
                self._whole(run)
        except Exception:
            logger.exception(BUG, request=run.call.id)
            run.bug()

    def lost(self, why: Lost, detail: str) -> None:
        self.running = DEAF
        run = self._run
        try:
            if self.seen is None:
                self._give_back()
                run.failed(self, why, detail)
                return
            run.heard(self)
            if self._machine is not None and run.committed is self:
                run.failed(self, why, detail, b"".join(self._machine.end()))
            else:
                run.failed(self, why, detail)
        except Exception:
            logger.exception(BUG, request=run.call.id)
            run.bug()

    def _head_of_stream(self, call: Call, headers: Headers) -> None:
        if _streams(headers):
            self._begin_stream(call)
        elif call.endpoint == "other":
            self._pass_on(self._run)
        elif self._foreign:
            self._garbled("a stream was asked for, and it answers with none")

    # --- Whole answers ----------------------------------------------------------------------------

    def _whole(self, run: Listener) -> None:
        body = b"".join(self._parts)
        told = self._told(body)
        if not (told.readable or body.startswith(FIRST_OF_EVENTS) or _is_coded(self._headers)):
            self._garbled("its answer is no JSON, or not all of it")
            return
        if self._foreign and len(body) > LLM_SAY_IN_PLACE_BYTES:
            self.running = saying = _Saying(self, told.usage)
            run.say(body, self._provider.dialect, saying.heard)
            return
        if self._foreign:
            self._give_back()
        run.usage = told.usage
        if told.failed:  # with a status that says otherwise
            event = sse.Event(None, body, body)
            self._status, body = failures.answered(self._provider.dialect, event)
            self._headers = _of_json(self._headers)
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

    def _outgrown(self) -> None:
        """It is long, and goes on before it is whole."""
        parts, self._parts = self._parts, []
        self._pass_on(self._run)
        assert self._take is not None
        for each in parts:
            self._take(self, each)

    def _pass_on(self, run: Listener) -> None:
        self._tail = b""
        self._take = Attempt._pass
        if _has_no_end(self._headers, run.call.endpoint == "other"):
            self._brackets = Brackets()
            self._take = Attempt._pass_unframed
        run.begin(self, self._status, failures.passed(self._headers))

    def _pass(self, piece: bytes) -> None:
        """Of an answer that is not looked at; its end is kept for a moment, for its usage."""
        self._tail = (self._tail + piece)[-TAIL_BYTES:]
        self._run.told.write(piece)

    def _pass_unframed(self, piece: bytes) -> None:
        """Of one that ends with its connection: where it was cut, nobody else would tell."""
        self._brackets.feed(piece)
        self._pass(piece)

    def _to_translate(self, piece: bytes) -> None:
        before = self._size
        size = before + len(piece)
        wrong: PacelineError | None = None
        if size > LLM_TRANSLATED_BYTES:
            wrong = _too_long(size)
        elif size > LLM_SHORT_BYTES:
            taken = size if before <= LLM_SHORT_BYTES else len(piece)
            wrong = None if self._run.room.take(taken) else _no_room(size)
        if wrong is not None:
            self.leave()
            self._run.failed(self, Dropped(wrong))
            return
        self._parts.append(piece)
        self._size = size

    def _give_back(self) -> None:
        """A long answer is held no longer."""
        if self._take is Attempt._to_translate and self._size > LLM_SHORT_BYTES:
            self._run.room.give_back(self._size)
            self._parts = []
            self._size = 0

    def said(self, body: bytes | PacelineError, usage: Usage | None) -> None:
        """A long answer is as its caller is to get it, or cannot be."""
        self.running = DEAF
        self._give_back()
        run = self._run
        try:
            if isinstance(body, ProviderFailed):
                self._garbled(str(body))
            elif isinstance(body, PacelineError):
                run.failed(self, Dropped(body))
            else:
                run.usage = usage
                run.whole(self, self._status, _of_json(failures.passed(self._headers)), body)
        except Exception:
            logger.exception(BUG, request=run.call.id)
            run.bug()

    def _translated(self, body: bytes) -> bytes:
        call = self._run.call
        return answers.answered(body, call.dialect, call.asked.model, self._run.created_s)

    def _told(self, body: bytes) -> Told:
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
        self._take = Attempt._events
        self._parser = sse.Parser()
        self._machine = None
        self._withheld = False
        self._heard = 0
        self._sample = NO_EVENT
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
        self._run.silent(self)

    def _headers_of_stream(self) -> Headers:
        return [*EVENTS, *_without_type(failures.passed(self._headers))]

    def _until_content(self, piece: bytes) -> None:
        """Of a stream that has begun without."""
        run, seen = self._run, self.seen
        assert seen is not None
        self._events(piece)
        if seen.begun and not run.over:
            self._take = Attempt._events if self._machine is not None else Attempt._go_on_events
            run.content(self)

    def _go_on_events(self, piece: bytes) -> None:
        """Of the one stream that is the answer, in its caller's dialect: what nearly every piece is
        of."""
        try:
            events = self._parser.feed(piece)
        except sse.EventTooLong as error:
            self._too_long(error)
            return
        seen = self.seen
        assert seen is not None
        if len(events) == 1:
            event = events[0]
            sign = seen.see(event)
            if sign == "content":
                raw = event.raw
                self._heard += AN_EVENT + len(raw)
                self._run.told.write(openai.without_usage(event) if self._withheld else raw)
            else:
                self._go_on(self._run, seen, [(event, sign)])
        elif events:
            self._go_on(self._run, seen, zip(events, map(seen.see, events), strict=True))

    def _too_long(self, error: sse.EventTooLong) -> None:
        run, seen = self._run, self.seen
        assert seen is not None
        self._pass_events(run, seen, error.before)
        if not run.over:
            self._garbled(str(error))

    def _events(self, piece: bytes) -> None:
        run, seen = self._run, self.seen
        assert seen is not None
        try:
            events = self._parser.feed(piece)
        except sse.EventTooLong as error:
            self._too_long(error)
            return
        self._pass_events(run, seen, events)

    def _pass_events(self, run: Listener, seen: Passing, events: list[sse.Event]) -> None:
        if run.committed is not self:
            events = self._hold(run, seen, events)
            if run.at_once and self._parts and self.running is not DEAF:
                run.heard(self)
                self.begin_silent()
        if events:
            self._go_on(run, seen, zip(events, map(seen.see, events), strict=True))

    def _hold(self, run: Listener, seen: Passing, events: list[sse.Event]) -> list[sse.Event]:
        """What comes before the first content, which begins the answer. Those behind that."""
        for number, event in enumerate(events, 1):
            sign = seen.see(event)
            if sign == "error":
                status, body = failures.answered(self._provider.dialect, event)
                self.leave()
                self._status, self._parts = status, [body]
                self._headers = _of_json(self._headers)
                self.seen = None
                self._answered()
                return []
            if sign == "content":
                self._heard_content(event)
            out = self._out(event, sign)
            if self._machine is not None and self._machine.state == "broken":
                self._garbled("its stream cannot be read")
                return []
            self._parts.append(out)
            self._size += len(out)
            if seen.begun or self._size > LLM_HELD_BYTES:
                run.begin(self, self._status, self._headers_of_stream())
                parts, self._parts = self._parts, []
                run.told.write(b"".join(parts))
                if self._machine is None:
                    self._take = Attempt._go_on_events
                return [] if run.over else events[number:]
        return []

    def _go_on(
        self, run: Listener, seen: Passing, events: Iterable[tuple[sse.Event, Sign]]
    ) -> None:
        """Of the one stream that is the answer, with what each event was seen to be."""
        machine, withheld = self._machine, self._withheld
        parts: list[bytes] = []
        for event, sign in events:
            if sign == "error":
                self._broke(run, seen, event, parts)
                return
            if sign == "content":
                self._heard_content(event)
            if machine is not None:
                parts += machine.feed(event)
                if machine.state == "broken":
                    self.leave()
                    run.usage = seen.usage
                    run.failed(self, "garbled", "its stream cannot be read", b"".join(parts))
                    return
            elif not withheld:
                parts.append(event.raw)
            elif sign != "usage":
                parts.append(openai.without_usage(event))
        if parts:
            run.told.write(parts[0] if len(parts) == 1 else b"".join(parts))

    def _heard_content(self, event: sse.Event) -> None:
        self._heard += AN_EVENT + len(event.raw)
        self._sample = event

    def _broke(self, run: Listener, seen: Passing, event: sse.Event, before: list[bytes]) -> None:
        """By an event of its provider's, which is the last that goes on."""
        last = [event.raw] if self._machine is None else self._machine.feed(event)
        status, body = failures.answered(self._provider.dialect, event)
        self.leave()
        run.usage = seen.usage
        run.failed(self, Answer(status, self._headers, body), last=b"".join([*before, *last]))

    def _out(self, event: sse.Event, sign: Sign) -> bytes:
        """What the caller gets of an event."""
        if self._machine is not None:
            return b"".join(self._machine.feed(event))
        if self._withheld:
            return b"" if sign == "usage" else openai.without_usage(event)
        return event.raw

    def _end_of_stream(self, seen: Passing) -> None:
        run, machine = self._run, self._machine
        run.usage = seen.usage
        if run.committed is not self:
            run.heard(self)
            run.failed(self, "cut", "its stream ended without content")
        elif seen.ended:
            run.finish()
        elif seen.finish is not None:  # all of the answer was there
            if machine is not None:
                run.told.write(b"".join(machine.feed(LAST[self._provider.dialect])))
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


def _around(event: sse.Event) -> int:
    """Bytes of it that are no words."""
    try:
        told = orjson.loads(event.data)
    except orjson.JSONDecodeError:
        return len(event.raw)
    if not isinstance(told, dict):
        return len(event.raw)
    return len(event.raw) - sum(len(text.encode()) for _, text in words_of(told))


def _is_coded(headers: Headers) -> bool:
    return any(name == ENCODING and value != b"identity" for name, value in headers)


def _without_type(headers: Headers) -> Headers:
    return [each for each in headers if each[0] not in WRITTEN_ANEW]


def _of_json(headers: Headers) -> Headers:
    return [*JSON, *_without_type(headers)]


def _has_no_end(headers: Headers, is_other: bool) -> bool:
    """Whether it is JSON that ends with its connection. What is relayed as it is may be anything,
    and is looked at only where it says that it is JSON."""
    types = [value for name, value in headers if name == b"content-type"]
    said = types[0][:16].lower() if types else b"" if is_other else b"application/json"
    if said != b"application/json" or _is_coded(headers):
        return False
    return all(name not in FRAMED for name, _ in headers)


def _too_long(size: int) -> ProviderFailed:
    return ProviderFailed(
        "its answer is longer than one that is translated may be",
        value=f"{size} bytes so far",
        remedy="Ask for less in one answer, or in the dialect of its provider.",
    )


def _no_room(size: int) -> Overloaded:
    return Overloaded(
        "this front holds as many long bodies and answers of LLM calls as it may",
        value=f"an answer of {size} bytes so far",
        remedy="Ask again later, or for less in one answer.",
    )
