"""Forecasts when each batch starts and ends, from measurements; where there are none, it says why it cannot."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from batches.intake import sample
from batches.models import Batch
from batches.queue import snapshot
from batches.queue.snapshot import Forecast

log = logging.getLogger(__name__)

P = ParamSpec("P")

RUN_THROUGH = "All its requests have ended; its files are written next."
UNKNOWN_NOW = Forecast(why="It cannot be estimated now. The server's log says why.")
UNCOUNTED = Forecast(why="Its requests are not counted yet.")


def never_failing(estimate: Callable[Concatenate[Batch, P], Forecast]) -> Callable[Concatenate[Batch, P], Forecast]:
    """Returns UNKNOWN_NOW when the estimate fails, because an estimate must not make another action fail.

    Not for use within a transaction, which an error of the database would end.
    """

    @wraps(estimate)
    def guarded(batch: Batch, *given: P.args, **named: P.kwargs) -> Forecast:
        try:
            return estimate(batch, *given, **named)
        except Exception:
            log.exception("Batch %s: its end cannot be estimated", batch.pk)
            return UNKNOWN_NOW

    return guarded


def plan() -> dict[str, Forecast]:
    """Of every batch that runs or waits, by its id; of at most MOST. Worked out anew at most every FRESH_SECONDS."""
    return snapshot.read(lambda situation: situation.forecasts, {})


@never_failing
def of(batch: Batch) -> Forecast:
    """The forecast of this batch; if the snapshot does not have it, one that says why."""
    if batch.total and not batch.pending:  # the snapshot may be older
        return Forecast(requests=0, model=next(iter(batch.model_names), None), why=RUN_THROUGH)
    if found := snapshot.current().forecasts.get(batch.pk):
        return found
    if batch.validated_at is None:
        return UNCOUNTED
    why = f"It has just come into the queue, or it is tried again soon, or more than {snapshot.MOST:,} are before it."
    return Forecast(requests=batch.pending, model=next(iter(batch.model_names), None), why=why)


@never_failing
def of_new(batch: Batch) -> Forecast:
    """The forecast of a batch that is not read or saved yet, from the beginning of its file, as if it were in the
    queue."""
    return of_sample(batch, sample.look(batch.input_file, batch.default_model, batch.endpoint))


@never_failing
def of_sample(batch: Batch, seen: sample.Sample) -> Forecast:
    """The same, with as many requests as the sample says."""
    return Forecast(why=seen.why) if seen.why else snapshot.current().with_one_more(batch, seen)
