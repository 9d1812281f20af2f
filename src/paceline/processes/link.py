"""A link between two processes: whole messages over a socket pair, open files along with them.

Sequenced packets keep message boundaries, so there is no framing; the end of the other process is
the end of the link. A message is bounded, and a peer that does not read is cut off. One that fits
no packet lies in memory of its own: what is sent then is its descriptor, with a byte that says so.
That is for the orders and plans of a hundred models, not for a stream. `web/` speaks over it with
its fronts; what the messages mean is written there.
"""

import asyncio
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from paceline.observe import log
from paceline.terms.limits import LINK_BACKLOG, LINK_BULK_BYTES, LINK_MESSAGE_BYTES

logger = log.get(__name__)

Incoming = TypeVar("Incoming")

FDS_PER_MESSAGE = 16

BULK = b"\0"
"""In the place of a message, which begins with a brace: it is in the memory that comes along."""

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
        assert len(data) <= LINK_BULK_BYTES, f"a link message of {len(data)} bytes"
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
        bulk = None
        if len(data) > LINK_MESSAGE_BYTES:
            try:
                bulk = _in_memory(data)
            except OSError as error:
                logger.error("a link ends: no room for a message", error=str(error))
                self._socket.shutdown(socket.SHUT_RDWR)  # both readers see that
                return True
            data, fds = BULK, (bulk, *fds)
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            self._socket.sendmsg([data], rights)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            pass  # the reader below sees the end and says so, once
        finally:
            if bulk is not None:
                os.close(bulk)  # who reads has its own
        return True

    def _writable(self) -> None:
        while self._waiting and self._sent(*self._waiting[0]):
            self._waiting.popleft()
        if not self._waiting and not self.closed:
            self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        while not self.closed:
            try:
                data, fds, _, _ = socket.recv_fds(
                    self._socket, LINK_MESSAGE_BYTES, 1 + FDS_PER_MESSAGE
                )
            except BlockingIOError:
                return
            except ConnectionResetError:
                data, fds = b"", []
            if not data:
                self._ended()
                return
            if data == BULK:
                data = _from_memory(fds.pop(0))
            self._on_message(self._decode(data), fds)

    def _ended(self) -> None:
        self.close()
        self._on_end()


def _in_memory(data: bytes) -> int:
    memory = os.memfd_create("paceline-link")
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(data)
    except OSError:
        os.close(memory)
        raise
    return memory


def _from_memory(memory: int) -> bytes:
    with open(memory, "rb") as file:
        file.seek(0)  # the place in it is shared with who wrote
        return file.read(LINK_BULK_BYTES)
