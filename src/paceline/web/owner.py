"""The owner process: holds port, state directory and fronts; answers the page and the calls.

It never loads a model and never answers an inference. Its parts come from `app.py`.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import paceline
from paceline.access.keys import Key, KeyFile
from paceline.changes.desk import Desk
from paceline.changes.scoring import Totals
from paceline.clock import Clock
from paceline.config import Server
from paceline.config.source import Loaded
from paceline.journal.journal import Journal
from paceline.net.server import Connections
from paceline.observe import log
from paceline.observe.board import Board, merged, read
from paceline.processes.state_dir import StateDir
from paceline.processes.terminal import Sender, Terminal
from paceline.serve.knobs import Rules, rules
from paceline.serve.model_source import ModelSource
from paceline.terms.errors import PacelineError
from paceline.terms.limits import ALERTS_ON_PAGE, WATCH_TICK_S
from paceline.terms.measurement import Measurement
from paceline.terms.metric import (
    BATCH_ROWS,
    BUILD,
    DISK_BYTES,
    DISK_FREE,
    FRONT_RESTARTS,
    FRONTS_READY,
    FRONTS_WANTED,
    IN_FLIGHT,
    PARKED,
    REQUEST_SECONDS,
    STARTED,
)
from paceline.terms.plan import Catalogue
from paceline.watch.alerts.desk import Alerts
from paceline.watch.drift import Drift
from paceline.watch.past import Past
from paceline.watch.watcher import Watcher
from paceline.web import (
    alerts_api,
    calls_api,
    drift_api,
    feedback_api,
    history_api,
    plan_api,
    quality_api,
    said_api,
    traces_api,
)
from paceline.web.control import Control
from paceline.web.doorkeeper import Doorkeeper
from paceline.web.exports import Exports
from paceline.web.fronts import Fronts, Takes
from paceline.web.machine import MachineCost, of_files, of_plan
from paceline.web.messages import KeysChanged, SettingsChanged, Spans, Start, TracesChanged
from paceline.web.profiles import Profiles
from paceline.web.scores import Scores
from paceline.web.settings_api import FollowAlerting, SettingsInForce, wanted
from paceline.web.status import (
    Status,
    alert_status,
    answered,
    of_models,
    of_providers,
    refused,
    total,
    usage,
)
from paceline.web.steered import Steered
from paceline.web.upkeep import Upkeep
from paceline.web.v2_owner import Repository

logger = log.get(__name__)

Probe = Callable[[list[int], bool], list[Measurement]]
"""Measures the processes and the container, given the pids of the fronts, and whether what is some
seconds old will do."""


class Owner:
    """`run` serves until told to stop; `on_ready` is called once, at the first ready front."""

    def __init__(
        self,
        loaded: Loaded,
        journal: Journal,
        catalogue: Catalogue,
        held: StateDir,
        listener: socket.socket,
        address: str,
        keys: KeyFile,
        models: tuple[ModelSource, ...],
        files: Mapping[str, Path],
        probe: Probe,
        alerts: Alerts,
        follow_alerting: FollowAlerting,
        clock: Clock,
        session_secret: bytes,
        on_ready: Callable[[Takes], None],
        exports: Exports,
    ) -> None:
        settings = loaded.settings.server
        self._loaded = loaded
        """as it was started with"""
        self._journal = journal
        self._wanted = wanted(loaded)
        self._held = held
        self._listener = listener
        self._address = address
        self._port = listener.getsockname()[1]
        self._key_file = keys
        self._keys: tuple[Key, ...] = keys.load()
        self._models = models
        self._files = files
        self._probe = probe
        self._alerts = alerts
        self._clock = clock
        self._exports = exports
        self._on_ready: Callable[[Takes], None] | None = on_ready
        self._cannot_start: PacelineError | None = None
        self._session_secret = session_secret
        self._started_wall = clock.wall()
        self._stopping = asyncio.Event()
        self._board = Board()
        self._fronts = Fronts(
            settings.fronts,
            self._orders,
            (listener.fileno(), held.descriptor),
            journal.state.in_force,
            self._on_change,
            self._on_orphans,
            lambda wish, front: self._steered.wish(wish, front),
            clock,
            self._on_failed,
            lambda rows: self._drift.take(rows),
            self._on_spans,
        )
        self._doorkeeper = Doorkeeper(
            listener,
            self._fronts.hand_over,
            self._board.counter(PARKED),
            tls=bool(settings.tls_cert),
        )
        self._desk = Desk(
            journal, catalogue, self._fronts, clock, lambda entry: self._scores.watch(entry)
        )
        self._steered = Steered(self._desk)
        self._scores = Scores(self._desk, self._totals, clock)
        self._settings = SettingsInForce(
            loaded, self._desk, self._on_settings, follow_alerting, self._follow_traces
        )
        self._cost = MachineCost(lambda: self._settings.server.usd_h, clock)
        self._watcher = Watcher(
            held.path,
            lambda: self._boards,
            lambda: self._beside_boards(recent=True),
            clock,
            (self._look_for_alerts,),
        )
        self._upkeep = Upkeep(self._desk, self._settings, held.path, loaded.keep, clock)
        self._profiles = Profiles(self._fronts, models, files, self._batch_rows, clock.now)
        self._drift = Drift(held.path, clock.now, clock.wall, drift_api.compared)
        self._control = Control(
            self._measure,
            self._status,
            self.stop,
            self._reload_keys,
            clock.now,
            lambda: self._keys,
            (
                *plan_api.operations(self._desk, how=lambda: self._fronts.how),
                *self._settings.operations(),
                *calls_api.operations(self._fronts.calls),
                *said_api.operations(held.path, clock.wall, journal),
                *traces_api.operations([each.name for each in models], self._fronts.traces),
                *history_api.operations(
                    self._watcher,
                    clock.wall,
                    self._rules_of,
                    lambda: alerts.book,
                    self._drift.windows,
                ),
                *drift_api.operations(self._drift),
                *quality_api.operations(
                    [each.name for each in models], self._watcher, self._drift.found
                ),
                *alerts_api.operations(alerts),
                *self._profiles.operations(),
                *feedback_api.operations(
                    [each.name for each in models], self._fronts.judge, self._board
                ),
            ),
            Repository(self._desk, self._measure, lambda: self._keys).routes(),
        )
        self._terminal = Terminal()

    async def run(self) -> None:
        try:
            await self._desk.begin(self._wanted, paceline.__version__)
            await self._serve()
        finally:
            await self._journal.close()
        if self._cannot_start is not None:
            raise self._cannot_start

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        self._terminal.listen(self._on_hangup)
        self._doorkeeper.open()
        self._fronts.start()
        self._upkeep.start()
        self._alerts.start()
        self._exports.start(self._measure)
        connections = Connections(self._control.routes(), self._clock.now, self._clock.wall)
        await connections.listen(self._held.listen())
        await self._stopping.wait()
        self._doorkeeper.refuse()
        self._control.end_streams()
        self._upkeep.close()
        self._profiles.close()
        await self._steered.close()
        await self._scores.close()
        await self._fronts.drain(self._settings.server.drain_s)
        await self._alerts.close()
        await self._exports.close()
        await self._watcher.close()
        await self._drift.close()
        self._doorkeeper.refuse_all()
        self._listener.close()
        connections.stop_listening()

    def stop(self, why: str) -> None:
        if self._stopping.is_set():
            logger.warning("stopping at once", why=why)
            self._fronts.kill()
        else:
            logger.info("stopping", why=why, drain_s=self._settings.server.drain_s)
            self._stopping.set()

    def _on_signal(self, number: int) -> None:
        self.stop(signal.Signals(number).name)

    def _on_hangup(self, sender: Sender) -> None:
        """Read the settings again; or stop, where the terminal it was started in is closed."""
        if self._stopping.is_set():  # the kernel may have told us, and now the shell does
            return
        if self._terminal.was_closed_by(sender):
            self.stop("the terminal was closed")
        else:
            self._upkeep.reload("SIGHUP")

    def _on_settings(self, settings: Server) -> None:
        log.change(settings.log_level, access=settings.access_log)
        self._fronts.tell(SettingsChanged(settings))
        self._upkeep.heed_saves()

    def _follow_traces(self, loaded: Loaded) -> Callable[[], None]:
        """Receivers are made at once, so that what is wrong with one is told before anything has
        changed."""
        said = loaded.settings.traces
        made = self._exports.prepared(said, loaded.folder)

        def follow() -> None:
            self._exports.change(made)
            self._fronts.tell(TracesChanged(said.sample, self._exports.of_spans))

        return follow

    def _orders(self, index: int) -> Start:
        return Start(
            index=index,
            settings=self._settings.server,
            port=self._port,
            keys=self._keys,
            session_secret=self._session_secret,
            models=self._models,
            providers=self._loaded.providers,
            routes=self._loaded.routes,
            prices=self._loaded.prices,
            keep=self._loaded.keep,
            sample=self._settings.traces.sample,
            exports=self._exports.of_spans,
        )

    def _on_change(self) -> None:
        """The doorkeeper stands at the port while no front does, and at the end."""
        if self._stopping.is_set():
            return
        if self._fronts.ready:
            self._doorkeeper.close()
            if self._on_ready is not None:
                self._on_ready(self._fronts.takes)
                self._on_ready = None
                self._watcher.start(after_s=WATCH_TICK_S)
        else:
            self._doorkeeper.open()

    def _on_failed(self, front: int, error: PacelineError) -> None:
        """A front that cannot serve before any could will not the next time either: the start has
        failed. One that fails later, say because a file is gone, is tried again."""
        if self._on_ready is not None and not self._stopping.is_set():
            self._cannot_start = error
            self.stop("the start failed")
        else:
            logger.error("a front cannot serve", front=front, why=str(error))

    def _on_spans(self, spans: Spans) -> None:
        self._exports.take(spans.spans, spans.dropped)

    def _on_orphans(self, connections: list[socket.socket]) -> None:
        """Handed to a front that died before it took them: they wait for another."""
        for connection in connections:
            self._doorkeeper.park(connection)

    def _reload_keys(self) -> None:
        self._keys = self._key_file.load()
        self._fronts.tell(KeysChanged(self._keys))
        logger.info("keys changed", keys=len(self._keys))

    @property
    def _boards(self) -> list[Board]:
        return [self._board, *(slot.board for slot in self._fronts.slots)]

    def _totals(self, workload: str) -> Totals:
        requests, failed = answered(workload, read(self._boards))
        durations_s = merged(self._boards, REQUEST_SECONDS, (workload,))
        return Totals(self._clock.now(), requests, failed, durations_s)

    def _batch_rows(self, model: str) -> float | None:
        return merged(self._boards, BATCH_ROWS, (model,)).quantile(0.5)

    def _rules_of(self, model: str) -> Rules | None:
        if all(each.name != model for each in self._models):
            return None
        return rules(model, self._journal.state.in_force)

    def _look_for_alerts(self, past: Past) -> None:
        """Not while it stops: fronts that end then are no news."""
        if not self._stopping.is_set():
            self._alerts.look(past, self._clock.now())

    def _measure(self) -> list[Measurement]:
        return [
            *read(self._boards),
            *self._beside_boards(),
            Measurement(BUILD, (paceline.__version__,), 1.0),
            Measurement(STARTED, (), self._started_wall),
        ]

    def _beside_boards(self, *, recent: bool = False) -> list[Measurement]:
        plan = self._journal.state.in_force
        return [
            *self._probe(self._fronts.pids, recent),
            *self._of_files,
            *of_plan([each.name for each in self._models], plan.settings, len(self._fronts.slots)),
            *self._cost.measured(),
            *self._alerts.measure(),
            *self._drift.measure(),
            *self._exports.measure(),
            *self._disk(),
            Measurement(FRONTS_READY, (), float(self._fronts.ready)),
            Measurement(FRONTS_WANTED, (), float(len(self._fronts.slots))),
            Measurement(FRONT_RESTARTS, (), float(self._fronts.restarts)),
        ]

    @cached_property
    def _of_files(self) -> list[Measurement]:
        return of_files(self._files)

    def _disk(self) -> list[Measurement]:
        try:
            seen = os.fstatvfs(self._held.descriptor)
        except OSError as error:  # of a network disk that is gone
            logger.warning("the disk of the state directory does not answer", why=str(error))
            return []
        return [
            Measurement(DISK_BYTES, (), float(seen.f_blocks * seen.f_frsize)),
            Measurement(DISK_FREE, (), float(seen.f_bavail * seen.f_frsize)),
        ]

    def _status(self) -> Status:
        measured = self._measure()
        firing = [each for each in alerts_api.views(self._alerts.book) if each.state != "resolved"]
        return Status(
            version=paceline.__version__,
            address=self._address,
            uptime_s=self._clock.wall() - self._started_wall,
            ready=self._fronts.ready > 0 and not self._stopping.is_set(),
            fronts_ready=self._fronts.ready,
            fronts_wanted=len(self._fronts.slots),
            front_restarts=self._fronts.restarts,
            in_flight=total(IN_FLIGHT, measured),
            refused=refused(measured),
            usage=usage(measured),
            models=of_models(tuple(each.name for each in self._models), measured),
            providers=of_providers(self._loaded.providers, measured),
            plan=self._desk.state.plan.version,
            entry=self._desk.state.seq,
            alerts=tuple(map(alert_status, firing[:ALERTS_ON_PAGE])),
            alerts_open=len(firing),
        )
