"""The operations of the control API: what each takes and answers is declared once.

A Declaration is all that routes, the OpenAPI document (`openapi.py`) and docs/reference/api.md know
of an operation, so they cannot differ. An Operation is a Declaration with what answers it: bytes
become typed values before the handler sees them. Who may call is the gate's business; streams and
pages have routes of their own. Called by `control.py`, and by whoever adds operations to it.
"""

import difflib
import math
from collections.abc import Awaitable, Callable
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from paceline.observe import log
from paceline.terms.errors import BadJson, BadRequest, PacelineError
from paceline.terms.limits import QUERY_PARAMETERS
from paceline.web.body import read_body

logger = log.get(__name__)

JSON = "application/json"
EVENT_STREAM = "text/event-stream"

Query = TypeVar("Query")
Body = TypeVar("Body")
Answer = TypeVar("Answer")
Form = TypeVar("Form", bound=msgspec.Struct)

Handler = Callable[[Query, Body, str], Awaitable[Answer]]
"""From query, body and who asks, as journal and log name them, to the answer. It may take
seconds, but fewer than RELAY_S; what takes longer is begun, answered, and asked after."""

FORMS = "GET /api/openapi.json says what this address takes."


class Declaration(msgspec.Struct, Generic[Query, Body, Answer], frozen=True):
    """`summary` is one sentence. `errors` are those of its own, beside what any operation may
    answer (`openapi.py` adds these). Where `query` or `body` is None, the handler gets None. Where
    `media_type` is not JSON, it answers with the bytes; `answer` says what they tell of."""

    method: Literal["GET", "POST"]
    path: str
    summary: str
    answer: type[Answer]
    query: type[Query] | None = None
    body: type[Body] | None = None
    status: int = 200
    errors: tuple[type[PacelineError], ...] = ()
    media_type: str = JSON

    def answered_by(self, handler: Handler[Query, Body, Answer]) -> "Operation":
        return Operation(self, handler)


AnyDeclaration = Declaration[Any, Any, Any]


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an operation that takes none: no bytes, or an empty object."""


class Operation:
    """What answers a declaration. The handler runs to its end, whether or not its caller waits:
    a connection that reads nothing while it answers does not see the caller leave."""

    def __init__(self, declared: AnyDeclaration, handler: Handler[Any, Any, Any]) -> None:
        self.declared = declared
        self._handler = handler

    async def answer(self, http: HttpRequest, who: str) -> Response:
        query = read_query(http.scope["query_string"], self.declared.query)
        body = None
        if self.declared.method != "GET":
            body = read_json(await read_body(http), self.declared.body)
        answer = await self._handle(query, body, who)
        return Response(answer, self.declared.status, media_type=self.declared.media_type)

    async def _handle(self, query: object, body: object, who: str) -> bytes:
        try:
            answer = await self._handler(query, body, who)
            return answer if self.declared.media_type != JSON else msgspec.json.encode(answer)
        except PacelineError:
            raise
        except Exception as error:  # the last resort: a bug of ours is answered, and logged whole
            logger.exception("an operation failed inside Paceline", path=self.declared.path)
            raise PacelineError(
                "an unexpected error inside Paceline",
                value=self.declared.path,
                remedy="The server's log has the details.",
            ) from error


def read_query(text: bytes, form: type[Form] | None) -> Form | None:
    """The parameters as `form` has them, or a BadRequest that names the one that is wrong."""
    try:
        pairs = parse_qsl(
            text.decode(), keep_blank_values=True, errors="strict", max_num_fields=QUERY_PARAMETERS
        )
    except ValueError as error:  # of too many, and of UTF-8
        raise BadRequest(
            "the query string cannot be read",
            value=text.decode(errors="replace"),
            remedy=f"Send UTF-8, percent-encoded, and at most {QUERY_PARAMETERS} parameters.",
        ) from error
    fields = () if form is None else msgspec.structs.fields(form)
    takes = {each.encode_name: each for each in fields}
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in takes:
            raise BadRequest(
                "this address does not take such a parameter",
                value=name,
                remedy=_nearest(name, [*takes]) + FORMS,
            )
        if name in given:
            raise BadRequest("a parameter came twice", value=name, remedy="Send it once.")
        given[name] = value
    missing = next((name for name in takes if takes[name].required and name not in given), None)
    if missing is not None:
        raise BadRequest(f"the parameter `{missing}` is missing", remedy=FORMS)
    return None if form is None else _typed(given, form)


def _typed(given: dict[str, str], form: type[Form]) -> Form:
    try:
        query = msgspec.convert(given, form, strict=False)
    except msgspec.ValidationError as error:
        said, place = _complaint(error)
        name = place.removeprefix("$.")
        # Everything in a query string is text, and nothing there says null.
        said = said.removesuffix(", got `str`").replace(" | null", "")
        raise BadRequest(
            f"the parameter `{name}`: {said}", value=given.get(name, ""), remedy=FORMS
        ) from None
    for name, value in msgspec.structs.asdict(query).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise BadRequest(
                f"the parameter `{name}`: expected a finite number", value=value, remedy=FORMS
            )
    return query


def read_json(text: bytes, form: type[Body] | None) -> Body | None:
    """The body as `form` has it, or a BadJson that says where it stops making sense."""
    try:
        if form is None:
            msgspec.json.decode(text or b"{}", type=Nothing)
            return None
        return msgspec.json.decode(text, type=form)
    except msgspec.ValidationError as error:
        said, place = _complaint(error)
        raise BadJson(f"the body, at `{place}`: {said}", remedy=FORMS) from None
    except RecursionError:
        raise BadJson("the body is nested too deeply", remedy=FORMS) from None
    except ValueError as error:  # of msgspec, and of UTF-8
        said = f"the body is not valid JSON: {error}" if text.strip() else "the body is empty"
        raise BadJson(said, remedy="Send JSON in UTF-8. " + FORMS) from None


def _complaint(error: msgspec.ValidationError) -> tuple[str, str]:
    """What msgspec expected, and the place in the document."""
    said, _, place = str(error).partition(" - at `")
    return said[0].lower() + said[1:], place.removesuffix("`") or "$"


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}? " if near else ""
