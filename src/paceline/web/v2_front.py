"""What KServe V2 asks beside inference, and a front knows: server, models, their tensors, health.

What concerns all fronts (statistics, loading and unloading) the owner answers (`v2_owner.py`). What
is not offered (shared memory, traces, log settings) is said to be so, in a form that `tritonclient`
raises as its own error. Called by `front_routes.py`.
"""

from collections.abc import Callable, Sequence

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

import paceline
from paceline.serve.model import ModelSpec, TensorSpec
from paceline.terms.errors import BadJson, NotOffered, Unavailable
from paceline.web.body import read_body
from paceline.web.inference import Inference
from paceline.web.routing import ANY, Endpoint, On

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)

CONFIG_TYPES = {"BYTES": "TYPE_STRING"}
"""Where the configuration says it in another way than TYPE_ and the datatype."""

NOT_OFFERED = {
    "/v2/systemsharedmemory/{rest:path}": "shared memory",
    "/v2/cudasharedmemory/{rest:path}": "shared memory of a GPU",
    "/v2/trace/setting": "trace settings",
    "/v2/models/{model}/trace/setting": "trace settings",
    "/v2/logging": "log settings",
}


class _Server(msgspec.Struct, frozen=True):
    name: str
    version: str
    extensions: tuple[str, ...]


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]


class _Model(msgspec.Struct, frozen=True):
    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[_Tensor, ...]
    outputs: tuple[_Tensor, ...]


class _ConfigTensor(msgspec.Struct, frozen=True):
    name: str
    data_type: str
    dims: tuple[int, ...]


class _Count(msgspec.Struct, frozen=True):
    kind: str
    count: int


class _Policy(msgspec.Struct, frozen=True):
    latest: dict[str, int]


class _Config(msgspec.Struct, frozen=True):
    """As Triton's clients read it. There is no fixed wait and no preferred size: batches follow
    the load."""

    name: str
    platform: str
    backend: str
    version_policy: _Policy
    max_batch_size: int
    input: tuple[_ConfigTensor, ...]
    output: tuple[_ConfigTensor, ...]
    instance_group: tuple[_Count, ...]
    dynamic_batching: dict[str, int] | None = None


class _Indexed(msgspec.Struct, frozen=True):
    name: str
    version: str
    state: str
    reason: str


class _IndexAsked(msgspec.Struct, frozen=True):
    ready: bool = False


def v2_routes(inference: Inference, why_not_ready: Callable[[], str]) -> Sequence[On]:
    surface = _Surface(inference, why_not_ready)
    of_a_model = (
        ("", surface.metadata),
        ("/config", surface.config),
        ("/ready", surface.model_ready),
    )
    return (
        On("GET", "/v2", surface.server),
        On("GET", "/v2/health/live", surface.live),
        On("GET", "/v2/health/ready", surface.ready),
        On("POST", "/v2/repository/index", surface.index),
        *(
            On("GET", f"/v2/models/{{model}}{version}{path}", endpoint)
            for path, endpoint in of_a_model
            for version in ("", "/versions/{version}")
        ),
        *(On(ANY, path, _not_offered(what)) for path, what in NOT_OFFERED.items()),
    )


class _Surface:
    def __init__(self, inference: Inference, why_not_ready: Callable[[], str]) -> None:
        self._inference = inference
        self._why_not_ready = why_not_ready

    async def server(self, http: HttpRequest) -> Response:
        return _json(_Server("paceline", paceline.__version__, EXTENSIONS))

    async def live(self, http: HttpRequest) -> Response:
        return Response(status_code=200)

    async def ready(self, http: HttpRequest) -> Response:
        why = self._why_not_ready()
        if why:
            raise Unavailable(f"not ready: {why}", remedy="Ask again in a second.")
        return Response(status_code=200)

    async def model_ready(self, http: HttpRequest) -> Response:
        spec = self._asked(http)
        if not self._inference.serving.rules[spec.name].enabled:
            raise Unavailable(
                f"{spec.name} is switched off",
                value=spec.name,
                remedy=f"POST /v2/repository/models/{spec.name}/load switches it on.",
            )
        return Response(status_code=200)

    async def metadata(self, http: HttpRequest) -> Response:
        spec = self._asked(http)
        return _json(
            _Model(
                spec.name,
                (spec.version,),
                spec.platform,
                _tensors(spec.inputs),
                _tensors(spec.outputs),
            )
        )

    async def config(self, http: HttpRequest) -> Response:
        spec = self._asked(http)
        rules = self._inference.serving.rules[spec.name]
        batched = spec.has_rows and rules.max_batch > 1
        return _json(
            _Config(
                spec.name,
                spec.platform,
                "",
                _Policy({"num_versions": 1}),
                rules.max_rows if spec.has_rows else 0,
                _config_tensors(spec.inputs, spec.has_rows),
                _config_tensors(spec.outputs, spec.has_rows),
                (_Count("KIND_CPU", rules.executors),),
                {"max_queue_delay_microseconds": 0} if batched else None,
            )
        )

    async def index(self, http: HttpRequest) -> Response:
        body = await read_body(http)
        try:
            asked = msgspec.json.decode(body or b"{}", type=_IndexAsked)
        except msgspec.DecodeError as error:
            raise BadJson(
                f"not an index request: {error}", remedy='Send {"ready": true}.'
            ) from error
        rules = self._inference.serving.rules
        found = [
            _Indexed(
                spec.name,
                spec.version,
                "READY" if rules[spec.name].enabled else "UNAVAILABLE",
                "" if rules[spec.name].enabled else "unloaded",
            )
            for spec in self._inference.specs
        ]
        return _json([each for each in found if each.state == "READY" or not asked.ready])

    def _asked(self, http: HttpRequest) -> ModelSpec:
        parameters = http.path_params
        return self._inference.spec(parameters["model"], parameters.get("version"))


def _not_offered(what: str) -> Endpoint:
    async def refuse(http: HttpRequest) -> Response:
        raise NotOffered(
            f"{what} cannot be had from this server",
            value=http.scope["path"],
            remedy="Send tensors in the body, as JSON or binary; GET /metrics has the figures.",
        )

    return refuse


def _tensors(tensors: Sequence[TensorSpec]) -> tuple[_Tensor, ...]:
    return tuple(_Tensor(each.name, each.datatype, each.shape) for each in tensors)


def _config_tensors(tensors: Sequence[TensorSpec], rows: bool) -> tuple[_ConfigTensor, ...]:
    """Where a model takes rows, the configuration speaks of one of them."""
    return tuple(
        _ConfigTensor(
            each.name,
            CONFIG_TYPES.get(each.datatype, f"TYPE_{each.datatype}"),
            each.shape[1:] if rows else each.shape,
        )
        for each in tensors
    )


def _json(answer: object) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
