"""One look at the process it is made in, as it was ordered: at its stacks, or at its memory.

To be made in a thread of its own, which it takes for as long as was asked; what goes wrong is told
like what is found. Called by `web/profiling.py` in owner and fronts, and by `serve/model_look.py`
in the processes of models.
"""

import threading
from collections.abc import Callable
from typing import Literal

import msgspec

from paceline.observe import holdings, log, stacks
from paceline.observe.holdings import Memory
from paceline.observe.stacks import Stacks
from paceline.terms.errors import PacelineError

logger = log.get(__name__)


class Look(msgspec.Struct, frozen=True):
    """What is to be looked at, and how long; memory without seconds is a look at the moment."""

    of: Literal["stacks", "memory"]
    seconds: float


class Found(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of the three."""

    stacks: Stacks | None = None
    memory: Memory | None = None
    error: dict[str, str] | None = None


def found(look: Look, stop: threading.Event, now: Callable[[], float]) -> Found:
    """Until its time is over, or `stop` is set."""
    try:
        if look.of == "memory":
            return Found(memory=holdings.look(look.seconds, stop))
        return Found(stacks=stacks.take(look.seconds, stop, now))
    except PacelineError as error:
        return Found(error=error.as_fields())
    except Exception as error:  # a bug of ours; whoever waits is told all the same
        logger.exception("a profile failed inside Paceline", of=look.of)
        told = PacelineError(
            f"an unexpected error inside Paceline: {type(error).__name__}",
            remedy="The server's log has the details.",
        )
        return Found(error=told.as_fields())
