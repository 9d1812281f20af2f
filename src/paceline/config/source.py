"""Reads the settings from all who may say something, and remembers who said what.

Later wins: defaults, the file, the environment, the command line. `Source.load` touches nothing:
it returns settings that hold together or raises BadSetting, which names every fault and its place.
What follows from new settings is decided by its callers: the command line and the owner.
"""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from paceline.config import (
    DEFAULT_FILE,
    AlertSettings,
    ChannelSettings,
    ModelSettings,
    PriceSettings,
    RouteSettings,
    SaidSettings,
    Server,
    Settings,
    TraceSettings,
    alerting,
    default_fronts,
    keeping,
    llm,
    served,
    tracing,
)
from paceline.config.alerting import Alerting
from paceline.config.fields import (
    PREFIX,
    Field,
    Leaf,
    Names,
    did_you_mean,
    dotted,
    leaves,
    printable,
    reads_text,
    toml,
    variable,
)
from paceline.gateway.prices import Priced
from paceline.gateway.routes import Route
from paceline.gateway.said.keep import Keep
from paceline.gateway.upstream import Upstream
from paceline.serve.model_source import ModelSource
from paceline.terms.errors import NO_VALUE, BadSetting, BadValue, PacelineError
from paceline.terms.limits import SETTINGS_BYTES, SETTINGS_FAULTS
from paceline.terms.plan import Address, Catalogue, Knob, Value
from paceline.watch.alerts.channel import ChannelTo
from paceline.watch.alerts.latch import Bounds
from paceline.watch.alerts.life import Policy
from paceline.watch.alerts.rules import RULES

if TYPE_CHECKING:
    from paceline.terms.goal import Goal

NOT_SETTINGS = ("PACELINE_PYTHON", "PACELINE_VENV", "PACELINE_OPTIONS")
"""Of the launcher and of the systemd unit."""

