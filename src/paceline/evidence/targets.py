"""What a load test sends: from a URL and what was asked, to the bytes of each different request.

It knows four forms of a call: KServe V2, plain JSON (`/predict/MODEL`), OpenAI's chat, and any
other URL. Where no body is given, it asks the server for the model's inputs and makes seeded random
ones. It sends nothing itself: `load.py`, which calls it, hands it a way to ask.
"""

import re
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

import msgspec
import numpy as np
from numpy.typing import NDArray

import paceline
from paceline.evidence.arrivals import Arrivals
from paceline.net.client import Headers, Origin
from paceline.terms.errors import (
    BadInput,
    BadRequest,
    KeyRequired,
    LimitReached,
    Misuse,
    NotFound,
    PacelineError,
    Unreachable,
)
from paceline.terms.limits import LOAD_BODIES_BYTES, ROWS
from paceline.terms.request import PRIORITIES

Form = Literal["v2", "predict", "chat", "any"]

VARIANTS = 16
"""Different bodies that are made for each model and number of rows."""

OPEN_LENGTH = 64
"""Of a dimension that a model leaves open, besides the rows; as `simulate` has it."""

PROMPT_WORDS = 32
WORDS = (
    "river",
    "stone",
    "amber",
    "quiet",
    "north",
    "paper",
    "signal",
    "copper",
    "window",
    "garden",
)
"""Of made prompts and texts."""

NUMBERS: Mapping[str, type[np.generic]] = {
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
}
"""What can be made up, besides BOOL and BYTES."""

PORTS = {"http": 80, "https": 443}
FORMS: Sequence[tuple[Form, re.Pattern[str]]] = (
    ("v2", re.compile(r"(?P<prefix>.*)/v2/models/(?P<model>[^/]+)(/versions/[^/]+)?(/infer)?")),
    ("predict", re.compile(r"(?P<prefix>.*)/predict/(?P<model>[^/]+)")),
    ("chat", re.compile(r"(?P<prefix>.*)/v1/chat/completions")),
)
REFUSALS = (429, 503, 504)
"""By which a server says that it is too busy, now or for this deadline."""

SHOWN_CHARS = 200
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Answer(NamedTuple):
    status: int
    headers: Headers
    body: bytes


Ask = Callable[[bytes], Awaitable[Answer]]
"""Sends a request by itself, before anything is measured."""


class Wanted(msgspec.Struct, frozen=True):
    """Of the command line, what says which requests are sent. Weights by name; texts as given."""

    url: str
    models: tuple[tuple[str, float], ...] = ()
    bodies: tuple[bytes, ...] = ()
    prompts: tuple[str, ...] = ()
    max_tokens: int = 32
    rows: int = 1
    binary: bool = False
    stream: bool = False
    method: str | None = None
    headers: tuple[str, ...] = ()
    key: str | None = None
    say_priority: bool = False
    seed: int = 0


class Address(NamedTuple):
    """A URL, understood. `model` is the one it names; `authority` is for the Host header."""

    origin: Origin
    authority: str
    target: str
    form: Form
    prefix: str
    model: str | None


class Body(NamedTuple):
    content: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Input(msgspec.Struct, frozen=True):
    """An input of a model as V2 tells it; -1 in the first place counts rows."""

    name: str
    datatype: str
    shape: list[int]


class _Metadata(msgspec.Struct, frozen=True):
    inputs: list[Input]


class _Listed(msgspec.Struct, frozen=True):
    id: str


class _Models(msgspec.Struct, frozen=True):
    data: list[_Listed]


class Shots(NamedTuple):
    """All different requests, and for each arrival which of them it is and of which model."""

    requests: list[bytes]
    which: NDArray[np.int64]
    models: list[str]
    model_of: NDArray[np.int64]


# --- The URL --------------------------------------------------------------------------------------


