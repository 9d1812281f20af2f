"""The simulated provider: when its answers come, and how they fail. What is in them is made by the
dialects beside it; what a single caller may wish of them stands in `wishes.py`.

One of each dialect, with the same name. No task and no future a call: one timer each, from one
piece to the next. The head and the first piece of a stream come after the latency, each further
token `token_ms` later; a whole answer comes when its last token would. Faults are drawn by the
chance that is handed in, or wished for. What comes in one turn of the loop is bounded; while its
hearer pauses nothing comes, and what was due meanwhile follows when it resumes. A request is read
in place, which takes about a millisecond for each megabyte.

Not a model of any vendor's quality or prices. Made in `app.py`.
"""

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from paceline.clock import SHORTEST_NAP_S, Chance, Clock
from paceline.flow.limiter import TokenBucket
from paceline.gateway.call import Ask, Dialect, Headers
from paceline.gateway.provider import Heard, Lost, Running
from paceline.gateway.providers.simulated import (
    anthropic,
    completions,
    embeddings,
    moderations,
    openai,
    responses,
)
from paceline.gateway.providers.simulated.answers import JSON, Answer, Made, Piece, Refused
from paceline.gateway.providers.simulated.reading import read
from paceline.gateway.providers.simulated.wishes import (
    CHAT_MODELS,
    MODERATION_MODEL,
    Fault,
    Wish,
    wish,
)
from paceline.gateway.upstream import TokensField
from paceline.terms.errors import BadValue
from paceline.terms.limits import SIMULATED_TURN_PIECES

NAME = "simulated"
SIMULATED = (b"x-paceline-simulated", b"true")

LARGE = 3.0
"""times as long as sim-small takes"""

LOST: Mapping[Fault, tuple[Lost, str]] = {
    "unreachable": ("unreachable", "no connection, as was wished of the simulated provider"),
    "closed": ("closed", "closed before the answer, as was wished of the simulated provider"),
    "garbled": ("garbled", "no HTTP, as was wished of the simulated provider"),
}


