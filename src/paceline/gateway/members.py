"""The members of the JSON object that a body is: each as the bytes it was written in, and where.

So one of them is read, or changed, and no other byte is looked at twice or written anew. Members of
members only where a member is an object and is taken as a body of its own.

*A member given twice is refused.* Readers of JSON differ in which one counts (RFC 8259, 4), so the
model that is allowed and billed here could be another than the one that answers. This costs little:
where the lengths of all names and values add up to the length of the body, there is no room for
another; with blanks between, it is compared with what Python would write of them; else the body is
walked through, member by member.

Checked is the whole body, but for UTF-8 within texts that are not read: to refuse those is left to
whoever reads them. The parser holds the interpreter lock all the while, so a long body holds up the
loop from any thread, and belongs in another process. Called by the dialects.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from typing import Annotated, TypeAlias

import msgspec

from paceline.terms.errors import VALUE_CHARS, BadField, BadJson, MissingField, WrongType

Members: TypeAlias = "dict[str, msgspec.Raw]"

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text = msgspec.json.Decoder(str).decode
_flag = msgspec.json.Decoder(bool | None).decode
_count = msgspec.json.Decoder(Annotated[int, msgspec.Meta(ge=0)] | None).decode

MEMBERS_KNOWN = 256
"""names of members that are kept as they are written"""

BEGIN = re.compile(rb"[ \t\n\r]*\{")
KEY = re.compile(rb'[ \t\n\r]*("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
NEXT = re.compile(rb"[ \t\n\r]*[,}]")

LIST = ord("[")

SIGNS = 4
"""beside each name and value in a body without spaces: two quotes, a colon, a comma. One is left
over: two braces, and no comma after the last."""


def checked(body: bytes) -> Members:
    """Raises BadJson, and BadField for what is no object or has a member twice."""
    try:
        given = _decode(body)
    except msgspec.ValidationError as wrong:
        raise WrongType(
            "the body must be a JSON object", value=str(wrong), remedy='Send {"model": ..., ...}.'
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as wrong:
        raise _no_json(wrong) from None
    if _spaces(body, given) is None:
        _spans(body, given)
    return given


def decoded(body: bytes) -> Members:
    """The same of a body that was checked before."""
    return _decode(body)


def with_member(body: bytes, given: Members, name: str, value: bytes) -> bytes:
    """The body with another value of a member, or with that member as its first; every other byte
    as it was. `given` is what it has; `name` one that JSON writes as it is."""
    if name in given:
        begin, end = _span(body, given, name)
        return b"".join((body[:begin], value, body[end:]))
    begin = body.index(b"{") + 1
    comma = b"," if given else b""
    return b"".join((body[:begin], b'"', name.encode(), b'":', value, comma, body[begin:]))


def renamed(body: bytes, given: Members, name: str, new: str) -> bytes:
    """The body with another name of a member; every other byte as it was. Both are names that JSON
    writes as they are; one that is written otherwise stays."""
    quoted = b'"%b"' % name.encode()
    at = body.rfind(quoted, 0, _span(body, given, name)[0])
    if at < 0:
        return body
    return b"".join((body[:at], b'"%b"' % new.encode(), body[at + len(quoted) :]))


def text(given: Mapping[str, msgspec.Raw], name: str, *, remedy: str) -> str:
    """Missing also where it is empty."""
    raw = given.get(name)
    if raw is None:
        raise missing(name, remedy)
    try:
        value = _text(raw)
    except msgspec.ValidationError:
        raise _wrong(name, "a string", raw, remedy) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise _no_json(wrong) from None
    if not value:
        raise missing(name, remedy)
    return value


def flag(given: Mapping[str, msgspec.Raw], name: str) -> bool:
    raw = given.get(name)
    if raw is None:
        return False
    try:
        return bool(_flag(raw))
    except msgspec.ValidationError:
        raise _wrong(name, "true or false", raw, "Send one of the two.") from None


def count(given: Mapping[str, msgspec.Raw], name: str) -> int | None:
    raw = given.get(name)
    if raw is None:
        return None
    try:
        value: int | None = _count(raw)
    except msgspec.ValidationError:
        raise _wrong(name, "a number of tokens", raw, "Send a whole number.") from None
    return value


def check_list(given: Mapping[str, msgspec.Raw], name: str, *, remedy: str) -> None:
    raw = given.get(name)
    if raw is None:
        raise missing(name, remedy)
    if memoryview(raw)[0] != LIST:
        raise _wrong(name, "a list", raw, remedy)


def is_object(raw: msgspec.Raw) -> bool:
    return memoryview(raw)[0] == ord("{")


def _spaces(body: bytes, given: Members) -> int | None:
    """How many blanks follow each colon and comma of the outer object: none, as the SDKs write, or
    one, as Python does by default. Then nothing but these members is in the body. None where it is
    otherwise, and it has to be walked through."""
    written = SIGNS * len(given) + 1
    for name, value in given.items():
        written += len(name) + len(value)
    more = len(body) - written
    if more == 0 and given:
        return 0
    if more == 2 * len(given) - 1:
        pairs = zip(map(_spaced, given), given.values(), strict=True)
        if body[1:-1] == b"".join(chain.from_iterable(pairs))[2:]:
            return 1
    return None


@lru_cache(MEMBERS_KNOWN)
def _spaced(name: str) -> bytes:
    return b', "%b": ' % name.encode()


def _span(body: bytes, given: Members, name: str) -> tuple[int, int]:
    spaces = _spaces(body, given)
    if spaces is None:
        return _spans(body, given)[name]
    end = -spaces
    for each, value in given.items():
        begin = end + len(each) + SIGNS + 2 * spaces
        end = begin + len(value)
        if each == name:
            break
    return begin, end


def _spans(body: bytes, given: Members) -> dict[str, tuple[int, int]]:
    """Where each value stands. Names and values are compared with those that were decoded, in
    their order: where a member comes twice, one of its values is not found at its place."""
    spans: dict[str, tuple[int, int]] = {}
    begins = BEGIN.match(body)
    assert begins is not None, "an object begins with a brace"
    at = begins.end()
    for name, raw in given.items():
        usual = b'"%b": ' % name.encode()
        if body.startswith(usual, at):
            begin = at + len(usual)
        else:
            key = KEY.match(body, at)
            assert key is not None, "a member begins with its name"
            found = _text(key[1])
            if found != name:
                raise _twice(found)
            begin = key.end()
        value = bytes(raw)
        at = begin + len(value)
        spans[name] = begin, at
        if not body.startswith(value, begin):
            raise _twice(name)
        if body[at : at + 2] == b", ":
            at += 2
        elif after := NEXT.match(body, at):
            at = after.end()
        else:
            raise _twice(name)
    if more := KEY.match(body, at):
        raise _twice(_text(more[1]))
    return spans


def _twice(name: str) -> BadField:
    return BadField(f"`{name}` is given twice", param=name, remedy="Send each member once.")


def missing(name: str, remedy: str) -> MissingField:
    return MissingField(f"`{name}` is missing", param=name, remedy=remedy)


def _wrong(name: str, wanted: str, raw: msgspec.Raw, remedy: str) -> WrongType:
    value = bytes(memoryview(raw)[: 4 * VALUE_CHARS]).decode("utf-8", "replace")
    return WrongType(f"`{name}` must be {wanted}", value=value, param=name, remedy=remedy)


def _no_json(wrong: Exception) -> BadJson:
    return BadJson("the body is not valid JSON", value=str(wrong), remedy="Send one JSON object.")
