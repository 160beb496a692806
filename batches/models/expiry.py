"""When a batch expires: two looks at the database's clock, some time apart, have to agree.

A clock may jump ahead and come back. So the first look that finds the batch late only records that. If a look some time
later finds the same, the batch is over. A look that comes much later counts as a first one again.
`Batch.finish` then expires the requests that are left.
"""

from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet
from django.db.models.functions import Now

APART = timedelta(seconds=10)
TOO_FAR_APART = timedelta(hours=1)


def is_over(row: QuerySet[Any], expires_at: datetime, late_at: datetime | None, now: datetime) -> bool:
    """Whether the batch's time is over. row: the batch's. late_at: when it was first found late. now: the database's
    time."""
    if expires_at > now:
        if late_at:
            row.update(late_at=None)
        return False
    since = now - late_at if late_at else None
    if since is None or not timedelta() <= since <= TOO_FAR_APART:
        row.update(late_at=Now())
        return False
    return since >= APART
