"""The settings of the running server: shown with their origins, and read again when asked.

Reading again is atomic: a file with a fault changes nothing, and its error says so. What the file
pins goes to the desk, a handful of settings take effect at once, the others wait for the next
start. Called by the owner, for its control API, for SIGHUP and when the file is saved.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from paceline.changes.decide import FilePin
from paceline.changes.desk import Desk, Turns, Wanted
from paceline.changes.wording import of_step
from paceline.config import (
    AT_RELOAD,
    Server,
    TraceSettings,
    alerting,
    at_reload,
    keeping,
    llm,
    needs_restart,
    served,
    tracing,
)
from paceline.config.alerting import Alerting
from paceline.config.fields import toml
from paceline.config.source import Loaded
from paceline.observe import log
from paceline.terms.errors import BadSetting
from paceline.web.operations import AnyDeclaration, Declaration, Operation
from paceline.web.plan_api import CHANGING

logger = log.get(__name__)


class SettingView(msgspec.Struct, frozen=True):
    name: Annotated[str, Meta(description="Its place in the file, such as server.port.")]
    value: Any
    origin: Annotated[str, Meta(description="The file and line, variable or option it is from.")]


class SettingsView(msgspec.Struct, frozen=True):
    file: Annotated[str | None, Meta(description="The settings file, where one was read.")]
    settings: tuple[SettingView, ...]


class ReloadView(msgspec.Struct, frozen=True):
    changed: Annotated[tuple[str, ...], Meta(description="What took effect, in words.")]
    needs_restart: Annotated[
        tuple[str, ...], Meta(description="Settings that differ and wait for the next start.")
    ]
    version: Annotated[int, Meta(description="Of the Plan, afterwards.")]


CONFIG: Declaration[None, None, SettingsView] = Declaration(
    "GET", "/api/config", "The settings of this server, and where each comes from.", SettingsView
)
RELOAD: Declaration[None, None, ReloadView] = Declaration(
    "POST",
    "/api/config/reload",
    "Read the settings again; a file with a fault changes nothing.",
    ReloadView,
    errors=(BadSetting, *CHANGING),
)
DECLARED: tuple[AnyDeclaration, ...] = (CONFIG, RELOAD)


def wanted(loaded: Loaded) -> Wanted:
    """What the settings say of the Plan."""
    return Wanted(
        {knob: FilePin(pin.value, str(pin.origin)) for knob, pin in loaded.pins.items()},
        {model: each.goal.clauses for model, each in loaded.goals.items()},
    )


FollowAlerting = Callable[[Alerting], Callable[[], Awaitable[None]]]
"""Makes what new settings of alerts need, or raises what is wrong with them; what it answers has
them followed from then on."""


FollowTraces = Callable[[Loaded], Callable[[], None]]
"""The same of new settings of traces."""


class SettingsInForce:
    """`on_change` gets the settings of the server whenever some of them changed."""

    def __init__(
        self,
        loaded: Loaded,
        desk: Desk,
        on_change: Callable[[Server], None],
        follow_alerting: FollowAlerting,
        follow_traces: FollowTraces,
    ) -> None:
        self._loaded = loaded
        self._started_with = loaded.settings.server
        self._models = loaded.models
        self._providers = loaded.providers
        self._routes = loaded.routes
        self._prices = loaded.prices
        self._keep = loaded.keep
        self._follow_alerting = follow_alerting
        self._follow_traces = follow_traces
        self._desk = desk
        self._on_change = on_change
        self._turns = Turns()

    @property
    def file(self) -> Path | None:
        return self._loaded.file

    @property
    def server(self) -> Server:
        """Those in force: a front that starts later must not be the only one with new ones."""
        return at_reload(self._started_with, self._loaded.settings.server)

    @property
    def traces(self) -> TraceSettings:
        """Likewise."""
        return self._loaded.settings.traces

    def operations(self) -> Sequence[Operation]:
        return (CONFIG.answered_by(self._show), RELOAD.answered_by(self._reload))

    async def reload(self, who: str, *, may_be_empty: bool = True) -> ReloadView:
        async with self._turns.mine():  # what has changed is told against what the last one left
            # Beside the loop: a long file takes a while to parse.
            loaded = await asyncio.to_thread(self._loaded.source.load, may_be_empty=may_be_empty)
            changed = _differences(self.server, loaded.settings.server)
            wants = wanted(loaded)
            goals = _new_goals(self._desk.state.goals, wants.goals)
            alerts = alerting.differences(self._loaded.alerting, loaded.alerting)
            follow = self._follow_alerting(loaded.alerting) if alerts else None
            traces = tracing.differences(self.traces, loaded.settings.traces)
            follow_traces = self._follow_traces(loaded) if traces else None
            done = await self._desk.configure(wants, who, (*changed, *alerts, *traces))
            self._loaded = loaded
            if changed:
                self._on_change(self.server)
            if follow_traces is not None:
                follow_traces()
            if follow is not None:
                await follow()
            waiting = (
                *needs_restart(self._started_with, loaded.settings.server),
                *served.needs_restart(self._models, loaded.models),
                *llm.needs_restart(self._providers, loaded.providers, "providers"),
                *llm.needs_restart(self._routes, loaded.routes, "routes"),
                *llm.needs_restart(self._prices, loaded.prices, "prices"),
                *keeping.needs_restart(self._keep, loaded.keep),
            )
        steps = map(of_step, done.steps)
        view = ReloadView((*changed, *alerts, *traces, *goals, *steps), waiting, done.version)
        logger.info("settings were read again", who=who, changed=view.changed, waiting=waiting)
        return view

    async def _show(self, query: None, body: None, who: str) -> SettingsView:
        loaded = self._loaded
        return SettingsView(
            None if loaded.file is None else str(loaded.file),
            tuple(
                SettingView(name, value, str(loaded.origins[name]))
                for name, value in loaded.values()
            ),
        )

    async def _reload(self, query: None, body: None, who: str) -> ReloadView:
        return await self.reload(who)


def _differences(before: Server, after: Server) -> tuple[str, ...]:
    return tuple(
        f"server.{name} {toml(getattr(before, name))} → {toml(getattr(after, name))}"
        for name in Server.__struct_fields__
        if name in AT_RELOAD and getattr(before, name) != getattr(after, name)
    )


def _new_goals(
    before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    return tuple(
        f"goal of {model}: {', '.join(after.get(model, ())) or 'none'}"
        for model in dict.fromkeys((*before, *after))
        if before.get(model, ()) != after.get(model, ())
    )