def address(url: str) -> Address:
    remedy = "Write it like http://localhost:8080/predict/MODEL."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as why:
        raise BadInput(f"this is no URL: {why}", value=url, remedy=remedy) from None
    if "://" not in url:
        remedy = f"Write it like http://{url or 'localhost:8080/predict/MODEL'}."
    if parts.scheme not in PORTS or not parts.hostname:
        raise BadInput("a URL begins with http:// or https://", value=url, remedy=remedy)
    if parts.username is not None:
        raise BadInput(
            "a URL with a name and password in it is not used",
            remedy="Give the key as --key, or in PACELINE_KEY.",
        )
    target = _target(parts, url)
    port = PORTS[parts.scheme] if port is None else port
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    origin = Origin(parts.hostname, port, tls, parts.hostname)
    for form, pattern in FORMS:
        if found := pattern.fullmatch(parts.path):
            named = found.groupdict().get("model")
            if form == "v2" and not parts.path.endswith("/infer"):
                target = f"{parts.path}/infer"
            model = None if named is None else unquote(named)
            return Address(origin, parts.netloc, target, form, found["prefix"], model)
    return Address(origin, parts.netloc, target, "any", parts.path.rstrip("/"), None)


def _target(parts: SplitResult, url: str) -> str:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or not target.isprintable() or " " in target:
        raise BadInput(
            "the path of a URL has only plain characters",
            value=url,
            remedy="Write others, and spaces, as %20 and the like.",
        )
    return target


# --- What is sent ---------------------------------------------------------------------------------


