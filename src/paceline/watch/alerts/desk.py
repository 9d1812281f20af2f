"""Alerts end to end: looks at the past, decides, writes, and has it told.

`look` is called once a second, and never waits; what it decides goes to the journal, and from there
to the channels. People acknowledge and silence here. Made and called by the owner.
"""

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from paceline.clock import Chance, Clock
from paceline.journal.entries import AlertMoved, AlertsTold, Body, Silenced, SilenceEnded
from paceline.journal.fold import State
from paceline.journal.journal import Journal
from paceline.observe import log
from paceline.terms.alert import AlertBook, Silence
from paceline.terms.errors import LimitReached, NotFound, PacelineError
from paceline.terms.limits import ALERT_AGAIN_S, SILENCES
from paceline.terms.measurement import Measurement
from paceline.terms.metric import ALERT_NOTICES, ALERTS_OPEN
from paceline.watch.alerts import life
from paceline.watch.alerts.latch import Bounds
from paceline.watch.alerts.life import Ages, Policy
from paceline.watch.alerts.postman import Postman, Send
from paceline.watch.alerts.watchdog import Seen, Watchdog
from paceline.watch.past import Past

logger = log.get(__name__)

WHO = "paceline"

NOTHING_SEEN = Seen({}, frozenset(), ())


