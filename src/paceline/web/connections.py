"""Accepted connections: uvicorn's HTTP/1.1 protocol, without uvicorn's server around it.

Its server would tick ten times a second and own signals and sockets; here the listening socket is
the owner's, connections can also be handed over, and nothing runs while nothing happens. What is
added: a bound on the size of a request's head and on the time it may take to arrive.
"""

import asyncio
import socket
from collections.abc import Callable

from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from paceline.terms.limits import CONNECTION_BACKLOG, HEAD_BYTES, HEAD_S, KEEP_ALIVE_S


class Connection(HttpToolsProtocol):
    """One connection; closed when a request's head is too large or too slow."""

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def __init__(self, config: Config, state: ServerState, on_lost: Callable[[], None]) -> None:
        super().__init__(config, state, {})
        self._on_lost = on_lost

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        between_requests = self.cycle is None or self.cycle.response_complete
        if between_requests:
            if self._head_timer is None:
                self._await_head()
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > HEAD_BYTES:
            self.send_400_response(f"The request's head is larger than {HEAD_BYTES} bytes.")

    def on_headers_complete(self) -> None:
        self._head_arrived()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _head_arrived(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Connections:
    """Every connection that one ASGI application answers."""

    def __init__(self, app: ASGIApp) -> None:
        self._config = Config(
            app,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._config.load()
        self._state = ServerState()
        self._state.default_headers = [(b"server", b"paceline")]
        self._server: asyncio.Server | None = None
        self._lost = asyncio.Event()

    async def listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connection, sock=listener, backlog=CONNECTION_BACKLOG
        )

    async def adopt(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._connection, accepted)

    def stop_listening(self) -> None:
        """Closes our handle of the listening socket; whoever else holds it goes on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def close_idle(self) -> None:
        """Closes connections between two requests; the others close after their next answer."""
        for connection in list(self._state.connections):
            assert isinstance(connection, Connection)
            if connection.cycle is not None:
                connection.shutdown()

    async def closed(self, within_s: float) -> None:
        """Returns when every last answer is on its way; a caller who does not read is cut off."""
        try:
            async with asyncio.timeout(within_s):
                while self._state.connections:
                    self._lost.clear()
                    await self._lost.wait()
        except TimeoutError:
            for connection in list(self._state.connections):
                connection.transport.abort()

    def _connection(self) -> Connection:
        return Connection(self._config, self._state, self._lost.set)
