"""How much space the files of batches take, and which of them nobody needs any more."""

import time

from django.db.models import Count, QuerySet, Sum

from batches.files.purge import AT_ONCE, purge, purgeable
from batches.models import File
from models_registry.catalog.disk import Cleaner, DiskArea, DiskUse


def files() -> DiskArea:
    return DiskArea("Files of batches", _use(File.objects.filter(purged_at=None)))


def _use(rows: QuerySet[File]) -> DiskUse:
    found = rows.aggregate(files=Count("pk"), bytes=Sum("bytes"))
    return DiskUse(found["files"], found["bytes"] or 0)


def _look() -> DiskUse:
    return _use(purgeable())


def _clean(until: float) -> DiskUse:
    count = freed = 0
    for file in purgeable()[:AT_ONCE]:
        if time.monotonic() > until:
            break
        if purge(file):
            count, freed = count + 1, freed + file.bytes
    return DiskUse(count, freed, more=purgeable().exists())


CLEANER = Cleaner("files", "Files that were deleted or have expired, and that no batch needs", _look, _clean)
