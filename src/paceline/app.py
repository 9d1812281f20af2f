"""The only place where parts are wired together: the owner process, the front processes, and the
desk of a command while no owner runs.

Called by the command line (`run_owner`, `desk_without_owner`) and by `python -m paceline _front`
(`run_front`).
"""

import errno
import os
import resource
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

import paceline
from paceline.access.gate import Gate, is_loopback
from paceline.access.keys import KeyFile, KeyRing
from paceline.access.sessions import Sessions, new_secret
from paceline.changes.decide import FilePin, to_catalogue
from paceline.changes.desk import Desk, Nobody, Wanted
from paceline.clock import Chance, RealClock
from paceline.config import Server
from paceline.config.source import Loaded
from paceline.gateway.upstream import SIMULATED, Target, costs
from paceline.journal.fold import State
from paceline.journal.journal import Journal
from paceline.journal.pending import Pending
from paceline.journal.sqlite import FILE, SqliteReader, SqliteStore
from paceline.observe import log
from paceline.observe.board import Board
from paceline.observe.probes import container
from paceline.processes import notify
from paceline.processes.child import LINK_FD
from paceline.processes.memory import keep_freed
from paceline.processes.state_dir import Holder, StateDir
from paceline.serve import digits
from paceline.serve.knobs import catalogue, executors
from paceline.serve.model_source import ModelSource
from paceline.terms.errors import CannotStart, NoKey, NotAllowed, PortTaken
from paceline.terms.limits import CONNECTION_BACKLOG, KEPT_BYTES, LLM_NEWS_PER_S, SWITCH_S
from paceline.terms.plan import Address, Catalogue, Knob, changed

if TYPE_CHECKING:
    from paceline.config.alerting import Alerting
    from paceline.gateway.said.keep import Keep
    from paceline.gateway.said.keeping import Keeping
    from paceline.gateway.standing import News
    from paceline.terms.span import Value
    from paceline.watch.alerts.desk import Alerts
    from paceline.watch.alerts.ways import Ways
    from paceline.web.fronts import Takes
    from paceline.web.llm import Llm
    from paceline.web.messages import Start, TargetNews
    from paceline.web.tracing import Tracing

KEY_FILE = "keys.json"
SHIPPED = {digits.NAME: digits.MODEL_PATH}


def key_file(settings: Server) -> KeyFile:
    return KeyFile(Path(settings.state) / KEY_FILE)


def run_owner(loaded: Loaded, on_ready: Callable[[str, "Takes"], None]) -> None:
    """Serves until it is told to stop. `on_ready` gets the address and what the models take, once
    requests are answered."""
    from paceline.observe.gpus import Gpus
    from paceline.watch.alerts.ways import Ways
    from paceline.web.exports import Exports
    from paceline.web.owner import Owner
    from paceline.web.probe import ModelCpu, Recent, ended_cpu_s, of_gpus, probe

    settings = loaded.settings.server
    tls_of(settings)
    loaded.check_start()
    for model in loaded.models:
        model.check()  # what a front would find, told before anything begins
    before_s, of_models = ended_cpu_s(), ModelCpu()
    clock = RealClock()
    seen, gpus = Recent(clock.now), Gpus(clock.now)
    log.setup(
        settings.log_format,
        settings.log_level,
        "owner",
        now=clock.now,
        wall=clock.wall,
        access=settings.access_log,
    )
    _raise_file_limit()
    held = StateDir.hold(Path(settings.state))
    try:
        keys = key_file(settings)
        _require_key(settings, keys)
        listener = _listen(settings.host, settings.port)
        _tell_of_providers(loaded)
        if loaded.keep is not None:
            log.get(__name__).warning(
                "what is said in LLM calls is kept, as the settings ask for it",
                days=loaded.settings.said.days,
                routes=", ".join(loaded.keep.routes) or "all",
            )
        if settings.insecure and not is_loopback(settings.host):
            log.get(__name__).warning(
                "open to everybody who reaches this address, without a key", host=settings.host
            )
        address = _address(settings, listener)
        held.note(Holder(os.getpid(), address))
        journal = Journal(SqliteStore.open(held.path), clock)

        def ready(takes: "Takes") -> None:
            notify.ready()
            try:
                on_ready(address, takes)
            except OSError as error:  # nobody reads it; that is no reason not to serve
                log.get(__name__).warning("standard output cannot be written", error=str(error))

        async def serve() -> None:
            ways = Ways(os.environ, clock.now)
            ways.change(ways.prepared(loaded.alerting.channels))
            alerts = _alerts(loaded, journal, ways, address, clock)
            exports = Exports(_resource(address), paceline.__version__, os.environ, clock, Chance())
            exports.change(exports.prepared(loaded.settings.traces, loaded.folder))
            owner = Owner(
                loaded,
                journal,
                _knobs(loaded),
                held,
                listener,
                address,
                keys,
                loaded.models,
                _files(loaded.models),
                lambda pids, recent: [
                    *probe(pids, before_s, of_models, seen if recent else container),
                    *of_gpus(gpus()),
                ],
                alerts,
                lambda new: _following(alerts, ways, new),
                clock,
                new_secret(),
                ready,
                exports,
            )
            try:
                await owner.run()
            finally:
                await ways.close()
                await exports.close()

        uvloop.run(serve())
    finally:
        held.release()


