"""Which URLs may be fetched: those whose server is on the public internet, unless VBS_PRIVATE_URLS allows any.

A URL comes from people who may know nothing of this machine's network, or too much. What a name stands for may change
between this check and a later request, so whoever fetches asks again before it does.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from django.conf import settings

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # IPv4 within IPv6, RFC 6052

IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class AddressError(ValueError):
    """A URL that may not be fetched: why, and what to do."""


def check_public(url: str) -> None:
    """Raises AddressError unless every address of the URL's host is public, or VBS_PRIVATE_URLS allows private ones."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is none, half an IPv6 address
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise AddressError(f"{url[:200]!r} is no http(s) URL with a host")
    if settings.VBS_PRIVATE_URLS:
        return
    for address in _addresses(host, port):
        if not is_public(address):
            raise AddressError(
                f"{host} is at {address}, which is not a public address: "
                "set VBS_PRIVATE_URLS=true if this server may be sent to private ones"
            )


def is_public(address: IP) -> bool:
    """Whether it can be anybody's on the internet; also asked of an IPv4 address that hides in an IPv6 one."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        else:
            address = address.ipv4_mapped or address.sixtofour or address
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_loopback)


def _addresses(host: str, port: int | None) -> list[IP]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that is too long or has empty parts
        raise AddressError(f"the address of {host[:200]} could not be found ({error}): is the name right?") from None
    return [ipaddress.ip_address(str(one[4][0]).partition("%")[0]) for one in found]
