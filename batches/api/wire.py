"""The rows of this app as objects of the API, a function for each."""

from datetime import datetime

from django.utils import timezone

from batches import phase
from batches.models import RUNNABLE, Batch, BatchStatus, File, Pause, Upload, UploadPart
from batches.queue import forecast, order
from batches.queue.snapshot import Forecast
from batches.run import pace
from vbs.openai.schema import (
    BatchErrors,
    BatchObject,
    Estimate,
    FileObject,
    PartObject,
    PauseObject,
    Progress,
    QueueItem,
    UploadObject,
    Usage,
    unix,
)


def file_object(file: File) -> FileObject:
    return {
        "id": file.pk,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "expires_at": unix(file.expires_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def upload_object(upload: Upload) -> UploadObject:
    return {
        "id": upload.pk,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": int(upload.created_at.timestamp()),
        "expires_at": int(upload.expires_at.timestamp()),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status,
        "file": file_object(upload.file) if upload.file else None,
    }


def part_object(part: UploadPart) -> PartObject:
    return {
        "id": part.pk,
        "object": "upload.part",
        "created_at": int(part.created_at.timestamp()),
        "upload_id": part.upload_id,
    }


def _errors(batch: Batch) -> BatchErrors | None:
    return {"object": "list", "data": batch.errors} if batch.errors else None


def _usage(batch: Batch) -> Usage | None:
    if not batch.is_terminal:
        return None
    return {
        "input_tokens": batch.input_tokens,
        "input_tokens_details": {"cached_tokens": batch.cached_tokens},
        "output_tokens": batch.output_tokens,
        "output_tokens_details": {"reasoning_tokens": batch.reasoning_tokens},
        "total_tokens": batch.input_tokens + batch.output_tokens,
    }


def progress(batch: Batch, expected: Forecast | None = None) -> Progress:
    """How far the batch is, how fast it goes or went, and, while it runs, how long it still takes."""
    speed = pace.of(batch)
    running = batch.status == BatchStatus.IN_PROGRESS
    if running and expected is None:
        expected = forecast.of(batch)
    return {
        "phase": phase.of(batch),
        "percent": batch.percent(2),
        "tokens_per_second": _rounded(speed.tokens_per_second),
        "requests_per_second": _rounded(speed.requests_per_second),
        "eta_seconds": _until(expected.completion_at) if running and expected else None,
    }


def _until(moment: datetime | None) -> int | None:
    return None if moment is None else max(0, round((moment - timezone.now()).total_seconds()))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def batch_object(batch: Batch, places: dict[str, int] | None = None, expected: Forecast | None = None) -> BatchObject:
    """A batch as the API shows it. places: the places of batches in the queue; by default that of this batch is looked
    up. expected: its forecast; by default that of the queue's snapshot."""
    if batch.status not in RUNNABLE:
        position = expected = None
    else:
        position = order.position(batch) if places is None else places.get(batch.pk)
        expected = expected or forecast.of(batch)
    return {
        "id": batch.pk,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": _errors(batch),
        "input_file_id": batch.input_file_id_given,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_at.timestamp()),
        "in_progress_at": unix(batch.in_progress_at),
        "expires_at": int(batch.expires_at.timestamp()),
        "finalizing_at": unix(batch.finalizing_at),
        "completed_at": unix(batch.completed_at),
        "failed_at": unix(batch.failed_at),
        "expired_at": unix(batch.expired_at),
        "cancelling_at": unix(batch.cancelling_at),
        "cancelled_at": unix(batch.cancelled_at),
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "metadata": batch.metadata,
        "model": batch.model_names[0] if batch.model_names else None,
        "usage": _usage(batch),
        "name": batch.name or None,
        "not_run": batch.counts.not_run,
        "priority": batch.priority,
        "progress": progress(batch, expected),
        "queue_position": position,
        "estimated_start_at": unix(batch.in_progress_at or (expected.start_at if expected else None)),
        "estimated_completion_at": unix(expected.completion_at) if expected else None,
        "estimate": _estimate(expected) if expected else None,
        "attempts": batch.attempts,
        "resolved_models": batch.resolved,
    }


def _estimate(expected: Forecast) -> Estimate:
    return {
        "seconds": None if expected.seconds is None else round(expected.seconds),
        "starts_in_seconds": _until(expected.start_at),
        "requests": expected.requests,
        "model": expected.model,
        "measurements": expected.measurements,
        "reason": expected.why or None,
    }


def queue_item(batch: Batch, position: int | None, own: bool, share: float | None = None) -> QueueItem:
    """share: the part of its engine's requests in flight that is this batch's, where it runs."""
    expected = forecast.of(batch)
    return {
        "id": batch.pk if own else None,
        "name": batch.name or None if own else None,
        "status": batch.status,
        "priority": batch.priority,
        "models": batch.model_names if own else [],
        "total": batch.total,
        "completed": batch.completed,
        "failed": batch.failed,
        "progress": progress(batch, expected),
        "position": position,
        "in_flight": batch.in_flight if position == 0 else None,
        "share_percent": None if share is None else round(100 * share, 1),
        "estimated_start_at": unix(batch.in_progress_at or expected.start_at),
        "estimated_completion_at": unix(expected.completion_at),
    }


def pause_object(pause: Pause | None) -> PauseObject | None:
    return {"since": int(pause.began_at.timestamp()), "reason": pause.reason} if pause else None
