"""The owner's fronts: started, watched, restarted, drained. Decides nothing about requests."""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence

from paceline.access.keys import Key
from paceline.clock import Clock
from paceline.observe import log
from paceline.observe.board import Board
from paceline.processes.child import Child, how_it_ended
from paceline.processes.link import FDS_PER_MESSAGE, Link, pair
from paceline.processes.restart import Restart
from paceline.terms.limits import HANG_S, PING_S, START_S
from paceline.web.messages import (
    Adopt,
    Drain,
    KeysChanged,
    Leaving,
    Ping,
    Pong,
    Ready,
    Start,
    ToOwner,
    to_owner,
)

logger = log.get(__name__)

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
        self.ready = False
        self.started_s = 0.0
        self.heard_s = 0.0


class Fronts:
    """`on_change` is called when the number of ready fronts changes, or a front ends."""

    def __init__(
        self,
        count: int,
        orders: Callable[[int], Start],
        listener: socket.socket,
        on_change: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.slots = [Slot(index) for index in range(count)]
        self.restarts = 0
        self._orders = orders
        self._listener = listener
        self._on_change = on_change
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
        ready = [slot.link for slot in self.slots if slot.ready and slot.link]
        for start in range(0, len(connections), FDS_PER_MESSAGE):
            link = ready[self._next_adopter % len(ready)]
            self._next_adopter += 1
            link.send(Adopt(), [c.detach() for c in connections[start : start + FDS_PER_MESSAGE]])

    def tell_keys(self, keys: tuple[Key, ...]) -> None:
        for slot in self.slots:
            if slot.link is not None and slot.ready:
                slot.link.send(KeysChanged(keys))

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
        if self._draining:
            return
        ours, theirs = pair()
        slot.child = Child(FRONT_ARGUMENTS, theirs, lambda status: self._on_exit(slot, status))
        slot.link = Link(
            ours,
            to_owner,
            lambda message, _: self._on_message(slot, message),
            lambda: self._on_link_end(slot),
        )
        slot.started_s = slot.heard_s = self._clock.now()
        slot.link.send(
            self._orders(slot.index), [os.dup(self._listener.fileno()), os.dup(slot.board_fd)]
        )

    def _on_message(self, slot: Slot, message: ToOwner) -> None:
        slot.heard_s = self._clock.now()
        match message:
            case Ready():
                slot.ready = True
                took_ms = (slot.heard_s - slot.started_s) * 1e3
                logger.debug("front ready", front=slot.index, took_ms=round(took_ms))
                self._on_change()
            case Leaving():
                slot.ready = False
                self._on_change()
            case Pong():
                pass

    def _on_link_end(self, slot: Slot) -> None:
        """Its process has ended or is about to; a front without a link is of no use."""
        assert slot.child is not None
        slot.ready = False
        slot.child.kill()
        self._on_change()

    def _on_exit(self, slot: Slot, status: int) -> None:
        slot.ready = False
        if slot.link is not None:
            slot.link.close()
        slot.board.reset_gauges()
        self._on_change()
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
        """Once in PING_S: a front whose loop does not turn is killed, and so restarted."""
        now = self._clock.now()
        for slot in self.slots:
            if slot.child is None or slot.link is None or not slot.child.alive:
                continue
            silent_s = now - slot.heard_s
            if silent_s > (HANG_S if slot.ready else START_S):
                logger.error("a silent front is killed", front=slot.index, silent_s=round(silent_s))
                slot.child.kill()
            elif slot.ready:
                slot.link.send(Ping())
        self._timer = self._loop.call_later(PING_S, self._look_after)
