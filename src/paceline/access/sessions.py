"""Sessions of the page: somebody who logs in with a key gets a cookie for twelve hours.

Nothing is stored: the cookie says which key and until when, signed with a secret that the owner
draws at each start and hands to the fronts. So a restart ends all sessions, and revoking a key
ends its own at once, because the gate looks the key up again at each request.
Called by `gate.py` (check) and by `web/` (issue, header lines).
"""

import hashlib
import hmac
import secrets

from paceline.terms.limits import SESSION_S


def new_secret() -> bytes:
    """For one run of the server."""
    return secrets.token_bytes(32)


class Sessions:
    """Issues and checks cookies. `port` is in the cookie's name because cookies ignore ports:
    without it, logging in to one server on localhost would log out of the other.
    """

    def __init__(self, secret: bytes, port: int) -> None:
        assert len(secret) >= 16, "a session secret needs 16 random bytes or more"
        self.cookie = f"paceline_{port}"
        self._secret = secret

    def issue(self, key_id: str, wall: float) -> str:
        """A cookie value for a key that has just been checked; `wall` is unix seconds."""
        signed = f"{key_id}.{int(wall) + SESSION_S}"
        return f"{signed}.{self._mac(signed)}"

    def check(self, value: str, wall: float) -> str | None:
        """The id of the key that logged in, or None when forged, altered or expired."""
        signed, _, mac = value.rpartition(".")
        if not value.isascii() or not hmac.compare_digest(mac, self._mac(signed)):
            return None
        key_id, _, expiry = signed.rpartition(".")  # our own words from here on
        return key_id if wall < int(expiry) else None

    def set_cookie(self, value: str, *, secure: bool = False) -> str:
        """The Set-Cookie line; `secure` when the page was reached over TLS."""
        line = f"{self.cookie}={value}; Max-Age={SESSION_S}; Path=/; HttpOnly; SameSite=Strict"
        return f"{line}; Secure" if secure else line

    def clear_cookie(self) -> str:
        return f"{self.cookie}=; Max-Age=0; Path=/; HttpOnly; SameSite=Strict"

    def _mac(self, signed: str) -> str:
        return hmac.new(self._secret, signed.encode(), hashlib.sha256).hexdigest()
