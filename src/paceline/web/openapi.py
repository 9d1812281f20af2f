"""The control API as an OpenAPI 3.1 document, made from its declarations and nothing else.

Schemas are msgspec's own, of the very types that bodies are decoded into. Every answer an operation
may give is in it: its own errors, and those that anything before it may raise. Called by
`control.py`, which serves it, and by tools/reference.py, which writes docs/reference/api.md.
"""

from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Annotated, Any

import msgspec

from paceline.terms.errors import (
    TABLE,
    BadJson,
    BadRequest,
    DeadlineExceeded,
    Draining,
    ForeignHost,
    ForeignOrigin,
    KeyRequired,
    NotAllowed,
    Overloaded,
    OwnerGone,
    PacelineError,
    TooLarge,
    Unavailable,
    WrongContentType,
    WrongKey,
)
from paceline.web.operations import EVENT_STREAM, JSON, AnyDeclaration, Declaration

ANY_CALL: tuple[type[PacelineError], ...] = (
    BadRequest,
    KeyRequired,
    WrongKey,
    NotAllowed,
    ForeignHost,
    Unavailable,
    Draining,
    Overloaded,
    OwnerGone,
    PacelineError,
)
"""What the way to an operation may answer: connection, door, gate, relay."""

ANY_CHANGE: tuple[type[PacelineError], ...] = (
    BadJson,
    ForeignOrigin,
    TooLarge,
    WrongContentType,
    DeadlineExceeded,
)
"""And where a body is sent."""

SCHEMAS = "#/components/schemas/"

ACCESS = """\
Every call needs the role admin; `POST /feedback` that of whoever may infer. A key goes as
`Authorization: Bearer pl_...` or `x-api-key: pl_...`, or there is the cookie of a login on the
page. A server on loopback answers local programs without a key, unless it was started with
`--require-keys`. What changes something takes `application/json`. HEAD is answered as GET, OPTIONS
with the methods there are. A parameter that is not listed is refused."""

Meta = msgspec.Meta


class Error(msgspec.Struct):
    """Why a call was refused. Codes are listed in docs/reference/errors.md."""

    error: Annotated[str, Meta(description="What happened.")]
    code: Annotated[str, Meta(description="Under which the table of errors lists it.")]
    remedy: Annotated[str, Meta(description="What to do.")]
    value: Annotated[str, Meta(description="With which value.")] | msgspec.UnsetType = msgspec.UNSET
    request_id: (
        Annotated[str, Meta(description="Under which the log has it.")] | msgspec.UnsetType
    ) = msgspec.UNSET


class Document(msgspec.Struct):
    """An OpenAPI document."""

    openapi: Annotated[str, Meta(description="The version of OpenAPI it is written in.")]
    info: Annotated[dict[str, str], Meta(description="What it describes.")]
    servers: Annotated[list[dict[str, str]], Meta(description="Where that is.")]
    security: Annotated[list[dict[str, list[str]]], Meta(description="How a caller is known.")]
    paths: Annotated[dict[str, dict[str, Any]], Meta(description="The operations, by address.")]
    components: Annotated[dict[str, Any], Meta(description="The schemas they refer to.")]


DOCUMENT: Declaration[None, None, Document] = Declaration(
    "GET", "/api/openapi.json", "This API as an OpenAPI 3.1 document.", Document
)


def document(declared: Iterable[AnyDeclaration], version: str) -> Document:
    declared = list(declared)
    schema_of, schemas = schemas_of(declared)
    paths: dict[str, dict[str, Any]] = {}
    for each in declared:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, schema_of, schemas)
    return Document(
        openapi="3.1.0",
        info={"title": "Paceline control API", "version": version, "description": ACCESS},
        servers=[{"url": "/"}],
        security=[{"bearer": []}, {"key": []}],
        paths=paths,
        components={
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    )


def schemas_of(
    declared: Iterable[AnyDeclaration],
) -> tuple[Mapping[Any, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The schema of each type that is declared, and those the schemas refer to, by name."""
    types = [Error]
    for each in declared:
        types += [kind for kind in (each.query, each.body, each.answer) if kind is not None]
    types = list(dict.fromkeys(types))
    schemas, named = msgspec.json.schema_components(types, ref_template=SCHEMAS + "{name}")
    return dict(zip(types, schemas, strict=True)), named


def errors_of(declared: AnyDeclaration) -> list[type[PacelineError]]:
    """Every error that a call of it may answer, its own first."""
    sent = ANY_CALL if declared.method == "GET" else (*ANY_CALL, *ANY_CHANGE)
    return list(dict.fromkeys((*declared.errors, *sent)))


def parameters(query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The fields of a query's schema as OpenAPI's parameters."""
    for name, field in query["properties"].items():
        schema = _without_null(field)
        yield {
            "name": name,
            "in": "query",
            "required": name in query.get("required", ()),
            "description": schema.pop("description", ""),
            "schema": schema,
        }


def _operation(
    declared: AnyDeclaration,
    schema_of: Mapping[Any, dict[str, Any]],
    schemas: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(declared),
        "summary": declared.summary,
        "responses": dict(_responses(declared, schema_of)),
    }
    if declared.query is not None:
        query = schemas[_name(schema_of[declared.query])]
        operation["parameters"] = list(parameters(query))
    if declared.body is not None:
        content = {JSON: {"schema": schema_of[declared.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _responses(
    declared: AnyDeclaration, schema_of: Mapping[Any, dict[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    answer, described = schema_of[declared.answer], HTTPStatus(declared.status).phrase
    if declared.media_type != JSON:
        lines = "as the data of each event" if declared.media_type == EVENT_STREAM else "as lines"
        answer, described = {"type": "string"}, f"{_name(answer)} {lines}"
    yield str(declared.status), _response(described, declared.media_type, answer)
    by_status: dict[int, list[str]] = {}
    for error in errors_of(declared):
        by_status.setdefault(TABLE[error.code].http, []).append(error.code)
    for status, codes in sorted(by_status.items()):
        described = "; ".join(f"`{code}`: {TABLE[code].meaning}" for code in codes)
        schema = schema_of[Error] | {"properties": {"code": {"enum": codes}}}
        yield str(status), _response(described, JSON, schema)


def _response(described: str, media_type: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": described, "content": {media_type: {"schema": schema}}}


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What of a schema can be said in a query string: nothing there means null."""
    said = {name: value for name, value in schema.items() if (name, value) != ("default", None)}
    if "anyOf" not in said:
        return said
    kinds: list[dict[str, Any]] = [kind for kind in said.pop("anyOf") if kind != {"type": "null"}]
    return said | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds})


def _operation_id(declared: AnyDeclaration) -> str:
    address = declared.path.removeprefix("/api").strip("/").removesuffix(".json").replace(".", "_")
    return "_".join([declared.method.lower(), *address.replace("-", "_").split("/")])


def _name(schema: Mapping[str, Any]) -> str:
    return str(schema["$ref"]).removeprefix(SCHEMAS)
