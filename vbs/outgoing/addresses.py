"""Which URLs may be asked for: those whose server is on the public internet, unless the caller allows any.

A URL comes from people who may know nothing of this machine's network, or too much. What a name stands for may change
between this check and a later request: `vbs.outgoing.client` checks the address that it connects to by the same rule.
Knows no Django.
"""

import ipaddress
import re
import socket
from urllib.parse import SplitResult, urlsplit

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # IPv4 within IPv6, RFC 6052
LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # the same within one network, RFC 8215
PORTS = {"http": 80, "https": 443}

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
_URL = re.compile(r"[\x21-\x5b\x5d-\x7e]+")  # visible ASCII but for the backslash, which some take for a slash
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}")
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)\.?")  # at its end a host is an address, in whatever way of writing


class AddressError(ValueError):
    """A URL that may not be asked for: why, and what to do."""


class UnknownHost(AddressError):
    """Nobody knows the host's name; at the moment, it may be."""


def split(url: str) -> SplitResult:
    """The parts of an http(s) URL with a host. Raises AddressError, for what programs read in different ways too."""
    if not _URL.fullmatch(url):
        raise AddressError(
            f"{url[:200]!r} is no URL: blanks, controls, backslashes and letters beyond ASCII are escaped"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # a port that is none, half an IPv6 address
        host, port, parts = "", None, SplitResult("", "", "", "", "")
    if not host or port == 0 or parts.scheme not in PORTS:
        raise AddressError(f"{url[:200]!r} is no http(s) URL with a host")
    if parts.username is not None or parts.password is not None:
        raise AddressError(f"the URL of {host[:200]} has a user or a password in it: give it without")
    if address_of(host) is None:
        if "[" in parts.netloc or not _HOST.fullmatch(host):
            raise AddressError(f"{host[:200]!r} is no host's name: letters beyond ASCII are written with xn--")
        if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            raise AddressError(f"{host[:200]!r} is no way to write an address: use four decimal numbers, as 192.0.2.1")
    return parts


def check(url: str, private: bool = False) -> None:
    """Raises AddressError unless every address of the URL's host is public; where private ones are allowed, only for
    what is no URL. What the name stands for is looked at again when it is connected to."""
    parts = split(url)
    if not private:
        addresses(parts.hostname or "", parts.port or PORTS[parts.scheme])


def origin(url: str) -> str:
    """Scheme, host and port, written in one way. Raises AddressError."""
    parts = split(url)
    host = (parts.hostname or "").rstrip(".")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port or PORTS[parts.scheme]}"


def addresses(host: str, port: int, private: bool = False) -> list[str]:
    """Those that the host's name stands for now. Raises AddressError for one that is not allowed, UnknownHost."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is too long or has empty parts
        raise UnknownHost(f"the address of {host[:200]} could not be found ({error}): is the name right?") from None
    numbers = list(dict.fromkeys(str(one[4][0]) for one in found))
    for number in numbers:
        allow(number, private, host)
    return numbers


def is_public(address: IP) -> bool:
    """Whether it can be anybody's on the internet; also asked of an IPv4 address that hides in an IPv6 one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_site_local or address.teredo or address in LOCAL_NAT64:
            return False
        if address in NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if inner := address.ipv4_mapped or address.sixtofour:
            return is_public(inner)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_loopback)


def address_of(host: str) -> IP | None:
    """What a host is that is no name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def allow(number: str, private: bool, host: str = "") -> None:
    """Raises AddressError unless this address may be connected to. host: what stood for it."""
    address = address_of(number.partition("%")[0])
    if not private and (address is None or not is_public(address)):
        where = f"{host} is at {number}" if host and host != number else number
        raise AddressError(
            f"{where}, which is not a public address: "
            "set VBS_PRIVATE_URLS=true if this server may be sent to private ones"
        )
