"""Who asks the application from within this process: a command of somebody with a shell on this machine.

He could read the server's files anyway, so no key is asked of him, and he may do what no key may. The application is
told by an entry of its environment that no header of a request can have: those are called HTTP_… there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ENTRY = "vbs.shell"


@dataclass(frozen=True)
class Shell:
    """progress: is told each step that takes long, while the request lasts."""

    progress: Callable[[str], None]


def shell_of(request: Any) -> Shell | None:
    """Of a request of Django or of DRF; None when it came over the network."""
    found = getattr(request, "META", {}).get(ENTRY)
    return found if isinstance(found, Shell) else None
