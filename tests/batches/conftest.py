from tests.batches.waiting import queued, stored, worker  # noqa: F401
