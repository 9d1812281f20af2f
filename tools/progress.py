"""One line that shows how far an installation is; plain lines where no terminal looks on.

It knows nothing about installing. Called by environment.py and packages.py.
"""

import os
import sys
import time

BAR_CELLS = 20


class Progress:
    """`stage` names what happens now, `step` says how far it is, `say` leaves a line behind."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.filled, self.empty = "━╌" if "utf" in (sys.stderr.encoding or "").lower() else "#-"
        self.title = ""
        self.done = 0
        self.total = 0  # nothing to count
        self.item = ""

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started_s

    def stage(self, title: str, total: int = 0) -> None:
        self.title, self.done, self.total, self.item = title, 0, total, ""
        if self.live:
            self.draw()
        else:
            self.say(title)

    def step(self, done: int, item: str = "") -> None:
        self.done = min(done, self.total)
        self.item = item or self.item
        self.draw()

    def draw(self) -> None:
        if not self.live:
            return
        full = BAR_CELLS * self.done // max(self.total, 1)
        bar = self.filled * full + self.empty * (BAR_CELLS - full)
        counted = [bar, f"{self.done}/{self.total}", self.item] if self.total else []
        line = "  ".join(part for part in [self.title, *counted, f"{self.seconds:.0f} s"] if part)
        width = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        sys.stderr.write("\r\x1b[2K" + line[: width - 1])
        sys.stderr.flush()

    def clear(self) -> None:
        if self.live:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()

    def say(self, line: str) -> None:
        self.clear()
        print(line, file=sys.stderr, flush=True)
