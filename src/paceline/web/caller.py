"""Who asks the owner: how fronts and local programs say it, and how the owner reads it.

A front says what the gate found: a key's id, or a role. A local program says whom the journal
should name. Not authentication: whoever reaches the owner's socket is its own user. Called by
`relay.py` and `owner_call.py` on one side, `control.py` on the other.
"""

from collections.abc import Iterable

from paceline.access.keys import Key
from paceline.terms.limits import WHO_CHARS

CALLER_HEADER = "x-paceline-caller"
REQUEST_ID_HEADER = "x-request-id"

LOCAL_PROGRAM = "a local program"


def told(who: str) -> bytes:
    """As the header's value."""
    return _readable(who).encode()


def who_asks(value: str, keys: Iterable[Key]) -> str:
    """From the header's value, as an HTTP library has it; the name of a key instead of its id."""
    given = _readable(value.encode("latin-1").decode(errors="replace"))
    if given in ("", "admin"):
        return LOCAL_PROGRAM
    return next((f"key {key.name}" for key in keys if key.id == given), given)


def _readable(text: str) -> str:
    return "".join(char for char in text if char.isprintable())[:WHO_CHARS].strip()
