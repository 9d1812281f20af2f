"""Reading a request's body within its bounds. Called by everything that takes one."""

import asyncio

from starlette.requests import Request as HttpRequest

from paceline.terms.errors import DeadlineExceeded, TooLarge
from paceline.terms.limits import BODY_BYTES, DEADLINE_S


async def read_body(http: HttpRequest, within_s: float = DEADLINE_S) -> bytes:
    """The whole body, or an error as soon as it is known to be too large or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for chunk in http.stream():
                body += chunk
                if len(body) > BODY_BYTES:
                    raise TooLarge(
                        "the body is larger than this server reads",
                        value=f"over {BODY_BYTES} bytes",
                        remedy="Send fewer rows in one request.",
                    )
    except TimeoutError:
        raise too_late() from None
    return bytes(body)


def too_late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the request's deadline passed before it could be answered",
        remedy="Send the whole body at once, or a longer x-timeout-ms.",
    )
