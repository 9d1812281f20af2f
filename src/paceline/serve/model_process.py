"""A callable of Python as a Model: it runs in a process of its own, which may crash.

The front's side: arrays lie in shared memory, the link says which. Batches are run one after the
other. A process that ends is started again; what it held is answered with Unavailable, and the next
batch waits a moment for it. Called by `loading.py`; the other side is `model_host.py`.
"""

import asyncio
import os
import socket
import threading
from typing import Any, Self

import msgspec

from paceline.clock import Clock, RealClock
from paceline.observe import log
from paceline.processes.child import Child, how_it_ended
from paceline.processes.link import pair
from paceline.processes.restart import Restart
from paceline.serve.model import ModelSpec, Tensors
from paceline.serve.model_host import Batch, Begin, Begun, Memory, Ran, encode, spec_of
from paceline.serve.model_look import ModelLook
from paceline.serve.model_source import ModelSource
from paceline.terms.errors import BadModel, ModelFailed, PacelineError, Unavailable, from_fields
from paceline.terms.limits import (
    DEADLINE_S,
    LINK_MESSAGE_BYTES,
    MODEL_BACK_S,
    MODEL_START_S,
)

logger = log.get(__name__)

ARGUMENTS = ("-m", "paceline", "_model")

_begun = msgspec.json.Decoder(Begun).decode
_ran = msgspec.json.Decoder(Ran).decode


class _Life:
    """One process, from its start to its end. The socket is closed by whoever uses it last."""

    def __init__(self, source: ModelSource, threads: int, on_exit: "Any", now_s: float) -> None:
        self.inputs, self.outputs = Memory.make("inputs"), Memory.make("outputs")
        self.socket, theirs = pair()
        self.looks, of_looks = pair()
        try:
            self.child = Child(ARGUMENTS, theirs, lambda status: on_exit(self, status))
        except OSError:
            theirs.close()
            of_looks.close()
            self.close()
            raise
        self.began_s = now_s
        self.busy = False
        self.over = False
        begin = Begin(source, threads, os.getpid())
        lent = [self.inputs.fd, self.outputs.fd, of_looks.fileno()]
        socket.send_fds(self.socket, [encode(begin)], lent)
        of_looks.close()

    def close(self) -> None:
        self.socket.close()
        self.looks.close()
        self.inputs.close()
        self.outputs.close()


