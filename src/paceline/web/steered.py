"""What the steering in the fronts wishes, brought to the desk, which decides.

A wish that is refused is forgotten: steering sees that the setting stayed, and asks again when it
still has reason to. Made by the owner, called by `web/fronts.py` for each message.
"""

import asyncio

from paceline.changes.desk import Desk, Wish
from paceline.observe import log
from paceline.terms.errors import PacelineError
from paceline.terms.plan import Address
from paceline.web.messages import Steer

logger = log.get(__name__)


class Steered:
    """One wish for a knob at a time: another one meanwhile was made without knowing of it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._open: dict[Address, asyncio.Task[None]] = {}

    def wish(self, wish: Steer, front: int) -> None:
        if wish.knob not in self._open:
            task = asyncio.ensure_future(self._bring(wish, front))
            self._open[wish.knob] = task
            task.add_done_callback(lambda _: self._open.pop(wish.knob))

    async def close(self) -> None:
        """What was begun is finished."""
        if self._open:
            await asyncio.wait(self._open.values())

    async def _bring(self, wish: Steer, front: int) -> None:
        who = f"steering (front {front})"
        try:
            await self._desk.adjust(wish.knob, wish.value, Wish(who, wish.reason, wish.expects))
        except PacelineError as error:
            logger.info("a wish of steering was refused", knob=wish.knob, why=str(error))