OF_KUBERNETES = re.compile(
    r"PACELINE_(\w+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""What a pod finds in its environment when a Service of its namespace is named paceline."""


# --- Where a value comes from ---------------------------------------------------------------------


class Origin(msgspec.Struct, frozen=True):
    """`name` is that of the file, the variable or the flag."""

    kind: Literal["default", "file", "environment", "flag"] = "default"
    name: str = ""
    line: int = 0

    def __str__(self) -> str:
        match self.kind:
            case "default":
                return "default"
            case "file":
                return f"{self.name}:{self.line}"
            case "environment":
                return f"environment {self.name}"
            case "flag":
                return self.name


DEFAULT = Origin()


class Pin(msgspec.Struct, frozen=True):
    value: Value
    origin: Origin


class Wanted(msgspec.Struct, frozen=True):
    goal: "Goal"
    origin: Origin


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that hold together. `file` is None where none was read."""

    settings: Settings
    origins: Mapping[str, Origin]
    """of everything there is, by names such as `server.port`; of pins only those that are set"""
    pins: Mapping[Address, Pin]
    goals: Mapping[str, Wanted]
    """by model; one that has none is left out"""
    models: tuple[ModelSource, ...]
    """all that are served"""
    providers: tuple[Upstream, ...]
    """all there are, with those that may not be called yet"""
    providers_of_file: bool
    """and not found in the environment"""
    routes: tuple[Route, ...]
    """those of the settings, and one for each model that is a provider's own"""
    prices: tuple[Priced, ...]
    """what tokens cost"""
    keep: Keep | None
    """what is kept of what is said in LLM calls; None is nothing"""
    alerting: Alerting
    """what is an alert, and who is told"""
    file: Path | None
    source: "Source"
    """loads again, from the same places"""
    places: tuple[Names, ...]

    @property
    def folder(self) -> Path:
        """Where other files are looked for that it names."""
        return Path() if self.file is None else self.file.parent

    def values(self) -> Iterator[tuple[str, object]]:
        """In the order of the origins, which have each of them."""
        tree = msgspec.to_builtins(self.settings)
        for names in self.places:
            value = tree
            for part in names:
                value = value[part]
            yield dotted(names), value

    def check_start(self) -> None:
        """What more a server needs to start, of the environment that this was read in."""
        llm.check_start(self.providers, self.source.environ, of_file=self.providers_of_file)
        alerting.check_start(self.alerting, self.source.environ)


# --- Reading --------------------------------------------------------------------------------------


class _Said(NamedTuple):
    """`shown` is the value as whoever said it wrote it."""

    names: Names
    value: object
    origin: Origin
    shown: str


class _Given(NamedTuple):
    value: Any
    origin: Origin


class _Fault(NamedTuple):
    """`remedy` is asked only if the fault is told: to look for names alike takes its time."""

    origin: Origin
    cause: str
    value: object
    remedy: Callable[[], str]

    @property
    def error(self) -> BadSetting:
        return BadSetting(f"{self.origin}: {self.cause}", value=self.value, remedy=self.remedy())


def _fault(origin: Origin, cause: str, value: object, remedy: str) -> _Fault:
    return _Fault(origin, cause, value, lambda: remedy)


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """All places that settings come from.

    `flags` holds the fields of `Server` that the command line gives; None is not given.
    """

    file: Path | None
    """None is ./paceline.toml, if there is one"""
    environ: Mapping[str, str]
    flags: Mapping[str, object]
    catalogue: Callable[[Iterable[str]], Catalogue]
    """of models by their names"""
    models: Sequence[str]
    """those that are shipped: they need no file of their own, and are served where none is named"""
    cores: float
    """how many this machine may use, for the default of `fronts`"""
    only: served.Only | None = None
    """the one model that a command names: it alone is served, and no file is read"""

    def load(self, *, may_be_empty: bool = True) -> Loaded:
        """A file that may not be empty is refused if it is."""
        faults: list[_Fault] = []
        text = None if self.only else self._read(may_be_empty)
        named = served.named(text.tree if text else None, self.models)
        if self.only is not None:
            named = [self.only.model.name]
        providers: list[str] = []
        routes: list[str] = []
        prices: list[str] = []
        channels: list[str] = []
        of_file = False
        if self.only is None:
            providers, of_file = llm.providers_named(text.tree if text else None, self.environ)
            routes = llm.routes_named(text.tree if text else None)
            prices = llm.prices_named(text.tree if text else None)
            channels = alerting.channels_named(text.tree if text else None)
        known = leaves(self.catalogue(named), named, providers, routes, prices, channels)
        said = [] if of_file else [*_from_found(providers)]
        said += [*_from_file(text, known, self.models, faults)] if text else []
        said += _from_environ(self.environ, known, faults)
        said += _from_flags(self.flags)
        said += [] if self.only is None else _from_command(self.only)
        given: dict[Names, _Given] = {}
        for names, value, origin, shown in said:
            try:
                given[names] = _Given(_checked(known[names], value), origin)
            except PacelineError as error:
                faults.append(_fault(origin, error.cause, shown, error.remedy))
        file = text.path if text else None
        sources = [] if faults else [*self._sources(named, given, file, faults)]
        settings = None
        if not faults:
            settings = self._settings(given, named, providers, routes, prices, channels)
        upstreams: list[Upstream] = []
        routes_named: list[Route] = []
        priced: list[Priced] = []
        alerts: Alerting | None = None
        keep: Keep | None = None
        if settings is not None:
            folder = Path() if file is None else file.parent
            upstreams += _upstreams(settings, given, text, folder, faults)
            routes_named += _routes(settings, given, text, faults)
            routes_named += llm.routes_of_models(upstreams, routes_named)
            priced += _prices(settings, given, text, faults)
            alerts = _alerting(settings, given, text, folder, faults)
            keep = _keep(settings, [each.name for each in routes_named], given, text, faults)
            faults += [
                _of_section(("traces",), each, given, text)
                for each in tracing.wrong(settings.traces, folder)
            ]
        if faults or settings is None or alerts is None:
            raise _together(faults)
        origins = {names: each.origin for names, each in given.items()}
        _check_server(settings.server, origins)
        places = tuple(
            names for names, leaf in known.items() if names in given or isinstance(leaf, Field)
        )
        pins = {names: each for names, each in given.items() if isinstance(known[names], Knob)}
        return Loaded(
            settings=settings,
            origins={dotted(names): origins.get(names, DEFAULT) for names in places},
            pins={
                f"{model}.{knob}": Pin(value, origin)
                for (_, model, _, knob), (value, origin) in pins.items()
            },
            goals={
                names[1]: Wanted(_goal(clauses), origin)
                for names, (clauses, origin) in given.items()
                if names[-1] == "goal" and clauses
            },
            models=tuple(sources),
            providers=tuple(upstreams),
            providers_of_file=of_file,
            routes=tuple(routes_named),
            prices=tuple(priced),
            keep=keep,
            alerting=alerts,
            file=file,
            places=places,
            # A file that was there must not be missing the next time: its pins would be gone.
            source=self if file is None else msgspec.structs.replace(self, file=file),
        )

    def _sources(
        self,
        named: Sequence[str],
        given: Mapping[Names, _Given],
        file: Path | None,
        faults: list[_Fault],
    ) -> Iterator[ModelSource]:
        """What `path` and `python` say, seen from the folder of the file."""
        if self.only is not None:
            yield self.only.model
            return
        folder = Path() if file is None else file.parent
        for name in named:
            path, python = (given.get(("models", name, each)) for each in ("path", "python"))
            try:
                yield served.source_of(
                    name,
                    path.value if path else "",
                    python.value if python else "",
                    folder,
                    shipped=name in self.models,
                )
            except PacelineError as error:
                origin = next(each.origin for each in (python, path) if each)
                faults.append(_fault(origin, error.cause, error.value, error.remedy))

    def _settings(
        self,
        given: Mapping[Names, _Given],
        named: Sequence[str],
        providers: Sequence[str],
        routes: Sequence[str],
        prices: Sequence[str],
        channels: Sequence[str],
    ) -> Settings:
        def below(*above: str) -> dict[str, Any]:
            return {names[-1]: each.value for names, each in given.items() if names[:-1] == above}

        server = Server(**below("server"))
        if not server.fronts:
            server = msgspec.structs.replace(server, fronts=default_fronts(self.cores))
        of_models = {
            model: ModelSettings(**below("models", model), pins=below("models", model, "pins"))
            for model in named
        }
        of_providers = {
            name: msgspec.structs.replace(llm.defaults(name), **below("providers", name))
            for name in providers
        }
        of_rules = {
            name: msgspec.structs.replace(alerting.rule_defaults(name), **below("rules", name))
            for name in RULES
        }
        return Settings(
            server=server,
            models=of_models,
            providers=of_providers,
            routes={name: RouteSettings(**below("routes", name)) for name in routes},
            prices={name: PriceSettings(**below("prices", name)) for name in prices},
            said=SaidSettings(**below("said")),
            alerts=AlertSettings(**below("alerts")),
            traces=TraceSettings(**below("traces")),
            rules=of_rules,
            channels={name: ChannelSettings(**below("channels", name)) for name in channels},
        )

    def _read(self, may_be_empty: bool) -> "_Text | None":
        path = self.file or Path(DEFAULT_FILE)
        try:
            content = _content(path)
        except OSError as error:
            if self.file is None and error.errno == errno.ENOENT:
                return None
            raise BadSetting(
                f"the settings file cannot be read: {error.strerror}",
                value=str(path),
                remedy="Name another with --config FILE; `paceline config init FILE` writes one.",
            ) from error
        if not may_be_empty and not content.strip():
            raise BadSetting(
                "the settings file is empty",
                value=str(path),
                remedy="Write a comment into it if nothing is to be set.",
            )
        return _parsed(path, content)


def _upstreams(
    settings: Settings,
    given: Mapping[Names, _Given],
    text: "_Text | None",
    folder: Path,
    faults: list[_Fault],
) -> Iterator[Upstream]:
    for name, said in settings.providers.items():
        for each in llm.upstream_of(name, said, folder, may_cost=settings.server.no_budget):
            if isinstance(each, Upstream):
                yield each
            else:
                faults.append(_of_section(("providers", name), each, given, text))


def _routes(
    settings: Settings,
    given: Mapping[Names, _Given],
    text: "_Text | None",
    faults: list[_Fault],
) -> Iterator[Route]:
    for name, said in settings.routes.items():
        for each in llm.route_of(name, said, settings.providers):
            if isinstance(each, Route):
                yield each
            else:
                faults.append(_of_section(("routes", name), each, given, text))


def _prices(
    settings: Settings,
    given: Mapping[Names, _Given],
    text: "_Text | None",
    faults: list[_Fault],
) -> Iterator[Priced]:
    for name, said in settings.prices.items():
        named = {names[-1] for names in given if names[:-1] == ("prices", name)}
        for each in llm.price_of(name, said, named, settings.providers):
            if isinstance(each, Priced):
                yield each
            else:
                faults.append(_of_section(("prices", name), each, given, text))


def _alerting(
    settings: Settings,
    given: Mapping[Names, _Given],
    text: "_Text | None",
    folder: Path,
    faults: list[_Fault],
) -> Alerting | None:
    """None where something is wrong with it."""
    bounds: dict[str, Bounds | None] = {}
    channels: list[ChannelTo] = []
    policies: list[Policy] = []
    wrong: list[tuple[Names, tuple[str, BadSetting]]] = []
    for name, rule in settings.rules.items():
        for found in alerting.bounds_of(
            name,
            rule,
            thresholds=settings.alerts.thresholds,
            enabled_said=("rules", name, "enabled") in given,
        ):
            field, what = found
            if isinstance(what, BadSetting):
                wrong.append((("rules", name), (field, what)))
            else:
                bounds[field] = what
    for name, said in settings.channels.items():
        for channel in alerting.channel_of(name, said, folder):
            if isinstance(channel, ChannelTo):
                channels.append(channel)
            else:
                wrong.append((("channels", name), channel))
    for policy in alerting.policy_of(settings.alerts, settings.channels):
        if isinstance(policy, Policy):
            policies.append(policy)
        else:
            wrong.append((("alerts",), policy))
    faults += [_of_section(section, each, given, text) for section, each in wrong]
    return None if wrong else Alerting(bounds, policies[0], tuple(channels))


def _keep(
    settings: Settings,
    routes: Sequence[str],
    given: Mapping[Names, _Given],
    text: "_Text | None",
    faults: list[_Fault],
) -> Keep | None:
    """None where nothing is kept, or something is wrong with it."""
    keep: Keep | None = None
    for each in keeping.keep_of(settings.said, routes):
        if isinstance(each, Keep):
            keep = each
        else:
            faults.append(_of_section(("said",), each, given, text))
    return keep


def _of_section(
    section: Names,
    wrong: tuple[str, BadSetting],
    given: Mapping[Names, _Given],
    text: "_Text | None",
) -> _Fault:
    """At the field that it is about, or where the section begins."""
    field, error = wrong
    at = given.get((*section, field))
    if at is not None:
        origin = at.origin
    elif text is not None and section in text.place:
        origin = Origin("file", str(text.path), text.place[section])
    else:
        origin = next(each.origin for names, each in given.items() if names[:-1] == section)
    return _fault(origin, error.cause, error.value, error.remedy)


class _Text(NamedTuple):
    """A file that is TOML: its tables, and in which line each key stands."""

    path: Path
    tree: Mapping[str, Any]
    place: Mapping[Names, int]


def _content(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not stop us
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise BadSetting(
                "the settings file is not a file",
                value=str(path),
                remedy="Name one with --config FILE that can be read again and again.",
            )
        with open(fd, "rb", closefd=False) as file:
            content = file.read(SETTINGS_BYTES + 1)
    finally:
        os.close(fd)
    if len(content) > SETTINGS_BYTES:
        raise BadSetting(
            f"the settings file is longer than {SETTINGS_BYTES} bytes",
            value=str(path),
            remedy="See whether it is the right one.",
        )
    return content


def _parsed(file: Path, content: bytes) -> _Text:
    from paceline.config import lines  # and the parser with it, which costs 5 ms at start

    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadSetting(
            f"{file}:{line}: this is not UTF-8 text",
            value=repr(content[error.start : error.end]),
            remedy="Save the file as UTF-8.",
        ) from error
    said = lines.read(text)
    if isinstance(said, lines.Broken):
        begins = "" if said.first == said.line else f", in what begins in line {said.first}"
        raise BadSetting(
            f"{file}:{said.line}: this is not TOML: {said.why}{begins}",
            value=text.split("\n")[said.line - 1].strip(),
            remedy="Write `name = value`, with texts in quotes and lists in [ ].",
        )
    return _Text(file, said, lines.locate(text))


def _from_file(
    text: _Text, known: Mapping[Names, Leaf], shipped: Iterable[str], faults: list[_Fault]
) -> Iterator[_Said]:
    file = str(text.path)
    tables = dict.fromkeys(names[:length] for names in known for length in range(len(names)))
    # with any names, or none that is one
    tables |= dict.fromkeys((("providers",), ("routes",), ("prices",), ("channels",)))

    def walk(above: Names, table: Mapping[str, Any]) -> Iterator[_Said]:
        for name, value in table.items():
            names = (*above, name)
            origin = Origin("file", file, text.place[names])
            if names in known:
                yield _Said(names, value, origin, _shown(names, value))
            elif names not in tables:
                faults.append(_unknown_key(names, origin, value, known, tables, shipped))
            elif isinstance(value, dict):
                yield from walk(names, value)
            else:
                remedy = f"It begins with [{'.'.join(names)}]."
                cause = f"{name} is a section"
                faults.append(_fault(origin, cause, _shown(names, value), remedy))

    yield from walk((), text.tree)


def _from_found(providers: Iterable[str]) -> Iterator[_Said]:
    """Those that no file names: one is always there, of the others there is a key."""
    for name in providers:
        of_name = llm.defaults(name)
        origin = Origin("environment", of_name.key_env) if of_name.key_env else DEFAULT
        for field in ("kind", "url", "key_env", "models"):
            value = getattr(of_name, field)
            if value:
                value = [*value] if isinstance(value, tuple) else value
                yield _Said(("providers", name, field), value, origin, toml(value))


def _from_environ(
    environ: Mapping[str, str], known: Mapping[Names, Leaf], faults: list[_Fault]
) -> Iterator[_Said]:
    names_of = {variable(names): names for names in known}
    for name, text in sorted(environ.items()):
        if not name.startswith(PREFIX) or _is_foreign(name, text):
            continue
        origin = Origin("environment", printable(name))
        names = names_of.get(name.upper())
        if names is not None:
            value = text if reads_text(known[names]) else _value_of(text)
            yield _Said(names, value, origin, printable(text))
        else:  # its value is not shown: it may be somebody's secret
            remedy = partial(_right_variable, name.upper(), names_of)
            faults.append(_Fault(origin, "there is no such setting", NO_VALUE, remedy))


def _is_foreign(name: str, value: str) -> bool:
    """Whether the variable means something to somebody else."""
    if "__" in name:
        return False
    if name.endswith("_PORT") and "://" in value:
        return True
    return name in NOT_SETTINGS or OF_KUBERNETES.fullmatch(name) is not None


def _value_of(text: str) -> object:
    """As TOML has it, or the text itself, which then is wrong for whoever takes no text."""
    from paceline.config import lines

    try:
        content = lines.parse(f"value = {text}")
    except lines.CANNOT_PARSE:
        return text
    return content["value"] if len(content) == 1 else text


def flag(field: str) -> str:
    return "--" + field.replace("_", "-")


def _from_flags(flags: Mapping[str, object]) -> Iterator[_Said]:
    for field, value in flags.items():
        if value is not None:
            yield _Said(
                ("server", field), value, Origin("flag", flag(field)), printable(str(value))
            )


def _from_command(only: served.Only) -> Iterator[_Said]:
    """What a command that names one model says of it."""
    model = only.model
    for name, value in (("path", model.path), ("python", model.python)):
        if value:
            yield _Said(("models", model.name, name), value, Origin("flag", only.named_by), value)
    if only.goal:
        origin = Origin("flag", only.goal_by)
        yield _Said(("models", model.name, "goal"), list(only.goal), origin, ", ".join(only.goal))


# --- Checking -------------------------------------------------------------------------------------


def _checked(leaf: Leaf, value: object) -> Any:
    if isinstance(leaf, Knob):
        scalar = isinstance(value, bool | int | float | str)
        if not scalar or (isinstance(value, int) and abs(value) >> 64):  # more than TOML promises
            raise BadValue(f"{leaf.name} takes {leaf.takes}", value=value, remedy=leaf.meaning)
        return leaf.check(value)
    fits = leaf.check(value)
    if leaf.name == "goal" and fits:
        _goal(fits)
    return fits


def _goal(clauses: Sequence[str]) -> "Goal":
    from paceline.terms import goal

    return goal.parse(clauses)


def _check_server(server: Server, origins: Mapping[Names, Origin]) -> None:
    def told(field: str) -> str:
        origin = origins.get(("server", field), DEFAULT)
        match origin.kind:
            case "flag" | "environment":
                return origin.name
            case "file":
                return f"{field} ({origin})"
            case "default":
                return field

    server.check(told)


# --- Saying what is wrong -------------------------------------------------------------------------


def _right_variable(name: str, known: Iterable[str]) -> str:
    near = did_you_mean(name, known, "{}?")
    return near or f"Unset it, or name a setting, such as {variable(('server', 'port'))}."


def _unknown_key(
    names: Names,
    origin: Origin,
    value: object,
    known: Iterable[Names],
    tables: Iterable[Names],
    shipped: Iterable[str],
) -> _Fault:
    *above, name = names
    match above:
        case ["models"]:
            cause = f"there is no model {name}"
            if isinstance(value, dict):
                return _Fault(
                    origin,
                    cause,
                    _shown(names, value),
                    partial(served.remedy, name, value, [*shipped]),
                )
        case ["models", model, "pins"]:
            cause = f"{model} has no knob {name}"
        case ["providers" | "routes" | "prices" as kind] if isinstance(value, dict):
            cause = f"this cannot be the name of one of the {kind}"
            return _fault(origin, cause, name, llm.remedy(kind))
        case ["channels"] if isinstance(value, dict):
            cause = "this cannot be the name of one of the channels"
            return _fault(origin, cause, name, alerting.REMEDY)
        case ["providers" | "channels", _]:  # its value is not shown: it may well be a secret
            cause = f"there is no setting {dotted(names)}"
            return _Fault(origin, cause, NO_VALUE, partial(_right_key, above, name, known, tables))
        case _:
            cause = f"there is no {'section' if isinstance(value, dict) else 'setting'} "
            cause += ".".join(names)
    return _Fault(
        origin, cause, _shown(names, value), partial(_right_key, above, name, known, tables)
    )


def _right_key(
    above: Sequence[str], name: str, known: Iterable[Names], tables: Iterable[Names]
) -> str:
    beside = [each[-1] for each in (*tables, *known) if each and [*each[:-1]] == above]
    elsewhere = {each[-1]: ".".join(each) for each in known}
    near = did_you_mean(name, beside, ".".join([*above, "{}?"]))
    if not near and above[:1] == ["channels"] and name in ("token", "password"):
        near = f"Name the variable that it is in: {name}_env. A secret stands in no file."
    if not near and above[:1] == ["providers"] and "key" in name:
        near = "Name the variable that its key is in: key_env. A key stands in no file."
    if not near and name in elsewhere:
        near = f"Did you mean {elsewhere[name]}?"
    return near or f"There is {', '.join(beside)}."


def _shown(names: Names, value: object) -> str:
    return f"[{'.'.join(names)}]" if isinstance(value, dict) else f"{names[-1]} = {toml(value)}"


def _together(faults: Iterable[_Fault]) -> BadSetting:
    """Those of the file first, by line."""
    in_order = sorted(faults, key=lambda fault: (fault.origin.kind != "file", fault.origin.line))
    if len(in_order) == 1:
        return in_order[0].error
    each = "\n".join(f"  {fault.error}" for fault in in_order[:SETTINGS_FAULTS]).rstrip(".")
    if len(in_order) > SETTINGS_FAULTS:
        each += f"\n  and {len(in_order) - SETTINGS_FAULTS} more"
    return BadSetting(
        f"{len(in_order)} settings are wrong:\n{each}",
        remedy="Mend them; `paceline config check` tells whether all is well.",
    )
