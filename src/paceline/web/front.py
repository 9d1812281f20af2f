"""One front process: accepts, answers, drains. Its parts come from `app.py`, its orders by link.

It never supervises anything, writes nothing to disk, and ends with its owner.
"""

import asyncio
import gc
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec

from paceline.access.gate import Gate
from paceline.access.keys import KeyRing
from paceline.clock import Clock
from paceline.gateway.upstream import Target
from paceline.net.server import Connections
from paceline.observe import log
from paceline.observe.looks import Found, Look
from paceline.processes.link import Link
from paceline.terms.errors import PacelineError
from paceline.terms.limits import FLUSH_S, LEAVE_S, OWNER_GONE_S
from paceline.terms.plan import InForce
from paceline.web.calls_api import CallView, Order, recent
from paceline.web.door import Door
from paceline.web.inference import Inference
from paceline.web.llm import Llm
from paceline.web.messages import (
    Adopt,
    Adopted,
    Apply,
    Calls,
    Drain,
    Drawn,
    EndProfile,
    Failed,
    Judged,
    KeysChanged,
    Leaving,
    Obeyed,
    Ping,
    Pong,
    Prepare,
    Profile,
    Profiled,
    Ready,
    Serves,
    SettingsChanged,
    Spans,
    Start,
    Steer,
    TargetNews,
    TellCalls,
    TellLabels,
    TellTraces,
    ToFront,
    Traces,
    TracesChanged,
    to_front,
)
from paceline.web.profiling import Profiling
from paceline.web.traces_api import TracesQuery, TraceView, kept
from paceline.web.tracing import Tracing

logger = log.get(__name__)

COLLECT = (50_000, 20, 100)
"""Objects made more than freed before the garbage collector looks, and how many looks at the young
make one at the older. `./bench collector` has what that is worth."""

Preparing = Callable[[InForce], Callable[[], None]]
"""Makes of a plan what puts it in force at once; raises where it cannot be served by."""

Wish = Callable[[Steer | Serves | TargetNews | Drawn | Spans], None]
"""Tells the owner what steering would move, what is served, which targets are left alone, which
rows were drawn, and where the time of requests went."""


class Parts(NamedTuple):
    door: Door
    gate: Gate
    inference: Inference
    clock: Clock
    llm: Llm
    tracing: Tracing
    tls: ssl.SSLContext | None = None


Build = Callable[[Start, int, int, Callable[[], str], Wish], Parts]
"""Makes the parts of a front from its orders, the memory of its board, the state directory, what
says why it is not ready, and where wishes go; the descriptors are its own."""


