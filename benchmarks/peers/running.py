"""A contender that serves a model: started, timed to its first right answer, asked in its forms.

Called by `serving` and `goodput`.
"""

import http.client
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks._server import free_port
from benchmarks.peers.contender import Command, Contender, Launch
from benchmarks.peers.environment import Unavailable, python_of
from benchmarks.peers.forms import Answer
from benchmarks.peers.started import Asked, Started, started
from paceline.serve.model import Tensors

ANSWER_S = 60.0
NEAR = 1e-3


class Running(Started):
    def __init__(
        self, contender: Contender, launch: Launch, command: Command, process: int, mark: str
    ) -> None:
        super().__init__(contender.name, launch.port, process, mark)
        self.contender = contender
        self.launch = launch
        self._command = command

    def asked(self, form: str, row: Tensors) -> Asked:
        endpoint = self.contender.endpoints[form]
        asking = endpoint.form.ask(row)
        headers = {**asking.headers, **self._command.headers}
        return Asked(endpoint.path.format(model=self.launch.model), headers, asking.body)

    def answer(
        self, asked: Asked, form: str, connection: http.client.HTTPConnection | None = None
    ) -> Answer:
        """An OSError, HTTPException or ValueError where there is none."""
        used = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        try:
            used.request("POST", asked.path, asked.body, dict(asked.headers))
            response = used.getresponse()
            body = response.read()
        finally:
            if connection is None:
                used.close()
        if response.status != 200:
            raise ValueError(f"status {response.status}: {body[:200]!r}")
        headers = {name.lower(): value for name, value in response.getheaders()}
        return self.contender.endpoints[form].form.read(headers, body)


@contextmanager
def running(
    contender: Contender, model: str, path: Path, peers: Path, probe: Tensors, expected: Answer
) -> Iterator[Running]:
    """Up and answering right; Unavailable says why not. `probe` is the row asked at the start."""
    python = python_of(contender.environment, peers)
    with tempfile.TemporaryDirectory(prefix="pl-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        launch = Launch(model, path, free_port(), folder, python)
        command = contender.command(launch)
        make = partial(Running, contender, launch, command)
        with started(command, folder, make, partial(_probe, row=probe, expected=expected)) as up:
            yield up


def _probe(up: Running, row: Tensors, expected: Answer) -> None:
    apart = float(np.abs(up.answer(up.asked("json", row), "json") - expected).max())
    if apart > NEAR:
        raise Unavailable(f"its first answer is {apart:.3g} from the right one")
