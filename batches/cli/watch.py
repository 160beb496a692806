"""Follows a batch until it ends."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from batches.cli import report
from batches.cli.remote import Batches
from batches.counts import Counts
from vbs.cli.progress import progress
from vbs.cli.remote import RemoteError
from vbs.logs import one_line
from vbs.openai.schema import BatchObject

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 120.0  # how long a server may be silent

Tell = Callable[[str, str, BatchObject], None]  # gets what happens, how far a load of its model is, and the batch


@dataclass(frozen=True)
class Watched:
    """batch: at its end. loading_seconds: about how long a worker had it and loaded a model."""

    batch: BatchObject
    loading_seconds: float


def watch(remote: Batches, batch: BatchObject, out: IO[str]) -> Watched:
    """Wait for the batch's end and show its progress, also while the server restarts. Raises RemoteError."""
    with progress(out) as show:

        def tell(words: str, load: str, batch: BatchObject) -> None:
            show(words, share(batch), load or report.facts(batch))

        return follow(remote, batch, tell)


def share(batch: BatchObject) -> float | None:
    """How much of the batch is done; None before its first request is sent."""
    counts = Counts.read(batch)
    started = batch["in_progress_at"] is not None or report.ended(batch)
    return counts.answered / counts.total if started and counts.total else None


def follow(remote: Batches, batch: BatchObject, tell: Tell) -> Watched:
    """Wait for the batch's end, also while the server restarts. Raises RemoteError."""
    held, loads, silent_since = 0.0, False, None
    last = time.monotonic()
    while True:
        load = ""
        try:
            before, batch = batch, remote.retrieve(batch["id"])
            if report.ended(batch):
                tell(one_line(batch["status"]), load, batch)
                return Watched(batch, held if loads else 0.0)
            queue = None if before["request_counts"] != batch["request_counts"] else remote.queue()
            silent_since = None
            words, _, load = one_line(report.doing(batch, queue)).partition(": ")  # `loading m: loading weights (50 %)`
            loading = report.loading(batch, queue) is not None
            loads, holds = loads or loading, loading or report.starting(batch)
        except RemoteError as error:
            silent_since = silent_since or time.monotonic()
            if not error.passing or time.monotonic() - silent_since > PATIENCE_SECONDS:
                raise
            words, holds = "the server does not answer, trying again", False
        tell(words, load, batch)
        time.sleep(POLL_SECONDS)
        now = time.monotonic()
        held += now - last if holds else 0.0
        last = now
