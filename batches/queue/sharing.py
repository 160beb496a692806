"""How batches share one engine: who sends how much, and when each has its last answer.

The places that become free in the window go to the batches of the highest priority that have requests left to send, so
that each has as many tokens; when these are all sent, their last answers are waited for while the next priority sends.
Requests are taken to flow: between two events nothing changes but how much is left. An event is that the last request
of a batch is sent, or that its last answer comes. Times are seconds from now.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from batches.files import blobs
from batches.queue.remaining import Rest, longest

MOST = 256  # batches that run at once on one engine; each has an open file
MOST_COPIES = 16  # the same where each has a copy of its input file on this machine's disk
INSTANT = 1e-6  # seconds, or seconds of one place, that are nothing


def most() -> int:
    """How many batches run at once on one engine, at most."""
    return MOST if blobs.folder() is not None else MOST_COPIES


@dataclass(eq=False)
class Member:
    """A batch on the engine. place: its place in the queue. requests: how many are not answered. rest: what they take;
    None when that is not known: then it takes what it may have for ever. tokens: of a request; 0 when not known.

    work: the seconds of one place until its last request is sent. started, ends: when its first request is sent, and
    its last is answered, once that is known.
    """

    place: int
    priority: int
    requests: int
    rest: Rest | None
    tokens: float = 0.0
    started: float | None = None
    ends: float | None = None
    work: float = field(init=False)
    _rate: float = 0.0
    _filled: float = 0.0
    _least: float = 0.0
    _sent: float = 0.0

    def __post_init__(self) -> None:
        self.work = math.inf if self.rest is None else self.rest.work
        self._filled = 0.0 if self.rest is None else self.rest.in_flight

    @property
    def sends(self) -> bool:
        return self.ends is None

    @property
    def weight(self) -> float:
        """The seconds of one place that a token takes; 0 when not known. Who has as many tokens as another, and needs
        more time for them, has more places."""
        return self.rest.usual.mean / self.tokens if self.rest and self.tokens else 0.0

    @property
    def unsent(self) -> float:
        if self.rest is None or not self.rest.usual.mean:
            return self.requests
        return max(0.0, self.work / self.rest.usual.mean) if self.sends else 0.0

    def _in_flight(self, now: float) -> float:
        if self.ends is None:
            return self._filled
        over = self.ends - self._sent
        return self._filled * max(0.0, self.ends - now) / over if over > 0 else 0.0


class SharedEngine:
    """An engine from the moment at which it is loaded. window: how many requests it has in flight."""

    def __init__(self, window: float, now: float) -> None:
        self.window = max(window, 1.0)
        self.now = now
        self.members: list[Member] = []

    def add(self, members: Sequence[Member]) -> None:
        """These begin now. Where nobody sends, they fill what is free of the window at once."""
        idle = not any(member.sends and member._rate for member in self.members)
        self.members += members
        for member in members:
            member._least = self.now + (member.rest.least if member.rest else 0.0)
        if idle:
            self._fill()
        self._share()

    def advance(self, now: float) -> None:
        """Let the time go on to the next event, or to before it."""
        for member in self.members:
            if member.sends:
                member.work -= member._rate * (now - self.now)
        self.now = now
        self._share()

    def ended(self) -> list[Member]:
        """Take out those whose last request is answered."""
        found = [member for member in self.members if member.ends is not None and member.ends <= self.now + INSTANT]
        self.members = [member for member in self.members if member not in found]
        return found

    def remove(self, members: Sequence[Member]) -> None:
        self.members = [member for member in self.members if member not in members]
        self._share()

    def next_event(self) -> float | None:
        """When the next batch has sent its last request, or has its last answer; None when that is never."""
        times = [member.ends for member in self.members if member.ends is not None]
        times += [self.now + member.work / member._rate for member in self.members if member.sends and member._rate]
        first = min(times, default=math.inf)
        return None if first == math.inf else max(first, self.now)

    def is_hungry(self, above: float = -math.inf, coming: Sequence[Member] = ()) -> bool:
        """Have the batches of a higher priority than `above` too few requests left to send for a window?"""
        return sum(one.unsent for one in (*self.members, *coming) if one.priority > above) < self.window - INSTANT

    def hungry_at(self, above: float = -math.inf) -> float | None:
        """When it will be; None when it is, or not before the next event."""
        members = [one for one in self.members if one.priority > above]
        rate = sum(one._rate / one.rest.usual.mean for one in members if one.rest and one.sends and one.rest.work)
        left = sum(one.unsent for one in members) - self.window
        return self.now + (left + 2 * INSTANT) / rate if rate and left >= 0 else None

    def _fill(self) -> None:
        free = self.window - sum(member._in_flight(self.now) for member in self.members)
        rooms = [member.rest.unsent if member.rest else member.requests for member in self.members]
        for member, filled in self._parts(free, rooms):
            if member.rest and filled:
                member.work -= member.rest.saved(filled)
                member._filled += filled
                member.started = self.now if member.started is None else member.started

    def _share(self) -> None:
        """Divide the window anew among those that send; who has sent all waits for the answers."""
        for member in self.members:
            if member.sends and member.work <= INSTANT and member.rest:
                at_once = max(member._filled, min(member._rate, member.requests))
                member._filled, member._sent = min(at_once, self.window), self.now
                tail = longest(member.rest.usual, member._filled) if member.rest.unsent else 0.0
                member.ends = max(self.now + tail, member._least)
                member.started = self.now if member.started is None else member.started
        rooms = [math.inf if member.rest else member.requests for member in self.members]
        for member, rate in self._parts(self.window, rooms):
            member._rate = rate
            if rate and member.started is None:
                member.started = self.now

    def _parts(self, whole: float, rooms: Sequence[float]) -> list[tuple[Member, float]]:
        """The part of each that sends: the highest priority first, within one by weight, no more than it has room
        for."""
        found: list[tuple[Member, float]] = []
        senders = [(member, room) for member, room in zip(self.members, rooms, strict=True) if member.sends]
        senders.sort(key=lambda one: -one[0].priority)
        known = [member.weight for member, _ in senders if member.weight]
        usual = sum(known) / len(known) if known else 1.0
        for _, group in groupby(senders, key=lambda one: one[0].priority):
            equal = [(member, room, member.weight or usual) for member, room in group]
            equal.sort(key=lambda one: one[1] / one[2])
            weights = sum(weight for _, _, weight in equal)
            for member, room, weight in equal:
                part = min(room, max(0.0, whole) * weight / max(weights, weight))
                whole, weights = whole - part, weights - weight
                found.append((member, part))
        return found
