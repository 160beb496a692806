"""The figures: how large a body may be, and what all connections together may cost."""

from collections.abc import Callable
from dataclasses import dataclass

KB, MB, GB = 2**10, 2**20, 2**30


@dataclass(frozen=True)
class Limit:
    """How large a body may be, and why: the name of the setting, where there is one."""

    bytes: int
    reason: str


Limits = Callable[[str, str, str], Limit]
"""(method, path, content type) → the limit of the body, known before any of it is received."""


@dataclass(frozen=True)
class Bounds:
    """What connections may cost. Who is slower than `rate`, averaged over `patience`, is cut off: the sender of a body
    as well as the reader of an answer."""

    head_seconds: float = 20  # from the first byte of a request to the end of its head
    idle_seconds: float = 60  # of a connection between two requests
    rate: int = 4 * KB  # bytes a second
    patience: float = 60  # seconds
    spool: int = 4 * GB  # bytes of bodies that are on disk; of one address at most half of it
    connections: int = 1000
    connections_per_address: int = 256
