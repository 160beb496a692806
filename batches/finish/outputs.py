"""Writes the output and error files of a batch from its rows, and ends it. Memory does not grow with the batch."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import orjson
from django.db import transaction
from django.utils import timezone

from batches.files import blobs
from batches.intake.records import one_line
from batches.models import CLOSING, Batch, BatchRequest, File, FileFormat, FileStatus, Purpose, RequestState
from vbs.database import advisory
from vbs.openai import ids

log = logging.getLogger(__name__)

FIELDS = (
    "batch_id", "line", "custom_id", "state", "status_code", "response", "request_id", "error_code", "error_message",
)  # fmt: skip
PAGE = 500
FROZEN_SECONDS = 900  # without a statement, after which another worker writes the files
NOT_RUN = {
    RequestState.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    RequestState.CANCELLED: ("batch_cancelled", "This request was not executed because the batch was cancelled."),
}


def output_line(row: BatchRequest) -> bytes:
    """A line of the output or error file. The stored body of the answer goes in without being parsed."""
    if row.response is None:
        response = b"null"
    else:
        head = orjson.dumps({"status_code": row.status_code, "request_id": row.request_id or ""})
        response = head[:-1] + b',"body":' + row.response.encode() + b"}"
    failure = wrong(row)
    error = failure and {"code": failure[0], "message": failure[1]}
    head = orjson.dumps({"id": row.wire_id, "custom_id": row.custom_id})
    return one_line(head[:-1] + b',"response":' + response + b',"error":' + orjson.dumps(error) + b"}") + b"\n"


def wrong(row: BatchRequest) -> tuple[str, str] | None:
    """Code and message of the error; None when there is a good answer."""
    if row.state == RequestState.FAILED:
        return row.error_code or "", row.error_message or ""
    return NOT_RUN.get(RequestState(row.state))


def page(
    batch: Batch, states: Iterable[RequestState], after: int, more: Sequence[str] = (), most: int = PAGE
) -> list[BatchRequest]:
    """The next page of rows, in the order of the input file. more: fields besides those of an output line."""
    rows = BatchRequest.objects.filter(batch=batch, line__gt=after, state__in=list(states)).only("id", *FIELDS, *more)
    return list(rows.order_by("line")[:most])


def rows(batch: Batch, states: Iterable[RequestState]) -> Iterator[BatchRequest]:
    found = page(batch, states, 0)
    while found:
        yield from found
        found = page(batch, states, found[-1].line)


def finalize(batch_id: str) -> None:
    """Write the files and end the batch. It is idempotent; while one call runs, another does nothing."""
    if not advisory.try_lock(batch_id, 2, FROZEN_SECONDS, session=True):
        return
    try:
        _finalize(batch_id)
    finally:
        advisory.unlock(batch_id, 2)


def _finalize(batch_id: str) -> None:
    batch = Batch.objects.filter(pk=batch_id, status__in=CLOSING).free().first()
    if batch is None or not batch.close():
        return
    with blobs.scratch() as good, blobs.scratch() as bad:
        for row in rows(batch, [RequestState.COMPLETED]):
            good.write(output_line(row))
        for row in rows(batch, RequestState.in_error_file()):
            bad.write(output_line(row))
        made = []
        for kind, file in (("output", good), ("error", bad)):
            file.flush()
            made.append(_keep(batch, kind, Path(file.name)) if file.tell() else None)
    with transaction.atomic():
        for one in filter(None, made):
            one.save(force_insert=True)
        if not batch.end(*made):
            transaction.set_rollback(True)


def _keep(batch: Batch, kind: str, path: Path) -> File:
    """Put the bytes into the storage. Returns the file's row, not saved yet; done again, it is the same file."""
    now = timezone.now()
    began = batch.cancelling_at or batch.finalizing_at or batch.created_at
    file = File(
        id=ids.derived_id("file-", began, f"{batch.pk} {kind}"),
        project=batch.project,
        filename=f"{batch.pk}_{kind}.jsonl",
        purpose=Purpose.BATCH_OUTPUT,
        format=FileFormat.JSONL,
        status=FileStatus.AVAILABLE,
        bytes=path.stat().st_size,
        created_at=now,
        expires_at=now + timedelta(seconds=batch.output_seconds) if batch.output_seconds else None,
    )
    blobs.put(file.blob, path)
    return file
