"""Where an upstream may be, and what is written into a request to it."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.net.guard import METADATA, refusal
from paceline.net.requests import OURS, request_head
from paceline.terms.errors import BadRequest

NAME = "api.example.com"

INNER = [
    "127.0.0.1",
    "127.8.9.1",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",
    "::1",
    "fc00::1",
    "fd12:3456::1",
]
NOWHERE = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.1.1",
    "192.0.0.8",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:101",
    "64:ff9b:1::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "100::1",
    "",
    "localhost",
    "127.1",
    "0x7f000001",
    "2130706433",
]
PUBLIC = ["1.1.1.1", "8.8.8.8", "172.32.0.1", "2606:4700:4700::1111", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", INNER)
def test_the_own_network_is_for_those_who_may(address: str) -> None:
    assert refusal(NAME, address)
    assert refusal(NAME, address, private=True) is None
    assert refusal(address, address) is None
    assert refusal("10.99.99.99", address, private=True)
    loopback = ip_address(address).is_loopback
    assert (refusal("localhost", address) is None) is loopback
    assert (refusal("LocalHost", address) is None) is loopback
    assert refusal("localhost.example.com", address)


@pytest.mark.parametrize("address", NOWHERE)
def test_what_no_server_of_the_internet_has_is_refused(address: str) -> None:
    for host in (NAME, "localhost", "10.0.0.1"):
        assert refusal(host, address)
        assert refusal(host, address, private=True)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_internet_is_for_names_and_for_itself(address: str) -> None:
    assert refusal(NAME, address) is None
    assert refusal(address, address) is None
    assert refusal("1.2.3.4", address)


@pytest.mark.parametrize("address", sorted(map(str, METADATA)))
def test_what_hands_out_credentials_is_refused_whoever_names_it(address: str) -> None:
    ways = [address, address.upper()]
    if "." in address:
        ways += [f"::ffff:{address}", str(IPv6Address("64:ff9b::" + _hex(address)))]
        ways += [str(IPv6Address("2002:" + _hex(address) + "::"))]
    for way in ways:
        for host in (NAME, way, "localhost"):
            assert refusal(host, way, private=True)


def _hex(address: str) -> str:
    number = int(IPv4Address(address))
    return f"{number >> 16:x}:{number & 0xFFFF:x}"


addresses = st.one_of(st.ip_addresses(), st.sampled_from(INNER + NOWHERE[:27] + PUBLIC)).map(str)


@given(addresses)
def test_a_name_never_leads_anywhere_but_to_the_internet(address: str) -> None:
    """Python's own judgement for a second opinion, which knows fewer of these."""
    if refusal(NAME, address) is None:
        where = ip_address(address)
        assert where.is_global or where in IPv6Network("64:ff9b::/96")


@given(addresses, addresses)
def test_an_address_leads_to_itself_alone(host: str, address: str) -> None:
    if refusal(host, address, private=True) is None:
        assert ip_address(host) == ip_address(address)


@given(addresses)
def test_to_allow_more_refuses_nothing(address: str) -> None:
    for host in (NAME, "localhost", address):
        if refusal(host, address) is None:
            assert refusal(host, address, private=True) is None


# --- Heads ----------------------------------------------------------------------------------------

HEADERS = [(b"content-type", b"application/json"), (b"authorization", b"Bearer k")]


def read(head: bytes) -> h11.Request:
    server = h11.Connection(h11.SERVER)
    server.receive_data(head)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    return event


def test_a_head_says_where_what_and_how_long() -> None:
    request = read(request_head("POST", "/v1/a?b=c", "example.com:81", HEADERS, 12))
    assert (request.method, request.target) == (b"POST", b"/v1/a?b=c")
    assert list(request.headers) == [
        (b"host", b"example.com:81"),
        (b"content-length", b"12"),
        *HEADERS,
    ]


def test_what_speaks_of_one_connection_is_not_passed_on() -> None:
    headers = [(name, b"x") for name in sorted(OURS)]
    headers += [(b"connection", b"close, X-Mine"), (b"x-mine", b"1"), *HEADERS]
    request = read(request_head("GET", "/", "a", headers, 0))
    assert list(request.headers) == [(b"host", b"a"), (b"content-length", b"0"), *HEADERS]


@pytest.mark.parametrize("bad", ["\r", "\n", "\r\n", "\0", "\r\nx: y", "\x7f", "\x1f"])
def test_nothing_can_end_a_line(bad: str) -> None:
    cases = [
        ("PO" + bad + "ST", "/", "a", HEADERS),
        ("POST", "/a" + bad, "a", HEADERS),
        ("POST", "/", "a" + bad, HEADERS),
        ("POST", "/", "a", [(b"x" + bad.encode(), b"y")]),
        ("POST", "/", "a", [(b"x", b"secret" + bad.encode() + b"y")]),
    ]
    for case in cases:
        with pytest.raises(BadRequest) as refused:
            request_head(*case, 0)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("HEAD", "/", b"x"),
        ("CONNECT", "/", b"x"),
        ("", "/", b"x"),
        ("get", "/", b"x"),
        ("GET", "", b"x"),
        ("GET", "*", b"x"),
        ("GET", "http://evil/", b"x"),
        ("GET", "/a b", b"x"),
        ("GET", "/ü", b"x"),
        ("GET", "/", b""),
        ("GET", "/", b"x y"),
        ("GET", "/", b"x:"),
    ],
)
def test_what_makes_no_head_is_refused(method: str, path: str, name: bytes) -> None:
    with pytest.raises(BadRequest):
        request_head(method, path, "a", [(name, b"v")], 0)


tokens = st.from_regex(rb"[!#$%&'*+.^_`|~0-9a-z-]{1,10}", fullmatch=True)
values = st.binary(max_size=20)


@given(st.lists(st.tuples(tokens, values), max_size=5), st.text(max_size=10))
def test_another_parser_reads_what_was_meant_or_nothing_was_written(
    headers: list[tuple[bytes, bytes]], path: str
) -> None:
    try:
        head = request_head("POST", "/" + path, "a", headers, 0)
    except BadRequest:
        return
    request = read(head)
    assert request.target == b"/" + path.encode()
    connection = {
        each.strip().lower()
        for name, value in headers
        if name == b"connection"
        for each in value.split(b",")
    }
    kept = [
        (name, value.strip(b" \t"))
        for name, value in headers
        if name not in OURS and name not in connection
    ]
    assert list(request.headers)[2:] == kept
