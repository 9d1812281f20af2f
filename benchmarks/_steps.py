"""How long answers of ours take, by half seconds: the noise that `shifts` plants shifts in.

Two callers ask `paceline up` for the shipped example a hundred times a second each, one with a row,
one with 32, at moments set beforehand; what was late to be sent counts from when it was due. Others
work on the machine, and that is the point; server and callers go before them where they may, as if
they had cores of their own, or all that is recorded is how others are scheduled.
"""

import csv
import gzip
import io
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks._open_loop import put_ahead, put_back
from benchmarks._server import ask, connect, request, served, stop
from paceline.serve import digits

FILE = Path(__file__).parent / "data" / "answers_digits.csv.gz"
COLUMNS = ("session", "rows", "step", "count", "p50_s", "p90_s", "p99_s")

STEP_S = 0.5
SESSION_S = 50.0
SESSIONS = 8
PAUSE_S = 0.01
ROWS = (1, 32)

Numbers = NDArray[np.float64]


def _call(port: int, rows: int, begun_s: float, until_s: float, found: list[list[float]]) -> None:
    body = request("POST", f"/predict/{digits.NAME}", [list(digits.SAMPLE_ROW)] * rows)
    due_s = begun_s
    with connect(port) as connection:
        while due_s < until_s:
            time.sleep(max(0.0, due_s - time.perf_counter()))
            status, _ = ask(connection, body)
            took_s = time.perf_counter() - due_s
            if status != 200:
                raise SystemExit(f"an answer had status {status}")
            found[int((due_s - begun_s) / STEP_S)].append(took_s)
            due_s += PAUSE_S


def session() -> Mapping[int, Sequence[Sequence[float]]]:
    """By rows, of each step how long its answers took."""
    put_ahead(os.getpid())  # and whatever it starts
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as (server, port):
        begun_s = time.perf_counter() + 1.0
        steps = int(SESSION_S / STEP_S)
        found: dict[int, list[list[float]]] = {rows: [[] for _ in range(steps)] for rows in ROWS}
        with ThreadPoolExecutor(len(ROWS)) as callers:
            calls = [
                callers.submit(_call, port, rows, begun_s, begun_s + SESSION_S, each)
                for rows, each in found.items()
            ]
        for call in calls:
            call.result()  # or what went wrong in it
        stop(server)
    with suppress(PermissionError):
        put_back(os.getpid())
    return found


def write(sessions: Mapping[int, Mapping[int, Sequence[Sequence[float]]]]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for number, found in sessions.items():
        for rows, steps in found.items():
            for step, took_s in enumerate(steps):
                cuts = statistics.quantiles(took_s, n=100, method="inclusive")
                quantiles = (f"{cuts[at - 1]:.4g}" for at in (50, 90, 99))
                table.writerow([number, rows, step, len(took_s), *quantiles])
    FILE.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def read() -> Mapping[str, Sequence[Numbers]]:
    """By what was measured (`p50_s, 1 row`), one series a session, oldest first."""
    with gzip.open(FILE, "rt", newline="") as file:
        table = list(csv.DictReader(file))
    found: dict[str, list[Numbers]] = {}
    for rows in sorted({int(each["rows"]) for each in table}):
        for column in COLUMNS[4:]:
            found[f"{column[:3]} of {rows} row{'s' if rows > 1 else ''}"] = [
                np.array(
                    [
                        float(each[column])
                        for each in table
                        if int(each["rows"]) == rows and int(each["session"]) == number
                    ]
                )
                for number in sorted({int(each["session"]) for each in table})
            ]
    return found