def _following(alerts: "Alerts", ways: "Ways", new: "Alerting") -> "Callable[[], Awaitable[None]]":
    """Other channels are made at once, so that what is wrong with one is told before anything has
    changed."""
    made = ways.prepared(new.channels)

    async def follow() -> None:
        left = ways.change(made)
        await alerts.follow(new.bounds, new.policy, ways.senders)
        for way in left:
            await way.close()

    return follow


def _resource(address: str) -> dict[str, "Value"]:
    """What spans and metrics are of."""
    return {
        "service.name": "paceline",
        "service.version": paceline.__version__,
        "service.instance.id": address.partition("://")[2],
    }


def _alerts(
    loaded: Loaded,
    journal: Journal,
    ways: "Ways",
    address: str,
    clock: RealClock,
) -> "Alerts":
    from paceline.watch.alerts.desk import Alerts

    return Alerts(
        journal,
        loaded.alerting.bounds,
        loaded.alerting.policy,
        ways.senders,
        [model.name for model in loaded.models],
        address.partition("://")[2],
        clock,
        Chance(),
    )


def alerts_without_owner(journal: Journal) -> "Alerts":
    """For a command while no owner runs: the book alone. It looks at nothing and tells nobody."""
    from paceline.watch.alerts.desk import Alerts
    from paceline.watch.alerts.life import Policy

    return Alerts(journal, {}, Policy(), {}, (), "", RealClock(), Chance())


def run_front() -> None:
    """The life of one front; its orders come over the link its owner left at LINK_FD."""
    from paceline.serve.loading import load_all, takes
    from paceline.serve.reading import Reader
    from paceline.serve.samples import Samples
    from paceline.web.door import Door
    from paceline.web.front import Front, Parts, Wish
    from paceline.web.front_routes import front_routes
    from paceline.web.inference import Inference
    from paceline.web.messages import Drawn, Serves, Start
    from paceline.web.relay import Relay
    from paceline.web.tracing import Tracing, kept_by
    from paceline.web.v2_front import v2_routes

    clock = RealClock()
    keep_freed(KEPT_BYTES)
    sys.setswitchinterval(SWITCH_S)

    def build(
        start: Start,
        board_fd: int,
        directory_fd: int,
        why_not_ready: Callable[[], str],
        wish: Wish,
    ) -> Parts:
        settings = start.settings
        log.setup(
            settings.log_format,
            settings.log_level,
            f"front-{start.index}",
            now=clock.now,
            wall=clock.wall,
            access=settings.access_log,
        )
        board = Board(board_fd)
        os.close(board_fd)
        sessions = Sessions(start.session_secret, start.port)
        gate = Gate(
            settings.host,
            KeyRing(start.keys),
            sessions,
            require_keys=settings.require_keys,
            insecure=settings.insecure,
            tls=bool(settings.tls_cert),
        )
        if settings.fronts > 1:  # else the first to wake takes all callers who come together
            os.environ["UV_TCP_SINGLE_ACCEPT"] = "1"
        models = load_all(start.models, SHIPPED)
        steers = start.index == 0  # one of several: they share the load, and the settings
        reader = Reader(clock)
        samples = None
        if settings.drift_rows_s:
            specs = {name: model.spec for name, model in models.items()}
            samples = Samples(specs, settings.drift_rows_s, lambda rows: wish(Drawn(tuple(rows))))
        chance = Chance()
        tracing = Tracing(clock, chance, start.sample, wish, tls=bool(settings.tls_cert))
        told = tracing if start.exports else None
        inference = Inference(
            models,
            board,
            clock,
            reader,
            start.index,
            wish if steers else None,
            settings.feedback_answers,
            samples,
            kept_by(told, clock, chance, start.sample),
        )
        inference.warm()
        wish(Serves(takes(models), inference.how()))

        def not_ready() -> str:
            return why_not_ready() or door.why_not_ready()

        routes = front_routes(
            v2_routes(inference, not_ready),
            Relay(directory_fd),
            gate,
            sessions,
            not_ready,
            clock,
        )
        keeping = _keeping(start.keep, directory_fd, board, clock)
        llm = _llm(start, board, clock, wish if settings.fronts > 1 else None, keeping, told)
        door = Door(routes, gate, board, clock, Chance(), llm.begin, inference.begin)
        return Parts(door, gate, inference, clock, llm, tracing, tls_of(settings))

    async def serve() -> None:
        await Front(socket.socket(fileno=LINK_FD), build).run()

    uvloop.run(serve())


