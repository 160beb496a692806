"""Entry points of the task queue: ids come in, the work is elsewhere, and all of it may be done twice."""

from vbs.logs import bind
from vbs.outages import insist


def validate(batch_id: str) -> None:
    from batches import intake

    with bind(batch_id=batch_id):
        insist(lambda: intake.validate(batch_id))


def finalize(batch_id: str) -> None:
    from batches import outputs

    with bind(batch_id=batch_id):
        insist(lambda: outputs.finalize(batch_id))


def sweep() -> None:
    from batches import sweep

    insist(sweep.sweep)