class Front:
    """Lives from the link's first message to its end, or to the end of a drain."""

    def __init__(self, link_end: socket.socket, build: Build) -> None:
        self._build = build
        self._started: asyncio.Future[tuple[Start, list[int]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._stop = asyncio.Event()
        self._owner_gone = False
        self._server_stop = asyncio.Event()
        self._adopting: set[asyncio.Task[None]] = set()
        self._connections: Connections | None = None
        self._gate: Gate | None = None
        self._parts: Parts | None = None
        self._newer_keys: KeyRing | None = None
        self._newer_settings: SettingsChanged | None = None
        self._newer_traces: TracesChanged | None = None
        self._orders: tuple[Start, list[int]] | None = None
        self._drain_s = 0.0
        self._plan: InForce | None = None
        self._profiling: Profiling | None = None
        self._preparing: Preparing | None = None
        self._prepared: tuple[InForce, Callable[[], None]] | None = None
        self._link: Link[ToFront] = Link(link_end, to_front, self._on_message, self._on_link_end)

    async def run(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop.set)
        orders = asyncio.ensure_future(self._started)
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((orders, stop), return_when=asyncio.FIRST_COMPLETED)
        if orders.done():
            start, (listener_fd, board_fd, directory_fd) = orders.result()
            try:
                parts = self._build(
                    start, board_fd, directory_fd, self._why_not_ready, self._link.send
                )
            except PacelineError as error:
                self._stop.set()
                self._link.send(Failed(error.as_fields()))
                await self._server_stop.wait()  # the owner has read it, and ends the link
                return
            await self._serve(start, socket.socket(fileno=listener_fd), parts)

    async def _serve(self, start: Start, listener: socket.socket, parts: Parts) -> None:
        self._parts = parts
        door, gate, inference, clock, llm, tracing, tls = parts
        self._gate = gate
        if self._newer_keys is not None:  # changed after its orders were written
            gate.ring = self._newer_keys
        if self._newer_settings is not None:
            self._log_as(self._newer_settings)
        if self._newer_traces is not None:
            self._trace_as(self._newer_traces)
        _settle()
        self._preparing = inference.prepare
        assert self._plan is not None
        inference.prepare(self._plan)()
        self._connections = connections = Connections(door, clock.now, clock.wall, door.hot, tls)
        await connections.listen(listener)
        self._link.send(Ready())
        inference.warm_on()
        await self._stop.wait()
        connections.stop_listening()  # the owner's doorkeeper, or another front, accepts
        self._link.send(Leaving())
        door.begin_drain(refuse=self._server_stops)
        connections.leave()
        if not self._server_stops:  # this front alone leaves, unless the server follows meanwhile
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_S):
                    await self._finished_or_stopped(door)
        if self._server_stops:
            door.begin_drain(refuse=True)
            drain_s = self._drain_s
            if self._owner_gone:
                drain_s = min(drain_s, OWNER_GONE_S)
            await door.finish(drain_s - 3 * FLUSH_S)
        else:
            await door.finish(0.0)
        await connections.closed(FLUSH_S)
        await llm.close()
        if self._profiling is not None:
            self._profiling.end()
        tracing.flush()
        self._link.close()

    async def _finished_or_stopped(self, door: Door) -> None:
        finished = asyncio.ensure_future(door.empty())
        stopped = asyncio.ensure_future(self._server_stop.wait())
        try:
            await asyncio.wait((finished, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished.cancel()
            stopped.cancel()

    @property
    def _server_stops(self) -> bool:
        return self._server_stop.is_set()

    def _why_not_ready(self) -> str:
        if self._owner_gone:
            return "the owner process is gone"
        return "draining" if self._stop.is_set() else ""

    def _on_message(self, message: ToFront, fds: list[int]) -> None:
        match message:
            case Start():
                self._orders = (message, fds)
                self._drain_s = message.settings.drain_s
            case SettingsChanged(settings):
                self._newer_settings = message
                self._drain_s = settings.drain_s
                self._log_as(message)
            case TracesChanged():
                self._newer_traces = message
                if self._parts is not None:
                    self._trace_as(message)
            case Prepare(plan):
                self._link.send(Obeyed(self._prepare(plan)))
            case Apply(plan):
                self._link.send(Obeyed(self._apply(plan)))
            case KeysChanged(keys):
                self._newer_keys = KeyRing(keys)
                if self._gate is not None:
                    self._gate.ring = self._newer_keys
            case Adopt():
                self._link.send(Adopted())
                for fd in fds:
                    self._adopt(socket.socket(fileno=fd))
            case Drain():
                self._server_stop.set()
                self._stop.set()
            case TargetNews(provider, model, until_s, why):
                if self._parts is not None:
                    router, now = self._parts.llm.relay.router, self._parts.clock.now()
                    router.hear(Target(provider, model), until_s, why, now)
            case TellCalls(order, most):
                self._link.send(Calls(self._calls(order, most)))
            case Profile(look, model):
                self._profile(look, model)
            case EndProfile():
                if self._profiling is not None:
                    self._profiling.end()
            case TellLabels(model, ids, labels):
                parts = self._parts  # none while it is starting, and has answered nothing
                judged = () if parts is None else parts.inference.judge(model, ids, labels)
                self._link.send(Judged(tuple(judged)))
            case TellTraces(query):
                self._link.send(Traces(self._traces(query)))
            case Ping():
                self._link.send(Pong())

    def _calls(self, order: Order, most: int) -> tuple[CallView, ...]:
        if self._parts is None:  # it is starting, and has answered none
            return ()
        clock, timelines = self._parts.clock, self._parts.llm.relay.timelines
        return recent(timelines, order, most, clock.now(), clock.wall())

    def _profile(self, look: Look, model: str) -> None:
        assert self._parts is not None  # only a ready front is asked
        if self._profiling is None:
            self._profiling = Profiling(self._parts.clock.now)
        try:
            elsewhere = self._parts.inference.look_into(model) if model else None
        except PacelineError as error:
            told = msgspec.json.encode(Found(error=error.as_fields()))
            self._link.send(Profiled(msgspec.Raw(told)))
            return
        self._profiling.begin(look, lambda found: self._link.send(Profiled(found)), elsewhere)

    def _traces(self, query: TracesQuery) -> tuple[TraceView, ...]:
        if self._parts is None:
            return ()
        clock, inference = self._parts.clock, self._parts.inference
        return kept(inference.timelines(), query, clock.now(), clock.wall())

    def _log_as(self, changed: SettingsChanged) -> None:
        log.change(changed.settings.log_level, access=changed.settings.access_log)

    def _trace_as(self, changed: TracesChanged) -> None:
        assert self._parts is not None
        tracing, llm = self._parts.tracing, self._parts.llm
        tracing.sample = changed.sample
        llm.tracing = tracing if changed.exports else None
        on_keep = tracing.kept if changed.exports else None
        self._parts.inference.follow_traces(changed.sample, on_keep)

    def _prepare(self, plan: InForce) -> str:
        """Why this front cannot serve by it; empty when it can, and is ready to at once."""
        assert self._preparing is not None  # only a ready front is asked
        try:
            self._prepared = (plan, self._preparing(plan))
        except PacelineError as error:
            return str(error)
        except Exception as error:  # a bug of ours; the owner waits for an answer all the same
            logger.exception("a plan could not be prepared", version=plan.version)
            return f"an unexpected error inside Paceline: {type(error).__name__}"
        return ""

    def _apply(self, plan: InForce) -> str:
        self._plan = plan
        if self._preparing is None:  # it is starting, and will serve by the newest it has
            if not self._started.done():
                assert self._orders is not None
                self._started.set_result(self._orders)
            return ""
        if self._prepared is None or self._prepared[0] != plan:
            refusal = self._prepare(plan)
            if refusal:
                return refusal
        assert self._prepared is not None
        _, serve = self._prepared
        self._prepared = None
        serve()
        return ""

    def _adopt(self, accepted: socket.socket) -> None:
        assert self._connections is not None
        task = asyncio.ensure_future(self._connections.adopt(accepted))
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    def _on_link_end(self) -> None:
        if not self._stop.is_set():
            logger.warning("the owner process is gone; finishing what is in hand")
        self._owner_gone = True
        self._server_stop.set()
        self._stop.set()


def _settle() -> None:
    """What is there now stays for the life of the process: the garbage collector, which was off
    since it began, need not look at it, and looks less often at what comes and goes, for hardly
    any of that is in cycles."""
    gc.freeze()
    gc.set_threshold(*COLLECT)
    gc.enable()
