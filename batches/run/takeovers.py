"""Batches whose worker fell silent, or was killed: told in the batch's own log, by whoever sees it.

Nobody who is frozen can say so. Whoever takes its batch over does, and so does it when it is back and finds that.
"""

import uuid
from datetime import timedelta

from django.conf import settings

from batches.models import Batch
from models_registry.models import Worker


def taken(before: Batch, worker: uuid.UUID) -> None:
    """Tell that this worker takes it over. before: as it was when the lease of another had run out."""
    assert before.leased_until is not None
    since = before.leased_until - timedelta(seconds=settings.VBS_LEASE_SECONDS)  # when it was renewed
    _tell(
        before,
        f"{_name(before.leased_by)} has not answered since {since:%Y-%m-%d %H:%M:%S} UTC, so {_name(worker)} takes "
        f"this batch over. {_again(before)}",
    )


def let_go(batch: Batch) -> None:
    """Tell that its worker has it no more, and has not said so itself."""
    _tell(batch, f"{_name(batch.leased_by)} has ended in the middle of this batch, or met an error. {_again(batch)}")


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
