"""Which batch of a turn sends the next request.

The highest priority sends first. Batches of one priority share the engine by tokens: the one that was charged for the
fewest sends next, so that a batch with many long requests does not starve one with a few short ones. A batch sends some
requests in a row, because its neighbours begin alike, and use the same adapter.

One that comes in while others have all places sends first, until it has had as many places as are its share; from then
on it counts as having been charged for as many tokens as the one of the others that was for the fewest.

What has seen deaths of engines is run after what has not, and apart from it. But it does not wait for ever while new
batches come: after some windows of other requests it has its turn.
"""

from collections.abc import Collection, Iterable

from batches.run.member import Lengths, Member

IN_A_ROW = 2048  # tokens that a batch is charged before others of its priority are looked at
MOST_IN_A_ROW = 16  # requests, however short they are
SUSPECTS_WAIT = 16  # windows of requests that are answered before those which have seen deaths have their turn


class Share:
    """level: how many deaths the requests have seen that are sent now."""

    def __init__(self, window: int) -> None:
        self.level = 0
        self._lengths = Lengths()
        self._window = window
        self._current: Member | None = None
        self._until = 0.0  # the charge at which others are looked at
        self._row = 0  # requests that it has sent in a row
        self._sent = 0  # since those that have seen deaths had their turn

    def newcomer(self, member: Member) -> None:
        """A batch comes in, and has not had its share yet."""
        member.common, member.joining = self._lengths, 0
        self.look_anew()

    def look_anew(self) -> None:
        """Something has changed, such as a priority or which batches have requests."""
        self._current = None

    def next(self, members: Collection[Member], any_in_flight: bool) -> Member | None:
        """The batch that sends next, a request of this `level`. None when there is nothing to send now, or what is in
        flight has to end first."""
        current = self._current
        if (
            current is None
            or not current.may_send
            or not current.has(self.level)
            or current.spent >= self._until
            or self._row >= MOST_IN_A_ROW
        ):
            current = self._choose(members, any_in_flight)
        return current

    def sent(self) -> None:
        """The batch that was told has sent its request."""
        self._row += 1
        self._sent += 1

    def _choose(self, members: Collection[Member], any_in_flight: bool) -> Member | None:
        self._current = None
        able = [member for member in members if member.may_send]
        level = self._next_level(able)
        if level is None or (any_in_flight and level != self.level):
            return None
        self.level = level
        self._sent = 0 if level else self._sent
        ready = [member for member in able if member.has(level)]
        for member in able:
            if not member.has(level):
                member.idle()
        if not ready:
            return None
        first = max(member.priority for member in ready)
        equals = [member for member in able if member.priority == first and level in member.levels()]
        self._settle_in(equals)
        ready = [member for member in equals if member.has(level)]
        joining = [member for member in ready if member.joining is not None]
        chosen = min(joining or ready, key=lambda member: (member.joining or 0, member.spent))
        chosen.chosen()
        self._current, self._until, self._row = chosen, chosen.spent + IN_A_ROW, 0
        return chosen

    def _settle_in(self, equals: Collection[Member]) -> None:
        """Those of one priority that have had their share of the places count like the others from now on."""
        share = sum(len(member.in_flight) for member in equals) / len(equals)
        others = [member.spent for member in equals if member.joining is None]
        for member in equals:
            if member.joining is not None and member.joining >= share:
                member.joining = None
                member.settled += max(0.0, min(others, default=0.0) - member.spent)

    def _next_level(self, members: Iterable[Member]) -> int | None:
        levels = {level for member in members for level in member.levels()}
        suspected = levels - {0}
        if not suspected:
            self._sent = 0
        elif 0 not in levels or self.level or self._sent >= SUSPECTS_WAIT * self._window:
            return min(suspected)
        return min(levels, default=None)
