"""The head of a request, as an upstream is to read it: one way to read it, and no other.

Headers that speak of one connection only are dropped (RFC 9110, 7.6.1); what could end a line or
start another request is refused. Called by the gateway's providers; a hot function.
"""

import re

from paceline.terms.errors import BadRequest

Headers = list[tuple[bytes, bytes]]
"""Names in lower case."""

OURS = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer "
    b"transfer-encoding upgrade expect host content-length http2-settings".split()
)
"""Headers that are never passed on: of one connection, or said anew by `request_head`."""

START = re.compile(r"(?!HEAD |CONNECT )[A-Z]+ /[!-~]* HTTP/1\.1\r\nhost: [!-~]+\r\n")
"""With HEAD and CONNECT the end of an answer could not be told."""

FIELDS = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t -~\x80-\xff]*\r\n)*")


def request_head(method: str, path: str, host: str, headers: Headers, length: int) -> bytes:
    """`path` with its query; `host` as the Host header has it, with the port where it is another
    than the scheme's; `length` of the body that follows. BadRequest where this makes no head."""
    named: frozenset[bytes] = frozenset()
    for name, value in headers:
        if name == b"connection":
            named = frozenset(each.strip().lower() for each in value.split(b","))
    kept = [each for each in headers if each[0] not in OURS and each[0] not in named]
    start = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n"
    fields = b"".join([b"%b: %b\r\n" % each for each in kept])
    if not START.fullmatch(start) or not _as_meant(fields, kept):
        raise BadRequest(
            "a request to an upstream has a method, path or header that HTTP/1.1 cannot carry",
            value=_culprit(method, path, host, kept),
            remedy="Send visible ASCII in method, path and names, and no line breaks in headers.",
        )
    return b"%bcontent-length: %d\r\n%b\r\n" % (start.encode(), length, fields)


def _as_meant(fields: bytes, headers: Headers) -> bool:
    """Each is one line, and its name ends where it should."""
    return (
        FIELDS.fullmatch(fields) is not None
        and fields.count(b"\n") == len(headers)
        and b":" not in b"".join([name for name, _ in headers])
    )


def _culprit(method: str, path: str, host: str, headers: Headers) -> str:
    """Its name, never a header's value: that may be a key."""
    if not START.fullmatch(f"{method} / HTTP/1.1\r\nhost: a\r\n"):
        return "method"
    if not START.fullmatch(f"GET {path} HTTP/1.1\r\nhost: a\r\n"):
        return "path"
    if not START.fullmatch(f"GET / HTTP/1.1\r\nhost: {host}\r\n"):
        return "header 'host'"
    wrong = (n for n, value in headers if not _as_meant(b"%b: %b\r\n" % (n, value), [(n, value)]))
    return f"header {next(wrong, b'').decode(errors='replace')!r}"
