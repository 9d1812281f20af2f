"""Callers and probes for fault tests: they keep asking, and remember what they saw."""

import enum
import http.client
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from paceline.serve import digits

BODY = json.dumps(digits.SAMPLE_ROW)
JSON = {"content-type": "application/json"}
ANSWER_S = 10.0
PROBE_PERIOD_S = 0.01
BELIEVERS = 8


class Outcome(enum.Enum):
    RIGHT = "the right answer"
    WRONG = "a wrong answer"
    ERROR = "an error answer"
    REFUSED = "connection refused"
    CUT = "connection cut in mid-request"
    SILENCE = "no answer in time"


def ask(connection: http.client.HTTPConnection) -> Outcome:
    try:
        connection.connect()
    except TimeoutError:
        return Outcome.SILENCE
    except OSError:
        return Outcome.REFUSED
    try:
        connection.request("POST", "/predict/digits", BODY, JSON)
        response = connection.getresponse()
        body = response.read()
    except TimeoutError:
        return Outcome.SILENCE
    except (OSError, http.client.HTTPException):
        return Outcome.CUT
    finally:
        connection.close()
    if response.status != 200:
        return Outcome.ERROR
    right = json.loads(body)["outputs"]["label"] == digits.SAMPLE_LABEL
    return Outcome.RIGHT if right else Outcome.WRONG


class Caller(threading.Thread):
    """Asks for one prediction after another, each on a connection of its own."""

    def __init__(self, port: int) -> None:
        super().__init__(name="paceline-test-caller")
        self.outcomes: Counter[Outcome] = Counter()
        self._port = port
        self._stop_asked = False
        self._answered = threading.Condition()

    def run(self) -> None:
        while not self._stop_asked:
            outcome = ask(http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S))
            with self._answered:
                self.outcomes[outcome] += 1
                self._answered.notify_all()

    def wait_for_one_more(self) -> None:
        """Until a right answer has come that was asked for after this call."""
        with self._answered:
            want = self.outcomes[Outcome.RIGHT] + 2
            came = self._answered.wait_for(lambda: self.outcomes[Outcome.RIGHT] >= want, 30)
        assert came, f"no right answer for 30 s: {self.outcomes}"

    def stop(self) -> None:
        self._stop_asked = True
        self.join()


class ReadinessProbe(threading.Thread):
    """Asks for readiness every 10 ms, and believes it: after `ready` a request is sent.

    `seen` are the states in order, without repetitions. A request that fails although readiness
    had said yes is a lie, unless somebody was breaking the server meanwhile (`disturbance`). The
    requests run beside the probe: one that waits out a crash must not hide it.
    """

    def __init__(self, port: int) -> None:
        super().__init__(name="paceline-test-probe")
        self.seen: list[str] = []
        self.lies: list[str] = []
        self._port = port
        self._disturbed = 0
        self._quiet = True
        self._changed = threading.Condition()
        self._stop_asked = threading.Event()
        self._believers = ThreadPoolExecutor(BELIEVERS, "paceline-test-believer")

    def run(self) -> None:
        while not self._stop_asked.wait(PROBE_PERIOD_S):
            disturbed = self._disturbed if self._quiet else -1
            state = self._ask()
            with self._changed:
                if self.seen[-1:] != [state]:
                    self.seen.append(state)
                    self._changed.notify_all()
            if state == "ready":
                self._believers.submit(self._believe, disturbed)

    def _believe(self, disturbed: int) -> None:
        outcome = ask(http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S))
        undisturbed = self._quiet and disturbed == self._disturbed
        if outcome is not Outcome.RIGHT and undisturbed:
            self.lies.append(f"ready, but {outcome.value}")

    def wait_for(self, state: str) -> None:
        with self._changed:
            came = self._changed.wait_for(lambda: self.seen[-1:] == [state], 30)
        assert came, f"waited 30 s for {state!r}: {self.seen}"

    @contextmanager
    def disturbance(self) -> Iterator[None]:
        self._disturbed += 1
        self._quiet = False
        try:
            yield
        finally:
            self._quiet = True

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()
        self._believers.shutdown()

    def _ask(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S)
        try:
            connection.request("GET", "/health/ready")
            status = connection.getresponse().status
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silent"
        except (OSError, http.client.HTTPException):
            return "cut"
        finally:
            connection.close()
        return {200: "ready", 503: "not ready"}[status]
