"""One call through all of it: its way (`attempts.py`), what each provider is sent, what comes back.

A Run has no task and no future. It is pushed by its attempts (`hearing.py`), which are pushed by
providers, and pushes on to whoever called (`Told`). Until the first content of an answer nothing is
told, so what fails before it goes elsewhere; from then on there is one attempt, whose bytes go on
as they come. Where nothing must change they are the provider's own. A stream that has no content
after its route's `begins_s` begins without, or its caller, or a proxy, would give up waiting.

    run = Run(relay, call, route, told)
    run.start()                  # may tell an end before it returns
    run.stop()                   # the caller has gone; or pause(), resume()
    run.ended(status)            # once, when the caller has its answer, or has gone

Called by `web/llm.py`, which knows the caller's connection; nothing of HTTP is known here.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from paceline.clock import Clock
from paceline.gateway import failures
from paceline.gateway.asking import SPOKEN, ask_of, is_changed, is_long
from paceline.gateway.attempts import NEVER, Attempts, Decision, GiveUp, Go, Tried
from paceline.gateway.beside import Beside
from paceline.gateway.call import Ask, Call, Dialect, Endpoint, Headers
from paceline.gateway.hearing import BUG, Attempt
from paceline.gateway.prices import usd
from paceline.gateway.provider import Lost, Provider
from paceline.gateway.room import Room
from paceline.gateway.routes import Route
from paceline.gateway.routing import Router
from paceline.gateway.tally import Tally
from paceline.gateway.upstream import Target
from paceline.gateway.usage import NO_ESTIMATE, Estimated, Usage, estimated_input
from paceline.gateway.verdicts import Answer, Dropped, verdict_of
from paceline.observe import log, traceparent
from paceline.terms.errors import BadRequest, PacelineError
from paceline.terms.limits import LLM_TIMELINES

Providers = Mapping[str, Sequence[Provider]]
"""By name; several of one name where it speaks more than one dialect."""

SAFE = frozenset({"GET", "HEAD"})

LOOK_LEAST_S = 0.005
"""Between two looks at the streams without content: what came with their heads is heard before."""

logger = log.get(__name__)


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
    """What is remembered of a call: when, where and how much; nothing of what was said. Moments are
    of the process's monotonic clock."""

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
    estimated: Estimated = NO_ESTIMATE
    """tokens beyond these"""
    picousd: int | None = None
    """what the answer cost; None: there was none, or nobody knows"""

    def fields(self) -> dict[str, object]:
        """For a line of the log."""
        told: dict[str, object] = {
            "endpoint": self.endpoint,
            "model": self.model,
            "route": self.route,
            "status": self.status,
            "took_ms": round((self.ended_s - self.received_s) * 1e3, 1),
        }
        if self.first_s is not None:
            told["first_ms"] = round((self.first_s - self.received_s) * 1e3, 1)
        told["attempts"] = [
            f"{each.target} {each.why}, {each.ended}"
            f"{'' if each.status is None else f' {each.status}'}, at "
            f"{(each.began_s - self.received_s) * 1e3:.1f} ms"
            for each in self.tried
        ]
        if self.usage is not None:
            told["input_tokens"] = self.usage.input_tokens
            told["output_tokens"] = self.usage.output_tokens
        if self.picousd is not None:
            told["cost_usd"] = usd(self.picousd)
        if self.estimated is not NO_ESTIMATE:
            told["estimated_input_tokens"] = self.estimated.input_tokens
            told["estimated_output_tokens"] = self.estimated.output_tokens
        return told


