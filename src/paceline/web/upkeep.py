"""What the owner does of itself: reads settings again when told or when the file is saved, compacts
the journal once a day, and has what was said in LLM calls go when its time is over. None of it
stops the server when it fails; the log says why."""

import asyncio
import contextvars
import sqlite3
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from paceline.changes.desk import Desk
from paceline.clock import Clock
from paceline.gateway.said.file import SaidFile
from paceline.gateway.said.keep import Keep
from paceline.observe import log
from paceline.processes.saved import Saved
from paceline.terms.errors import PacelineError
from paceline.terms.limits import COMPACT_EVERY_S, SAID_EXPIRE_S
from paceline.web.settings_api import SettingsInForce

logger = log.get(__name__)

WHO = "paceline"


class Upkeep:
    """Lives on the owner's loop between `start` and `close`."""

    def __init__(
        self,
        desk: Desk,
        settings: SettingsInForce,
        folder: Path,
        keep: Keep | None,
        clock: Clock,
    ) -> None:
        self._desk = desk
        self._settings = settings
        self._folder = folder
        self._keep_s = 0.0 if keep is None else keep.keep_s
        self._clock = clock
        self._saved: Saved | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._begin(self._compact_daily())
        self._begin(self._expire())
        self.heed_saves()

    def heed_saves(self) -> None:
        """Begins or ends to watch the file, as the settings say now."""
        file = self._settings.file
        wanted = self._settings.server.reload_on_save and file is not None
        if wanted and self._saved is None:
            assert file is not None
            try:
                # Not in the context of the call that asks for it: lines of later saves would be
                # logged under its request id.
                self._saved = contextvars.Context().run(
                    Saved, file, lambda: self._on_save(file), self._on_lost
                )
            except PacelineError as error:
                logger.error("saving the settings file will go unnoticed", why=str(error))
        elif not wanted and self._saved is not None:
            self._saved.close()
            self._saved = None

    def reload(self, why: str) -> None:
        self._begin(self._reload(why))

    def _on_save(self, file: Path) -> None:
        """Some programs empty a file before they write it: that is not yet the file."""
        self._begin(self._reload(f"{file.name} was saved", may_be_empty=False))

    def _on_lost(self, why: str) -> None:
        self._saved = None
        logger.error("saving the settings file goes unnoticed from now on", why=why)

    def close(self) -> None:
        if self._saved is not None:
            self._saved.close()
            self._saved = None
        for task in self._tasks:
            task.cancel()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self, why: str, *, may_be_empty: bool = True) -> None:
        try:
            await self._settings.reload(why, may_be_empty=may_be_empty)
        except PacelineError as error:
            logger.error("the settings stay as they are", after=why, why=str(error))

    async def _compact_daily(self) -> None:
        moment = self._clock.now()
        while True:
            try:
                removed = await self._desk.compact(WHO)
            except PacelineError as error:
                logger.error("the journal was not compacted", why=str(error))
            else:
                logger.debug("the journal was compacted", removed=removed)
            moment += COMPACT_EVERY_S
            await self._clock.until(moment)

    async def _expire(self) -> None:
        """Also what was kept when the settings asked for it, and they no longer do."""
        moment, told = self._clock.now(), ""
        while True:
            file = SaidFile(self._folder)
            try:
                await asyncio.to_thread(file.expire, self._clock.wall(), self._keep_s)
                told = ""
            except (sqlite3.Error, OSError) as error:
                if str(error) != told:
                    logger.error("what was said stays longer than it should", why=str(error))
                told = str(error)
            moment += SAID_EXPIRE_S
            await self._clock.until(moment)
