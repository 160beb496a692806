"""Which worker has a batch: claim it, take it over, release it. The batch's log names a worker that fell silent.

A frozen worker cannot write that itself. The worker that takes the batch over does, and the frozen one adds a line when
it is back and finds its lease lost.
"""

import uuid
from collections.abc import Collection
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from batches.models import RUNNABLE, Batch
from models_registry.models import Worker


def claim(batch_id: str, worker: uuid.UUID) -> Batch | None:
    """Claim the batch for this worker. None when another worker has it, or it cannot run any more."""
    fresh = ("requests_per_second", "tokens_per_second", "oldest_sent_at", "in_flight")
    with transaction.atomic():
        before = Batch.objects.waiting().filter(pk=batch_id).claim(worker, **dict.fromkeys(fresh))
        if before is None:
            return None
        if before.leased_by:
            _tell_of_takeover(before, worker)
    return Batch.objects.get(pk=batch_id)


def release_all(worker: uuid.UUID, ids: Collection[str] | None = None) -> int:
    """Release every batch of a worker that is known to be dead, or only these. Returns how many there were."""
    held = Batch.objects.of(worker)
    held = held if ids is None else held.filter(pk__in=ids)
    with transaction.atomic():
        for batch in held.filter(status__in=RUNNABLE).select_for_update(no_key=True):
            _tell(batch, f"{_name(worker)} has ended, or met an error, while it ran this batch. {_again(batch)}")
        freed = held.release()
    Batch.objects.finish_all_answered()
    return freed


def _tell_of_takeover(before: Batch, worker: uuid.UUID) -> None:
    """before: the batch as it was when the other worker's lease had run out."""
    assert before.leased_until is not None
    since = before.leased_until - timedelta(seconds=settings.VBS_LEASE_SECONDS)  # when the lease was last renewed
    _tell(
        before,
        f"{_name(before.leased_by)} has not answered since {since:%Y-%m-%d %H:%M:%S} UTC, so {_name(worker)} takes "
        f"this batch over. {_again(before)}",
    )


def note_lost_lease(batch: Batch, worker: Worker) -> None:
    """Write into the batch's log that this worker is back and has lost its lease."""
    batch.refresh_from_db()
    if batch.is_terminal or batch.leased_by is None:
        now = f"this batch is {batch.status.replace('_', ' ')}, and no worker has it"
    else:
        now = f"{_name(batch.leased_by)} has this batch"
    _tell(batch, f"{_name(worker.pk)} is back, but {now}. The answers to what it had in flight do not count.")


def _tell(batch: Batch, words: str) -> None:
    batch.note(words[:1].upper() + words[1:], "warning")


def _name(worker: uuid.UUID | None) -> str:
    """The worker in words, without its machine, which the owner of a batch need not know."""
    found = Worker.objects.filter(pk=worker).first() if worker else None
    return f"the {found.cluster} worker with pid {found.pid}" if found else "a worker that is not known any more"


def _again(batch: Batch) -> str:
    if batch.in_flight is None:
        return (
            "It had sent no request yet."
            if not batch.in_progress_at
            else "The requests that it had in flight run again."
        )
    if not batch.in_flight:
        return "It had no requests in flight."
    return f"The requests that it had in flight, {batch.in_flight:,} when it was last heard of, run again."