class Target:
    """A URL with what was asked of it. `prepare` asks the server what is not said; then `shots`
    makes every request."""

    def __init__(self, wanted: Wanted) -> None:
        self.address = address(wanted.url)
        self._wanted = wanted
        self._inputs: dict[str, list[Input]] = {}
        self._models = [*wanted.models]
        form, named = self.address.form, self.address.model
        if form == "any" and wanted.models and not wanted.bodies:
            self.address = self.address._replace(form="v2")
        elif form == "any" and wanted.models:
            raise Misuse(
                "this URL has no place for a model",
                value=wanted.url,
                remedy="Leave out --model, or end the URL with /predict/MODEL.",
            )
        if not self._models:
            self._models = [(named or "", 1.0)]
        _check(wanted, self.address)

    @property
    def form(self) -> Form:
        return self.address.form

    @property
    def models(self) -> list[str]:
        return [name for name, _ in self._models]

    async def prepare(self, ask: Ask) -> list[str]:
        """Asks for what is not known, then tries one request of each model. Returns what should be
        told about it."""
        if not self._wanted.bodies:
            if self.form == "chat" and not self._models[0][0]:
                self._models = [(await self._first_model(ask), 1.0)]
            if self.form in ("v2", "predict"):
                for name in self.models:
                    self._inputs[name] = await self._ask_inputs(name, ask)
        notes = []
        for name in self.models:
            first = self.request(name, self.bodies(name, self._wanted.rows)[0], None, 0)
            answer = await ask(first)
            if answer.status in REFUSALS:
                notes.append(f"the first request was refused with status {answer.status}")
            elif not 200 <= answer.status < 300:
                raise _unusable(answer, self.address.target)
        return notes

    def shots(self, arrivals: Arrivals) -> Shots:
        """Draws models and bodies by the seed, and makes each different request once."""
        wanted = self._wanted
        count = len(arrivals.due_s)
        dice = np.random.default_rng([wanted.seed, 1])
        weights = np.cumsum([weight for _, weight in self._models])
        model_of = np.searchsorted(weights, dice.random(count) * weights[-1], side="right")
        bodies = len(wanted.bodies) or len(wanted.prompts) or VARIANTS
        body_of = dice.integers(bodies, size=count)
        rows = arrivals.rows if arrivals.rows.max() > 1 else np.full(count, wanted.rows)
        ranks = arrivals.ranks
        say_priority = wanted.say_priority or bool((ranks != PRIORITIES.index("normal")).any())
        keys = arrivals.timeouts_ms.copy()
        for column, size in (
            (ranks, len(PRIORITIES)),
            (rows, ROWS + 1),
            (body_of, bodies),
            (model_of, len(self._models)),
        ):
            keys = keys * size + column
        _, firsts, which = np.unique(keys, return_index=True, return_inverse=True)
        made: dict[tuple[int, int], Sequence[Body | None]] = {}
        requests, total = [], 0
        for first in firsts.tolist():
            model, row_count = int(model_of[first]), int(rows[first])
            if (model, row_count) not in made:
                made[model, row_count] = self.bodies(self._models[model][0], row_count)
            request = self.request(
                self._models[model][0],
                made[model, row_count][int(body_of[first])],
                PRIORITIES[int(ranks[first])] if say_priority else None,
                int(arrivals.timeouts_ms[first]),
            )
            total += len(request)
            if total > LOAD_BODIES_BYTES:
                raise LimitReached(
                    "the different requests together are too large",
                    value=f"more than {LOAD_BODIES_BYTES} bytes",
                    remedy="Send smaller bodies or fewer rows, or a trace with fewer timeouts.",
                )
            requests.append(request)
        return Shots(requests, which.astype(np.int64), self.models, model_of.astype(np.int64))

    def request(
        self, model: str, body: Body | None, priority: str | None, timeout_ms: int
    ) -> bytes:
        method = self._wanted.method or ("GET" if body is None else "POST")
        more = [] if priority is None else [f"x-priority: {priority}"]
        if timeout_ms:
            more.append(f"x-timeout-ms: {timeout_ms}")
        return self._written(method, self._path(model), more, body)

    def bodies(self, model: str, rows: int) -> Sequence[Body | None]:
        """The different ones for a model; None is a request without any."""
        wanted = self._wanted
        if wanted.bodies:
            return [_json(content) for content in wanted.bodies]
        if self.form == "chat":
            return [_json(self._chat(model, prompt)) for prompt in wanted.prompts or _prompts()]
        if self.form == "any":
            return [None] * VARIANTS
        make = _predict if self.form == "predict" else _v2_binary if wanted.binary else _v2
        inputs = self._inputs[model]
        place = self.models.index(model)
        made = []
        for variant in range(VARIANTS):
            dice = np.random.default_rng([wanted.seed, 2, place, rows, variant])
            made.append(make([(each, _values(each, rows, dice)) for each in inputs]))
        return made

    # --- How

    def _path(self, model: str) -> str:
        place = self.address
        if place.form == "chat" or not model or model == place.model:
            return place.target
        if place.form == "predict":
            return f"{place.prefix}/predict/{quote(model, safe='')}"
        return f"{place.prefix}/v2/models/{quote(model, safe='')}/infer"

    def _chat(self, model: str, prompt: str) -> bytes:
        said = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._wanted.max_tokens,
            "stream": self._wanted.stream,
        }
        return msgspec.json.encode(said)

    async def _ask_inputs(self, model: str, ask: Ask) -> list[Input]:
        path = f"{self.address.prefix}/v2/models/{quote(model, safe='')}"
        answer = await ask(self._get(path))
        remedy = "Say what to send: --body '[1, 2, 3]', or --body @FILE."
        if answer.status in (401, 403):
            raise _unusable(answer, path)
        if answer.status == 404 and _said(answer).get("code") == "unknown_model":
            raise _unusable(answer, path)
        if answer.status != 200:
            raise Misuse(
                f"the server does not tell what `{model}` takes: it answers {answer.status}",
                value=f"GET {path}",
                remedy=remedy,
            )
        try:
            return msgspec.json.decode(answer.body, type=_Metadata).inputs
        except (msgspec.DecodeError, UnicodeDecodeError) as why:
            raise Misuse(
                f"what the server tells of `{model}` is not understood: {why}",
                value=f"GET {path}",
                remedy=remedy,
            ) from why

    async def _first_model(self, ask: Ask) -> str:
        path = f"{self.address.prefix}/v1/models"
        answer = await ask(self._get(path))
        if answer.status in (401, 403):
            raise _unusable(answer, path)
        try:
            return msgspec.json.decode(answer.body, type=_Models).data[0].id
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError) as why:
            raise Misuse(
                "the server does not tell its models",
                value=f"GET {path}: status {answer.status}",
                remedy="Name one: --model NAME.",
            ) from why

    def _get(self, path: str) -> bytes:
        return self._written("GET", path, [], None)

    def _written(self, method: str, path: str, more: Sequence[str], body: Body | None) -> bytes:
        given = self._wanted.headers
        lines = [
            f"{method} {path} HTTP/1.1",
            f"host: {self.address.authority}",
            f"user-agent: paceline-load/{paceline.__version__}",
            *given,
            *more,
        ]
        if self._wanted.key is not None:
            lines.append(f"authorization: Bearer {self._wanted.key}")
        if body is not None:
            said = {each.partition(":")[0].lower() for each in given}
            lines += [f"{name}: {value}" for name, value in body.headers if name not in said]
            lines.append(f"content-length: {len(body.content)}")
        head = "\r\n".join(lines) + "\r\n\r\n"
        return head.encode("latin-1") + (b"" if body is None else body.content)


