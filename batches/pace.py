"""How fast a batch runs just now."""

import time
from collections import deque
from dataclasses import dataclass

from batches.outcomes import Outcome

RATE_SECONDS = 30.0  # over which the rates are measured


@dataclass(frozen=True)
class Pace:
    """oldest: seconds since the oldest of the requests in flight was sent. in_flight: how many these are, with those
    whose answers are not committed yet. Each is None where it is not known."""

    requests_per_second: float | None = None
    tokens_per_second: float | None = None
    oldest: float | None = None
    in_flight: int | None = None


UNKNOWN = Pace()


class Rates:
    """Requests and output tokens per second, over the last half minute; of requests once there are `least`."""

    def __init__(self, least: float) -> None:
        self._least = least
        self._requests = self._tokens = 0
        self._marks = deque([(time.monotonic(), 0, 0)])

    def add(self, made: Outcome) -> None:
        self._requests += 1
        self._tokens += made.output_tokens or made.input_tokens

    def read(self, oldest: float | None, in_flight: int) -> Pace:
        now = time.monotonic()
        self._marks.append((now, self._requests, self._tokens))
        while len(self._marks) > 2 and now - self._marks[1][0] > RATE_SECONDS:
            self._marks.popleft()
        then, requests, tokens = self._marks[0]
        elapsed = max(now - then, 1e-3)
        rate = (self._requests - requests) / elapsed if self._requests >= self._least else None
        return Pace(rate, (self._tokens - tokens) / elapsed, oldest, in_flight)
