"""The requests of the last 24 hours by hour: sums of `Activity` for a viewer's projects."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import connection
from django.utils import timezone

from batches.models import Activity, Batch
from vbs.pages.viewer import Viewer
from vbs.timed_cache import Kept

HOURS = 24
FRESH_SECONDS = 10.0  # for which the sums are reused: a page is renewed far more often

# Sums by batch first, so that few rows have to be joined with the batches.
_SUMS = f"""
WITH sums AS MATERIALIZED (
    SELECT batch_id, date_trunc('hour', at, 'UTC') AS hour, sum(completed) AS completed, sum(failed) AS failed,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens
    FROM {Activity._meta.db_table} WHERE at >= %s GROUP BY 1, 2
)
SELECT hour, sum(completed), sum(failed), sum(input_tokens), sum(output_tokens) FROM sums
WHERE %s::bigint[] IS NULL
    OR (SELECT project_id FROM {Batch._meta.db_table} batch WHERE batch.id = sums.batch_id) = ANY (%s::bigint[])
GROUP BY 1
"""  # noqa: S608  (table names only)


@dataclass(frozen=True)
class Hour:
    """at: the beginning of the hour, in UTC."""

    at: datetime
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


def hours(viewer: Viewer) -> tuple[Hour, ...]:
    """The last HOURS, oldest first, with the present one and with empty ones. One query, or none within
    FRESH_SECONDS."""
    own = viewer.projects if viewer.project is None else frozenset({viewer.project})
    return kept.get(own, FRESH_SECONDS, lambda: _read(own))


kept: Kept[tuple[Hour, ...]] = Kept()


def since(now: datetime) -> datetime:
    """The beginning of the oldest hour."""
    return now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)


def question(own: frozenset[int] | None, first: datetime) -> tuple[str, list[Any]]:
    """The query and its parameters. own: the keys of projects, None for all."""
    keys = None if own is None else sorted(own)
    return _SUMS, [first, keys, keys]


def _read(own: frozenset[int] | None) -> tuple[Hour, ...]:
    first = since(timezone.now())
    with connection.cursor() as cursor:
        cursor.execute(*question(own, first))
        found = {at: tuple(map(int, sums)) for at, *sums in cursor.fetchall()}
    moments = (first + timedelta(hours=number) for number in range(HOURS))
    return tuple(Hour(at, *found.get(at, ())) for at in moments)
