"""The functions of this app that the task queue calls, with ids. Each may be called twice."""

from vbs.database.outages import insist
from vbs.logs import bind


def validate(batch_id: str) -> None:
    from batches.intake import ingest
    from batches.run import temporary_errors, unloadable

    with bind(batch_id=batch_id), temporary_errors.noted(batch_id, "Its input file is not read"):
        if batch := insist(lambda: ingest.validate(batch_id)):
            # While it was read its model may have been cancelled, or its fetching have failed.
            insist(lambda: unloadable.end(batch))


def finalize(batch_id: str) -> None:
    from batches.finish import outputs
    from batches.run import temporary_errors

    with bind(batch_id=batch_id), temporary_errors.noted(batch_id, "Its files are not written"):
        insist(lambda: outputs.finalize(batch_id))


def index() -> None:
    from batches.search import indexing

    insist(indexing.task)
