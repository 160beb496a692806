"""What a batch does after its engine has died: how many requests run at once then, and when it gives up.

A request that was in flight at a death may have caused it, so from then on it runs with fewer others. The number of
requests at once may also have been too much for the engine, so the rest of the batch runs with fewer too, until enough
requests are answered. Where deaths follow each other with nothing answered in between, neither helps.
"""

from dataclasses import dataclass
from itertools import count

GUILTY = 2  # earlier deaths; a request with so many that is alone at another death has caused it
IDLE = 3  # deaths in a row with nothing in flight, after which the model is given up
BARREN = 12  # deaths in a row with nothing answered in between, after which the rest of the batch is given up
PROOF = 4  # windows of requests for each death so far that have to be answered before more run at once again


def together(window: int, deaths: int) -> int:
    """How many requests that have seen so many deaths run at once: half a window, an eighth, a sixty-fourth, and so on
    until each runs alone.

    One death may be the engine's own fault, so it costs little speed. With each further one it is likelier that a
    request is the cause, and each costs the start of an engine, so the search takes larger steps.
    """
    return max(1, window >> deaths * (deaths + 1) // 2)


def alone_from(window: int) -> int:
    """The number of deaths from which on each request that has seen them runs alone."""
    return next(seen for seen in count(GUILTY) if together(window, seen) == 1)


@dataclass
class Deaths:
    """The deaths of engines in one turn of a batch.

    idle: deaths in a row with nothing in flight. barren: deaths in a row with nothing answered in between. narrow: the
    number of deaths that counts for every request of the batch, also for those that have seen fewer.
    """

    total: int = 0
    idle: int = 0
    barren: int = 0
    narrow: int = 0

    def record(self, window: int, in_flight: int, answered: int) -> None:
        """Record a death. answered: requests since the death before."""
        self.total += 1
        self.idle = 0 if in_flight else self.idle + 1
        self.barren = 0 if answered else self.barren + 1
        if together(window, self.narrow) > 1:
            self.narrow += 1

    def size(self, window: int, seen: int) -> int:
        """How many requests that have seen so many deaths run at once."""
        return together(window, max(seen, self.narrow))

    def trial(self, window: int, seen: int) -> int | None:
        """How many of these requests have to be answered before more run at once; None where only the deaths that they
        have seen decide that."""
        return PROOF * self.total * self.size(window, seen) if self.narrow > seen else None

    def given_up(self, how: str) -> str:
        """The error of each request that is left. how: in which way the last engine died."""
        return (
            f"The engine died {self.barren} times in a row and answered nothing in between, even with few requests at "
            f"once. The last time: {how}. The engine's log may say why: correct that, and retry this batch."
        )
