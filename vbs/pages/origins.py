"""Whether a browser sends a request from a page of ours or from another site."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from django.conf import settings
from django.http.request import split_domain_port, validate_host
from django.utils.http import is_same_domain

SAME = ("same-origin", "none")  # for our own pages, and for an address that somebody typed


def is_ours(origin: str, host: str, secure: bool = False) -> bool:
    """Whether a page of this origin is ours, when we are addressed as `host`: by scheme, name and port, or by
    VBS_TRUSTED_ORIGINS."""
    if not origin or origin == "null":
        return False
    if origin.lower() == f"{'https' if secure else 'http'}://{host}".lower():
        return True
    try:
        given = urlsplit(origin)
        domain = given.netloc
    except ValueError:
        return False
    for trusted in settings.CSRF_TRUSTED_ORIGINS:
        parts = urlsplit(trusted)
        if parts.scheme == given.scheme and is_same_domain(domain, parts.netloc.removeprefix("*")):
            return True
    return False


def foreign(headers: Mapping[str, str], host: str, secure: bool = False) -> str:
    """The header that says that another site's page sent the request; empty when there is none."""
    if (origin := headers.get("Origin")) is not None and not is_ours(origin, host, secure):
        return f"Origin: {origin[:100]}"
    site = headers.get("Sec-Fetch-Site", "none")
    if site not in SAME and not (origin and is_ours(origin, host, secure)):
        return f"Sec-Fetch-Site: {site[:20]}"
    named = [name for name in settings.ALLOWED_HOSTS if name != "*"]
    if not validate_host(split_domain_port(host)[0], [*named, "localhost", "127.0.0.1", "[::1]"]):
        return f"Host: {host[:100]}"  # a name of another site that resolves to this server
    return ""
