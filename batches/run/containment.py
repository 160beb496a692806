"""Errors of one batch in a turn, from which the other batches of that turn must not suffer."""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from batches.intake import ingest
from batches.models import Batch, LeaseLost
from batches.run import claims, commit, temporary_errors
from models_registry.models import Worker
from vbs.database.outages import DATABASE_ERRORS
from vbs.logs import bind, one_line
from vbs.redaction import hide_locations

log = logging.getLogger(__name__)

AGAIN_SECONDS = (30, 60, 120, 240, 480)  # before a batch is tried again after its first, second … unforeseen error
AWAY_SECONDS = (30, 600)  # at least and at most, before a batch is tried again whose file or disk is out of reach
MOST_SAID = 500  # characters of an unforeseen error


@contextmanager
def contained(batch: Batch, worker: Worker) -> Iterator[None]:
    """Handle an error that concerns this batch: the batch leaves the worker, and is tried again later, or ends.

    The database's errors pass through, because they concern every batch.
    """
    with bind(batch_id=batch.pk):
        try:
            yield
        except DATABASE_ERRORS:
            raise
        except Exception as error:
            handle(error, batch, worker)


def handle(error: Exception, batch: Batch, worker: Worker) -> None:
    """The same for an error that was caught already. May be called twice for the same error."""
    try:
        if isinstance(error, LeaseLost):
            raise error
        if isinstance(error, temporary_errors.exceptions()):
            log.error("Batch %s: it cannot be run now, and is tried again", batch.pk, exc_info=error)
            lasted = batch.note_once(temporary_errors.interruption(error, ingest.named(batch)), "warning")
            least, most = AWAY_SECONDS
            batch.postpone(worker.pk, min(max(lasted.total_seconds(), least), most))
        else:
            log.error("Batch %s: an unforeseen error while it ran", batch.pk, exc_info=error)
            _again(batch, worker.pk, hide_locations(one_line(repr(error)))[:MOST_SAID])
    except LeaseLost:
        claims.note_lost_lease(batch, worker)


def _again(batch: Batch, worker: uuid.UUID, error: str) -> None:
    """Try the batch again later after an unforeseen error. After some tries it ends, with the answers that it has.

    Raises LeaseLost.
    """
    times = batch.stumble()
    if times <= len(AGAIN_SECONDS):
        seconds = AGAIN_SECONDS[times - 1]
        batch.note(f"An unforeseen error; the batch is tried again in {seconds} s: {error}", "error")
        batch.postpone(worker, seconds)
        return
    message = f"Running the batch met an unforeseen error {times} times, the last time: {error}"
    if batch.fail([{"code": "internal_error", "line": None, "message": message, "param": None}], worker):
        return
    commit.fail_model(batch.pk, worker, None, "internal_error", message)
    batch.note(f"Given up. {message}", "error")
    if not batch.finish(worker):
        batch.release(worker)
