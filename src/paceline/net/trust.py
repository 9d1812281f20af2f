"""TLS as a client: whom to believe, and how not to prove it twice.

Certificates are always verified, against the system's authorities or those of one file. A context
belongs to one upstream: it remembers its last session, so that the next connection need neither
send nor check a certificate, and a session must never serve for another name. Made by
`dialing.py`.
"""

import ssl
from typing import Any

from paceline.terms.errors import BadSetting


class Trust(ssl.SSLContext):
    """A context for one upstream. `asyncio` and uvloop have no way to give a session, but ask their
    context for each connection."""

    session: ssl.SSLSession | None = None

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(
            incoming, outgoing, server_side, server_hostname, session or self.session
        )

    def learn(self, ssl_object: Any) -> None:
        """From a connection over which an answer came: with TLS 1.3 the server says behind the
        handshake what it will know again."""
        session = getattr(ssl_object, "session", None)
        if session is not None and session.has_ticket:
            self.session = session


def trust(ca_file: str = "") -> Trust:
    """A BadSetting where the file holds no certificate."""
    context = Trust(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not ca_file:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(ca_file)
    except OSError as why:  # an SSLError is one
        raise BadSetting(
            f"the certificates to trust cannot be read: {why.strerror or why}",
            value=ca_file,
            remedy="Name a file of certificates in PEM form.",
        ) from None
    return context