class ModelProcess:
    """Fills the `Model` seam; make one with `start`. `run` may be called from several threads."""

    def __init__(self, source: ModelSource, threads: int, clock: Clock) -> None:
        self._source = source
        self._threads = threads
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._restart = Restart()
        self._turn = threading.Lock()
        self._changed = threading.Condition()
        self._ready: _Life | None = None
        self._newest: _Life | None = None
        self._closed = False
        self.ended = asyncio.Event()
        """after `close`, once there is no process of it"""
        self._timer: asyncio.TimerHandle | None = None
        self._spec: ModelSpec | None = None
        self._looks = 0

    @classmethod
    def start(cls, source: ModelSource, *, threads: int = 1, clock: Clock | None = None) -> Self:
        """Waits until the callable is loaded; on a loop, which then watches the process."""
        model = cls(source, threads, clock or RealClock())
        life = _Life(source, threads, model._on_exit, model._clock.now())
        model._newest = life
        life.socket.settimeout(MODEL_START_S)
        try:
            begun = _hear(life.socket)
        except PacelineError:
            model.close()
            raise BadModel(
                f"the process of the model `{source.name}` ended, or hung, while it was loaded",
                value=source.python,
                remedy="The server's log has what it printed.",
            ) from None
        try:
            model._take(life, begun)
        except PacelineError:
            model.close()
            raise
        return model

    @property
    def spec(self) -> ModelSpec:
        assert self._spec is not None  # before that nobody has it
        return self._spec

    @property
    def pid(self) -> int | None:
        """Of the process that runs it now; None while there is none that is ready."""
        life = self._ready
        return None if life is None else life.child.pid

    def look_into(self) -> ModelLook:
        """A look at the process, whatever it is at. On the loop."""
        with self._changed:
            if self._ready is None:
                raise self._gone("is being started again")
            self._looks += 1
            return ModelLook(self._ready.looks.dup(), self._looks, self.spec.name)

    def run(self, batch: Tensors) -> Tensors:
        with self._turn:
            life = self._living()
            try:
                return self._exchanged(life, batch)
            finally:
                with self._changed:
                    life.busy = False
                    if life.over:
                        life.close()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._ready = None
            self._changed.notify_all()
        if self._timer is not None:
            self._timer.cancel()
        if self._newest is not None and self._newest.child.alive:
            self._newest.child.kill()
        else:
            self.ended.set()

    def _living(self) -> _Life:
        on_loop = threading.get_ident() == self._loop_thread  # which nothing may hold up
        with self._changed:
            if not on_loop:
                self._changed.wait_for(
                    lambda: self._closed or self._ready is not None, MODEL_BACK_S
                )
            if self._ready is None:
                raise self._gone("is being started again")
            self._ready.busy = True
            return self._ready

    def _exchanged(self, life: _Life, batch: Tensors) -> Tensors:
        asked = life.inputs.write(batch)
        try:
            life.socket.send(encode(asked))
            answer = _ran(life.socket.recv(LINK_MESSAGE_BYTES))  # nothing, where it has ended
        except TimeoutError:
            self._give_up(life)
            raise self._gone(f"did not answer within {DEADLINE_S:g} s and is ended") from None
        except (OSError, msgspec.DecodeError):
            self._give_up(life)
            raise self._gone("ended while it ran this request") from None
        if answer.outputs is None:
            error = from_fields(answer.error)
            logger.error(
                "a model failed", model=self.spec.name, why=error.cause, trace=answer.trace
            )
            raise error
        return self._copied(life, answer.outputs)

    def _give_up(self, life: _Life) -> None:
        """Its end is heard of later, and the next batch must not go to it. It may have shut no more
        than its link."""
        with self._changed:
            if self._ready is life:
                self._ready = None
        self._loop.call_soon_threadsafe(life.child.kill)

    def _copied(self, life: _Life, outputs: Batch) -> Tensors:
        """The next batch overwrites what the process wrote."""
        if {each.name for each in outputs.arrays} != {each.name for each in self.spec.outputs}:
            raise ModelFailed(
                f"the model `{self.spec.name}` answers other outputs than before",
                remedy="Restart the server: its file was changed.",
            )
        return {name: array.copy() for name, array in life.outputs.read(outputs).items()}

    def _gone(self, what: str) -> Unavailable:
        return Unavailable(
            f"the process of the model `{self.spec.name}` {what}",
            remedy="Send the request again in a moment; the server's log says how it ended.",
        )

    # --- Its life, on the loop ----------------------------------------------------------------

    def _take(self, life: _Life, begun: Begun) -> None:
        """It is loaded, or says why not."""
        if begun.declared is None:
            raise from_fields(begun.error)
        spec = spec_of(self._source.name, begun.declared, begun.doc)
        if self._spec is not None and spec != self._spec:
            raise BadModel(
                f"the model `{spec.name}` takes or gives something else than before",
                value=self._source.python,
                remedy="Restart the server: its file was changed.",
            )
        life.socket.settimeout(DEADLINE_S)
        with self._changed:
            self._spec = spec
            self._ready = life
            self._changed.notify_all()

    def _on_exit(self, life: _Life, status: int) -> None:
        self._loop.remove_reader(life.socket.fileno())
        if self._timer is not None:  # it is not late any more
            self._timer.cancel()
        with self._changed:
            if self._ready is life:
                self._ready = None
            life.over = True
            if life.busy:  # whoever waits hears of it
                life.socket.shutdown(socket.SHUT_RDWR)
            else:
                life.close()
        if self._closed or self._spec is None:
            self.ended.set()
            return
        wait_s = self._restart.died(self._clock.now() - life.began_s)
        logger.error(
            "a model process ended and is started again",
            model=self._source.name,
            how=how_it_ended(status),
            wait_s=wait_s,
        )
        self._timer = self._loop.call_later(wait_s, self._begin_again)

    def _begin_again(self) -> None:
        if self._closed:
            return
        try:
            life = _Life(self._source, self._threads, self._on_exit, self._clock.now())
        except OSError as error:
            wait_s = self._restart.died(0.0)
            logger.error("a model process cannot be started", error=str(error), wait_s=wait_s)
            self._timer = self._loop.call_later(wait_s, self._begin_again)
            return
        self._newest = life
        self._loop.add_reader(life.socket.fileno(), self._on_begun, life)
        self._timer = self._loop.call_later(MODEL_START_S, self._too_late, life)

    def _on_begun(self, life: _Life) -> None:
        self._loop.remove_reader(life.socket.fileno())
        if self._timer is not None:
            self._timer.cancel()
        if self._closed:
            return
        try:
            self._take(life, _hear(life.socket))
        except PacelineError as error:
            logger.error("a model cannot be loaded again", why=str(error))
            life.child.kill()

    def _too_late(self, life: _Life) -> None:
        logger.error("a model process that does not begin is ended", model=self._source.name)
        life.child.kill()


def _hear(link: socket.socket) -> Begun:
    try:
        return _begun(link.recv(LINK_MESSAGE_BYTES))  # nothing, where it has ended
    except (OSError, msgspec.DecodeError) as error:
        raise Unavailable(
            "a model process ended before it was ready",
            remedy="The server's log has what it printed.",
        ) from error
