"""Reading a request's body within its bound. Called by everything that takes one."""

from starlette.requests import Request as HttpRequest

from paceline.terms.errors import TooLarge
from paceline.terms.limits import BODY_BYTES


async def read_body(http: HttpRequest) -> bytes:
    """The whole body, or TooLarge as soon as it is known to be."""
    body = bytearray()
    async for chunk in http.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise TooLarge(
                "the body is larger than this server reads",
                value=f"over {BODY_BYTES} bytes",
                remedy="Send fewer rows in one request.",
            )
    return bytes(body)
