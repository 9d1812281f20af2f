"""Which addresses an upstream may be connected to: a guard against being sent to the wrong place.

An upstream is what the settings name. A name from outside may resolve to an inner address, by
mistake or by malice (DNS rebinding), and the gateway would carry its key, or its callers' words, to
whatever listens there. So only addresses of the public internet pass, unless the settings named
that very address, or `localhost`, or allow private networks for that upstream. Addresses that hand
out a cloud machine's own credentials never pass.

Pure: values in, a reason out. It resolves nothing; `dialing.py` asks it about each address that a
name has, and connects to that address and to no other.
"""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

LOCALHOST = "localhost"

METADATA = frozenset(
    ip_address(each)
    for each in (
        "169.254.169.254",  # almost every cloud
        "fd00:ec2::254",
        "169.254.169.123",  # the clock of one, beside it
        "169.254.170.2",  # credentials of containers
        "169.254.170.23",
        "fd00:ec2::23",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",  # public by its number, and the host beneath a virtual machine
        "fd20:ce::254",
    )
)

PRIVATE = tuple(
    ip_network(each)
    for each in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # shared by carriers, and by private overlays
        "127.0.0.0/8",
        "::1/128",
        "fc00::/7",
    )
)
"""What a person means by the own network; this machine is part of it."""

SPECIAL = tuple(
    ip_network(each)
    for each in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "2001::/23",  # among them Teredo, which holds another address
        "2001:db8::/32",
        "2002::/16",  # 6to4, which does too
        "3fff::/20",
    )
)
"""No server of the internet has one of these (IANA's registries of special-purpose addresses)."""

PUBLIC_V6 = ip_network("2000::/3")
NAT64 = ip_network("64:ff9b::/96")


def refusal(host: str, address: str, *, private: bool = False) -> str | None:
    """Why no connection to this address may be made for an upstream that the settings call `host`,
    or None where it may. `private`: they allow it the own network."""
    try:
        where = ip_address(address.partition("%")[0])
    except ValueError:
        return f"{address!r} is no address"
    inner = _inner(where)
    if where in METADATA or inner in METADATA:
        return f"{address} hands out credentials of this machine: nothing is sent there"
    named = _named(host)
    if named is not None:
        return None if where == named else f"the settings say {host}, and this is {address}"
    if any(where in each for each in PRIVATE):
        if private or (host.lower() == LOCALHOST and where.is_loopback):
            return None
        return f"{host} is {address} in a private network, which is not allowed for it"
    if inner is not None and where in NAT64:
        where = inner
    public = isinstance(where, IPv4Address) or where in PUBLIC_V6
    if not public or any(where in each for each in (*PRIVATE, *SPECIAL)):
        return f"{host} is {address}, which is no address of the public internet"
    return None


def _inner(where: Address) -> IPv4Address | None:
    """The address within an address: where a translator or a tunnel would send it on to."""
    if isinstance(where, IPv4Address):
        return None
    if where in NAT64:
        return IPv4Address(int(where) & 0xFFFFFFFF)
    return where.ipv4_mapped or where.sixtofour


def _named(host: str) -> Address | None:
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return None
