"""What owner and fronts tell each other over their link. All else between them is HTTP."""

import msgspec

from paceline.access.keys import Key
from paceline.config import Settings


class Start(msgspec.Struct, frozen=True, tag=True):
    """The first message to a front; the listening socket and the board's memory come along."""

    index: int
    settings: Settings
    port: int
    keys: tuple[Key, ...]
    session_secret: bytes


class KeysChanged(msgspec.Struct, frozen=True, tag=True):
    keys: tuple[Key, ...]


class Adopt(msgspec.Struct, frozen=True, tag=True):
    """Connections come along that the doorkeeper accepted; nothing has been read from them."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Stop: nothing new, finish what you hold."""


class Ping(msgspec.Struct, frozen=True, tag=True):
    pass


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From a front: models are loaded, connections are accepted."""


class Leaving(msgspec.Struct, frozen=True, tag=True):
    """From a front that drains: it accepts no more."""


class Pong(msgspec.Struct, frozen=True, tag=True):
    pass


ToFront = Start | KeysChanged | Adopt | Drain | Ping
ToOwner = Ready | Leaving | Pong

to_front = msgspec.json.Decoder(ToFront)
to_owner = msgspec.json.Decoder(ToOwner)
