"""Words about this server for those who may not know where things are: without folders, addresses and ports.

For texts of others (an engine's log, an operating system's error), whose places nobody can list beforehand. Whoever
writes a text himself leaves them out himself. Knows no app, no model and no setting.
"""

import re

HIDDEN = "…"
_PLACES = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://[^\s'\"<>()\[\]{},;]+(?<!\.)"  # a URL
    r"|(?<![\w.:/<-])~?(?:\.{1,2})?/(?!v1/)[^\s'\"<>()\[\]{},;:]+(?<!\.)"  # a path, but not one of the API
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b(?::\d{1,5})?"  # an IPv4 address
    r"|\[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*\](?::\d{1,5})?"  # an IPv6 one
    r"|\b(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}):\d{2,5}\b"  # a host with a port
)


def unplaced(text: str) -> str:
    """The text, with every place in it hidden."""
    return _PLACES.sub(HIDDEN, text)
