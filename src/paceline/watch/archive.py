"""The past as the file alone has it: for reports of longer than memory reaches, and while no server
runs. Reads, never writes. Called by `web/history_api.py` and the command."""

from pathlib import Path

from paceline.terms.limits import HISTORY_HOURS, HISTORY_MINUTES, METRICS_DAYS_KEPT_S
from paceline.watch.history import History
from paceline.watch.names import Names
from paceline.watch.rollup import DAY, HOUR, MINUTE, Kept
from paceline.watch.store import MetricsFile


def archive(folder: Path, now_unix_s: float | None = None, last_s: float = 0.0) -> History | None:
    """It ends now, or without that at the end of the last minute that is known. None where the file
    knows nothing. Days are read where more is asked for than is known by hours."""
    names = Names()
    file = MetricsFile(folder, names)
    minutes = [*file.read(MINUTE, _since(now_unix_s, MINUTE * HISTORY_MINUTES))]
    hours = [*file.read(HOUR, _since(now_unix_s, HOUR * HISTORY_HOURS))]
    days: list[Kept] = []
    if last_s > HISTORY_HOURS * HOUR:
        days = [*file.read(DAY, _since(now_unix_s, METRICS_DAYS_KEPT_S))]
    known = minutes or hours or days
    if not known:
        return None
    last = known[-1]
    end_s = last.began_s + last.size_s if now_unix_s is None else now_unix_s
    past = History(names, 0.0, end_s, of_file=True)
    for kept in (*days, *hours, *minutes):
        past.restore(kept)
    return past


def _since(now_unix_s: float | None, span_s: float) -> float:
    return 0.0 if now_unix_s is None else now_unix_s - span_s
