"""Bodies that are sent compressed: gzip and deflate, both ways, within bounds.

The bound is on what comes out, so a small body that unfolds into gigabytes is refused as soon as it
passes it. zlib lets other threads work while it computes: whoever calls decides whether to.
"""

import re
import zlib
from collections.abc import Iterable
from typing import Literal, get_args

from paceline.terms.errors import BadRequest, TooLarge, WrongEncoding

Coding = Literal["gzip", "deflate"]
CODINGS: tuple[Coding, ...] = get_args(Coding)

GZIP, ZLIB, RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
NOT_TAKEN = re.compile(rb"\s*q\s*=\s*0(?:\.0*)?\s*")

FASTEST = 1
"""The level of compression: the others take several times as long for a few percent."""


def coding_of(content_encoding: bytes) -> Coding | None:
    """What the header Content-Encoding says; None for a plain body."""
    said = content_encoding.strip().lower()
    if said in (b"", b"identity"):
        return None
    for coding in CODINGS:
        if said == coding.encode() or (coding == "gzip" and said == b"x-gzip"):
            return coding
    raise WrongEncoding(
        "the body is compressed in a way this server does not read",
        value=said.decode("latin-1")[:40],
        remedy=f"Use {' or '.join(CODINGS)}, or send the body as it is.",
    )


def accepted(accept_encoding: bytes) -> Coding | None:
    """The best coding that the header Accept-Encoding takes; None if the body stays as it is."""
    takes: dict[bytes, bool] = {}
    for each in accept_encoding.lower().split(b","):
        name, _, quality = each.strip().partition(b";")
        takes[name.strip()] = NOT_TAKEN.fullmatch(quality) is None
    for coding in CODINGS:
        if takes.get(coding.encode(), takes.get(b"*", False)):
            return coding
    return None


def unfolded(body: "bytes | bytearray | memoryview", coding: Coding, most: int) -> bytes:
    """The body as it was before it was compressed."""
    try:
        return _unfolded(body, GZIP if coding == "gzip" else ZLIB, most)
    except zlib.error as error:
        if coding == "deflate":  # the standard means zlib; several clients send it bare
            try:
                return _unfolded(body, RAW, most)
            except zlib.error:
                pass  # told as the first error, which is the standard's
        raise BadRequest(
            f"the body is not valid {coding}: {error}",
            remedy="Compress it whole, or send it as it is without Content-Encoding.",
        ) from None


def folded(parts: "Iterable[bytes | memoryview]", coding: Coding) -> bytes:
    packer = zlib.compressobj(FASTEST, zlib.DEFLATED, GZIP if coding == "gzip" else ZLIB)
    return b"".join([*map(packer.compress, parts), packer.flush()])


def _unfolded(body: "bytes | bytearray | memoryview", window: int, most: int) -> bytes:
    unpacker = zlib.decompressobj(window)
    whole = unpacker.decompress(body, most + 1)
    if len(whole) > most:
        raise TooLarge(
            "the body is larger than this server reads once it is decompressed",
            value=f"over {most} bytes",
            remedy="Send fewer rows in one request.",
        )
    if not unpacker.eof:
        raise zlib.error("it ends too early")
    if unpacker.unused_data:
        raise zlib.error("something follows its end")
    return whole
