"""Something good that is asked every so often beside all that is bad, and must be answered rightly.

How soon and how wrongly it was answered is kept; what is good its caller says. Called by `fuzz`,
`llm_fuzz` and `llm_trouble`.
"""

import socket
import threading
import time
from collections.abc import Callable

from benchmarks._server import connect

Good = Callable[[socket.socket, int], str]
"""Asks once, by its number, over a connection that is kept: what was wrong, if anything."""


class Probe(threading.Thread):
    def __init__(self, port: int, every_s: float, good: Good) -> None:
        super().__init__(daemon=True)
        self.took_ms: list[float] = []
        self.wrong: list[str] = []
        self._port = port
        self._every_s = every_s
        self._good = good
        self._over = threading.Event()

    def run(self) -> None:
        kept = connect(self._port)
        number = 0
        while not self._over.wait(self._every_s):
            number += 1
            begun_s = time.perf_counter()
            try:
                wrong = self._good(kept, number)
            except (OSError, ValueError, KeyError) as error:
                wrong = repr(error)
                kept.close()
                kept = connect(self._port)
            if wrong:
                self.wrong.append(wrong)
            self.took_ms.append(1e3 * (time.perf_counter() - begun_s))
        kept.close()

    def stop(self) -> None:
        self._over.set()
        self.join()
