"""The phase of a batch that has not ended, in the one word that the API, the pages and the commands all use for it."""

from uuid import UUID

from django.db.models import Q

from batches.models import CLOSING, RUNNABLE, Batch, BatchStatus
from batches.queue import snapshot
from models_registry.models import Operation
from vbs.leases import HELD, UNHELD

VALIDATING = "validating"  # its lines are read and checked
QUEUED = "queued"  # it has requests left, and no worker has it
LOADING = "loading"  # a worker has it, and loads its model first
RUNNING = "running"  # its requests are sent and answered
WRITING = "writing"  # all its requests have ended; its files are written
CANCELLING = "cancelling"  # nothing new is sent; what was answered is written
PHASES = (VALIDATING, QUEUED, LOADING, RUNNING, WRITING, CANCELLING)


def of(batch: Batch) -> str | None:
    """The phase; None when the batch has ended, for then its status says how."""
    if batch.status not in RUNNABLE:
        closing = WRITING if batch.status == BatchStatus.FINALIZING else CANCELLING
        return closing if batch.status in CLOSING else None
    if batch.validated_at is None and batch.status == BatchStatus.VALIDATING:
        return VALIDATING
    if not batch.runs():
        return QUEUED if batch.pending else WRITING
    if batch.status == BatchStatus.VALIDATING:  # its first request is not sent yet
        return LOADING
    # With several models, or after its engine has died, a model is loaded between its requests.
    return LOADING if not batch.in_flight and _loads(batch.leased_by) else RUNNING


def of_operation(operation: Operation | None) -> str:
    """The phase of an operation that runs: loading, or running."""
    return LOADING if operation and _loads(operation.leased_by) else RUNNING


def _loads(worker: UUID | None) -> bool:
    """Does this worker load a model?"""
    nobody: frozenset[UUID] = frozenset()
    return worker in snapshot.read(lambda situation: situation.loading, nobody)


def word(batch: Batch) -> str:
    """What the batch does, or how it ended, in one word."""
    return of(batch) or str(batch.status)


def rows(name: str) -> Q:
    """Those in this phase. One that loads another model between its requests counts as running."""
    waits = Q(status__in=RUNNABLE, validated_at__isnull=False)
    return {
        VALIDATING: Q(status=BatchStatus.VALIDATING, validated_at=None),
        QUEUED: waits & UNHELD,
        LOADING: HELD & Q(status=BatchStatus.VALIDATING, validated_at__isnull=False),
        RUNNING: HELD & Q(status=BatchStatus.IN_PROGRESS),
        WRITING: Q(status=BatchStatus.FINALIZING),
        CANCELLING: Q(status=BatchStatus.CANCELLING),
    }[name]
