"""Hides paths, addresses and ports in a text, for readers who may not know where things are on this server.

It is for texts that others wrote, such as an engine's log or an error of the operating system. Texts of our own leave
such locations out, and what a project may see is decided by ids, never by a search in a text.
"""

import re

HIDDEN = "…"
_LOCATIONS = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://[^\s'\"<>()\[\]{},;]+(?<!\.)"  # a URL
    r"|(?<![\w.:/<-])~?(?:\.{1,2})?/(?!v1/)[^\s'\"<>()\[\]{},;:]+(?<!\.)"  # a path, but not one of the API
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b(?::\d{1,5})?"  # an IPv4 address
    r"|\[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*\](?::\d{1,5})?"  # an IPv6 one
    r"|\b(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}):\d{2,5}\b"  # a host with a port
)


def hide_locations(text: str) -> str:
    """The text with … in place of every path, URL and address."""
    return _LOCATIONS.sub(HIDDEN, text)
