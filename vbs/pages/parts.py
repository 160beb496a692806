"""A page as parts: each is plain values and the template that shows them.

A part knows its content's hash, so that only what has changed is sent. A browser tells what it has seen, and is given
the parts that are new: an open menu, a focus and what is being typed elsewhere stay as they are.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Part:
    """children: parts within it, which are renewed by themselves as long as it stays the same."""

    template: ClassVar[str]
    id: str
    children: Sequence["Part"] = field(default=(), repr=False)

    @property
    def seen(self) -> str:
        return f"{self.id}:{hashlib.sha256(repr(self).encode()).hexdigest()[:10]}"


def unseen(parts: Iterable[Part], seen: Collection[str]) -> Iterator[Part]:
    """Those that are not as they were seen; of one that is, its children."""
    for part in parts:
        if part.seen in seen:
            yield from unseen(part.children, seen)
        else:
            yield part


def whole(parts: Iterable[Part]) -> Iterator[str]:
    """What has been seen by whoever has all of them."""
    for part in parts:
        yield part.seen
        yield from whole(part.children)


@dataclass(frozen=True, kw_only=True)
class Pulse(Part):
    """What hears of new parts: by a socket at `url`, and where that is down by asking there every so many seconds."""

    template = "_pulse.html"
    id: str = "pulse"
    url: str
    every: int
