"""Front and owner in one thread of the test, for operations that the test declares itself.

All that a call under `/api` passes is real: connection, door, gate, relay, the owner's socket.
What the owner would measure, stop and reload is faked.
"""

import asyncio
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from paceline.access.gate import Gate
from paceline.access.keys import KeyFile, KeyRing
from paceline.access.sessions import Sessions
from paceline.clock import Chance, RealClock
from paceline.net.server import Connections
from paceline.observe.board import Board
from paceline.processes.state_dir import StateDir
from paceline.web.control import Control
from paceline.web.door import Door
from paceline.web.front_routes import front_routes
from paceline.web.operations import Operation
from paceline.web.relay import Relay
from paceline.web.status import Status, Usage
from servers import Server

END_S = 10.0


class SmallServer(Server):
    """`with SmallServer(state, operations) as server:` answers on a free port, with keys."""

    def __init__(self, state: Path, operations: Sequence[Operation] = ()) -> None:
        super().__init__(state)
        self.operations = operations
        self.keys = KeyFile(state / "keys.json")
        self.stopped: list[str] = []
        self.looks = 0
        """times that its state was looked at"""
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self) -> Self:
        self._held = StateDir.hold(self.state)
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.run(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        self._held.release()

    def run(self, work: Any) -> Any:
        """Something to await, on the server's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(END_S)

    def key(self, name: str, role: Any) -> dict[str, str]:
        """The headers of a key that is made here; in force at once."""
        _, secret = self.keys.create(name, role, 0.0)
        self._gate.ring = KeyRing(self.keys.load())
        return {"Authorization": f"Bearer {secret}"}

    async def _start(self) -> None:
        clock, board = RealClock(), Board()
        control = Control(
            list,
            self._status,
            self.stopped.append,
            lambda: None,
            clock.now,
            self.keys.load,
            self.operations,
        )
        self._owner = Connections(control.routes(), clock.now, clock.wall)
        await self._owner.listen(self._held.listen())
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        sessions = Sessions(bytes(16), self.port)
        self._gate = Gate("127.0.0.1", KeyRing(), sessions, require_keys=True)
        relay = Relay(self._held.descriptor)
        routes = front_routes((), relay, self._gate, sessions, lambda: "", clock)
        door = Door(routes, self._gate, board, clock, Chance())
        self._front = Connections(door, clock.now, clock.wall)
        await self._front.listen(listener)

    async def _end(self) -> None:
        for connections in (self._front, self._owner):
            connections.stop_listening()
            connections.leave()
            await connections.closed(0.0)

    def _status(self) -> Status:
        self.looks += 1
        return Status(
            version="0",
            address="",
            uptime_s=0.0,
            ready=True,
            fronts_ready=1,
            fronts_wanted=1,
            front_restarts=0,
            in_flight=0.0,
            refused={},
            usage=Usage(0.0, 0.0, 0.0, None),
            models=[],
            providers=[],
            plan=1,
            entry=1,
        )
