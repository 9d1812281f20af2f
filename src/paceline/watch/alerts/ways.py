"""The channels of a running server, by name; a reload changes them. Sends nothing itself.

What a change needs is made first, so that a channel that cannot be made changes nothing. One whose
settings are the same stays the same, with what it is just telling. Made in `app.py`.
"""

from collections.abc import Callable, Iterable, Mapping

from paceline.observe import log
from paceline.watch.alerts.channel import LOG, ChannelTo
from paceline.watch.alerts.channels import Channel, LogChannel, channel
from paceline.watch.alerts.postman import Send

Made = Mapping[str, tuple[ChannelTo | None, Channel]]
"""By name, with the settings it was made of; the log has none."""


class Ways:
    """`environ` has the secrets."""

    def __init__(self, environ: Mapping[str, str], now: Callable[[], float]) -> None:
        self._environ = environ
        self._now = now
        self._made: Made = {LOG: (None, LogChannel())}

    @property
    def senders(self) -> dict[str, Send]:
        return {name: way.send for name, (_, way) in self._made.items()}

    def prepared(self, wanted: Iterable[ChannelTo]) -> Made:
        """For `change`; made within a running loop. A BadSetting where one cannot be made."""
        made = {LOG: self._made[LOG]}
        for each in wanted:
            known = self._made.get(each.name)
            if known is not None and known[0] == each:
                made[each.name] = known
                continue
            for variable in each.secrets:
                log.hide(self._environ.get(variable, ""))
            made[each.name] = each, channel(each, self._environ, self._now)
        return made

    def change(self, made: Made) -> list[Channel]:
        """Those that are there no more, to be closed when nobody sends by them."""
        kept = [way for _, way in made.values()]
        left = [way for _, way in self._made.values() if way not in kept]
        self._made = made
        return left

    async def close(self) -> None:
        for _, way in self._made.values():
            await way.close()