class Relay:
    def __init__(
        self,
        providers: Providers,
        router: Router,
        tally: Tally,
        clock: Clock,
        beside: Beside,
        room: Room | None = None,
    ) -> None:
        self.beside = beside
        self.room = Room() if room is None else room
        self.providers = providers
        self.router = router
        self.tally = tally
        self.clock = clock
        self.now = clock.now
        self.wall = clock.wall
        self.loop = asyncio.get_running_loop()
        self.timelines: deque[Timeline] = deque(maxlen=LLM_TIMELINES)
        self.known: dict[tuple[str, Dialect], Provider] = {}
        """by name and the caller's dialect"""
        self._silent: dict[Attempt, float] = {}
        """streams that their providers have begun, without content, and when each is to begin for
        its caller all the same"""
        self._look: asyncio.TimerHandle | None = None
        self._look_s = NEVER

    def silent(self, attempt: Attempt, begins_s: float) -> None:
        """One timer serves all, and is only ever set for an earlier moment."""
        self._silent[attempt] = begins_s
        if begins_s < self._look_s:
            self._look_at(begins_s)

    def heard(self, attempt: Attempt) -> None:
        """It has content, or is over."""
        self._silent.pop(attempt, None)

    def _look_at(self, moment_s: float) -> None:
        if self._look is not None:
            self._look.cancel()
        self._look_s = moment_s
        self._look = self.loop.call_later(max(LOOK_LEAST_S, moment_s - self.now()), self._looks)

    def _looks(self) -> None:
        self._look, self._look_s = None, NEVER
        now = self.now()
        for attempt in [each for each, begins_s in self._silent.items() if begins_s <= now]:
            if self._silent.pop(attempt, None) is not None:  # another's beginning may have ended it
                attempt.begin_silent()
        if self._silent:
            self._look_at(min(self._silent.values()))

    def provider(self, name: str, dialect: Dialect) -> Provider:
        """Of that name, the one that speaks the caller's dialect where there is one."""
        of_name = self.providers[name]
        found = next((each for each in of_name if each.dialect == dialect), of_name[0])
        self.known[name, dialect] = found
        return found

    async def close(self) -> None:
        self.beside.close()
        if self._look is not None:
            self._look.cancel()
        for of_name in self.providers.values():
            for each in of_name:
                await each.close()


