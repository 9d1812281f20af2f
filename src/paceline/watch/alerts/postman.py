"""Brings one channel its notices, in their order, again and again until it has them.

What is owed stands in the journal, so it survives whatever dies, and each message is noted there
when it was taken: a server that dies in between sends that one twice, with the same id. What waits
together goes together: after an outage there is one message, and no storm. What a channel refuses
for good a few times, or what is too old, is given up, and kept as such. Called by `desk.py`, one
for each channel.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from paceline.clock import Chance, Clock
from paceline.flow.retry import full_jitter_s
from paceline.journal.entries import AlertsTold
from paceline.journal.journal import Journal
from paceline.observe import log
from paceline.terms.errors import PacelineError
from paceline.terms.limits import (
    ALERT_BACKOFF_FIRST_S,
    ALERT_BACKOFF_MOST_S,
    ALERT_GIVE_UP_S,
    ALERT_GROUP,
    ALERT_GROUP_S,
    ALERT_REFUSALS,
    ALERT_TEXT_CHARS,
)
from paceline.watch.alerts.messages import Message

logger = log.get(__name__)

WHO = "paceline"


class Outcome(NamedTuple):
    """Of one attempt. `for_good`: the same message will not be taken the next time either."""

    sent: bool
    why: str = ""
    for_good: bool = False


SENT = Outcome(sent=True)

Send = Callable[[Message], Awaitable[Outcome]]
"""Brings a message to a channel; raises nothing, and takes ALERT_SEND_S at most."""


class Postman:
    """`told` hears of each message how many notices were in it, and whether they were sent."""

    def __init__(
        self,
        channel: str,
        server: str,
        send: Send,
        journal: Journal,
        clock: Clock,
        chance: Chance,
        told: Callable[[str, int, bool], None] = lambda channel, notices, sent: None,
    ) -> None:
        self.channel = channel
        self.trouble = ""
        """why the last attempt failed; empty where it did not"""
        self._server = server
        self._send = send
        self._journal = journal
        self._clock = clock
        self._chance = chance
        self._told = told
        self._woken = asyncio.Event()
        self._done_up_to = 0

    def wake(self) -> None:
        """There may be something to tell."""
        self._woken.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            if not self._owed():
                self._woken.clear()
                await self._woken.wait()
                continue
            await self._clock.until(self._clock.now() + ALERT_GROUP_S)
            await self._deliver(self._owed()[:ALERT_GROUP])

    def _owed(self) -> tuple[int, ...]:
        owed = self._journal.state.alerts.owed.get(self.channel, ())
        return tuple(each for each in owed if each > self._done_up_to)

    async def _deliver(self, ids: tuple[int, ...]) -> None:
        book = self._journal.state.alerts
        message = Message(self.channel, self._server, tuple(book.notices[each] for each in ids))
        oldest_s = message.notices[0].at_unix_s
        begun_s = self._clock.now() - max(0.0, self._clock.wall() - oldest_s)
        failures = refusals = 0
        while True:
            outcome = await self._attempt(message)
            self.trouble = outcome.why
            refusals += outcome.for_good
            late = self._clock.now() - begun_s > ALERT_GIVE_UP_S
            if outcome.sent or refusals >= ALERT_REFUSALS or late:
                break
            failures += 1
            if failures == 1:
                logger.warning(
                    "a channel does not take a notice of an alert; it is sent again",
                    channel=self.channel,
                    why=outcome.why,
                )
            wait_s = full_jitter_s(
                failures, self._chance.uniform, ALERT_BACKOFF_FIRST_S, ALERT_BACKOFF_MOST_S
            )
            await self._clock.until(self._clock.now() + wait_s)
        if not outcome.sent:
            logger.error(
                "a notice of an alert was given up",
                channel=self.channel,
                notices=len(ids),
                why=outcome.why,
            )
        self._told(self.channel, len(ids), outcome.sent)
        await self._note(AlertsTold(self.channel, ids[-1], outcome.sent, outcome.why))

    async def _attempt(self, message: Message) -> Outcome:
        try:
            outcome = await self._send(message)
        except Exception:  # a bug of ours must not keep the channel from what comes after
            logger.exception("a channel failed inside Paceline", channel=self.channel)
            return Outcome(sent=False, why="an error inside Paceline", for_good=True)
        return outcome._replace(why=outcome.why[:ALERT_TEXT_CHARS])

    async def _note(self, told: AlertsTold) -> None:
        """Where the disk refuses, it is remembered here, and told twice after a restart."""
        self._done_up_to = told.up_to
        try:
            await self._journal.write(lambda _: [told], WHO)
        except (PacelineError, OSError) as error:
            logger.error(
                "that alerts were told cannot be kept", channel=told.channel, why=str(error)
            )