def _llm(
    start: "Start",
    board: Board,
    clock: RealClock,
    tell: "Callable[[TargetNews], None] | None",
    keeping: "Keeping | None",
    tracing: "Tracing | None",
) -> "Llm":
    """Providers with their keys, which no message between processes has, and the ways to them."""
    from paceline.gateway.beside import Beside
    from paceline.gateway.prices import Prices
    from paceline.gateway.provider import Provider
    from paceline.gateway.providers.http import HttpProvider, secret
    from paceline.gateway.providers.simulated import SimulatedProvider, Simulation
    from paceline.gateway.relay import Relay
    from paceline.gateway.routing import Router
    from paceline.gateway.tally import Tally
    from paceline.web.llm import Llm

    upstreams, routes = start.providers, start.routes
    chance = Chance()
    providers: dict[str, list[Provider]] = {}
    for each in upstreams:
        if each.kind == SIMULATED:
            providers[each.name] = [
                SimulatedProvider("openai", Simulation(), clock, chance.fork("openai")),
                SimulatedProvider("anthropic", Simulation(), clock, chance.fork("anthropic")),
            ]
        elif not each.withheld:
            key = secret(os.environ.get(each.key_env), each) if each.key_env else ""
            log.hide(key)
            providers[each.name] = [HttpProvider(each, key, clock.now)]
    withheld = {
        route.name: _withheld(target.provider)
        for route in routes
        for tier in route.tiers
        for target in tier.targets
        if target.provider not in providers
    }
    news = None if tell is None else _news(tell, clock)
    router = Router(routes, chance.fork("routes"), clock.now(), news)
    simulated = [each.name for each in upstreams if each.kind == SIMULATED]
    tally = Tally(board, Prices(start.prices, free=simulated))
    relay = Relay(providers, router, tally, clock, Beside(clock))
    return Llm(relay, board, withheld, keeping, tracing)


def _keeping(
    keep: "Keep | None", directory_fd: int, board: Board, clock: RealClock
) -> "Keeping | None":
    """Of what is said in LLM calls, where the settings ask for it."""
    if keep is None:
        return None
    from paceline.gateway.said.keeping import Keeping

    keeping = Keeping(keep, os.readlink(f"/proc/self/fd/{directory_fd}"), board, clock)
    keeping.start()
    return keeping


def _news(tell: "Callable[[TargetNews], None]", clock: RealClock) -> "News":
    """Tells the other fronts, by way of the owner, which targets are to be left alone."""
    from paceline.flow.limiter import TokenBucket
    from paceline.web.messages import TargetNews

    bucket = TokenBucket(1, 1 / LLM_NEWS_PER_S, LLM_NEWS_PER_S, clock.now())

    def news(target: Target, until_s: float, why: str) -> None:
        if bucket.try_take(clock.now()):
            tell(TargetNews(target.provider, target.model, until_s, why))

    return news


def _withheld(provider: str) -> NotAllowed:
    return NotAllowed(
        f"{provider} may cost money, and there are no budgets yet that could limit it",
        value=provider,
        remedy="Start the server with --no-budget to call it all the same.",
    )


def _tell_of_providers(loaded: Loaded) -> None:
    """In the log, where the page's red line is not seen."""
    logger = log.get(__name__)
    for each in loaded.providers:
        if each.withheld:
            logger.warning(
                "a provider with a key in the environment is off: it may cost money",
                provider=each.name,
                remedy="start with --no-budget to call it",
            )
        elif costs(each):
            logger.warning(
                "calls to this provider cost money, and no budget limits them", provider=each.name
            )


