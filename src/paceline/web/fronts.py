"""The owner's fronts: started, watched, restarted, drained. Decides nothing about requests."""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import msgspec

from paceline.clock import Clock
from paceline.observe import log
from paceline.observe.board import Board
from paceline.observe.looks import Look
from paceline.processes.child import Child, how_it_ended
from paceline.processes.link import FDS_PER_MESSAGE, Link, pair
from paceline.processes.restart import Restart
from paceline.serve.judging import Label, Verdict
from paceline.serve.model import TensorSpec
from paceline.serve.samples import Rows
from paceline.terms.errors import (
    Conflict,
    NotFound,
    PacelineError,
    PlanRefused,
    Unavailable,
    from_fields,
)
from paceline.terms.limits import (
    EXIT_S,
    MISSED_PINGS_HUNG,
    MISSED_PINGS_NOT_READY,
    OBEY_S,
    PING_S,
    START_S,
)
from paceline.terms.plan import InForce
from paceline.web.calls_api import CallView, Order
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
    ToOwner,
    Traces,
    TracesChanged,
    to_owner,
)
from paceline.web.traces_api import TracesQuery, TraceView

logger = log.get(__name__)

Told = TypeVar("Told", Calls, Traces, Judged)
"""What every front is asked for at once, and answers in its turn."""

Takes = Mapping[str, tuple[TensorSpec, ...]]
"""The inputs of each model, as the fronts told."""

FRONT_ARGUMENTS = ("-m", "paceline", "_front")


