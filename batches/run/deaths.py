"""What follows when engines die under a batch: how few requests run at once after it, and when to give up.

A request that was there at a death may be the cause, so it runs with fewer others from then on. What runs at once may
be too much for the engine, so all else of the batch does too, until enough is answered. Where one death follows the
other and nothing is answered in between, neither helps.
"""

from dataclasses import dataclass

GUILTY = 2  # deaths that a request has seen before, when one that it sees with no other is its own doing
IDLE = 3  # in a row with nothing in flight, before we give up on the model
BARREN = 12  # in a row with nothing answered in between, before we give up on what is left of the batch
PROOF = 4  # windows of requests that have to end well, for each death so far, before more run at once again


def together(window: int, deaths: int) -> int:
    """How many requests run at once that have seen so many engine deaths: half a window, an eighth of it, a
    sixty-fourth, and so on until each is alone.

    One death may be the engine's own, so it costs little speed. With each further one it is likelier that a request is
    to blame, and each costs the start of an engine, so it is sought in larger steps.
    """
    return max(1, window >> deaths * (deaths + 1) // 2)


@dataclass
class Deaths:
    """Those that one batch has met while a worker had it.

    idle, barren: in a row with nothing in flight; with nothing answered in between. narrow: so many deaths count for
    every request of the batch, also for those that have seen fewer.
    """

    total: int = 0
    idle: int = 0
    barren: int = 0
    narrow: int = 0

    def met(self, window: int, in_flight: int, answered: int) -> None:
        """Another one; answered: since the one before."""
        self.total += 1
        self.idle = 0 if in_flight else self.idle + 1
        self.barren = 0 if answered else self.barren + 1
        if together(window, self.narrow) > 1:
            self.narrow += 1

    def size(self, window: int, seen: int) -> int:
        """How many of those that have seen so many deaths run at once."""
        return together(window, max(seen, self.narrow))

    def trial(self, window: int, seen: int) -> int | None:
        """How many of them have to end before more of them run at once; None where only what they have seen counts."""
        return PROOF * self.total * self.size(window, seen) if self.narrow > seen else None

    def given_up(self, how: str) -> str:
        """For each request that is left. how: the last engine died."""
        return (
            f"The engine died {self.barren} times in a row and answered nothing in between, however few requests ran "
            f"at once; the last time: {how}. The engine's log may say why: mend that, and retry this batch."
        )
