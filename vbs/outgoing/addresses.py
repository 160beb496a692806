"""Which URLs this server may request: those of servers on the public internet, unless the caller allows any.

People enter URLs, by mistake or on purpose also those of this machine's own network. A host name may resolve to another
address later than at this check, so `vbs.outgoing.client` applies the same rule to the address that it connects to.
This module does not depend on Django.
"""

import ipaddress
import re
import socket
from urllib.parse import SplitResult, urlsplit

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # IPv4 within IPv6, RFC 6052
LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # the same within one network, RFC 8215
PORTS = {"http": 80, "https": 443}

IP = ipaddress.IPv4Address | ipaddress.IPv6Address
_URL = re.compile(r"[\x21-\x5b\x5d-\x7e]+")  # visible ASCII without the backslash, which some programs take for a slash
_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}")
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)\.?")  # a host whose last label is a number is an address


class AddressError(ValueError):
    """A URL that may not be requested; the message says why, and what to do."""


class UnknownHost(AddressError):
    """The host's name cannot be resolved, at least not at the moment."""


def split_url(url: str) -> SplitResult:
    """The parts of an http(s) URL with a host. Raises AddressError, also for forms that programs read differently."""
    if not _URL.fullmatch(url):
        raise AddressError(
            f"{url[:200]!r} is not a URL: escape blanks, control characters, backslashes and letters beyond ASCII"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # the port is not a number, or the IPv6 address is not complete
        host, port, parts = "", None, SplitResult("", "", "", "", "")
    if not host or port == 0 or parts.scheme not in PORTS:
        raise AddressError(f"{url[:200]!r} is not an http(s) URL with a host: it looks like https://host[:port]/path")
    if parts.username is not None or parts.password is not None:
        raise AddressError(f"the URL of {host[:200]} has a user or a password in it: leave them out")
    if parse_address(host) is None:
        if "[" in parts.netloc or not _HOST.fullmatch(host):
            raise AddressError(f"{host[:200]!r} is not a host name: write letters beyond ASCII in their xn-- form")
        if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
            raise AddressError(f"{host[:200]!r} is not an address: write it as four decimal numbers, such as 192.0.2.1")
    return parts


def check_url(url: str, private: bool = False) -> None:
    """Raises AddressError unless this is a URL and every address of its host is public.

    private: private addresses are allowed, so the host is not resolved. The address is checked again on connecting.
    """
    parts = split_url(url)
    if not private:
        resolve_host(parts.hostname or "", parts.port or PORTS[parts.scheme])


def origin(url: str) -> str:
    """Scheme, host and port in one normal form. Raises AddressError."""
    parts = split_url(url)
    host = (parts.hostname or "").rstrip(".")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port or PORTS[parts.scheme]}"


def resolve_host(host: str, port: int, private: bool = False) -> list[str]:
    """The addresses of the host now. Raises UnknownHost, and AddressError when one of them is not allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is too long or has empty parts
        raise UnknownHost(f"{host[:200]} could not be resolved ({error}): check the name") from None
    numbers = list(dict.fromkeys(str(one[4][0]) for one in found))
    for number in numbers:
        check_address(number, private, host)
    return numbers


def is_public(address: IP) -> bool:
    """Whether this is an address of the public internet. An IPv4 address within an IPv6 one is checked too."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_site_local or address.teredo or address in LOCAL_NAT64:
            return False
        if address in NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if inner := address.ipv4_mapped or address.sixtofour:
            return is_public(inner)
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_loopback)


def parse_address(host: str) -> IP | None:
    """The address that this host is; None when it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def check_address(number: str, private: bool, host: str = "") -> None:
    """Raises AddressError unless this address may be connected to. host: the name that resolved to it."""
    address = parse_address(number.partition("%")[0])
    if not private and (address is None or not is_public(address)):
        where = f"{host} is at {number}" if host and host != number else number
        raise AddressError(
            f"{where}, which is not a public address: set VBS_PRIVATE_URLS=true if this server may use private ones"
        )