class Alerts:
    """Lives on the owner's loop between `start` and `close`. `senders` are the channels by name;
    `server` is what they hear who speaks."""

    def __init__(
        self,
        journal: Journal,
        bounds: Mapping[str, Bounds | None],
        policy: Policy,
        senders: Mapping[str, Send],
        models: Sequence[str],
        server: str,
        clock: Clock,
        chance: Chance,
    ) -> None:
        self._journal = journal
        self._policy = policy
        self._clock = clock
        self._watchdog = Watchdog(bounds, models, journal.state.alerts)
        self._ages = Ages()
        self._seen = NOTHING_SEEN
        self._told: dict[tuple[str, str], int] = {}
        self._server = server
        self._chance = chance
        self._senders = dict(senders)
        self._postmen = {name: self._postman(name) for name in senders}
        self._rounds: dict[str, asyncio.Task[None]] = {}
        """of the postmen that are at work"""
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing = False
        self._again_s = float("-inf")

    def start(self) -> None:
        for name, postman in self._postmen.items():
            self._rounds[name] = self._begin(postman.run())
        self._let_go()

    async def follow(
        self, bounds: Mapping[str, Bounds | None], policy: Policy, senders: Mapping[str, Send]
    ) -> None:
        """Other settings from now on. Who is told by a way that is the same goes on; a message on
        a way that is not is told again by the new one."""
        if self._closed:
            return
        self._watchdog.follow(bounds, self.book)
        self._policy = policy
        changed = {name for name, send in self._senders.items() if senders.get(name) != send}
        rounds = [self._rounds.pop(name) for name in changed if name in self._rounds]
        for task in rounds:
            task.cancel()
        await asyncio.gather(*rounds, return_exceptions=True)
        self._senders = dict(senders)
        self._postmen = {
            name: self._postman(name)
            if name in changed or name not in self._postmen
            else self._postmen[name]
            for name in senders
        }
        if not self._closed:
            for name, postman in self._postmen.items():
                if name not in self._rounds:
                    self._rounds[name] = self._begin(postman.run())
            self._let_go()

    async def close(self) -> None:
        """What is not told by now is owed, and told by the next server."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def postmen(self) -> tuple[Postman, ...]:
        return tuple(self._postmen.values())

    @property
    def book(self) -> AlertBook:
        return self._journal.state.alerts

    @property
    def pending(self) -> tuple[str, ...]:
        """Alerts that there will be, if it goes on."""
        return tuple(each for each in self._seen.pending if each not in self.book.alerts)

    def look(self, past: Past, now: float) -> None:
        """Once a second. While the last look is still being written nothing new is decided."""
        state = self._journal.state
        self._seen = self._watchdog.look(past, state.goals, now)
        if self._writing or now < self._again_s:
            return
        self._ages.turn(now, self._clock.wall(), state.alerts)
        if self._decided(state):
            self._writing = True
            self._begin(self._write(now))

    async def acknowledge(self, alert_id: str, who: str, note: str) -> bool:
        """Whether it was not so already."""

        def decided(state: State) -> Sequence[Body]:
            moved = life.acknowledged(state.alerts, alert_id, who, note)
            return [] if moved is None else [moved]

        return bool(await self._journal.write(decided, who))

    async def silence(self, matches: str, lasts_s: float, who: str, reason: str) -> Silence:
        now_unix_s = self._clock.wall()
        made: list[Silence] = []

        def decided(state: State) -> Sequence[Body]:
            if len(state.alerts.silences) >= SILENCES:
                raise LimitReached(
                    "as many silences hold as may",
                    value=SILENCES,
                    remedy="End one, or silence more alerts with one by a `*`.",
                )
            until_unix_s = now_unix_s + lasts_s
            made.append(Silence(state.seq + 1, matches, now_unix_s, until_unix_s, who, reason))
            return [Silenced(made[-1])]

        self._ages.s("silence", now_unix_s)
        await self._journal.write(decided, who)
        return made[-1]

    async def end_silence(self, silence: int, who: str) -> Silence:
        ended: list[Silence] = []

        def decided(state: State) -> Sequence[Body]:
            ended.extend(each for each in state.alerts.silences if each.id == silence)
            if not ended:
                raise NotFound(
                    "there is no such silence",
                    value=silence,
                    remedy="`paceline alerts` lists those that hold.",
                )
            return [SilenceEnded(silence, ended[-1].matches)]

        await self._journal.write(decided, who)
        return ended[-1]

    def measure(self) -> list[Measurement]:
        """For `/metrics`."""
        opened = {"warning": 0, "critical": 0}
        for alert in self.book.alerts.values():
            opened[alert.severity] += alert.open
        return [
            *(Measurement(ALERTS_OPEN, (name,), float(count)) for name, count in opened.items()),
            *(Measurement(ALERT_NOTICES, key, float(count)) for key, count in self._told.items()),
        ]

    def _decided(self, state: State) -> list[Body]:
        book, wall = state.alerts, self._clock.wall()
        ended = [*life.over(book, self._ages, wall)]
        left = tuple(each for each in book.silences if each not in ended)
        heard = msgspec.structs.replace(book, silences=left) if ended else book
        return [
            *(SilenceEnded(each.id, each.matches) for each in ended),
            *life.moves(
                heard, self._seen.findings, self._seen.unknown, self._policy, self._ages, wall
            ),
        ]

    async def _write(self, now: float) -> None:
        try:
            entries = await self._journal.write(self._decided, WHO)
        except (PacelineError, OSError) as error:
            # It is told here at least: the disk may be the very trouble.
            self._again_s = now + ALERT_AGAIN_S
            for body in self._decided(self._journal.state):
                if isinstance(body, AlertMoved):
                    logger.error(
                        "an alert cannot be kept, and so is told nobody else",
                        alert=body.alert.id,
                        what=body.what,
                        cause=body.alert.cause,
                        value=body.alert.value,
                        why=str(error),
                    )
        else:
            if any(isinstance(each.body, AlertMoved) and each.body.tell for each in entries):
                for postman in self.postmen:
                    postman.wake()
        finally:
            self._writing = False

    def _postman(self, name: str) -> Postman:
        return Postman(
            name,
            self._server,
            self._senders[name],
            self._journal,
            self._clock,
            self._chance,
            self._count,
        )

    def _let_go(self) -> None:
        gone = self.book.owed.keys() - self._postmen.keys()
        if gone:
            self._begin(self._give_up(gone))

    async def _give_up(self, channels: Collection[str]) -> None:
        """Channels that no settings name any more can be told nothing."""

        def decided(state: State) -> Sequence[Body]:
            return [
                AlertsTold(each, state.alerts.owed[each][-1], sent=False, why="no such channel")
                for each in sorted(channels)
                if each in state.alerts.owed
            ]

        try:
            await self._journal.write(decided, WHO)
        except (PacelineError, OSError) as error:
            logger.error("what is owed to channels that are gone stays owed", why=str(error))

    def _count(self, channel: str, notices: int, sent: bool) -> None:
        key = channel, "sent" if sent else "given up"
        self._told[key] = self._told.get(key, 0) + notices

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("alerts failed inside Paceline", exc_info=task.exception())
