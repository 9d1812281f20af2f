"""From the name of an upstream to an open connection: addresses, guard, TCP, TLS.

Names are resolved outside the loop and remembered for a moment; `guard.py` judges each address,
and the connection goes to the address that was judged. All of them are tried, first the one that
worked last. A connection is a task while it is opened, and none afterwards. Holds no connections:
`pool.py` calls it, and it knows nothing of requests.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from paceline.net.client import ClientConnection
from paceline.net.guard import refusal
from paceline.net.trust import Trust, trust
from paceline.terms.limits import CONNECT_S, DIAL_S, RESOLVED_S, UPSTREAM_ADDRESSES

Make = Callable[[], ClientConnection]
Told = Callable[[ClientConnection | None, str], None]
Resolve = Callable[[str, int], Awaitable[list[str]]]


class Dialer:
    """One upstream's. `private`: the settings allow it private networks; `ca_file`: instead of the
    system's authorities. `now` is the process's monotonic clock; `resolve` asks the system."""

    def __init__(
        self,
        host: str,
        port: int,
        now: Callable[[], float],
        *,
        tls: bool = False,
        ca_file: str = "",
        private: bool = False,
        resolve: Resolve | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self.tls: Trust | None = trust(ca_file) if tls else None
        self._private = private
        self._now = now
        self._ask_system = resolve or _resolved
        self._loop = asyncio.get_running_loop()
        self._dialing: set[asyncio.Task[None]] = set()
        self._resolving: asyncio.Task[list[str]] | None = None
        self._known: list[str] = []
        self._known_until_s = float("-inf")
        self._worked = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def dial(self, make: Make, told: Told) -> None:
        """`told` hears the open connection, or why there is none; never before this returns."""
        task = self._loop.create_task(self._dial(make, told))
        self._dialing.add(task)
        task.add_done_callback(self._dialing.discard)

    def learn(self, connection: ClientConnection) -> None:
        """An answer came over it."""
        if self.tls is not None:
            self.tls.learn(connection.transport.get_extra_info("ssl_object"))

    async def close(self) -> None:
        """Whoever waits for a connection is told nothing any more."""
        tasks = [*self._dialing, *([self._resolving] if self._resolving else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _dial(self, make: Make, told: Told) -> None:
        connection = None
        try:
            async with asyncio.timeout(DIAL_S):
                connection, why = await self._connected(make)
        except (OSError, ValueError, OverflowError) as error:  # the last two of names and ports
            why = trouble(error)
        told(connection, why)

    async def _connected(self, make: Make) -> tuple[ClientConnection | None, str]:
        addresses = await self._addresses()
        if self._worked in addresses:
            addresses = [self._worked, *(each for each in addresses if each != self._worked)]
        failed: list[str] = []
        for address in addresses[:UPSTREAM_ADDRESSES]:
            refused = refusal(self.host, address, private=self._private)
            if refused is not None:
                failed.append(refused)
                continue
            try:
                async with asyncio.timeout(CONNECT_S):
                    _, connection = await self._loop.create_connection(
                        make,
                        address,
                        self.port,
                        ssl=self.tls,
                        server_hostname=self.host if self.tls is not None else None,
                    )
            except OSError as error:  # a TimeoutError and an SSLError are one
                failed.append(f"{address}: {trouble(error)}")
                continue
            self._worked = address
            return connection, ""
        return None, "; ".join(failed) or f"{self.host} has no address"

    async def _addresses(self) -> list[str]:
        """All dials share one question."""
        if self._now() < self._known_until_s:
            return self._known
        if self._resolving is None:
            self._resolving = self._loop.create_task(self._resolve())
        return await asyncio.shield(self._resolving)

    async def _resolve(self) -> list[str]:
        try:
            if _is_address(self.host):
                self._known, self._known_until_s = [self.host], float("inf")
            else:
                self._known = await self._ask_system(self.host, self.port)
                self._known_until_s = self._now() + RESOLVED_S
            return self._known
        finally:
            self._resolving = None


async def _resolved(host: str, port: int) -> list[str]:
    """In a thread; the order is the system's, and says what it would try first (RFC 6724)."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(where[0]) for *_, where in found))


def trouble(why: Exception) -> str:
    """In words that a person can act on."""
    if isinstance(why, TimeoutError):
        return "nothing answers in time"
    if isinstance(why, ConnectionRefusedError):
        return "connection refused"
    if isinstance(why, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {why.verify_message}"
    if isinstance(why, ssl.SSLError):
        return f"TLS fails: {why.reason or why}"
    if isinstance(why, OSError) and why.strerror:
        return why.strerror.lower()
    return str(why) or type(why).__name__


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
