"""Callers in a process of their own, who ask until standard input ends and then tell what they saw.

`faults` runs it as `python -m benchmarks._load PORT KEPT FRESH`: so many callers who keep their
connection for a while and ask as fast as they get answers, and so many who open one per request.
"""

import sys
import threading
import time

import msgspec

from benchmarks._server import REFUSED, RIGHT, SILENT, connect, predict

REQUESTS_PER_CONNECTION = 100
"""Then a new one, so that connections spread over all fronts again after one was restarted."""
FRESH_PAUSE_S = 0.01


class Failure(msgspec.Struct, frozen=True):
    how: str
    at_s: float
    port: int
    """The caller's end; 0 where there was no connection."""
    kept: bool


class Seen(msgspec.Struct):
    right: int = 0
    failures: list[Failure] = []


class Caller(threading.Thread):
    def __init__(self, port: int, kept: bool) -> None:
        super().__init__()
        self.seen = Seen()
        self._port = port
        self._kept = kept
        self._stop_asked = threading.Event()

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()

    def run(self) -> None:
        while not self._stop_asked.wait(0 if self._kept else FRESH_PAUSE_S):
            try:
                connection = connect(self._port)
            except OSError as error:
                self._failed(SILENT if isinstance(error, TimeoutError) else REFUSED, 0)
                continue
            with connection:
                port = connection.getsockname()[1]
                for _ in range(REQUESTS_PER_CONNECTION if self._kept else 1):
                    how = predict(connection)
                    if how != RIGHT:
                        self._failed(how, port)
                        break
                    self.seen.right += 1
                    if self._stop_asked.is_set():
                        break

    def _failed(self, how: str, port: int) -> None:
        self.seen.failures.append(Failure(how, time.perf_counter(), port, self._kept))


def main() -> None:
    port, kept, fresh = map(int, sys.argv[1:])
    callers = [Caller(port, number < kept) for number in range(kept + fresh)]
    for caller in callers:
        caller.start()
    sys.stdin.read()
    seen = Seen()
    for caller in callers:
        caller.stop()
        seen.right += caller.seen.right
        seen.failures += caller.seen.failures
    print(msgspec.json.encode(seen).decode())


if __name__ == "__main__":
    main()