@asynccontextmanager
async def desk_without_owner(loaded: Loaded, *, writes: bool) -> AsyncIterator[Desk]:
    """The desk of one command. To write, it holds the state directory and begins as an owner does,
    so that the plan exists and the pins of a settings file hold, where there is one. All of it is
    written at the end, and nothing where the command is refused. To read, it locks nothing, and
    knows the knobs of the Plan that it finds."""
    from paceline.web.settings_api import wanted

    state = Path(loaded.settings.server.state)
    clock = RealClock()
    if not writes:
        journal = Journal(SqliteReader(state), clock)
        lines = journal.state.plan.lines
        every = {**catalogue(_served(lines)), **_knobs(loaded)}
        known = {address: knob for address, knob in every.items() if address in lines}
        desk = Desk(journal, known, Nobody(), clock)
        desk.pins = wanted(loaded).pins
        yield desk
        return
    with ExitStack() as stack:

        def opened() -> SqliteStore:
            held = StateDir.hold(state)
            stack.callback(held.release)
            return stack.enter_context(closing(SqliteStore.open(held.path)))

        kept = opened() if (state / FILE).exists() else None  # who is refused makes none
        pending = Pending(kept)
        journal = Journal(pending, clock)
        models = _served(journal.state.plan.lines)  # without settings, those of its last server
        knobs = catalogue(models) if models and not loaded.file else _knobs(loaded)
        try:
            desk = Desk(journal, knobs, Nobody(), clock)
            settings = wanted(loaded) if loaded.file else _as_it_is(journal.state, knobs)
            await desk.begin(settings, paceline.__version__)
            yield desk
        finally:
            await journal.close()
        pending.write_to(kept or opened())


def _knobs(loaded: Loaded) -> Catalogue:
    """Of what is served. ONNX files are computed on all cores; a callable of Python is called by
    one process, and the shipped example needs no second core."""
    of_front = executors(loaded.source.cores, loaded.settings.server.fronts)
    knobs: dict[Address, Knob] = {}
    for model in loaded.models:
        knobs |= catalogue([model.name], of_front if model.path else 1)
    return knobs


def _files(models: Iterable[ModelSource]) -> dict[str, Path]:
    """Of those that are ONNX files, shipped ones too."""
    files = {each.name: each.path or SHIPPED.get(each.name) for each in models if not each.python}
    return {name: Path(path) for name, path in files.items() if path}


def _served(lines: Iterable[Address]) -> list[str]:
    """The models that a Plan has lines of."""
    return [*dict.fromkeys(address.rpartition(".")[0] for address in lines)]


def _as_it_is(state: State, knobs: Catalogue) -> Wanted:
    """What the settings of the Plan's own server said, for a command that found no settings."""
    plan = changed(state.plan, to_catalogue(state.plan, knobs), state.plan.version)
    pins = {
        address: FilePin(line.file_pin, "the settings of its server")
        for address, line in plan.lines.items()
        if line.file_pin is not None
    }
    return Wanted(pins, state.goals)


def _require_key(settings: Server, keys: KeyFile) -> None:
    if settings.insecure or (is_loopback(settings.host) and not settings.require_keys):
        keys.load()  # a damaged file is told now, not at the first request
        return
    if not keys.load():
        raise NoKey(
            f"{settings.host} can be reached from other machines, and there is no key yet"
            if not is_loopback(settings.host)
            else "keys are required, and there is none yet",
            value=settings.host,
            remedy=f"Make one with `paceline key create NAME --role admin{_state_option(settings)}`"
            ", or open the server to everybody with --insecure.",
        )


def _state_option(settings: Server) -> str:
    default = Server().state
    return "" if settings.state == default else f" --state {settings.state}"


def _listen(host: str, port: int) -> socket.socket:
    try:
        (family, kind, proto, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror as error:
        raise CannotStart(
            f"the address cannot be resolved: {error.strerror}",
            value=host,
            remedy="Choose an address of this machine with --host; 127.0.0.1 stays local.",
        ) from error
    listener = socket.socket(family, kind, proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(CONNECTION_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise _port_taken(port) from error
        raise CannotStart(
            f"cannot listen there: {error.strerror}",
            value=f"{host}:{port}",
            remedy="Choose another address or port with --host and --port"
            + (", above 1023 unless you are root." if error.errno == errno.EACCES else "."),
        ) from error
    listener.setblocking(False)
    return listener


def _port_taken(port: int) -> PortTaken:
    from paceline.processes.ports import listener_on

    holder = listener_on(port)
    return PortTaken(
        f"port {port} is taken by {holder}" if holder else f"port {port} is taken",
        value=port,
        remedy="Stop that program, or choose another port with --port; 0 takes a free one.",
    )


def _address(settings: Server, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls_cert else 'http'}://{host}:{port}"


def tls_of(settings: Server) -> ssl.SSLContext | None:
    """What https needs; None for http. Read when a front starts, so a restart takes a new
    certificate."""
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise CannotStart(
            f"the certificate cannot be used: {error.strerror or error}",
            value=f"{settings.tls_cert}, {settings.tls_key}",
            remedy="Name a certificate with its chain and its private key, both PEM.",
        ) from error
    return context


def _raise_file_limit() -> None:
    """Every connection is an open file; the soft limit is often far below the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