class Writing:
    """In the place of an exchange, while its long body is written anew."""

    def __init__(self, run: "Run", attempt: Attempt, provider: Provider, model: str) -> None:
        self._run: Run | None = run
        self._attempt = attempt
        self._provider = provider
        self._model = model

    def heard(self, body: bytes | PacelineError) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.written(self._attempt, self._provider, self._model, body)

    def stop(self) -> None:
        self._run = None

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Run:
    """One call, from its route to its end."""

    __slots__ = (
        "_attempts",
        "_done_s",
        "_estimated",
        "_paused",
        "_relay",
        "_running",
        "_timer",
        "call",
        "committed",
        "first_s",
        "over",
        "route",
        "told",
        "usage",
    )

    def __init__(self, relay: Relay, call: Call, route: Route, told: Told) -> None:
        self._relay = relay
        self.told = told
        self._running: list[Attempt] = []
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False
        self._done_s: float | None = None
        self._attempts: Attempts
        self._estimated: int
        """input tokens of a stream whose provider has told none by the time it begins"""
        self.call = call
        self.route = route
        self.over = False
        """nobody works for it any more"""
        self.committed: Attempt | None = None
        self.first_s: float | None = None
        self.usage: Usage | None = None

    def start(self) -> None:
        call, relay = self.call, self._relay
        now = relay.now()
        repeatable = call.endpoint != "other" or call.method in SAFE
        self._attempts = attempts = relay.router.begin(
            self.route, now, call.deadline_s, call.asked.stream, repeatable, call.asked.model
        )
        self._obey(attempts.start(now))

    @property
    def at_once(self) -> bool:
        return self.route.begins_s == 0

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

    def broken(self, error: PacelineError) -> bytes:
        """The event that ends a stream which cannot go on; nothing where none has begun."""
        attempt = self.committed
        if attempt is None or attempt.seen is None:
            return b""
        call = self.call
        return failures.broken(call.dialect, call.endpoint, error, call.id, attempt.seen.sequence)

    def ended(self, status: int) -> Timeline:
        """It has its answer, or left before (0): counted, and remembered without its words."""
        relay, call, route = self._relay, self.call, self.route
        now = relay.now() if self._done_s is None else self._done_s
        tried = self._attempts.tried
        committed, usage, picousd, estimated = None, self.usage, None, NO_ESTIMATE
        if (attempt := self.committed) is not None:
            committed = attempt.number
            if usage is None and attempt.seen is not None:  # it was left
                usage = attempt.seen.usage
            provider, model = attempt.provider_name, self._model_of(tried[committed].target)
            if self.first_s is None:
                sent = self._estimated if usage is None else 0
                relay.tally.lost(route.name, provider, model, usage, sent)
                usage = None
            else:
                picousd = relay.tally.cost(provider, model, usage)
                if (seen := attempt.seen) is not None and (usage is None or not seen.ended):
                    estimated = self._estimate(attempt, usage)
        relay.tally.ended(
            call,
            route.name,
            tried,
            committed,
            status,
            self.first_s,
            now,
            usage,
            picousd,
            estimated,
        )
        timeline = Timeline(
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
            usage,
            estimated,
            picousd,
        )
        relay.timelines.append(timeline)
        self.committed = None  # they hold each other, and the collector rarely looks
        self.told = GONE
        return timeline

    def _estimate(self, attempt: Attempt, usage: Usage | None) -> Estimated:
        """What was passed on beyond what its provider told."""
        assert attempt.seen is not None
        if usage is None:
            return Estimated(self._estimated, attempt.output_tokens)
        if attempt.seen.finish is not None:  # all of it was there, and told
            return NO_ESTIMATE
        more = attempt.output_tokens - usage.output_tokens
        return Estimated(0, more) if more > 0 else NO_ESTIMATE

    # --- What its attempts tell -------------------------------------------------------------------

    @property
    def created_s(self) -> int:
        """For dialects whose answers tell when they were made."""
        return int(self._relay.wall())

    def whole(self, attempt: Attempt, status: int, headers: Headers, body: bytes) -> None:
        """It came in one piece."""
        self.first_s = self._done_s = now = self._relay.now()
        attempts, usage = self._attempts, self.usage
        attempts.content(attempt.number, now)
        self.committed = attempt
        if self._timer is not None or len(self._running) > 1:
            self._alone(attempt)
        attempts.done(now, 0 if usage is None else usage.output_tokens)
        self.over = True
        self._running.clear()
        self.told.whole(status, headers, body)

    def begin(self, attempt: Attempt, status: int, headers: Headers) -> None:
        self._relay.heard(attempt)
        self._content(attempt)
        if self._paused:
            attempt.running.pause()
        self.told.begin(status, headers)

    @property
    def room(self) -> Room:
        return self._relay.room

    def say(
        self, body: bytes, dialect: Dialect, told: Callable[[bytes | PacelineError], None]
    ) -> None:
        """A long answer of that dialect, in the caller's; later."""
        self._relay.beside.say(body, self.call, dialect, self.created_s, told)

    def silent(self, attempt: Attempt) -> None:
        """Its provider has begun a stream, and there is no content yet."""
        self._relay.silent(attempt, self.call.received_s + self.route.begins_s)

    def begin_silent(self, attempt: Attempt, status: int, headers: Headers) -> None:
        """Its first content is still to come, and nobody else is asked for it any more."""
        self._attempts.bound(attempt.number, self._relay.now())
        self._bind(attempt)
        if self._paused:
            attempt.running.pause()
        self.told.begin(status, headers)

    def heard(self, attempt: Attempt) -> None:
        """Its stream is over."""
        self._relay.heard(attempt)

    def content(self, attempt: Attempt) -> None:
        """The first of a stream that had begun without."""
        self.first_s = now = self._relay.now()
        self._attempts.content(attempt.number, now)

    def finish(self) -> None:
        """The last piece is written."""
        if self.first_s is None:  # it has an end, and no content
            assert self.committed is not None
            self.content(self.committed)
        self._done_s = now = self._relay.now()
        self._attempts.done(now, 0 if self.usage is None else self.usage.output_tokens)
        self.over = True
        self._running.clear()
        self.told.finish()

    def failed(
        self,
        attempt: Attempt,
        ended: Lost | Answer | Dropped | PacelineError,
        detail: str = "",
        last: bytes | None = None,
    ) -> None:
        """`last`: how its answer ends where that has begun; by default with an error of ours."""
        decision = self._attempts.failed(attempt.number, self._relay.now(), ended, detail)
        if self.committed is None:
            if not isinstance(ended, PacelineError) and verdict_of(ended).billed:
                self._lost(attempt)
            self._running = [each for each in self._running if each is not attempt]
            self._obey(decision)
            return
        assert isinstance(decision, GiveUp)
        self._end()
        self.told.break_off(self.broken(decision.error) if last is None else last)

    def bug(self) -> None:
        """What should never happen is answered all the same."""
        self.stop()
        error = PacelineError(
            "an unexpected error inside Paceline",
            remedy=f"The server's log has the details under request {self.call.id}.",
        )
        if self.committed is None:
            self.told.refuse(error)
        else:
            self.told.break_off(self.broken(error))

    def _content(self, attempt: Attempt) -> None:
        """The first content: this one is the answer."""
        self.first_s = now = self._relay.now()
        self._attempts.content(attempt.number, now)
        self._bind(attempt)

    def _bind(self, attempt: Attempt) -> None:
        self.committed = attempt
        if self._timer is not None or len(self._running) > 1:
            self._alone(attempt)
        if attempt.seen is not None and attempt.seen.usage is None:
            self._estimated = estimated_input(self.call.body)
        self.call = msgspec.structs.replace(self.call, body=b"")  # it is sent to nobody any more

    def _alone(self, attempt: Attempt) -> None:
        """Nobody else is asked any more, and nothing waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for other in self._running:
            if other is not attempt:
                self._lost(other)
                other.leave()
        self._running = [attempt]

    def _lost(self, attempt: Attempt) -> None:
        """It has brought no content, and may be billed."""
        if type(attempt.running) is Writing:  # it has been sent nothing
            return
        usage = None if attempt.seen is None else attempt.seen.usage
        estimated = 0 if usage is not None else estimated_input(self.call.body)
        model = self._model_of(self._attempts.tried[attempt.number].target)
        self._relay.tally.lost(self.route.name, attempt.provider_name, model, usage, estimated)

    # --- What is to be done -----------------------------------------------------------------------

    def _obey(self, decision: Decision) -> None:
        while True:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if type(decision) is Go:
                wrong = self._go(decision)
                if wrong is not None:
                    now = self._relay.now()
                    decision = self._attempts.failed(decision.number, now, wrong)
                    continue
            elif isinstance(decision, GiveUp):
                self._give_up(decision)
                return
            if decision.wake_s < NEVER:
                wait_s = max(0.0, decision.wake_s - self._relay.now())
                self._timer = self._relay.loop.call_later(wait_s, self._due)
            return

    def _model_of(self, target: Target) -> str:
        asked = self.call.asked.model
        if target.model and target.model != asked:
            return self.route.model_for(asked, target)
        return asked

    def _go(self, go: Go) -> PacelineError | None:
        """Why the target cannot be asked, if it cannot."""
        if go.instead_of is not None:
            for other in self._running:
                if other.number == go.instead_of:
                    self._lost(other)
                    other.leave()
            self._running = [each for each in self._running if each.number != go.instead_of]
        call, target = self.call, go.target
        relay, deadline_s = self._relay, self._attempts.deadline_s
        provider = relay.known.get((target.provider, call.dialect)) or relay.provider(
            target.provider, call.dialect
        )
        dialect = provider.dialect
        model = self._model_of(target)
        foreign = dialect != call.dialect and call.endpoint in SPOKEN
        attempt = Attempt(self, go.number, provider, foreign)
        try:
            tokens_field = provider.tokens_field
            if not is_changed(call, dialect, model, tokens_field):
                ask = Ask(call.method, call.path, call.headers, call.body, deadline_s)
            elif is_long(call, dialect):
                attempt.running = writing = Writing(self, attempt, provider, model)
                relay.beside.write(call, dialect, model, writing.heard, tokens_field)
                self._running.append(attempt)
                return None
            else:
                ask = ask_of(call, dialect, model, deadline_s, None, tokens_field)
            attempt.running = provider.complete(self._traced(ask, go.number), attempt)
        except BadRequest as error:  # it cannot be said so, or no HTTP be made of it
            return error.with_traceback(None)  # which would hold the Run that keeps it
        self._running.append(attempt)
        return None

    def _traced(self, ask: Ask, number: int) -> Ask:
        """Where the call is recorded, the provider is told the span of this attempt."""
        own = self.call.context
        if own is None:
            return ask
        said = (traceparent.HEADER, traceparent.written(traceparent.below(own, number)))
        return msgspec.structs.replace(ask, headers=[*ask.headers, said])

    def written(
        self, attempt: Attempt, provider: Provider, model: str, body: bytes | PacelineError
    ) -> None:
        """A long body is as the provider is to get it, or cannot be."""
        try:
            if not isinstance(body, PacelineError):
                ask = ask_of(self.call, provider.dialect, model, self._attempts.deadline_s, body)
                ask = self._traced(ask, attempt.number)
                attempt.running = provider.complete(ask, attempt)
                return
            wrong = body
        except BadRequest as error:
            wrong = error.with_traceback(None)
        except Exception:  # the last resort: a bug of ours is answered, and logged whole
            logger.exception(BUG, request=self.call.id)
            self.bug()
            return
        self.failed(attempt, wrong)

    def _due(self) -> None:
        self._timer = None
        try:
            self._obey(self._attempts.due(self._relay.now()))
        except Exception:  # the last resort: a bug of ours is answered, and logged whole
            logger.exception(BUG, request=self.call.id)
            self.bug()

    def _give_up(self, decision: GiveUp) -> None:
        again = sum(each.ended != "cannot" for each in self._attempts.tried) > 1
        answer = decision.answer
        self._end()
        if answer is None:
            self.told.refuse(decision.error, decision.retry_after_s, False if again else None)
            return
        headers = failures.passed(answer.headers, retry=False if again else None)
        self.told.whole(answer.status, headers, answer.body)

    def _end(self) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for attempt in self._running:
            if attempt is not self.committed:
                self._lost(attempt)
            attempt.leave()
        self._running = []