class Slot:
    """A front's place: its board outlives the processes that take turns in it."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.board_fd = Board.make()
        self.board = Board(self.board_fd)
        self.restart = Restart()
        self.child: Child | None = None
        self.link: Link[ToOwner] | None = None
        self.accepts = False
        self.missed_pings = 0
        self.silent = False
        self.started_s = 0.0
        self.handed_over: deque[list[socket.socket]] = deque()
        self.asked: deque[asyncio.Future[str]] = deque()
        self.told: dict[type, deque[asyncio.Future[Any]]] = {}
        """of each kind of `Told` those that were asked for"""
        self.profiled: asyncio.Future[msgspec.Raw] | None = None

    @property
    def ready(self) -> bool:
        return self.accepts and self.missed_pings < MISSED_PINGS_NOT_READY


class Fronts:
    """`shared` is what every front gets beside its board: listening socket and state directory.
    `plan` is what they serve by. `on_change` is called when the number of ready fronts may have
    changed; `on_orphans` gets the connections that a front was handed and died without taking,
    `on_steer` what a front wishes, `on_failed` why a front cannot serve at all, `on_drawn` the rows
    that one drew, `on_spans` what is for an OTLP receiver."""

    def __init__(
        self,
        count: int,
        orders: Callable[[int], Start],
        shared: tuple[int, int],
        plan: InForce,
        on_change: Callable[[], None],
        on_orphans: Callable[[list[socket.socket]], None],
        on_steer: Callable[[Steer, int], None],
        clock: Clock,
        on_failed: Callable[[int, PacelineError], None] = lambda front, error: None,
        on_drawn: Callable[[Sequence[Rows]], None] = lambda rows: None,
        on_spans: Callable[[Spans], None] = lambda spans: None,
    ) -> None:
        self.slots = [Slot(index) for index in range(count)]
        self.restarts = 0
        self.takes: Takes = {}
        self.how: Mapping[str, str] = {}
        """Where batches of each model run, as the fronts told."""
        self._orders = orders
        self._shared = shared
        self._plan = plan
        self._on_change = on_change
        self._on_orphans = on_orphans
        self._on_steer = on_steer
        self._on_failed = on_failed
        self._on_drawn = on_drawn
        self._on_spans = on_spans
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._draining = False
        self._next_adopter = 0
        self._timer: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()

    @property
    def ready(self) -> int:
        return sum(slot.ready for slot in self.slots)

    @property
    def pids(self) -> list[int]:
        return [slot.child.pid for slot in self.slots if slot.child and slot.child.alive]

    def start(self) -> None:
        for slot in self.slots:
            self._start(slot)
        self._timer = self._loop.call_later(PING_S, self._look_after)

    def hand_over(self, connections: Sequence[socket.socket]) -> None:
        """Accepted connections, to the ready fronts in turn."""
        ready = [slot for slot in self.slots if slot.ready]
        for first in range(0, len(connections), FDS_PER_MESSAGE):
            slot = ready[self._next_adopter % len(ready)]
            self._next_adopter += 1
            handed = list(connections[first : first + FDS_PER_MESSAGE])
            slot.handed_over.append(handed)
            assert slot.link is not None
            slot.link.send(Adopt(), [each.fileno() for each in handed])

    def tell(self, news: KeysChanged | SettingsChanged | TracesChanged) -> None:
        """To every front that has its orders; one that is starting reads this before it accepts."""
        for slot in self.slots:
            if slot.link is not None:
                slot.link.send(news)

    async def prepare(self, plan: InForce) -> None:
        """Asks the ready fronts whether they could serve by it; the others will have to."""
        answers = [(slot, self._ask(slot, Prepare(plan))) for slot in self.slots if slot.ready]
        await self._answered([answer for _, answer in answers])
        for slot, answer in answers:
            slot.silent = not answer.done()
            if answer.done() and answer.result():
                raise PlanRefused(
                    f"front {slot.index} cannot serve by this plan: {answer.result()}",
                    remedy="Nothing has changed. Choose another value.",
                )

    async def apply(self, plan: InForce) -> None:
        """All fronts take it, those that are starting too; returns when the ready ones have."""
        self._plan = plan
        waited_for = []
        for slot in self.slots:
            if slot.child is None or slot.link is None or slot.link.closed:
                continue
            answer = self._ask(slot, Apply(plan))
            answer.add_done_callback(partial(_must_obey, slot.index, slot.child))
            if slot.ready and not slot.silent:  # no caller waits twice for one that hangs
                waited_for.append(answer)
        await self._answered(waited_for)

    async def calls(self, order: Order, most: int) -> list[CallView]:
        """The LLM calls that the fronts remember, up to so many of each."""
        told = await self._told(TellCalls(order, most), Calls)
        return [call for each in told for call in each.calls]

    async def traces(self, query: TracesQuery) -> list[TraceView]:
        """The timelines of inference requests that they keep, likewise."""
        told = await self._told(TellTraces(query), Traces)
        return [trace for each in told for trace in each.traces]

    async def judge(
        self, model: str, ids: Sequence[str], labels: Sequence[Label]
    ) -> list[tuple[int, Verdict]]:
        """Of those that a front remembers; each front is told all, for any of them may have
        answered."""
        told = await self._told(TellLabels(model, tuple(ids), tuple(labels)), Judged)
        return [verdict for each in told for verdict in each.verdicts]

    async def _told(
        self, question: TellCalls | TellTraces | TellLabels, kind: type[Told]
    ) -> list[Told]:
        """What each front answers; nothing of one that hangs, or ends meanwhile."""
        answers: list[asyncio.Future[Told | None]] = []
        for slot in self.slots:
            if slot.ready and not slot.silent and slot.link is not None:
                answer: asyncio.Future[Told | None] = self._loop.create_future()
                slot.told.setdefault(kind, deque()).append(answer)
                slot.link.send(question)
                answers.append(answer)
        if answers:
            await asyncio.wait(answers, timeout=OBEY_S)
        told = (each.result() for each in answers if each.done())
        return [each for each in told if each is not None]

    def profile(self, index: int, look: Look, model: str = "") -> "asyncio.Future[msgspec.Raw]":
        """What that front finds when it looks at itself, or at its process of a model, in JSON, or
        that it ended first."""
        if index >= len(self.slots):
            raise NotFound(
                "there is no such front",
                value=index,
                remedy=f"They are numbered from 0 to {len(self.slots) - 1}.",
            )
        slot = self.slots[index]
        if slot.profiled is not None:
            raise Conflict(
                f"front {index} is being profiled already",
                remedy="Wait for the end of that profile, or end it.",
            )
        if not slot.ready or slot.link is None:
            raise Unavailable(f"front {index} is not ready", remedy="Try again in a moment.")
        slot.profiled = self._loop.create_future()
        slot.link.send(Profile(look, model))
        return slot.profiled

    def end_profile(self, index: int) -> None:
        slot = self.slots[index]
        if slot.profiled is not None and slot.link is not None:
            slot.link.send(EndProfile())

    def _ask(self, slot: Slot, question: Prepare | Apply) -> asyncio.Future[str]:
        """The front's refusal; empty when it obeys, or is gone."""
        assert slot.link is not None
        answer: asyncio.Future[str] = self._loop.create_future()
        slot.asked.append(answer)
        slot.link.send(question)
        return answer

    async def _answered(self, answers: Sequence[asyncio.Future[str]]) -> None:
        if answers:
            await asyncio.wait(answers, timeout=OBEY_S)

    async def drain(self, within_s: float) -> None:
        """Asks every front to finish; kills those that do not in time."""
        self._draining = True
        if self._timer is not None:
            self._timer.cancel()
        for slot in self.slots:
            if slot.link is not None:
                slot.link.send(Drain())
        if not self.pids:
            return
        try:
            async with asyncio.timeout(within_s):
                await self._all_gone.wait()
        except TimeoutError:
            logger.error("fronts did not stop in time and are killed", pids=self.pids)
            self.kill()
            await self._all_gone.wait()

    def kill(self) -> None:
        for slot in self.slots:
            if slot.child is not None:
                slot.child.kill()

    def _start(self, slot: Slot) -> None:
        """Starts a front, now or, when the system refuses, a little later and again and again."""
        if self._draining:
            return
        try:
            self._spawn(slot)
        except OSError as error:
            wait_s = slot.restart.died(0.0) or PING_S
            logger.error(
                "a front cannot be started", front=slot.index, error=str(error), wait_s=wait_s
            )
            self._loop.call_later(wait_s, self._start, slot)

    def _spawn(self, slot: Slot) -> None:
        orders = self._orders(slot.index)
        ours, theirs = pair()
        try:
            child = Child(FRONT_ARGUMENTS, theirs, lambda status: self._on_exit(slot, status))
        except OSError:
            ours.close()
            theirs.close()
            raise
        slot.child = child
        slot.missed_pings = 0
        slot.silent = False
        slot.started_s = self._clock.now()
        slot.link = Link(
            ours,
            to_owner,
            lambda message, _: self._on_message(slot, message),
            lambda: self._on_link_end(slot, child),
        )
        listener_fd, directory_fd = self._shared
        slot.link.send(orders, (listener_fd, slot.board_fd, directory_fd))
        self._ask(slot, Apply(self._plan))

    def _on_message(self, slot: Slot, message: ToOwner) -> None:
        was_ready = slot.ready
        slot.missed_pings = 0
        slot.silent = False
        match message:
            case Ready():
                slot.accepts = True
                took_ms = (self._clock.now() - slot.started_s) * 1e3
                logger.debug("front ready", front=slot.index, took_ms=round(took_ms))
            case Serves(takes, how):
                self.takes, self.how = takes, how
            case Failed(error):
                self._failed(slot, from_fields(error))
            case Adopted():
                for connection in slot.handed_over.popleft():
                    connection.close()
            case Obeyed(refusal):
                slot.asked.popleft().set_result(refusal)
            case Calls() | Traces() | Judged():
                slot.told[type(message)].popleft().set_result(message)
            case Profiled(found):
                if slot.profiled is not None:
                    slot.profiled.set_result(found)
                    slot.profiled = None
            case Spans():
                self._on_spans(message)
            case TargetNews():
                for other in self.slots:
                    if other is not slot and other.ready and other.link is not None:
                        other.link.send(message)
            case Drawn(rows):
                self._on_drawn(rows)
            case Steer():
                self._on_steer(message, slot.index)
            case Leaving():
                slot.accepts = False
                slot.started_s = self._clock.now()  # it has START_S to finish, as it had to begin
            case Pong():
                pass
        if slot.ready != was_ready:
            self._on_change()

    def _failed(self, slot: Slot, error: PacelineError) -> None:
        assert slot.link is not None
        assert slot.child is not None
        slot.link.close()
        self._on_link_end(slot, slot.child)
        self._on_failed(slot.index, error)

    def _on_link_end(self, slot: Slot, child: Child) -> None:
        """Its process has ended or is about to; a front without a link is of no use."""
        slot.accepts = False
        for handed in slot.handed_over:
            self._on_orphans(handed)
        slot.handed_over.clear()
        for answer in slot.asked:
            answer.set_result("")
        slot.asked.clear()
        for told in chain.from_iterable(slot.told.values()):
            told.set_result(None)
        slot.told.clear()
        if slot.profiled is not None:
            slot.profiled.set_exception(
                Unavailable(
                    f"front {slot.index} ended while it was profiled",
                    remedy="Its successor can be profiled; the log says how it ended.",
                )
            )
            slot.profiled = None
        self._on_change()
        self._loop.call_later(EXIT_S, child.kill)

    def _on_exit(self, slot: Slot, status: int) -> None:
        if slot.link is not None and not slot.link.closed:
            slot.link.close()
            assert slot.child is not None
            self._on_link_end(slot, slot.child)
        slot.board.reset_gauges()
        if self._draining:
            if not self.pids:
                self._all_gone.set()
            return
        wait_s = slot.restart.died(self._clock.now() - slot.started_s)
        self.restarts += 1
        logger.error(
            "a front ended and is started again",
            front=slot.index,
            how=how_it_ended(status),
            wait_s=wait_s,
        )
        self._loop.call_later(wait_s, self._start, slot)

    def _look_after(self) -> None:
        """Once in PING_S: a front whose loop does not turn is killed, and so restarted.

        Counted are pings without an answer, not seconds: when this process itself stood still, no
        front is to blame.
        """
        now = self._clock.now()
        for slot in self.slots:
            if slot.child is None or slot.link is None or not slot.child.alive:
                continue
            was_ready = slot.ready
            if slot.accepts:
                slot.missed_pings += 1  # until it answers the ping that goes out now
                slot.link.send(Ping())
            late = not slot.accepts and now - slot.started_s > START_S
            if late or slot.missed_pings > MISSED_PINGS_HUNG:
                logger.error("a front that does not answer is killed", front=slot.index)
                slot.child.kill()
            if slot.ready != was_ready:
                logger.warning("a front does not answer", front=slot.index)
                self._on_change()
        self._timer = self._loop.call_later(PING_S, self._look_after)


def _must_obey(index: int, child: Child, answer: asyncio.Future[str]) -> None:
    """However late the answer comes: a front that serves by another plan must not go on."""
    if not answer.cancelled() and answer.result():
        logger.error(
            "a front that cannot serve by the plan is killed", front=index, why=answer.result()
        )
        child.kill()
