"""A provider over HTTP: OpenAI's, Anthropic's, or whoever speaks the dialect of one of them.

It adds address and key to an Ask, and hands it to its pool; what is heard comes straight from
there. Its key is never in a log, an answer or an error. Made in `app.py`, called by `relay.py`.
"""

from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from paceline.gateway.call import Ask, Dialect, Headers
from paceline.gateway.provider import Heard, Running
from paceline.gateway.upstream import Upstream
from paceline.net.dialing import Dialer
from paceline.net.pool import Pool
from paceline.net.requests import request_head
from paceline.terms.errors import BadSetting
from paceline.terms.limits import LEARNT_HEADS

ANTHROPIC_VERSION = (b"anthropic-version", b"2023-06-01")
"""For callers who speak another dialect, and so name none."""

NO_LENGTH = b"\r\ncontent-length: 0\r\n"


class _Head(msgspec.Struct, frozen=True):
    """What comes before and after the length. It holds the headers it was made of, for as long as
    they are there no others have their identity."""

    headers: Headers
    before: bytes
    after: bytes


class HttpProvider:
    """See `Provider`. `key` is the secret itself, empty for one that needs none."""

    simulated = False

    def __init__(self, upstream: Upstream, key: str, now: Callable[[], float]) -> None:
        assert upstream.kind != "simulated", upstream
        split = urlsplit(upstream.url)
        tls = split.scheme == "https"
        host = split.hostname or ""
        port = split.port or (443 if tls else 80)
        self.name = upstream.name
        self.dialect: Dialect = upstream.kind
        self.tokens_field = upstream.tokens_field
        self._host = split.netloc.lower()
        self._above = split.path.rstrip("/")
        self._own: Headers = []
        if upstream.kind == "anthropic":
            if not self._above.endswith("/v1"):
                self._above += "/v1"  # their SDK's address is without it
            if key:
                self._own.append((b"x-api-key", key.encode()))
        elif key:
            self._own.append((b"authorization", b"Bearer " + key.encode()))
        self._own.append((b"accept-encoding", b"identity"))  # what is read in passing must be plain
        self._heads: dict[tuple[int, str, str], _Head] = {}
        dialer = Dialer(
            host, port, now, tls=tls, ca_file=upstream.ca_file, private=upstream.private
        )
        self.pool = Pool(dialer, now)

    def complete(self, ask: Ask, heard: Heard) -> Running:
        head = self._heads.get((id(ask.headers), ask.method, ask.path))
        if head is None:
            head = self._learn(ask)
        return self.pool.ask(
            b"%bcontent-length: %d\r\n%b" % (head.before, len(ask.body), head.after),
            ask.body,
            heard,
            ask.deadline_s,
        )

    async def close(self) -> None:
        await self.pool.close()

    def _learn(self, ask: Ask) -> _Head:
        """The headers of one caller are the same list again and again."""
        own = self._own
        if self.dialect == "anthropic" and all(
            name != ANTHROPIC_VERSION[0] for name, _ in ask.headers
        ):
            own = [*own, ANTHROPIC_VERSION]
        whole = request_head(ask.method, self._above + ask.path, self._host, ask.headers + own, 0)
        before, _, after = whole.partition(NO_LENGTH)
        if len(self._heads) >= LEARNT_HEADS:
            self._heads.clear()
        head = _Head(ask.headers, before + b"\r\n", after)
        self._heads[id(ask.headers), ask.method, ask.path] = head
        return head


def secret(environ_value: str | None, upstream: Upstream) -> str:
    """As a header may carry it, or why not; the value itself is never told."""
    key = (environ_value or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise BadSetting(
            f"the key of {upstream.name} has characters that no key has",
            value=upstream.key_env,
            remedy="Set the variable anew, without quotes and line breaks.",
        )
    return key
