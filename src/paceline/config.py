"""The settings of a server: what `paceline up` was told, with every default in one place.

Values only. Read by `app.py` and the processes it starts; the command line fills it in.
"""

import msgspec

from paceline.observe import log
from paceline.terms.errors import BadSetting
from paceline.terms.limits import DRAIN_LEAST_S, FRONTS

DEFAULT_STATE = "./.paceline"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    port: int = 8080
    state: str = DEFAULT_STATE
    fronts: int = 1
    drain_s: float = 5.0
    insecure: bool = False
    require_keys: bool = False
    log_format: log.Format = "console"
    log_level: log.Level = "info"
    access_log: bool = False

    def check(self) -> None:
        """Raises for the first value that cannot be; types are the command line's business."""
        if not 0 <= self.port <= 65535:
            raise BadSetting(
                "the port is not between 0 and 65535",
                value=self.port,
                remedy="Choose another with --port; 0 takes any free one.",
            )
        if not self.state or not self.host.strip() or not self.host.isprintable():
            raise BadSetting(
                "the state directory or the address is empty or unreadable",
                value=self.state and self.host,
                remedy="Name them with --state DIR and --host ADDRESS, or leave both away.",
            )
        if self.insecure and self.require_keys:
            raise BadSetting(
                "--insecure and --require-keys contradict each other",
                value="both are set",
                remedy="Leave out --insecure to ask for keys, or --require-keys to ask for none.",
            )
        if self.fronts < 1:
            raise BadSetting(
                "a server needs at least one front",
                value=self.fronts,
                remedy="Leave --fronts away for a default that fits this machine.",
            )
        if not DRAIN_LEAST_S <= self.drain_s <= 3600:
            raise BadSetting(
                f"the drain time is not between {DRAIN_LEAST_S:g} and 3600 seconds",
                value=self.drain_s,
                remedy="Choose how long requests in hand may take to finish, with --drain-s.",
            )


def default_fronts(cores: float) -> int:
    """One core is left for everything else, the callers of this machine included."""
    return max(1, min(FRONTS, int(cores) - 1))
