"""A link between two processes: whole messages over a socket pair, open files along with them.

Sequenced packets keep message boundaries, so there is no framing; the end of the other process is
the end of the link. Not for bulk: a message is bounded, and a peer that does not read is cut off.
`web/` speaks over it with its fronts; what the messages mean is written there.
"""

import asyncio
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from paceline.terms.limits import LINK_BACKLOG, LINK_MESSAGE_BYTES

Incoming = TypeVar("Incoming")

FDS_PER_MESSAGE = 16

_encode = msgspec.json.Encoder().encode


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Link(Generic[Incoming]):
    """One end. `on_message` gets each message with the descriptors it brought, and owns them."""

    def __init__(
        self,
        end: socket.socket,
        incoming: msgspec.json.Decoder[Incoming],
        on_message: Callable[[Incoming, list[int]], None],
        on_end: Callable[[], None],
    ) -> None:
        end.setblocking(False)
        self._socket = end
        self._decode = incoming.decode
        self._on_message = on_message
        self._on_end = on_end
        self._waiting: deque[tuple[bytes, Sequence[int]]] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end.fileno(), self._readable)
        self.closed = False

    def send(self, message: msgspec.Struct, fds: Sequence[int] = ()) -> None:
        """Sends now or as soon as the peer reads. `fds` are lent: the peer gets its own of each,
        and until it has them they must stay open here."""
        if self.closed:
            return
        data = _encode(message)
        assert len(data) <= LINK_MESSAGE_BYTES, f"a link message of {len(data)} bytes"
        if self._waiting or not self._sent(data, fds):
            if len(self._waiting) == LINK_BACKLOG:
                self._ended()
                return
            if not self._waiting:
                self._loop.add_writer(self._socket.fileno(), self._writable)
            self._waiting.append((data, fds))

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._waiting.clear()

    def _sent(self, data: bytes, fds: Sequence[int]) -> bool:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([data], rights)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader below sees the end and says so, once
        return True

    def _writable(self) -> None:
        while self._waiting and self._sent(*self._waiting[0]):
            self._waiting.popleft()
        if not self._waiting and not self.closed:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        while not self.closed:
            try:
                data, fds, _, _ = socket.recv_fds(self._socket, LINK_MESSAGE_BYTES, FDS_PER_MESSAGE)
            except BlockingIOError:
                return
            except ConnectionResetError:
                data, fds = b"", []
            if not data:
                self._ended()
                return
            self._on_message(self._decode(data), fds)

    def _ended(self) -> None:
        self.close()
        self._on_end()