def _check(wanted: Wanted, place: Address) -> None:
    if not 1 <= wanted.rows <= ROWS:
        raise BadInput(
            "--rows cannot be this number",
            value=wanted.rows,
            remedy=f"Write a whole number from 1 to {ROWS}.",
        )
    if wanted.binary and (place.form != "v2" or wanted.bodies):
        raise Misuse(
            "binary tensors are made for KServe V2 alone, and not out of a given body",
            value=wanted.url,
            remedy="Use a URL that ends with /v2/models/MODEL/infer, without --body.",
        )
    if (wanted.prompts or wanted.stream) and place.form not in ("chat", "any"):
        raise Misuse(
            "prompts and streams belong to OpenAI's API",
            value=wanted.url,
            remedy="Use a URL that ends with /v1/chat/completions.",
        )
    if place.form == "any" and not wanted.bodies and place.target == "/" and not wanted.method:
        raise Misuse(
            "the URL does not say what to ask",
            value=wanted.url,
            remedy="End it with /predict/MODEL, /v2/models/MODEL/infer or /v1/chat/completions, "
            "or give --body, or --method GET.",
        )
    for text in (*wanted.headers, f"authorization: {wanted.key or ''}"):
        name, colon, value = text.partition(":")
        if not colon or not _TOKEN.fullmatch(name) or not (value.isascii() and _plain(value)):
            raise BadInput(
                "this is no header",
                value=text if wanted.key is None else name,
                remedy="Write --header 'name: value', in plain characters; a key has no spaces.",
            )
    if wanted.method is not None and wanted.method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        raise BadInput(
            "this method is not spoken",
            value=wanted.method,
            remedy="Use GET, POST, PUT, PATCH or DELETE.",
        )


def _plain(text: str) -> bool:
    return all(each.isprintable() or each == "\t" for each in text)


# --- Bodies ---------------------------------------------------------------------------------------

Filled = Sequence[tuple[Input, NDArray[Any]]]
JSON = (("content-type", "application/json"),)


def _json(content: bytes) -> Body:
    return Body(content, JSON)


def _v2(filled: Filled) -> Body:
    return _json(
        msgspec.json.encode({"inputs": [_tensor(each, values) for each, values in filled]})
    )


def _tensor(each: Input, values: NDArray[Any]) -> dict[str, Any]:
    if each.datatype == "FP16":
        raise Misuse(
            f"{each.datatype} has no form in JSON",
            value=f"input {each.name}",
            remedy="Send binary tensors: --binary.",
        )
    return {
        "name": each.name,
        "datatype": each.datatype,
        "shape": list(values.shape),
        "data": values.ravel().tolist(),
    }


