"""Runs one request of a batch again, as a batch of its line alone. The line is copied into a file of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from django import forms

from batches.files import blobs, store
from batches.intake import submit
from batches.models import MOST_NAME, Batch, BatchRequest, Purpose
from vbs.pages import once
from vbs.pages.once import OnceField


class AgainForm(forms.Form):
    """The button."""

    once = OnceField()


def run(batch: Batch, row: BatchRequest, mark: str, by: str, created: Callable[[Batch], None]) -> tuple[str, bool]:
    """The id of the new batch and True, or that of the batch which the button with this mark has made before and False.

    created: is called in the transaction that makes it. Raises InvalidRequest and the storage's errors.
    """
    assert batch.input_file is not None
    if made := once.made(mark):
        return made, False
    name = f"{batch.title[: MOST_NAME - 20]}, line {row.line}"
    with blobs.scratch() as scratch:
        for piece in _pieces(batch.input_file.blob, row):
            scratch.write(piece)
        scratch.write(b"\n")
        scratch.flush()
        filename = f"{PurePath(batch.input_file.filename).stem}-line-{row.line}.jsonl"
        file = store.take_in(batch.project, Path(scratch.name), filename, Purpose.BATCH)

    def make() -> str:
        file.publish()
        again = submit.create(
            batch.project,
            file.pk,
            batch.endpoint,
            batch.completion_window,
            name=name,
            metadata=batch.metadata,
            priority=batch.priority,
            default_model=batch.default_model,
            created_by=by,
            output_expires_after={"seconds": batch.output_seconds},
        )
        again.note(f"Created to run line {row.line:,} of {batch.pk} again.")
        created(again)
        return again.pk

    return once.make(mark, batch.project, make)


def _pieces(blob: str, row: BatchRequest) -> Iterator[bytes]:
    for at in range(0, row.length, blobs.PARTS):
        yield blobs.part(blob, row.offset + at, min(blobs.PARTS, row.length - at))
