"""The past as the file alone has it: for reports of longer than memory reaches, and while no server
runs. Reads, never writes. Called by `web/history_api.py` and the command."""

from pathlib import Path

from paceline.terms.limits import HISTORY_HOURS, HISTORY_MINUTES
from paceline.watch.history import History
from paceline.watch.names import Names
from paceline.watch.rollup import HOUR, MINUTE
from paceline.watch.store import MetricsFile


def archive(folder: Path, now_unix_s: float | None = None) -> History | None:
    """It ends now, or without that at the end of the last minute that is known. None where the file
    knows nothing."""
    names = Names()
    file = MetricsFile(folder, names)
    minutes = [*file.read(MINUTE, _since(now_unix_s, MINUTE * HISTORY_MINUTES))]
    hours = [*file.read(HOUR, _since(now_unix_s, HOUR * HISTORY_HOURS))]
    if not minutes and not hours:
        return None
    last = minutes[-1] if minutes else hours[-1]
    end_s = last.began_s + last.size_s if now_unix_s is None else now_unix_s
    past = History(names, 0.0, end_s, keeps_minutes=True)
    for kept in (*hours, *minutes):
        past.restore(kept)
    return past


def _since(now_unix_s: float | None, span_s: float) -> float:
    return 0.0 if now_unix_s is None else now_unix_s - span_s
