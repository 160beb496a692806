"""How much a second: of something that is over, and of something that goes on, over its last seconds."""

import time
from collections import deque

LEAST_SECONDS = 1e-3  # nothing is taken to have been shorter


def per_second(seconds: float, *amounts: float) -> tuple[float, ...]:
    """Each of the amounts, which took so many seconds."""
    return tuple(amount / max(seconds, LEAST_SECONDS) for amount in amounts)


class Meter:
    """Totals that grow, and how fast they have done so in the last `seconds`; `totals` are those to begin with."""

    def __init__(self, seconds: float, *totals: float) -> None:
        self._seconds = seconds
        self._marks = deque([(time.monotonic(), totals)])

    def read(self, *totals: float) -> tuple[float, ...]:
        """Of each total, as it is now."""
        now = time.monotonic()
        self._marks.append((now, totals))
        while len(self._marks) > 2 and now - self._marks[1][0] > self._seconds:
            self._marks.popleft()
        then, before = self._marks[0]
        return per_second(now - then, *(new - old for new, old in zip(totals, before, strict=True)))
