"""What the settings want to be kept of what is said. Read by `config/keeping.py`, heeded by
`keeping.py` and `keeper.py`."""

import msgspec


class Keep(msgspec.Struct, frozen=True):
    """What the settings want to be kept: for so long, of these routes (none named is all), without
    what these regular expressions find."""

    keep_s: float
    routes: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
