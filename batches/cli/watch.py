"""Follows a batch until it ends: with a live bar on a terminal, with a line from time to time elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from batches.cli import report
from batches.cli.remote import Batches
from batches.counts import Counts
from vbs.cli.remote import RemoteError
from vbs.logs import one_line
from vbs.openai.schema import BatchObject

POLL_SECONDS = 0.5
LINE_SECONDS = 5.0  # the least time between two lines, without a terminal
PATIENCE_SECONDS = 120.0  # how long a server may be silent

Show = Callable[[str, BatchObject], None]  # gets a sentence about what happens, and the batch


@dataclass(frozen=True)
class Watched:
    """batch: at its end. loading_seconds: about how long a worker had it and loaded a model."""

    batch: BatchObject
    loading_seconds: float


def watch(remote: Batches, batch: BatchObject, out: IO[str]) -> Watched:
    """Wait for the batch's end, also while the server restarts. Raises RemoteError."""
    held, loads, silent_since = 0.0, False, None
    last = time.monotonic()
    with _bar(out) if out.isatty() else _lines(out) as show:
        while True:
            try:
                before, batch = batch, remote.retrieve(batch["id"])
                if report.ended(batch):
                    show(one_line(batch["status"]), batch)
                    return Watched(batch, held if loads else 0.0)
                queue = None if before["request_counts"] != batch["request_counts"] else remote.queue()
                silent_since = None
                words = one_line(report.doing(batch, queue))
                loading = report.loading(batch, queue) is not None
                loads, holds = loads or loading, loading or report.starting(batch)
            except RemoteError as error:
                silent_since = silent_since or time.monotonic()
                if not error.passing or time.monotonic() - silent_since > PATIENCE_SECONDS:
                    raise
                words, holds = "the server does not answer, trying again", False
            show(words, batch)
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            held += now - last if holds else 0.0
            last = now


@contextmanager
def _bar(out: IO[str]) -> Iterator[Show]:
    console = Console(file=out, markup=False, emoji=False, highlight=False)
    words = TextColumn("{task.description}", markup=False)
    facts = TextColumn("{task.fields[facts]}", markup=False)
    with Progress(words, BarColumn(bar_width=24), facts, console=console) as progress:
        task = progress.add_task("submitted", total=None, facts="")

        def show(doing: str, batch: BatchObject) -> None:
            counts = Counts.read(batch)
            started = batch["in_progress_at"] is not None or report.ended(batch)
            total = counts.total if started and counts.total else None
            progress.update(task, description=doing, total=total, completed=counts.answered, facts=report.facts(batch))

        yield show


@contextmanager
def _lines(out: IO[str]) -> Iterator[Show]:
    said, due = "", 0.0

    def show(doing: str, batch: BatchObject) -> None:
        nonlocal said, due
        facts = report.facts(batch)
        line = f"{doing}, {facts}" if facts else doing
        now = time.monotonic()
        if line != said and now >= due:
            out.write(f"{line}\n")
            out.flush()
            said, due = line, now + LINE_SECONDS

    yield show
