"""Inference over HTTP: from a request to a model's answer and back, measured.

The codecs (`serve/v2`, `serve/predict`) know the bodies, a runner for each model (`serve/runner`)
queues and runs; here are names, deadlines, priorities and counting.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from paceline.clock import Clock
from paceline.observe.board import Board, Counter
from paceline.serve import predict as plain
from paceline.serve import v2
from paceline.serve.knobs import MAX_IN_FLIGHT, Rules, rules
from paceline.serve.model import Model, ModelSpec, Tensors
from paceline.serve.runner import Runner
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
from paceline.terms.limits import DEADLINE_S
from paceline.terms.metric import PLAN_VERSION, REQUEST_SECONDS, REQUESTS
from paceline.terms.plan import InForce
from paceline.terms.request import PRIORITIES, Priority, Request
from paceline.web.body import read_body
from paceline.web.messages import Steer

TIMEOUT_HEADER = "x-timeout-ms"
PRIORITY_HEADER = "x-priority"
PLAN_HEADER = "x-plan-version"


class Work(NamedTuple):
    """A decoded body: what to run, and how to say the result."""

    request: Request
    inputs: Tensors
    rows: int
    encode: Callable[[Tensors], bytes]


Decode = Callable[[bytes, ModelSpec, Request, float], Work]
"""From body, model, request as its headers describe it, and when it began."""


class _Serving(NamedTuple):
    """How this front serves now: replaced as a whole, so that no request sees half a plan."""

    version: str
    rules: Mapping[str, Rules]


class Inference:
    """Runs requests on the models of this front by the plan, and records them. Nothing is served
    before the first plan is there. `wish` hears what the steering of a model would move."""

    def __init__(
        self,
        models: Mapping[str, Model],
        board: Board,
        clock: Clock,
        front: int = 0,
        wish: Callable[[Steer], None] | None = None,
    ) -> None:
        self._models = models
        self._board = board
        self._clock = clock
        self._serving = _Serving("0", {})
        self._in_hand = dict.fromkeys(models, 0)
        self._plan_version = board.gauge(PLAN_VERSION, str(front))
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._seconds = {name: board.sketch(REQUEST_SECONDS, name) for name in models}
        self._runners = {
            name: Runner(
                model, clock, Tally(board, name, front), wish=wish and _wish_of(name, wish)
            )
            for name, model in models.items()
        }

    def warm(self) -> None:
        """Tries the models; nothing is served meanwhile."""
        for runner in self._runners.values():
            runner.warm()

    def prepare(self, plan: InForce) -> Callable[[], None]:
        """What puts the plan in force; raises where this front cannot serve by it."""
        serving = _Serving(str(plan.version), {name: rules(name, plan) for name in self._models})

        def serve() -> None:
            self._serving = serving
            for name, each in serving.rules.items():
                self._runners[name].tune(each)
            self._plan_version.set(plan.version)

        return serve

    async def infer(self, http: HttpRequest) -> Response:
        return await self._answer(http, _decode_v2)

    async def predict(self, http: HttpRequest) -> Response:
        return await self._answer(http, _decode_plain)

    async def _answer(self, http: HttpRequest, decode: Decode) -> Response:
        started = self._clock.now()
        name = http.path_params["model"]
        model = self._models.get(name)
        if model is None:
            raise _unknown_model(name, self._models)
        version, by_model = self._serving
        rules = by_model[name]
        request = Request(
            id=http.scope["state"]["request_id"],
            model=name,
            priority=_priority(http, rules.priority),
            deadline_s=started + _timeout_s(http, rules.deadline_s),
        )
        try:
            self._enter(name, rules)
            try:
                body = await read_body(http, request.deadline_s - started)
                work = decode(body, model.spec, request, started)
                request = work.request
                answer = await self._run(work, rules)
            finally:
                self._in_hand[name] -= 1
        except PacelineError as error:
            self._count(request, error.http)
            raise
        self._count(request, 200)
        self._seconds[name].record(self._clock.now() - started)
        return Response(answer, media_type="application/json", headers={PLAN_HEADER: version})

    def _enter(self, name: str, rules: Rules) -> None:
        """The model takes this request, or says why not."""
        if not rules.enabled:
            raise Unavailable(
                f"{name} is switched off",
                value=name,
                remedy=f"`paceline plan set {name}.enabled true` switches it on.",
            )
        if self._in_hand[name] >= rules.max_in_flight:
            raise Overloaded(
                f"this front holds as many requests to {name} as it may",
                value=rules.max_in_flight,
                remedy=f"Send fewer at a time, or turn its knob {MAX_IN_FLIGHT.name} up.",
            )
        self._in_hand[name] += 1

    async def _run(self, work: Work, rules: Rules) -> bytes:
        request = work.request
        if work.rows > rules.max_rows:
            raise BadInput(
                f"a request to {request.model} may bring {rules.max_rows} rows",
                value=work.rows,
                remedy="Send several requests, or turn its knob max_rows up.",
            )
        outputs = await self._runners[request.model].run(
            work.inputs, work.rows, request.priority, request.deadline_s
        )
        return work.encode(outputs)

    def _count(self, request: Request, status: int) -> None:
        key = (request.model, request.priority, status)
        if key not in self._counters:
            self._counters[key] = self._board.counter(
                REQUESTS, request.model, request.priority, str(status)
            )
        self._counters[key].add()


def _decode_v2(body: bytes, spec: ModelSpec, request: Request, started: float) -> Work:
    asked = v2.decode(body, spec)
    deadline_s = request.deadline_s
    if asked.timeout_s is not None:
        deadline_s = min(deadline_s, started + asked.timeout_s)
    priority = asked.priority or request.priority
    request = msgspec.structs.replace(request, priority=priority, deadline_s=deadline_s)
    return Work(request, asked.inputs, asked.rows, lambda outputs: v2.encode(spec, asked, outputs))


def _decode_plain(body: bytes, spec: ModelSpec, request: Request, started: float) -> Work:
    asked = plain.decode(body, spec)
    return Work(
        request, asked.inputs, asked.rows, lambda outputs: plain.encode(spec, asked, outputs)
    )


def _unknown_model(name: str, models: Mapping[str, Model]) -> UnknownModel:
    near = difflib.get_close_matches(name, models, n=1)
    hint = f"Did you mean {near[0]}? " if near else ""
    return UnknownModel(
        "no model has this name", value=name, remedy=f"{hint}Models here: {', '.join(models)}."
    )


def _priority(http: HttpRequest, otherwise: Priority) -> Priority:
    given = http.headers.get(PRIORITY_HEADER, otherwise)
    for priority in PRIORITIES:
        if given == priority:
            return priority
    raise BadRequest(
        f"{PRIORITY_HEADER} names no priority",
        value=given,
        remedy=f"Use one of {', '.join(PRIORITIES)}, or leave the header away.",
    )


def _timeout_s(http: HttpRequest, otherwise_s: float) -> float:
    given = http.headers.get(TIMEOUT_HEADER)
    if given is None:
        return otherwise_s
    try:
        timeout_ms = float(given)
    except ValueError:
        timeout_ms = -1.0
    if not 0 < timeout_ms < float("inf"):
        raise BadRequest(
            f"{TIMEOUT_HEADER} is not a positive number of milliseconds",
            value=given,
            remedy=f"Send for example {TIMEOUT_HEADER}: 250, or leave the header away.",
        )
    return min(timeout_ms / 1e3, DEADLINE_S)


def _wish_of(name: str, wish: Callable[[Steer], None]) -> Callable[[Move], None]:
    """Of one model: its moves with the addresses of the Plan."""

    def wished(move: Move) -> None:
        wish(Steer(f"{name}.{move.knob}", move.value, move.reason, (move.expects,)))

    return wished
