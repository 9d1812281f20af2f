"""First lines of answers, and errors as whole ones: where a PacelineError becomes HTTP."""

from http import HTTPStatus

import msgspec
from starlette.types import Send

from paceline.terms.errors import (
    Draining,
    KeyRequired,
    Overloaded,
    PacelineError,
    Unavailable,
    WrongKey,
    WrongMethod,
)

Headers = list[tuple[bytes, bytes]]


class _Lines(dict[int, bytes]):
    """Providers answer with statuses that no standard names, 529 and 524 among them."""

    def __missing__(self, status: int) -> bytes:
        assert 100 <= status <= 999, f"no status of HTTP: {status}"
        return b"HTTP/1.1 %d \r\n" % status


STATUS_LINES = _Lines(
    {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}
)

RETRY_AFTER_S = 1


def error_body(error: PacelineError, request_id: str = "") -> bytes:
    fields = error.as_fields()
    if request_id:
        fields["request_id"] = request_id
    return msgspec.json.encode(fields)


def error_headers(error: PacelineError, body: bytes) -> Headers:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if isinstance(error, (Unavailable, Overloaded)):
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    if isinstance(error, (KeyRequired, WrongKey)):
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, WrongMethod):
        headers.append((b"allow", ", ".join(error.allowed).encode()))
    return headers


def rendered(headers: Headers) -> bytes:
    """As lines, each with its end."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


async def send_error(send: Send, error: PacelineError, request_id: str = "") -> None:
    body = error_body(error, request_id)
    headers = error_headers(error, body)
    await send({"type": "http.response.start", "status": error.http, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_event(error: PacelineError) -> bytes:
    """The last event of a stream that cannot go on."""
    return b"event: error\ndata: " + error_body(error) + b"\n\n"


def draining() -> Draining:
    return Draining(
        "the server is stopping", remedy="Send the request again; another instance will answer it."
    )


def raw_response(error: PacelineError) -> bytes:
    """A whole HTTP/1.1 answer, for connections that no application holds."""
    body = error_body(error)
    return raw_answer(error.http, error_headers(error, body), body)


def raw_answer(status: int, headers: Headers, body: bytes) -> bytes:
    """After which the connection is closed."""
    return b"%b%bconnection: close\r\n\r\n%b" % (STATUS_LINES[status], rendered(headers), body)
