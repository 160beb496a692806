"""Requests from within this process: a command that somebody runs in a shell on this machine.

Such a person can read the server's files anyway, so they need no key, and may do what no key may. The command marks its
request with an entry of the WSGI environment. No client can set it: the headers of a request are called HTTP_… there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ENTRY = "vbs.shell"


@dataclass(frozen=True)
class Shell:
    """progress: is called with a message at each step of a long request."""

    progress: Callable[[str], None]


def shell_of(request: Any) -> Shell | None:
    """The shell that sent this request of Django or DRF; None when the request came over the network."""
    found = getattr(request, "META", {}).get(ENTRY)
    return found if isinstance(found, Shell) else None
