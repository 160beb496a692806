"""How fast a batch runs: requests, and tokens as `speeds.counted` counts them, a second."""

import time
from dataclasses import dataclass

from batches.models import RUNNABLE, Batch, BatchStatus
from batches.run.outcomes import Outcome
from models_registry.rates import Meter, per_second
from models_registry.speed.speeds import counted

RATE_SECONDS = 30.0  # over which the rates are measured


@dataclass(frozen=True)
class Pace:
    """oldest: seconds since the oldest of the requests in flight was sent. in_flight: how many these are, with those
    whose answers are not committed yet. latest: seconds since a request was sent last. Each is None where it is not
    known. spent: the seconds for which requests were in flight since the pace before this one, summed over them.
    deaths: of engines, that one of its pending requests has seen; the most."""

    requests_per_second: float | None = None
    tokens_per_second: float | None = None
    oldest: float | None = None
    in_flight: int | None = None
    latest: float | None = None
    spent: float = 0.0
    deaths: int | None = None


UNKNOWN = Pace()


def of(batch: Batch) -> Pace:
    """Of late while it runs. Once nothing more of it is run, on the whole: from its first request on, the times in
    which it had to wait for others included. Unknown before, and while it waits."""
    if batch.status in RUNNABLE:
        runs = batch.status == BatchStatus.IN_PROGRESS and batch.leased_by is not None
        return Pace(batch.requests_per_second, batch.tokens_per_second) if runs else UNKNOWN
    if not (seconds := ran_seconds(batch)):
        return UNKNOWN
    requests, tokens = per_second(seconds, batch.answered, counted(batch.input_tokens, batch.output_tokens))
    return Pace(requests, tokens)


def ran_seconds(batch: Batch) -> float | None:
    """From its first request until nothing more of it was run; None before that."""
    stop = batch.finalizing_at or batch.cancelling_at
    return (stop - batch.in_progress_at).total_seconds() if batch.in_progress_at and stop else None


class Rates:
    """Requests and tokens per second, over the last half minute; of requests once there are `least`."""

    def __init__(self, least: float) -> None:
        self._least = least
        self._requests = self._read = self._written = 0
        self._meter = Meter(RATE_SECONDS, 0, 0, 0)
        self._sent = 0
        self._sent_at: float | None = None
        self._in_flight, self._read_at = 0, time.monotonic()

    def add(self, made: Outcome) -> None:
        self._requests += 1
        self._read += made.input_tokens
        self._written += made.output_tokens

    def read(self, oldest: float | None, sent: int, in_flight: int, deaths: int | None = None) -> Pace:
        """sent: how many requests have been sent so far. in_flight: how many of them have no answer."""
        now = time.monotonic()
        if sent > self._sent:
            self._sent, self._sent_at = sent, now
        spent = (self._in_flight + in_flight) / 2 * (now - self._read_at)
        self._in_flight, self._read_at = in_flight, now
        latest = None if self._sent_at is None else now - self._sent_at
        requests, read, written = self._meter.read(self._requests, self._read, self._written)
        known = requests if self._requests >= self._least else None
        return Pace(known, counted(read, written), oldest, in_flight, latest, spent, deaths)