def _v2_binary(filled: Filled) -> Body:
    """The JSON part, and behind it the tensors as they lie in memory; so are the answers."""
    listed, tail = [], []
    for each, values in filled:
        raw = values.tobytes()
        if each.datatype == "BYTES":
            texts = [text.encode() for text in values.ravel().tolist()]
            raw = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        tail.append(raw)
        listed.append(
            {
                "name": each.name,
                "datatype": each.datatype,
                "shape": list(values.shape),
                "parameters": {"binary_data_size": len(raw)},
            }
        )
    head = msgspec.json.encode({"inputs": listed, "parameters": {"binary_data_output": True}})
    return Body(
        head + b"".join(tail),
        (
            ("content-type", "application/octet-stream"),
            ("inference-header-content-length", str(len(head))),
        ),
    )


def _predict(filled: Filled) -> Body:
    """A single row goes without the dimension of rows."""
    plain = {}
    for each, values in filled:
        listed = values.tolist()
        one = each.shape[:1] == [-1] and len(values) == 1
        plain[each.name] = listed[0] if one else listed
    return _json(msgspec.json.encode(plain if len(plain) > 1 else next(iter(plain.values()))))


def _values(each: Input, rows: int, dice: np.random.Generator) -> NDArray[Any]:
    """Numbers that most models take: shares, small whole numbers, short words."""
    shape = [OPEN_LENGTH if size < 0 else size for size in each.shape]
    if each.shape[:1] == [-1]:
        shape[0] = rows
    if each.datatype == "BYTES":
        return np.array(WORDS, dtype=object)[dice.integers(len(WORDS), size=shape)]
    if each.datatype == "BOOL":
        return dice.random(shape) < 0.5
    if each.datatype not in NUMBERS:
        raise Misuse(
            f"no input of the type {each.datatype} can be made up",
            value=f"input {each.name}",
            remedy="Say what to send: --body @FILE.",
        )
    kind = NUMBERS[each.datatype]
    if each.datatype.startswith("FP"):
        return np.round(dice.random(shape), 4).astype(kind)
    return dice.integers(100, size=shape).astype(kind)


def _prompts() -> list[str]:
    """The same for every seed, so that runs can be compared."""
    dice = np.random.default_rng([0, 3])
    return [" ".join(dice.choice(WORDS, PROMPT_WORDS).tolist()) for _ in range(VARIANTS)]


# --- What a server says before the test -----------------------------------------------------------


def _said(answer: Answer) -> dict[str, str]:
    """Error, code and remedy as our server tells them; of another one as much as is found."""
    try:
        told = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = answer.body.decode("utf-8", "replace").strip()
        return {"error": text[:SHOWN_CHARS]} if text else {}
    if isinstance(told, dict):
        inner = told.get("error", told.get("detail", ""))
        if isinstance(inner, dict):
            inner = inner.get("message", "")
        return {
            **{name: str(told.get(name, "")) for name in ("code", "remedy")},
            "error": str(inner),
        }
    return {}


def _unusable(answer: Answer, path: str) -> PacelineError:
    said = _said(answer)
    words = f": {said['error'][:SHOWN_CHARS]}" if said.get("error") else ""
    cause = f"the server answers {answer.status}{words}"
    remedy = said.get("remedy", "")
    kind: type[PacelineError] = BadRequest
    if answer.status in (401, 403):
        kind, remedy = KeyRequired, "Give a key that may call it: --key, or PACELINE_KEY."
    elif answer.status in (404, 405):
        kind = NotFound
        remedy = remedy or "Look at the end of the URL, and at --model and --method."
    elif 300 <= answer.status < 400:
        where = dict(answer.headers).get(b"location", b"elsewhere").decode("latin-1")
        cause, remedy = f"the server redirects to {where}", "Use that URL; none is followed."
    elif answer.status >= 500:
        kind = Unreachable
        remedy = remedy or "Look at the server's log; a test would measure how fast it fails."
    return kind(cause, value=path, remedy=remedy or "Correct the body: --body, or --rows.")
