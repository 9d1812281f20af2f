"""Inference over HTTP: from a request to a model's answer and back, measured.

The codecs (`serve/v2`, `serve/predict`) know the bodies; here are names, deadlines, priorities and
counting. Runs the model in place: a front's models are those whose call is short.
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
from paceline.serve.model import Model, ModelSpec, Tensors
from paceline.terms.errors import BadRequest, PacelineError, UnknownModel
from paceline.terms.limits import DEADLINE_S
from paceline.terms.metric import MODEL_SECONDS, REQUEST_SECONDS, REQUESTS, ROWS
from paceline.terms.request import PRIORITIES, Priority, Request
from paceline.web.body import read_body, too_late

TIMEOUT_HEADER = "x-timeout-ms"
PRIORITY_HEADER = "x-priority"


class Work(NamedTuple):
    """A decoded body: what to run, and how to say the result."""

    request: Request
    inputs: Tensors
    rows: int
    encode: Callable[[Tensors], bytes]


Decode = Callable[[bytes, ModelSpec, Request, float], Work]
"""From body, model, request as its headers describe it, and when it began."""


class Inference:
    """Runs requests on the models of this front, and records them."""

    def __init__(self, models: Mapping[str, Model], board: Board, clock: Clock) -> None:
        self._models = models
        self._board = board
        self._clock = clock
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._seconds = {name: board.sketch(REQUEST_SECONDS, name) for name in models}
        self._run_seconds = {name: board.sketch(MODEL_SECONDS, name) for name in models}
        self._rows = {name: board.counter(ROWS, name) for name in models}

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
        request = Request(
            id=http.scope["state"]["request_id"],
            model=name,
            priority=_priority(http),
            deadline_s=started + _timeout_s(http),
        )
        try:
            body = await read_body(http, request.deadline_s - started)
            work = decode(body, model.spec, request, started)
            request = work.request
            answer = self._run(model, work)
        except PacelineError as error:
            self._count(request, error.http)
            raise
        self._count(request, 200)
        self._seconds[name].record(self._clock.now() - started)
        return Response(answer, media_type="application/json")

    def _run(self, model: Model, work: Work) -> bytes:
        before = self._clock.now()
        if before >= work.request.deadline_s:
            raise too_late()
        outputs = model.run(work.inputs)
        self._run_seconds[work.request.model].record(self._clock.now() - before)
        self._rows[work.request.model].add(work.rows)
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
    priority = request.priority if asked.priority == "normal" else asked.priority
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


def _priority(http: HttpRequest) -> Priority:
    given = http.headers.get(PRIORITY_HEADER, "normal")
    for priority in PRIORITIES:
        if given == priority:
            return priority
    raise BadRequest(
        f"{PRIORITY_HEADER} names no priority",
        value=given,
        remedy=f"Use one of {', '.join(PRIORITIES)}, or leave the header away.",
    )


def _timeout_s(http: HttpRequest) -> float:
    given = http.headers.get(TIMEOUT_HEADER)
    if given is None:
        return DEADLINE_S
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
