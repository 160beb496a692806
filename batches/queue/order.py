"""The order of the queue, and the places in it: what waits, as workers will take it up."""

from batches.models import RUNNABLE, Batch
from batches.queue import snapshot
from batches.queue.simulated_queue import Placement


def placements() -> tuple[Placement, ...]:
    """The batches and operations that wait, in the order in which workers will take them up, once a pause has ended.

    Those that cannot run because their model cannot be loaded are not among them.
    """
    return snapshot.read(lambda situation: situation.order, ())


def position(batch: Batch) -> int | None:
    """The batch's place in the queue: 0 while it runs, then from 1; operations count too.

    None before it is validated, once it has nothing left to run, when it cannot run, and when more than MOST are before
    it.
    """
    if batch.status not in RUNNABLE or batch.validated_at is None:
        return None
    if batch.runs():
        return 0
    return (positions().get(batch.pk) or None) if batch.pending else None


def positions() -> dict[str, int]:
    """The places of all that run or have one, by id."""
    nowhere: dict[str, int] = {}
    running = Batch.objects.running().values_list("pk", flat=True)[: snapshot.MOST]
    return snapshot.read(lambda situation: situation.positions, nowhere) | dict.fromkeys(running, 0)
