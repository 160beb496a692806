"""When a batch's time is over: two looks apart have to agree, by the database's clock.

A clock may jump ahead and come back. What one look sees is only written down; if it is still so at a look that comes
a while later, it is so. A look that comes too late to be of the same stretch of time counts as the first again.
"""

from datetime import datetime, timedelta
from typing import Any

from django.db.models import QuerySet
from django.db.models.functions import Now

APART = timedelta(seconds=10)
TOO_FAR_APART = timedelta(hours=1)


def is_over(row: QuerySet[Any], expires_at: datetime, late_at: datetime | None, now: datetime) -> bool:
    """Look now, which is the database's time. row: the batch's. late_at: when it was seen first that it is late."""
    if expires_at > now:
        if late_at:
            row.update(late_at=None)
        return False
    since = now - late_at if late_at else None
    if since is None or not timedelta() <= since <= TOO_FAR_APART:
        row.update(late_at=Now())
        return False
    return since >= APART
