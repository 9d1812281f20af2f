"""Which operators of a model its time goes to, found by a process beside those that serve.

The process is `operator_run.py`; this starts it, waits for what it says, and sees that it ends and
leaves no file. Called by `web/profiles.py`, in the owner, which itself never loads a model.
"""

import asyncio
import shutil
import tempfile

import msgspec

from paceline.processes.child import Child, how_it_ended
from paceline.processes.link import Link, pair
from paceline.serve.operator_run import Outcome, Run
from paceline.terms.errors import NotMeasured, Unavailable
from paceline.terms.limits import PROFILE_LOAD_S, PROFILE_UNASKED_S

ARGUMENTS = ("-m", "paceline.serve.operator_run")

outcomes = msgspec.json.Decoder(Outcome)


class End(msgspec.Struct, frozen=True):
    """A word to end with what there is."""


class OperatorRun:
    """`outcome` has what came of it, once the process has ended."""

    def __init__(self, name: str, path: str, seconds: float, rows: int, length: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self._told: Outcome | None = None
        self._how = ""
        self._folder = tempfile.mkdtemp(prefix="paceline-")
        ours, theirs = pair()
        try:
            self._child = Child(ARGUMENTS, theirs, self._on_exit)
        except OSError as error:
            ours.close()
            theirs.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise Unavailable(
                "no process can be started", value=str(error), remedy="Try again later."
            ) from error
        self._link = Link(ours, outcomes, self._on_outcome, self._settle)
        self._link.send(Run(name, path, self._folder, seconds, rows, length))
        self._timer = self._loop.call_later(seconds + PROFILE_LOAD_S, self._child.kill)

    def end(self) -> None:
        """Soon, with what it has; where it loads or runs for too long, with nothing."""
        self._timer.cancel()
        self._timer = self._loop.call_later(PROFILE_UNASKED_S, self._child.kill)
        self._link.send(End())

    def kill(self) -> None:
        """At once; nobody may be left to see its end."""
        self._child.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _on_outcome(self, outcome: Outcome, fds: list[int]) -> None:
        self._told = outcome

    def _on_exit(self, status: int) -> None:
        self._timer.cancel()
        self._how = how_it_ended(status)
        shutil.rmtree(self._folder, ignore_errors=True)
        self._settle()

    def _settle(self) -> None:
        """Once the process has ended, and all that it said has been read."""
        if self._child.alive or not self._link.closed or self.outcome.done():
            return
        if self._told is not None:
            self.outcome.set_result(self._told)
            return
        self.outcome.set_exception(
            NotMeasured(
                "the process that ran the model ended before it could tell",
                value=self._how,
                remedy="See that there is memory for the model twice, and time to load it.",
            )
        )
