"""Compressed bodies: gzip and deflate as clients send them, bombs, and what is no such thing."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.net.coding import CODINGS, Coding, accepted, coding_of, folded, unfolded
from paceline.terms.errors import BadRequest, TooLarge, WrongEncoding


def bare(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(body) + packer.flush()


@given(st.lists(st.binary(max_size=2000), max_size=5), st.sampled_from(CODINGS))
def test_what_is_folded_unfolds_to_the_same(parts: list[bytes], coding: Coding) -> None:
    whole = b"".join(parts)
    assert unfolded(folded(parts, coding), coding, len(whole)) == whole


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (gzip.compress(b"hello"), "gzip"),
        (zlib.compress(b"hello"), "deflate"),
        (bare(b"hello"), "deflate"),
    ],
    ids=["gzip", "zlib", "bare"],
)
def test_every_form_that_clients_send_is_read(body: bytes, coding: Coding) -> None:
    assert unfolded(body, coding, 5) == b"hello"
    with pytest.raises(TooLarge, match="once it is decompressed"):
        unfolded(body, coding, 4)


def test_a_bomb_is_refused_at_the_bound_and_not_when_it_has_gone_off() -> None:
    bomb = gzip.compress(bytes(100_000_000), 9)
    assert len(bomb) < 100_000
    with pytest.raises(TooLarge):
        unfolded(bomb, "gzip", 1_000_000)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: b"hello",
        lambda body: b"",
        lambda body: body[:-1],
        lambda body: body + b"more",
        lambda body: body[:-3] + bytes([body[-3] ^ 1]) + body[-2:],
    ],
)
def test_what_is_broken_is_a_bad_request(coding: Coding, spoil: object) -> None:
    assert callable(spoil)
    with pytest.raises(BadRequest, match=f"not valid {coding}"):
        unfolded(spoil(folded([b"hello" * 100], coding)), coding, 10_000)


@pytest.mark.parametrize(
    ("said", "coding"),
    [
        (b"", None),
        (b"identity", None),
        (b"GZIP", "gzip"),
        (b"x-gzip", "gzip"),
        (b"deflate ", "deflate"),
    ],
)
def test_content_encoding(said: bytes, coding: Coding | None) -> None:
    assert coding_of(said) == coding


@pytest.mark.parametrize("said", [b"br", b"zstd", b"gzip, gzip", b"x-deflate"])
def test_other_encodings_are_refused_by_name(said: bytes) -> None:
    with pytest.raises(WrongEncoding, match="not read"):
        coding_of(said)


@pytest.mark.parametrize(
    ("said", "coding"),
    [
        (b"", None),
        (b"gzip, deflate, br", "gzip"),
        (b"br;q=1.0, deflate;q=0.6, gzip;q=0", "deflate"),
        (b"*", "gzip"),
        (b"identity", None),
        (b"gzip; q=0, *;q=0.000", None),
    ],
)
def test_accept_encoding(said: bytes, coding: Coding | None) -> None:
    assert accepted(said) == coding