class Simulation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How simulated answers come. Shares are of all answers, from 0 to 1."""

    latency_ms: float = 100.0
    """until the first token"""
    token_ms: float = 10.0
    """between two tokens"""
    spread: float = 0.3
    """of both: an answer takes up to this share less, or more"""
    error_share: float = 0.0
    """are 500, 503 and (Anthropic's) 529"""
    cut_share: float = 0.0
    """end in the middle"""
    hang_share: float = 0.0
    """never come"""
    rate_limit_per_s: float = 0.0
    """calls that are answered; the others are 429. Without one: 0"""

    def __post_init__(self) -> None:
        for name in ("latency_ms", "token_ms", "rate_limit_per_s"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise BadValue(f"`{name}` is a number from 0 on", value=value, remedy="Correct it.")
        for name in ("spread", "error_share", "cut_share", "hang_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadValue(
                    f"`{name}` is a share, from 0 to 1",
                    value=getattr(self, name),
                    remedy="Correct it.",
                )
        shares = self.error_share + self.cut_share + self.hang_share
        if shares > 1:
            raise BadValue(
                "more answers fail than there are",
                value=shares,
                remedy="Let error_share, cut_share and hang_share be 1 together, or less.",
            )


class _Shapes(NamedTuple):
    """What a dialect makes of which address, and how it says that something failed."""

    makers: Mapping[str, Callable[[bytes, Wish, Made], Answer]]
    models: Callable[[], Answer]
    model: Callable[[str], Answer]
    error: Callable[[Refused, Made], bytes]
    id_header: bytes
    failures: Sequence[int]
    """drawn for `error_share`"""


SHAPES: Mapping[Dialect, _Shapes] = {
    "openai": _Shapes(
        {
            "/chat/completions": openai.chat,
            "/completions": completions.answer,
            "/embeddings": embeddings.answer,
            "/moderations": moderations.answer,
            "/responses": responses.answer,
        },
        openai.models,
        openai.model,
        openai.error,
        b"x-request-id",
        (500, 503),
    ),
    "anthropic": _Shapes(
        {"/messages": anthropic.messages, "/messages/count_tokens": anthropic.count_tokens},
        anthropic.models,
        anthropic.model,
        anthropic.error,
        b"request-id",
        (500, 529),
    ),
}

SAID: Mapping[int, str] = {
    401: "The key is wrong, the simulated provider says.",
    403: "The simulated provider does not permit this.",
    429: "Too many calls for the simulated provider; try again later.",
    503: "The simulated provider is overloaded.",
    529: "The simulated provider is overloaded.",
}
RETRY_AFTER_S = 1.0
"""what a 429 says that was wished for, or a 503"""


class _Named(msgspec.Struct):
    model: str = MODERATION_MODEL
    """Only moderations may leave it out."""


class SimulatedProvider:
    """See `Provider`. `chance` draws faults, latencies and the ids of answers."""

    simulated = True
    tokens_field: TokensField = "max_completion_tokens"
    name = NAME

    def __init__(
        self, dialect: Dialect, simulation: Simulation, clock: Clock, chance: Chance
    ) -> None:
        self.dialect = dialect
        self.clock = clock
        self.running: set[_Exchange] = set()
        self._shapes = SHAPES[dialect]
        self._simulation = simulation
        self._chance = chance
        self._bucket: TokenBucket | None = None
        rate = simulation.rate_limit_per_s
        self._burst = max(1, math.ceil(rate))
        if rate:
            self._bucket = TokenBucket(1, 1 / rate, self._burst, clock.now())

    def complete(self, ask: Ask, heard: Heard) -> Running:
        exchange = _Exchange(self, ask.deadline_s, heard)
        self.running.add(exchange)
        now, chance, simulation = self.clock.now(), self._chance, self._simulation
        made = Made(f"sim{chance.bits(80):020x}", self.clock.wall())
        drawn, spread = chance.uniform(), 1 + simulation.spread * chance.uniform(-1, 1)
        wished, answer = self._answer(ask, made, now)
        latency_ms, token_ms = simulation.latency_ms, simulation.token_ms
        if wished.model == CHAT_MODELS[1]:
            latency_ms, token_ms = LARGE * latency_ms, LARGE * token_ms
        exchange.latency_s = _s(wished.latency_ms, latency_ms * spread)
        exchange.token_s = _s(wished.token_ms, token_ms * spread)
        exchange.fault = wished.fault
        if answer.status == 200 and wished.fault is None:
            errors, cuts = simulation.error_share, simulation.cut_share
            if drawn < errors:
                ones = self._shapes.failures
                answer = self._refusal(failed(ones[int(drawn / errors * len(ones))]), made)
            elif drawn < errors + cuts:
                exchange.fault = "cut"
            elif drawn < errors + cuts + simulation.hang_share:
                exchange.fault = "hang"
        answer.headers.extend(self._limits(now))
        exchange.begin(answer, now)
        return exchange

    async def close(self) -> None:
        for exchange in list(self.running):
            exchange.close()

    def _answer(self, ask: Ask, made: Made, now: float) -> tuple[Wish, Answer]:
        wished = Wish("")
        try:
            path = ask.path.partition("?")[0]
            make = self._shapes.makers.get(path)
            if make is None or ask.method != "POST":
                return wished, self._elsewhere(ask.method, path, made)
            name = read(ask.body, _Named).model
            if self._bucket is not None and not self._bucket.try_take(now):
                wait_s = self._bucket.ready_at(now) - now
                return wished, self._refusal(failed(429), made, wait_s)
            wished = wish(name)
            if wished.status is not None:
                return wished, self._refusal(failed(wished.status), made)
            answer = make(ask.body, wished, made)
            if wished.fault == "error" and answer.broken is None:
                answer = self._refusal(failed(500), made)
            else:
                answer.headers.extend(self._said(made))
            return wished, answer
        except Refused as refused:
            return wished, self._refusal(refused, made)

    def _elsewhere(self, method: str, path: str, made: Made) -> Answer:
        if path in self._shapes.makers:
            raise Refused(405, f"{path} takes POST, not {method}.", code="method_not_supported")
        if method != "GET" or not path.startswith("/models"):
            raise Refused(404, f"The simulated provider has no {method} {path[:200]}.")
        name = path.removeprefix("/models").removeprefix("/")
        answer = self._shapes.model(name) if name else self._shapes.models()
        answer.headers.extend(self._said(made))
        return answer

    def _refusal(self, refused: Refused, made: Made, wait_s: float = RETRY_AFTER_S) -> Answer:
        body = self._shapes.error(refused, made)
        headers = [JSON, (b"content-length", b"%d" % len(body)), *self._said(made)]
        if refused.status in (429, 503, 529):
            headers.append((b"retry-after", b"%d" % max(1, math.ceil(wait_s))))
            if self.dialect == "openai":
                headers.append((b"retry-after-ms", b"%d" % max(1, math.ceil(1000 * wait_s))))
        return Answer(refused.status, headers, iter((Piece(body, 0),)), 0)

    def _said(self, made: Made) -> Headers:
        return [SIMULATED, (self._shapes.id_header, b"req_" + made.id.encode())]

    def _limits(self, now: float) -> Headers:
        """What the vendors tell of their rate limits with every answer; nothing without one."""
        bucket = self._bucket
        if bucket is None:
            return []
        reset_s = bucket.ready_at(now, self._burst) - now
        left = max(0, math.floor(self._burst - reset_s * self._simulation.rate_limit_per_s + 1e-6))
        if self.dialect == "openai":
            return [
                (b"x-ratelimit-limit-requests", b"%d" % self._burst),
                (b"x-ratelimit-remaining-requests", b"%d" % left),
                (b"x-ratelimit-reset-requests", b"%dms" % math.ceil(1000 * reset_s)),
            ]
        return [
            (b"anthropic-ratelimit-requests-limit", b"%d" % self._burst),
            (b"anthropic-ratelimit-requests-remaining", b"%d" % left),
            (b"anthropic-ratelimit-requests-reset", anthropic.moment(self.clock.wall() + reset_s)),
        ]


def failed(status: int) -> Refused:
    return Refused(status, SAID.get(status, f"The simulated provider answers {status}."))


def _s(wished_ms: float | None, otherwise_ms: float) -> float:
    return (otherwise_ms if wished_ms is None else wished_ms) / 1000


State = Literal["before", "within", "over"]


class _Exchange:
    """One answer on its way. Between two turns there is one handle: for the next piece, or, where
    nothing more is to come before it, for the deadline."""

    __slots__ = (
        "_answer",
        "_deadline_s",
        "_handle",
        "_heard",
        "_next",
        "_paused",
        "_pieces",
        "_provider",
        "_start_s",
        "_state",
        "_tokens",
        "fault",
        "latency_s",
        "token_s",
    )

    fault: Fault | None
    latency_s: float
    token_s: float

    def __init__(self, provider: SimulatedProvider, deadline_s: float, heard: Heard) -> None:
        self._provider = provider
        self._deadline_s = deadline_s
        self._heard = heard
        self._state: State = "before"
        self._paused = False
        self._handle: asyncio.Handle | None = None

    def begin(self, answer: Answer, now: float) -> None:
        self._answer = answer
        if answer.broken is None and self.fault == "error":
            self.fault = None  # it was answered with one instead
        self._pieces: Iterator[Piece] = answer.pieces
        self._next = next(self._pieces)
        self._start_s = now + self.latency_s
        self._tokens = self._next.tokens
        self._wait(self._due_s(), now)

    # --- What its hearer tells

    def stop(self) -> None:
        if self._state != "over":
            self._end()

    def pause(self) -> None:
        if self._state != "over" and not self._paused:
            self._paused = True
            self._wait(math.inf, self._provider.clock.now())

    def resume(self) -> None:
        if self._state != "over" and self._paused:
            self._paused = False
            self._wait(self._due_s(), self._provider.clock.now())

    def close(self) -> None:
        why: Lost = "closed" if self._state == "before" else "cut"
        self._lose(why, "the simulated provider is closed")

    def _lose(self, why: Lost, detail: str) -> None:
        self._end()
        self._heard.lost(why, detail)

    # --- What the loop tells

    def _turn(self) -> None:
        now = self._provider.clock.now()
        if now >= self._deadline_s:
            self._lose("late", "the deadline passed, and the simulated answer was not whole")
            return
        due_s = self._due_s()
        for _ in range(SIMULATED_TURN_PIECES):
            if due_s > now:
                break
            if not self._step():
                return
            due_s = self._due_s()
        self._wait(due_s, now)

    def _due_s(self) -> float:
        """When the next piece comes; never, where it was wished that it should not."""
        if self._paused or self.fault == "hang":
            return math.inf
        if self._half_way() and self.fault == "stall":
            return math.inf
        if self._state == "before" and self._answer.broken is not None:
            return self._start_s  # the head of a stream comes before its first token
        return self._start_s + self._tokens * self.token_s

    def _half_way(self) -> bool:
        """Whether a fault that is to strike in the middle strikes now: before the next piece of a
        stream, or in it, where it is all there is."""
        streamed = self._answer.broken is not None
        return self._state == "within" and (not streamed or 2 * self._tokens >= self._answer.tokens)

    def _step(self) -> bool:
        """One thing is told; False when it was the last."""
        if self._state == "before":
            lost = None if self.fault is None else LOST.get(self.fault)
            if lost is not None:
                self._lose(*lost)
                return False
            self._state = "within"
            self._heard.head(self._answer.status, self._answer.headers)
        elif self.fault in ("cut", "error") and self._half_way():
            self._break()
        else:
            self._heard.body(self._next.data)
            if not self._is_over():
                following = next(self._pieces, None)
                if following is None:
                    self._end()
                    self._heard.end()
                else:
                    self._next = following
                    self._tokens += following.tokens
        return not self._is_over()

    def _break(self) -> None:
        broken = self._answer.broken
        if self.fault == "cut":
            if broken is None:
                self._heard.body(self._next.data[: len(self._next.data) // 2])
            if not self._is_over():
                self._lose("cut", "closed within the simulated answer, as was to be")
        elif broken is not None:
            self._heard.body(broken)
            if not self._is_over():
                self._end()
                self._heard.end()

    def _is_over(self) -> bool:
        """Asked anew after each call of the hearer, who may have stopped in it."""
        return self._state == "over"

    def _wait(self, due_s: float, now: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        moment_s = min(due_s, self._deadline_s)
        loop = asyncio.get_running_loop()
        if moment_s <= now:
            self._handle = loop.call_soon(self._turn)
        elif moment_s < math.inf:
            self._handle = loop.call_later(max(SHORTEST_NAP_S, moment_s - now), self._turn)

    def _end(self) -> None:
        self._state = "over"
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._provider.running.discard(self)
