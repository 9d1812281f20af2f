"""The owner process: holds port, state directory and fronts; answers the page and the calls.

It never loads a model and never answers an inference. Its parts come from `app.py`.
"""

import asyncio
import signal
import socket
from collections.abc import Callable

import paceline
from paceline.access.keys import Key, KeyFile
from paceline.clock import Clock
from paceline.config import Settings
from paceline.net.server import Connections
from paceline.observe import log
from paceline.observe.board import Board, read
from paceline.processes.state_dir import StateDir
from paceline.terms.measurement import Measurement
from paceline.terms.metric import (
    BUILD,
    FRONT_RESTARTS,
    FRONTS_READY,
    FRONTS_WANTED,
    IN_FLIGHT,
    PARKED,
    STARTED,
)
from paceline.web.control import Control
from paceline.web.doorkeeper import Doorkeeper
from paceline.web.fronts import Fronts
from paceline.web.messages import Start
from paceline.web.status import Status, of_models, refused, total, usage

logger = log.get(__name__)

Probe = Callable[[list[int]], list[Measurement]]
"""Measures the processes and the container, given the pids of the fronts."""


class Owner:
    """`run` serves until told to stop; `on_ready` is called once, at the first ready front."""

    def __init__(
        self,
        settings: Settings,
        held: StateDir,
        listener: socket.socket,
        address: str,
        keys: KeyFile,
        models: tuple[str, ...],
        probe: Probe,
        clock: Clock,
        session_secret: bytes,
        on_ready: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._held = held
        self._listener = listener
        self._address = address
        self._port = listener.getsockname()[1]
        self._key_file = keys
        self._keys: tuple[Key, ...] = keys.load()
        self._models = models
        self._probe = probe
        self._clock = clock
        self._on_ready: Callable[[], None] | None = on_ready
        self._session_secret = session_secret
        self._started_wall = clock.wall()
        self._stopping = asyncio.Event()
        self._board = Board()
        self._fronts = Fronts(
            settings.fronts,
            self._orders,
            (listener.fileno(), held.descriptor),
            self._on_change,
            self._on_orphans,
            clock,
        )
        self._doorkeeper = Doorkeeper(listener, self._fronts.hand_over, self._board.counter(PARKED))
        self._control = Control(self._measure, self._status, self.stop, self._reload_keys)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        self._doorkeeper.open()
        self._fronts.start()
        connections = Connections(self._control.routes(), self._clock.wall)
        await connections.listen(self._held.listen())
        await self._stopping.wait()
        self._doorkeeper.refuse()
        self._control.end_streams()
        await self._fronts.drain(self._settings.drain_s)
        self._doorkeeper.refuse_all()
        self._listener.close()
        connections.stop_listening()

    def stop(self, why: str) -> None:
        if self._stopping.is_set():
            logger.warning("stopping at once", why=why)
            self._fronts.kill()
        else:
            logger.info("stopping", why=why, drain_s=self._settings.drain_s)
            self._stopping.set()

    def _on_signal(self, number: int) -> None:
        self.stop(signal.Signals(number).name)

    def _orders(self, index: int) -> Start:
        return Start(
            index=index,
            settings=self._settings,
            port=self._port,
            keys=self._keys,
            session_secret=self._session_secret,
        )

    def _on_change(self) -> None:
        """The doorkeeper stands at the port while no front does, and at the end."""
        if self._stopping.is_set():
            return
        if self._fronts.ready:
            self._doorkeeper.close()
            if self._on_ready is not None:
                self._on_ready()
                self._on_ready = None
        else:
            self._doorkeeper.open()

    def _on_orphans(self, connections: list[socket.socket]) -> None:
        """Handed to a front that died before it took them: they wait for another."""
        for connection in connections:
            self._doorkeeper.park(connection)

    def _reload_keys(self) -> None:
        self._keys = self._key_file.load()
        self._fronts.tell_keys(self._keys)
        logger.info("keys changed", keys=len(self._keys))

    def _measure(self) -> list[Measurement]:
        boards = [self._board, *(slot.board for slot in self._fronts.slots)]
        return [
            *read(boards),
            *self._probe(self._fronts.pids),
            Measurement(FRONTS_READY, (), float(self._fronts.ready)),
            Measurement(FRONTS_WANTED, (), float(len(self._fronts.slots))),
            Measurement(FRONT_RESTARTS, (), float(self._fronts.restarts)),
            Measurement(BUILD, (paceline.__version__,), 1.0),
            Measurement(STARTED, (), self._started_wall),
        ]

    def _status(self) -> Status:
        measured = self._measure()
        return Status(
            version=paceline.__version__,
            address=self._address,
            uptime_s=self._clock.wall() - self._started_wall,
            ready=self._fronts.ready > 0 and not self._stopping.is_set(),
            fronts_ready=self._fronts.ready,
            fronts_wanted=len(self._fronts.slots),
            front_restarts=self._fronts.restarts,
            in_flight=total(IN_FLIGHT, measured),
            refused=refused(measured),
            usage=usage(measured),
            models=of_models(self._models, measured),
        )
