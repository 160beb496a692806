"""Finds the files and uploads whose bytes nobody needs any more, and deletes the bytes. Each sweep does it."""

import contextlib
import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from batches.files import blobs
from batches.models import Batch, File, FileStatus, Upload, UploadPart, UploadStatus
from vbs.database.outages import DATABASE_ERRORS

log = logging.getLogger(__name__)

GRACE = timedelta(hours=1)  # after its deletion, for a batch of it may be made at that moment
AT_ONCE = 1000
ENOUGH_ERRORS = 10


def purgeable() -> QuerySet[File]:
    """Files that are deleted or were pending for too long, and whose bytes no batch needs."""
    now = timezone.now()
    gone = Q(status=FileStatus.DELETED, deleted_at__lte=now - GRACE) | Q(expires_at__lte=now)
    needed = Batch.objects.live().exclude(input_file=None).values("input_file_id")
    return File.objects.filter(gone, purged_at=None).exclude(pk__in=needed)


def files() -> None:
    _one_by_one(purge, purgeable().order_by("?")[:AT_ONCE])


def purge(file: File) -> bool:
    """Remove the bytes of one of `purgeable()`. False when it is none any more.

    It is marked before the bytes go, by a statement that looks again, and nobody sees the mark before they are gone.
    """
    with transaction.atomic():
        if not purgeable().filter(pk=file.pk).update(purged_at=Now()):
            return False
        blobs.remove(file.blob)
    return True


def _one_by_one(remove: Callable[[Any], object], rows: Iterable[Any]) -> None:
    """An error with one file does not stop the others; after a few errors in a row it gives up."""
    errors: list[Exception] = []
    for row in rows:
        try:
            remove(row)
        except DATABASE_ERRORS:
            raise
        except Exception as error:
            log.warning("Bytes of %s: they cannot be deleted now, and are tried again later: %r", row, error)
            errors.append(error)
            if len(errors) == ENOUGH_ERRORS:
                break
    if errors:
        raise errors[0]


def uploads() -> None:
    Upload.objects.filter(status=UploadStatus.PENDING, expires_at__lte=timezone.now()).update(
        status=UploadStatus.EXPIRED
    )
    closed = UploadPart.objects.exclude(upload__status=UploadStatus.PENDING).select_related("upload")
    _one_by_one(_purge_part, closed.order_by("?")[:AT_ONCE])


def _purge_part(part: UploadPart) -> None:
    blobs.remove(part.blob)
    part.delete()
    with contextlib.suppress(OSError):  # another file has the same bytes
        blobs.remove(Path(part.blob).parent.as_posix())
