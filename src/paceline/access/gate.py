"""The gate: may this request pass, and as whom? Decided from method, path and headers alone.

Three doubts, in this order. *Was it meant for us?* On loopback the Host header must name loopback,
so that DNS rebinding fails. *Did a web page send it?* What may change something is refused from a
foreign origin, and must have a content type that no foreign page can send without asking first;
no CORS header is ever sent, so asking fails. *Who is it?* A key, a session cookie, or, on loopback
without keys, any local program. Every refusal is a PacelineError; passing yields a Caller.

Pure: no I/O, no clock. Not authentication of upstream providers, and no rate limit.
Called by every front for every request, before routing, and by nobody else.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from paceline.access.keys import SECRET_PREFIX, KeyRing
from paceline.access.sessions import Sessions
from paceline.terms.errors import (
    BadRequest,
    ForeignHost,
    ForeignOrigin,
    KeyRequired,
    NotAllowed,
    WrongContentType,
    WrongKey,
)

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
READ_METHODS = frozenset({"GET", "HEAD"})

HEALTH = frozenset({"/health/live", "/health/ready"})
LOGIN = "/login"
REPOSITORY = "/v2/repository/"
"""Whoever may infer may read the list there, but not load and unload."""

FEEDBACK = "/feedback"
"""Whoever may infer may tell what was right."""

LLM = "/v1/"
"""The addresses of LLM calls, which programs of two vendors call."""

FORWARDED = frozenset(
    b"forwarded via x-real-ip x-forwarded-for x-forwarded-host x-forwarded-proto".split()
)
"""Headers that only a proxy sets."""

ONCE = frozenset(
    b"host origin content-type authorization x-api-key sec-fetch-site x-forwarded-proto".split()
)
"""Headers the gate believes, which therefore may come only once."""

OWN_TYPES = frozenset((b"application/json", b"application/octet-stream"))
"""Neither can a foreign page send without asking first; the second is that of binary tensors."""

FORM = b"multipart/form-data"
"""Files go to LLM providers so. A page can send it, but no key with it without asking first."""

_OCTET = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
LOOPBACK_HOST = re.compile(
    rb"(?:(?:[a-z0-9-]+\.)*localhost\.?|127(?:\." + _OCTET + rb"){3}|\[::1\])(?::\d{0,5})?",
    re.IGNORECASE,
)


class Caller(msgspec.Struct, frozen=True):
    """Who a request counts as. `anyone` has shown nothing and may see health and the login page.
    `models` are the LLMs the key may call; empty: whichever."""

    role: Literal["admin", "client", "anyone"]
    key_id: str | None = None
    models: tuple[str, ...] = ()


LOCAL_PROGRAM = Caller("admin")
ANYONE = Caller("anyone")


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False  # a name: it may resolve to anything
    return address.is_loopback if address.version == 4 else address == ipaddress.ip_address("::1")


class Gate:
    """The rules for one listening address. Put a new ring in `ring` when the keys change."""

    def __init__(
        self,
        bound_host: str,
        ring: KeyRing,
        sessions: Sessions,
        *,
        require_keys: bool = False,
        insecure: bool = False,
        tls: bool = False,
    ) -> None:
        self.ring = ring
        self._sessions = sessions
        self._loopback = is_loopback(bound_host)
        self._proto = b"https" if tls else None
        self._needs_key = require_keys or not (self._loopback or insecure)

    @property
    def needs_key(self) -> bool:
        return self._needs_key

    def admit(
        self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]], wall: float
    ) -> Caller:
        """The caller, or a PacelineError. Header names are lower case, as ASGI has them; `path`
        is the decoded path that routing will see; `wall` is unix seconds.
        """
        seen = _read(headers)
        host = self._check_host(seen)
        changes = method not in SAFE_METHODS
        if changes:
            _check_sender(seen, host, self._proto, path)
        caller = self._identify(seen, changes, method, path, wall)
        if caller.role == "client" and not _client_may(method, path):
            raise NotAllowed(
                "this key's role is client, which may infer, call LLMs and read health and metrics",
                value=f"{method} {path}",
                remedy="Use a key with the role admin: `paceline key create NAME --role admin`.",
            )
        return caller

    def _check_host(self, seen: dict[bytes, bytes]) -> bytes:
        host = seen.get(b"host", b"")
        if not host:
            raise BadRequest(
                "the request has no Host header", remedy="Send one, as HTTP/1.1 demands."
            )
        if self._loopback and not LOOPBACK_HOST.fullmatch(host):
            raise ForeignHost(
                "this server answers to localhost only, and the Host header names another",
                value=host.decode("latin-1"),
                remedy="Call it as localhost or 127.0.0.1; "
                "to be reached by other names, start it with --host and a key.",
            )
        return host

    def _identify(
        self, seen: dict[bytes, bytes], changes: bool, method: str, path: str, wall: float
    ) -> Caller:
        key = self._key(seen, path)
        if key is not None:
            return key
        if self._needs_key:
            session = self._session(seen, changes, wall)
            if session is not None:
                return session
            if _open_to_anyone(method, path):
                return ANYONE
            raise KeyRequired(
                "this server answers only with a key",
                remedy="Send `Authorization: Bearer pl_…` or `x-api-key: pl_…`, or log in on the "
                "page; `paceline key create NAME` makes a key.",
            )
        if self._loopback and not FORWARDED.isdisjoint(seen):
            if path in HEALTH:
                return ANYONE
            raise KeyRequired(
                "the request came through a proxy, and this server is open to local programs only",
                remedy="Start it with --require-keys when a proxy stands in front of it.",
            )
        return LOCAL_PROGRAM

    def _key(self, seen: dict[bytes, bytes], path: str) -> Caller | None:
        """The caller a key header names. A wrong key is refused even where none is needed; but the
        SDKs of LLM providers insist on sending one, and where it is none of ours that means
        nothing."""
        secret = seen.get(b"x-api-key")
        if secret is None:
            authorization = seen.get(b"authorization")
            if authorization is None:
                return None
            scheme, _, secret = authorization.partition(b" ")
            if scheme.lower() != b"bearer":
                secret = b""
        secret = secret.strip()
        key = self.ring.check(secret)
        if key is None:
            ours = secret.startswith(SECRET_PREFIX.encode())
            if not (ours or self._needs_key) and path.startswith(LLM):
                return None
            raise WrongKey(
                "the key is unknown or revoked",
                remedy="Check it for missing characters; `paceline key list` shows the keys there "
                "are. Send `Authorization: Bearer pl_…` or `x-api-key: pl_…`.",
            )
        return Caller(key.role, key.id, key.models)

    def _session(self, seen: dict[bytes, bytes], changes: bool, wall: float) -> Caller | None:
        for pair in seen.get(b"cookie", b"").split(b";"):
            name, _, value = pair.strip().partition(b"=")
            if name != self._sessions.cookie.encode():
                continue
            key_id = self._sessions.check(value.decode("latin-1"), wall)
            key = self.ring.get(key_id) if key_id else None  # a revoked key has no sessions
            if key is None:
                continue
            if changes and b"origin" not in seen:
                raise ForeignOrigin(
                    "a session cookie may change something only from this server's own page",
                    remedy="Send a key instead of the cookie: `Authorization: Bearer pl_…`.",
                )
            return Caller(key.role, key.id, key.models)
        return None


def _read(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by name. What must be said once may not be said twice: two parsers in a row
    could each believe another one."""
    seen: dict[bytes, bytes] = {}
    for name, value in headers:
        if name not in seen:
            seen[name] = value
        elif name == b"cookie":
            seen[name] += b"; " + value
        elif name in ONCE:
            raise BadRequest(
                "a header that may come once came twice",
                value=name.decode("latin-1"),
                remedy="Send it once.",
            )
    return seen


