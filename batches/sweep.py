"""The sweep of batches: it wakes tasks that were lost, expires batches, and removes old rows and files."""

import logging
from datetime import timedelta

from django.db.models.functions import Now
from django.utils import timezone

from batches.files import purge
from batches.models import (
    CLOSING,
    RUNNABLE,
    TERMINAL,
    Activity,
    Batch,
    BatchRequest,
    BatchStatus,
    SearchedRequest,
    SearchIndex,
)
from batches.run import unloadable
from batches.search import indexing
from vbs.broker import wake
from vbs.configuration import runtime

log = logging.getLogger(__name__)

ROWS = 20_000  # deleted at once
BATCHES = 1000  # looked at in one sweep


def _wake_the_forgotten() -> None:
    """Wake tasks that may have been lost with the worker that took them. Waking too often does no harm."""
    for batch in Batch.objects.filter(status=BatchStatus.VALIDATING, validated_at=None)[:BATCHES]:
        wake("validate", batch.pk)
    for batch in Batch.objects.filter(status__in=CLOSING).free()[:BATCHES]:
        wake("finalize", batch.pk)
    if Batch.objects.waiting().exists():
        wake("gpu")


def _expire() -> None:
    for batch in Batch.objects.waiting().filter(expires_at__lte=Now())[:BATCHES]:
        batch.finish()
    for batch in Batch.objects.filter(status=BatchStatus.VALIDATING, validated_at=None, expires_at__lte=Now())[
        :BATCHES
    ]:
        batch.expire_unread()
    Batch.objects.filter(status__in=RUNNABLE, late_at__isnull=False, expires_at__gt=Now()).update(late_at=None)


def _purge_requests() -> None:
    """Delete the request rows of batches that ended long ago. Their output files are kept for as long as they say."""
    old = timezone.now() - timedelta(days=runtime.value("VBS_RETENTION_DAYS"))
    for batch in Batch.objects.filter(status__in=TERMINAL, purged_at=None, created_at__lt=old).order_by("id")[:BATCHES]:
        ended = batch.completed_at or batch.failed_at or batch.expired_at or batch.cancelled_at
        if ended and ended > old:
            continue
        while ids := list(BatchRequest.objects.filter(batch=batch).values_list("pk", flat=True)[:ROWS]):
            BatchRequest.objects.filter(pk__in=ids).delete()
        _purge_words(batch)
        Batch.objects.filter(pk=batch.pk).update(purged_at=timezone.now())
        log.info("Batch %s: its requests are deleted, because it ended long ago, at %s", batch.pk, ended)


def _purge_words(batch: Batch) -> None:
    index = SearchIndex.objects.filter(batch=batch).first()
    if index is None:
        return
    searched = SearchedRequest.objects.filter(index=index)
    while lines := list(searched.values_list("line", flat=True)[:ROWS]):
        searched.filter(line__in=lines).delete()
    index.delete()


def _purge_activity() -> None:
    old = timezone.now() - timedelta(days=runtime.value("VBS_RETENTION_DAYS"))
    while ids := list(Activity.objects.filter(at__lt=old).values_list("pk", flat=True)[:ROWS]):
        Activity.objects.filter(pk__in=ids).delete()


# In this order.
PARTS = (
    _wake_the_forgotten,
    Batch.objects.finish_all_answered,
    _expire,
    unloadable.sweep,
    purge.files,
    purge.uploads,
    _purge_requests,
    _purge_activity,
    indexing.sweep,
)
