"""The profiles of this host: begun by order, kept for a while, ended whatever becomes of who asked.

One at a time for each process, and one model at a time. Each ends after its time; and early, where
nobody asks after it. Stacks and memory are found by the process itself (`profiling.py`; a front is
told over its link), operators by a process of their own (`serve/operators.py`). Nothing of it is
written anywhere. Made by the owner; the forms are `profile_api.py`'s.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, cast

import msgspec

from paceline.observe import log
from paceline.observe.looks import Look
from paceline.serve.model_source import ModelSource
from paceline.serve.operators import OperatorRun
from paceline.terms.errors import (
    Conflict,
    NotFound,
    NotOffered,
    PacelineError,
    UnknownModel,
    from_fields,
)
from paceline.terms.limits import (
    PROFILE_ASKED_S,
    PROFILE_KEPT_S,
    PROFILE_LENGTH,
    PROFILE_S,
    PROFILE_UNASKED_S,
    PROFILES_KEPT,
    ROWS,
)
from paceline.web.fronts import Fronts
from paceline.web.operations import Operation
from paceline.web.profile_api import (
    END_PROFILE,
    PROFILE,
    PROFILED,
    EndedView,
    EndProfileBody,
    Of,
    ProfileBegun,
    ProfileBody,
    ProfileQuery,
    ProfileView,
)
from paceline.web.profiling import Profiling

logger = log.get(__name__)

Early = Literal["", "asked", "nobody asked after it"]


Raw = dict[str, msgspec.Raw]
"""A `Found` or `Outcome`: what was found, or the error, by name. It can be long, and is passed on
as it is."""

_raw = msgspec.json.Decoder(Raw)
_fields = msgspec.json.Decoder(dict[str, str])


class _Profile:
    def __init__(
        self, name: str, of: Of, whose: str, found: "asyncio.Future[Raw]", end: Callable[[], None]
    ) -> None:
        self.name = name
        self.of = of
        self.whose = whose
        self.found = found
        self.end = end
        self.early: Early = ""
        self.asking = 0
        self.timer: asyncio.TimerHandle | None = None


class Profiles:
    """`files` are those of ONNX models; `rows_of` says how many rows half of a model's batches have
    had at most."""

    def __init__(
        self,
        fronts: Fronts,
        models: Sequence[ModelSource],
        files: Mapping[str, Path],
        rows_of: Callable[[str], float | None],
        now: Callable[[], float],
    ) -> None:
        self._fronts = fronts
        self._models = models
        self._files = files
        self._rows_of = rows_of
        self._own = Profiling(now)
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._profiles: dict[str, _Profile] = {}
        self._runs: set[OperatorRun] = set()

    def operations(self) -> tuple[Operation, ...]:
        return (
            PROFILE.answered_by(self._begin),
            PROFILED.answered_by(self._ask),
            END_PROFILE.answered_by(self._end),
        )

    def close(self) -> None:
        """Nothing goes on when the owner ends."""
        self._own.end()
        for run in self._runs:
            run.kill()

    async def _begin(self, query: None, body: ProfileBody, who: str) -> ProfileBegun:
        seconds = PROFILE_S if body.seconds is None else body.seconds
        if body.of == "operators":
            whose, profile = body.model, self._operators(body, seconds)
        else:
            if body.of == "memory":
                seconds = body.seconds or 0.0
            profile = self._process(body, Look(body.of, seconds))
            whose = profile.whose
        self._profiles[profile.name] = profile
        profile.found.add_done_callback(partial(self._ended, profile))
        self._expect(profile)
        logger.info("a profile begins", of=body.of, whose=whose, seconds=seconds, who=who)
        return ProfileBegun(profile.name, body.of, whose, seconds)

    async def _ask(self, query: ProfileQuery, body: None, who: str) -> ProfileView:
        """Waits for its end, but not for long."""
        profile = self._named(query.id)
        profile.asking += 1
        try:
            await asyncio.wait((profile.found,), timeout=PROFILE_ASKED_S)
        finally:
            profile.asking -= 1
            if not profile.found.done():
                self._expect(profile)
        if not profile.found.done():
            return ProfileView(profile.name, profile.of, profile.whose, True, "")
        found = profile.found.result()
        if "error" in found:
            raise from_fields(_fields.decode(found["error"]))
        view = ProfileView(profile.name, profile.of, profile.whose, False, profile.early)
        told = {
            key: value for key, value in msgspec.structs.asdict(view).items() if value is not None
        }
        return cast(ProfileView, told | found)

    async def _end(self, query: None, body: EndProfileBody, who: str) -> EndedView:
        profile = self._named(body.id)
        runs = not profile.found.done()
        if runs:
            self._end_early(profile, "asked")
        return EndedView(profile.name, runs)

    def _process(self, body: ProfileBody, look: Look) -> _Profile:
        if body.process == "owner":
            found: asyncio.Future[Raw] = self._loop.create_future()
            self._own.begin(look, lambda raw: found.set_result(_raw.decode(raw)))
            return self._new(look.of, "owner", found, self._own.end)
        model, whose = "", f"front {body.front}"
        if body.process == "model":
            model, whose = body.model, f"{body.model} of front {body.front}"
            if not self._source(model).python:
                raise NotOffered(
                    f"{model} has no process of its own",
                    value=model,
                    remedy="It runs in its front: profile that, or the model's operators.",
                )
        of_front = self._fronts.profile(body.front, look, model)
        found = asyncio.ensure_future(_read(of_front))
        end = partial(self._fronts.end_profile, body.front)
        return self._new(look.of, whose, found, end)

    def _source(self, model: str) -> ModelSource:
        source = next((each for each in self._models if each.name == model), None)
        if source is None:
            raise UnknownModel.among(model, [each.name for each in self._models])
        return source

    def _operators(self, body: ProfileBody, seconds: float) -> _Profile:
        self._source(body.model)
        path = self._files.get(body.model)
        if path is None:
            raise NotOffered(
                "this model is a callable of Python, which has no operators",
                value=body.model,
                remedy="Look at the stacks of its process: `paceline profile NAME`, without --rows "
                "and --length.",
            )
        if self._runs:
            raise Conflict(
                "a model is being profiled already", remedy="Wait for its end, or end it."
            )
        rows = body.rows or min(ROWS, round(self._rows_of(body.model) or 1))
        length = body.length or PROFILE_LENGTH
        run = OperatorRun(body.model, str(path.resolve()), seconds, rows, length)
        self._runs.add(run)
        run.outcome.add_done_callback(lambda _: self._runs.discard(run))
        found = asyncio.ensure_future(_read_outcome(run))
        return self._new("operators", body.model, found, run.end)

    def _new(
        self, of: Of, whose: str, found: "asyncio.Future[Raw]", end: Callable[[], None]
    ) -> _Profile:
        self._number += 1
        return _Profile(f"p{self._number}", of, whose, found, end)

    def _named(self, name: str) -> _Profile:
        profile = self._profiles.get(name)
        if profile is None:
            raise NotFound(
                "there is no such profile, or it ended a while ago",
                value=name,
                remedy="Begin one: POST /api/profile.",
            )
        return profile

    def _expect(self, profile: _Profile) -> None:
        """That somebody asks after it soon, again."""
        if profile.timer is not None:
            profile.timer.cancel()
        profile.timer = self._loop.call_later(PROFILE_UNASKED_S, self._unasked, profile)

    def _unasked(self, profile: _Profile) -> None:
        if not profile.asking and not profile.found.done():
            logger.info("a profile ends, for nobody asks after it", id=profile.name)
            self._end_early(profile, "nobody asked after it")

    def _end_early(self, profile: _Profile, why: Early) -> None:
        if not profile.early:
            profile.early = why
            profile.end()

    def _ended(self, profile: _Profile, found: "asyncio.Future[Raw]") -> None:
        if profile.timer is not None:
            profile.timer.cancel()
        self._loop.call_later(PROFILE_KEPT_S, self._profiles.pop, profile.name, None)
        ended = [each for each in self._profiles.values() if each.found.done()]
        for old in ended[:-PROFILES_KEPT]:
            del self._profiles[old.name]


async def _read(of_front: "asyncio.Future[msgspec.Raw]") -> Raw:
    try:
        return _raw.decode(await of_front)
    except PacelineError as error:
        return _failed(error)


async def _read_outcome(run: OperatorRun) -> Raw:
    try:
        return _raw.decode(msgspec.json.encode(await run.outcome))
    except PacelineError as error:
        return _failed(error)


def _failed(error: PacelineError) -> Raw:
    return {"error": msgspec.Raw(msgspec.json.encode(error.as_fields()))}
