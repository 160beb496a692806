"""The figures: how large a body may be, and what connections may cost."""

from collections.abc import Callable
from dataclasses import dataclass

KB, MB, GB = 2**10, 2**20, 2**30


@dataclass(frozen=True)
class BodyLimit:
    """How large a body may be. reason: what decides that, such as the name of a setting."""

    bytes: int
    reason: str


BodyLimits = Callable[[str, str, str], BodyLimit]
"""(method, path, content type) → the limit of the body, which is known before any of it is received."""


@dataclass(frozen=True)
class Bounds:
    """What connections may cost. A client that is slower than `rate`, averaged over `patience`, is cut off, whether it
    sends a body or reads an answer."""

    head_seconds: float = 20  # from the first byte of a request to the end of its head
    idle_seconds: float = 60  # between two requests of a connection
    rate: int = 4 * KB  # bytes a second
    patience: float = 60  # seconds
    spool: int = 4 * GB  # bytes on disk of all bodies that are not complete; one address may have half of them
    connections: int = 1000
    connections_per_address: int = 256
