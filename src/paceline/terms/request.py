"""A Request: what every plane knows about one call, whatever its body holds."""

from typing import Literal

import msgspec

Priority = Literal["low", "normal", "high", "critical"]
PRIORITIES: tuple[Priority, ...] = ("low", "normal", "high", "critical")


class Request(msgspec.Struct, frozen=True):
    """`deadline_s` is a moment on the process's monotonic clock, not a duration."""

    id: str
    model: str
    priority: Priority
    deadline_s: float
