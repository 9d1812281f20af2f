"""What KServe V2 asks and only the owner knows: statistics of all fronts, loading and unloading.

Statistics come from the boards of the fronts. To unload a model is to turn its knob `enabled` off,
to load it is to turn it on: a Change like any other, in the Journal, obeyed by every front before
it is answered. Files and configurations in a request are refused. Called by `control.py`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from paceline.access.keys import Key
from paceline.changes.desk import Desk, Wish
from paceline.serve.knobs import ENABLED
from paceline.terms import metric as metrics
from paceline.terms.errors import BadJson, NotOffered, UnknownModel
from paceline.terms.measurement import Distribution, Measurement
from paceline.web.body import read_body
from paceline.web.caller import CALLER_HEADER, who_asks
from paceline.web.routing import On

NS = 1e9


class _Duration(msgspec.Struct, frozen=True):
    count: int = 0
    ns: int = 0


class _Durations(msgspec.Struct, frozen=True):
    """`success` and `fail` count requests, from their head to their answer; `queue` those that were
    run; the others batches. There is no response cache yet."""

    success: _Duration
    fail: _Duration
    queue: _Duration
    compute_input: _Duration
    compute_infer: _Duration
    compute_output: _Duration
    cache_hit: _Duration = _Duration()
    cache_miss: _Duration = _Duration()


class _Statistics(msgspec.Struct, frozen=True):
    name: str
    version: str
    last_inference: int
    """milliseconds of Unix time"""
    inference_count: int
    """rows"""
    execution_count: int
    """batches"""
    inference_stats: _Durations
    batch_stats: tuple[()] = ()


class _AllStatistics(msgspec.Struct, frozen=True):
    model_stats: Sequence[_Statistics]


class _Load(msgspec.Struct, frozen=True):
    parameters: dict[str, msgspec.Raw] = {}


class Repository:
    """`measure` looks at the host now."""

    def __init__(
        self,
        desk: Desk,
        measure: Callable[[], Iterable[Measurement]],
        keys: Callable[[], Iterable[Key]],
    ) -> None:
        self._desk = desk
        self._measure = measure
        self._keys = keys

    def routes(self) -> Sequence[On]:
        return (
            *(
                On("GET", path, self._answer_statistics)
                for path in (
                    "/v2/models/stats",
                    "/v2/models/{model}/stats",
                    "/v2/models/{model}/versions/{version}/stats",
                )
            ),
            On("POST", "/v2/repository/models/{model}/load", self._answer_load),
            On("POST", "/v2/repository/models/{model}/unload", self._answer_unload),
        )

    async def _answer_statistics(self, http: HttpRequest) -> Response:
        asked = http.path_params.get("model")
        version = http.path_params.get("version")
        found = statistics(self._measure())
        if asked is not None:
            found = [
                each for each in found if each.name == asked and version in (None, "", each.version)
            ]
            if not found:
                raise UnknownModel(
                    "no model has this name",
                    value=asked if version is None else f"{asked}, version {version}",
                    remedy="POST /v2/repository/index lists the models there are.",
                )
        return Response(msgspec.json.encode(_AllStatistics(found)), media_type="application/json")

    async def _answer_load(self, http: HttpRequest) -> Response:
        return await self._switch(http, on=True)

    async def _answer_unload(self, http: HttpRequest) -> Response:
        return await self._switch(http, on=False)

    async def _switch(self, http: HttpRequest, *, on: bool) -> Response:
        model = http.path_params["model"]
        body = await read_body(http)
        try:
            asked = msgspec.json.decode(body or b"{}", type=_Load)
        except msgspec.DecodeError as error:
            raise BadJson(
                f"not a request to load: {error}", remedy="Send an empty body, or {}."
            ) from error
        foreign = [name for name in asked.parameters if name != "unload_dependents"]
        if foreign:
            raise NotOffered(
                "a model is loaded as the settings say, and not from what a request brings",
                value=", ".join(foreign)[:80],
                remedy="Name its file in paceline.toml and start the server again.",
            )
        address = f"{model}.{ENABLED.name}"
        if address not in self._desk.catalogue:
            raise UnknownModel(
                "no model has this name",
                value=model,
                remedy="POST /v2/repository/index lists the models there are.",
            )
        who = who_asks(http.headers.get(CALLER_HEADER, ""), self._keys())
        reason = f"asked to {'load' if on else 'unload'} it"
        await self._desk.set(address, on, None, Wish(who, reason))
        return Response(status_code=200)


def statistics(measured: Iterable[Measurement]) -> list[_Statistics]:
    """By model, of what all fronts have counted."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    versions: dict[str, str] = {}
    for each in measured:
        model = each.labels[0] if each.labels else ""
        value = each.value
        of = sums[model]
        if isinstance(value, Distribution):
            if each.metric is metrics.REQUEST_SECONDS:
                of["success"] += value.count
                of["success_s"] += value.sum
            elif each.metric is metrics.MODEL_SECONDS:
                of["executions"] += value.count
        elif each.metric is metrics.MODEL_INFO:
            versions[model] = each.labels[1]
        elif each.metric is metrics.REQUESTS:
            if each.labels[2] != "200":
                of["fail"] += value
        elif each.metric is metrics.FAILED_SECONDS:
            of["fail_s"] += value
        elif each.metric is metrics.ROWS:
            of["rows"] += value
        elif each.metric is metrics.RUN:
            of["run"] += value
        elif each.metric is metrics.PART_SECONDS:
            of[each.labels[1]] += value
        elif each.metric is metrics.LAST_RUN:
            of["last_s"] = max(of["last_s"], value)
    return [_of_model(name, version, sums[name]) for name, version in sorted(versions.items())]


def _of_model(name: str, version: str, of: "dict[str, float]") -> _Statistics:
    executions = int(of["executions"])

    def parts(part: str) -> _Duration:
        return _Duration(executions, int(of[part] * NS))

    return _Statistics(
        name,
        version,
        int(of["last_s"] * 1e3),
        int(of["rows"]),
        executions,
        _Durations(
            success=_Duration(int(of["success"]), int(of["success_s"] * NS)),
            fail=_Duration(int(of["fail"]), int(of["fail_s"] * NS)),
            queue=_Duration(int(of["run"]), int(of["queue"] * NS)),
            compute_input=parts("input"),
            compute_infer=parts("infer"),
            compute_output=parts("output"),
        ),
    )
