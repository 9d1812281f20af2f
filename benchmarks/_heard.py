"""The head of an answer as it was heard, read strictly; what is behind it its readers read.

Called by `fuzz` and `_trouble`, whose answers are framed in different ways.
"""

import re

STATUS = re.compile(rb"HTTP/1\.1 ([1-5]\d\d) [ -~]*")


class NotHttp(Exception):
    """What an answer must not be."""


def head_of(heard: bytes) -> tuple[int, dict[bytes, bytes], bytes] | None:
    """Status, headers by their names in small letters, and what follows; None where the head is not
    whole."""
    said, end, rest = heard.partition(b"\r\n\r\n")
    if not end:
        return None
    first, *lines = said.split(b"\r\n")
    status = STATUS.fullmatch(first)
    if status is None:
        raise NotHttp(f"an answer begins {heard[:80]!r}")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b": ")
        if not colon or name.lower() in headers:
            raise NotHttp(f"an answer has the header {line!r}, or has it twice")
        headers[name.lower()] = value
    return int(status[1]), headers, rest
