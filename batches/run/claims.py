"""Which worker has a batch: claimed, taken over, given back. A worker that fell silent is told of in the batch's log.

Nobody who is frozen can say so. Whoever takes its batch over does, and so does it when it is back and finds that.
"""

import uuid
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from batches.models import RUNNABLE, Batch
from models_registry.models import Worker


def claim(batch_id: str, worker: uuid.UUID) -> Batch | None:
    """Take the lease, or None when somebody else has it or the batch cannot run any more."""
    fresh = ("requests_per_second", "tokens_per_second", "oldest_sent_at", "in_flight")
    with transaction.atomic():
        before = Batch.objects.waiting().filter(pk=batch_id).claim(worker, **dict.fromkeys(fresh))
        if before is None:
            return None
        if before.leased_by:
            _tell_of_takeover(before, worker)
    return Batch.objects.get(pk=batch_id)


def release_all(worker: uuid.UUID) -> int:
    """Give back what a worker that is known to be dead still holds. How many there were."""
    with transaction.atomic():
        for batch in Batch.objects.filter(status__in=RUNNABLE).of(worker).select_for_update(no_key=True):
            _tell(batch, f"{_name(worker)} has ended in the middle of this batch, or met an error. {_again(batch)}")
        freed = Batch.objects.of(worker).release()
    Batch.objects.finish_what_is_run_through()
    return freed


def _tell_of_takeover(before: Batch, worker: uuid.UUID) -> None:
    """before: as it was when the lease of another had run out."""
    assert before.leased_until is not None
    since = before.leased_until - timedelta(seconds=settings.VBS_LEASE_SECONDS)  # when it was renewed
    _tell(
        before,
        f"{_name(before.leased_by)} has not answered since {since:%Y-%m-%d %H:%M:%S} UTC, so {_name(worker)} takes "
        f"this batch over. {_again(before)}",
    )


def back(batch: Batch, worker: Worker) -> None:
    """Tell that this worker has found its lease lost."""
    batch.refresh_from_db()
    if batch.is_terminal or batch.leased_by is None:
        now = f"this batch is {batch.status.replace('_', ' ')} and no worker's"
    else:
        now = f"{_name(batch.leased_by)} has this batch"
    _tell(batch, f"{_name(worker.pk)} is back, and finds that {now}. What it had in flight counts no more.")


def _tell(batch: Batch, words: str) -> None:
    batch.note(words[:1].upper() + words[1:], "warning")


def _name(worker: uuid.UUID | None) -> str:
    """Not on which machine: whoever made the batch need not know that."""
    found = Worker.objects.filter(pk=worker).first() if worker else None
    return f"the {found.cluster} worker with pid {found.pid}" if found else "a worker that is not known any more"


def _again(batch: Batch) -> str:
    if batch.in_flight is None:
        return (
            "It had sent none of its requests yet." if not batch.in_progress_at else "What it had in flight runs again."
        )
    if not batch.in_flight:
        return "It had no requests in flight."
    return f"The requests that it had in flight, {batch.in_flight:,} when it was last heard of, run again."