def _check_sender(seen: dict[bytes, bytes], host: bytes, proto: bytes | None, path: str) -> None:
    """Refuse what a page of another origin may have sent."""
    origin = seen.get(b"origin")
    own = _own_origin(proto or seen.get(b"x-forwarded-proto"), host)
    site = seen.get(b"sec-fetch-site", b"none")
    if (origin is not None and origin != own) or site not in (b"same-origin", b"none"):
        raise ForeignOrigin(
            "a web page of another origin sent the request",
            value=(origin or site).decode("latin-1"),
            remedy=f"Only {own.decode('latin-1')} may. Behind a proxy, let it pass Host on and "
            "set X-Forwarded-Proto.",
        )
    content_type = seen.get(b"content-type")
    if content_type is None:
        if origin is None:
            return  # a program, such as tritonclient; browsers always send one of the two
    else:
        kind = content_type.partition(b";")[0].strip().lower()
        if kind in OWN_TYPES:
            return
        keyed = b"authorization" in seen or b"x-api-key" in seen
        if kind == FORM and keyed and path.startswith(LLM):
            return
    raise WrongContentType(
        "the body is not declared as application/json",
        value="no content type" if content_type is None else content_type.decode("latin-1"),
        remedy="Send `Content-Type: application/json`.",
    )


def _own_origin(proto: bytes | None, host: bytes) -> bytes:
    """The origin of this server's page, as a browser writes it.

    X-Forwarded-Proto may be believed here: a foreign page cannot set it without a preflight, and
    whoever is not a browser may send any Origin anyway.
    """
    scheme, port = (b"https", b":443") if proto == b"https" else (b"http", b":80")
    return scheme + b"://" + host.lower().removesuffix(port)


def _open_to_anyone(method: str, path: str) -> bool:
    if method in READ_METHODS:
        return path in HEALTH or path == "/"
    return method == "POST" and path == LOGIN


def _client_may(method: str, path: str) -> bool:
    if path.startswith(REPOSITORY) and method not in READ_METHODS:
        return path == REPOSITORY + "index"
    if ".." in path:  # routing compares text, but whoever is behind a relay might resolve it
        return False
    if path == "/v2" or path.startswith(("/v2/", "/predict/", LLM)):
        return True
    if method == "POST" and path == FEEDBACK:
        return True
    if method in READ_METHODS and (path == "/metrics" or path.startswith("/health/")):
        return True
    return _open_to_anyone(method, path)
