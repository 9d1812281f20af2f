"""A member of a body is read or changed, and no other byte: whatever the spaces and escapes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laws import examples
from paceline.gateway import members
from paceline.terms.errors import BadField, BadJson, BadRequest, MissingField, WrongType

NAMES = ["model", "stream", "a", 'mo"del', "mödel", "\\", "", "😀", "max_tokens", "model "]

spaces = st.sampled_from(["", "", "", " ", "\n  ", "\t\r\n"])


@st.composite
def spelled(draw: st.DrawFn, text: str) -> str:
    """A text as JSON may have it: each character as it is or escaped, where it may be either."""
    written = ""
    for each in text:
        escaped = json.dumps(each)[1:-1]
        how = draw(st.integers(0, 3))
        if how == 0 and ord(each) < 0x10000:
            escaped = f"\\u{ord(each):04x}"
        elif how == 1 and escaped[0] == "\\" and each not in '"\\' and each.isprintable():
            escaped = each
        written += escaped
    return f'"{written}"'


scalars = st.sampled_from(
    [
        "1",
        "-0.5e3",
        "true",
        "null",
        '"x"',
        '"\\""',
        '"}"',
        '"\\\\"',
        '"a, \\"model\\": 1"',
        '"é"',
        "12",
    ]
)


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.integers(0, 3 if depth else 0))
    if kind == 1:
        inner = draw(st.lists(values(depth - 1), max_size=3))
        return "[" + draw(spaces) + ",".join(inner) + "]"
    if kind == 2:
        inner = [
            f'"{name}"{draw(spaces)}:{draw(spaces)}{draw(values(depth - 1))}'
            for name in draw(st.lists(st.sampled_from(["model", "b"]), max_size=3))
        ]
        return "{" + ", ".join(inner) + draw(spaces) + "}"
    return draw(scalars)


Piece = tuple[str, str, str]
"""What stands before a value, the value, and what follows it up to the next name."""


@st.composite
def bodies(draw: st.DrawFn, names: st.SearchStrategy[list[str]]) -> tuple[list[str], list[Piece]]:
    """Compact ones, as SDKs send them; as Python writes them by default; and any others."""
    how = draw(st.integers(0, 2))
    pieces: list[Piece] = []
    given_names = draw(names)
    for i, name in enumerate(given_names):
        if how < 2:
            before = f"{json.dumps(name, ensure_ascii=False)}:{' ' * how}"
            pieces.append(
                (before, draw(values()), f",{' ' * how}" if i + 1 < len(given_names) else "")
            )
            continue
        before = draw(spaces) + draw(spelled(name)) + draw(spaces) + ":" + draw(spaces)
        after = draw(spaces) + ("," if i + 1 < len(given_names) else "")
        pieces.append((before, draw(values()), after))
    return given_names, pieces


def written(pieces: list[Piece], around: str = "") -> bytes:
    inner = "".join(map("".join, pieces))
    return (around + "{" + inner + "}" + around).encode()


unique = st.lists(st.sampled_from(NAMES), unique=True, max_size=6)
twice = st.lists(st.sampled_from(NAMES), min_size=1, max_size=6).map(
    lambda names: [*names, names[0]]
)


@examples(40)
@given(bodies(unique), st.sampled_from(["", " ", "\n"]))
def test_members_are_read_as_they_were_written(
    body: tuple[list[str], list[Piece]], around: str
) -> None:
    names, pieces = body
    given = members.checked(written(pieces, around))
    assert list(given) == names
    assert [bytes(value).decode() for value in given.values()] == [piece[1] for piece in pieces]


@examples(40)
@given(bodies(unique), st.sampled_from(NAMES[:3]), values(), st.sampled_from(["", " ", "\n"]))
def test_one_member_changes_and_no_other_byte(
    body: tuple[list[str], list[Piece]], name: str, value: str, around: str
) -> None:
    names, pieces = body
    before = written(pieces, around)
    changed = members.with_member(before, members.decoded(before), name, value.encode())
    if name in names:
        at = names.index(name)
        pieces[at] = (pieces[at][0], value, pieces[at][2])
        assert changed == written(pieces, around)
    else:
        added = (f'"{name}":', value, "," if pieces else "")
        assert changed == written([added, *pieces], around)
    expected = json.loads(before) | {name: json.loads(value)}
    assert json.loads(changed) == expected
    assert members.checked(changed).keys() == expected.keys()


@examples(40)
@given(bodies(twice))
def test_a_member_given_twice_is_refused(body: tuple[list[str], list[Piece]]) -> None:
    names, pieces = body
    with pytest.raises(BadField) as caught:
        members.checked(written(pieces))
    assert names.count(caught.value.param or "") > 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"allowed","model":"forbidden"}',
        b'{"model":"forbidden","mod\\u0065l":"allowed"}',
        b'{"model": "a", "messages": [], "model": "a"}',
        b'{"model":1,"model":12}',
        b'{"model":12,"model":1}',
        b'{ "model":1,"model":1,"b":1}',
        # What the last value would cover of the first one ends where a member may.
        b'{"a":1,"b":12,"a":[1,"b":1]}'.replace(b'[1,"b":1]', b'"1,\\"b\\":1"'),
        b'{"a":"","b":12,"a":"xx,\\"b\\":1}"}',
    ],
)
def test_another_value_cannot_be_hidden(body: bytes) -> None:
    with pytest.raises(BadField, match="twice") as caught:
        members.checked(body)
    assert caught.value.param in ("model", "a")


@examples(40)
@given(st.one_of(st.binary(max_size=60), bodies(unique).map(lambda body: written(body[1])[:-2])))
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    try:
        members.checked(body)
    except BadRequest:
        return
    assert isinstance(json.loads(body), dict)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"a":1,}',
        b'{"a":NaN}',
        b"\xef\xbb\xbf{}",
        b'{"a":1} x',
        b'{"\xff":1}',
        b'{"a":' + 100_000 * b"[" + b"}",
    ],
)
def test_malformed_json(body: bytes) -> None:
    with pytest.raises(BadJson):
        members.checked(body)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"', b"3", 100_000 * b"["])
def test_what_is_no_object(body: bytes) -> None:
    with pytest.raises(WrongType):
        members.checked(body)


def test_values_are_read_and_wrong_ones_shown() -> None:
    given = members.checked(
        b'{"text":"x\\u00fc","empty":"","yes":true,"no":null,"count":5,"list":[1],"minus":-1,"f":1.5,'
        b'"bad":"\xff"}'
    )
    assert members.text(given, "text", remedy="") == "xü"
    assert members.flag(given, "yes")
    assert not members.flag(given, "no")
    assert not members.flag(given, "not there")
    assert members.count(given, "count") == 5
    assert members.count(given, "no") is None
    assert members.count(given, "not there") is None
    members.check_list(given, "list", remedy="")
    for name in ("empty", "not there"):
        with pytest.raises(MissingField, match=name):
            members.text(given, name, remedy="Send it.")
    with pytest.raises(BadJson):
        members.text(given, "bad", remedy="")
    with pytest.raises(WrongType, match="`count` must be true or false"):
        members.flag(given, "count")
    for name in ("minus", "f", "text"):
        with pytest.raises(WrongType, match=f"`{name}` must be a number of tokens"):
            members.count(given, name)
    with pytest.raises(WrongType) as caught:
        members.check_list(given, "count", remedy="Send a list.")
    assert str(caught.value) == "`count` must be a list (value: 5). Send a list."
