"""How many requests of each batch were answered when: rows of a few seconds each, for plots."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection

from batches.models import RUNNABLE, Activity, Batch
from batches.models.requests import COUNTS, TABLE
from models_registry.rates import per_second


@dataclass(frozen=True)
class Throughput:
    """Completed requests, failed requests and tokens per second, from `at` on for `seconds`."""

    at: datetime
    seconds: float
    requests: float
    failures: float
    input_tokens: float
    output_tokens: float


# Joins intervals, so that there are at most so many from the first to the last. The last one ends with its last
# outcome. The row that is still growing is left out, because it would look slow.
_SERIES = f"""
WITH mine AS (
    SELECT at, {", ".join(COUNTS)} FROM {TABLE}
    WHERE batch_id = %(batch)s AND (%(whole)s OR at <= now() - %(bucket)s * interval '1 second')
), span AS (
    SELECT min(at) AS first, extract(epoch FROM max(at) - min(at)) + %(bucket)s AS seconds FROM mine
), step AS (
    SELECT first, seconds, ceil(seconds / %(points)s / %(bucket)s) * %(bucket)s AS width FROM span
)
SELECT first, seconds::float, width::float, floor(extract(epoch FROM at - first) / width)::int AS place,
       sum(completed)::float, sum(failed)::float, sum(input_tokens)::float, sum(output_tokens)::float
FROM mine, step GROUP BY first, seconds, width, place ORDER BY place
"""  # noqa: S608  (names of columns only)


def series(batch: Batch, points: int = 120) -> list[Throughput]:
    """The batch's pace from its first outcome to its last, in at most so many steps of the same length; 0 in a
    pause."""
    values: dict[str, str | bool | int] = {
        "batch": batch.pk,
        "whole": batch.status not in RUNNABLE,
        "bucket": Activity.BUCKET_SECONDS,
        "points": points,
    }
    with connection.cursor() as cursor:
        cursor.execute(_SERIES, values)
        return list(_steps(cursor.fetchall()))


def _steps(rows: list[tuple[datetime, float, float, int, float, float, float, float]]) -> Iterator[Throughput]:
    counts = {place: sums for _, _, _, place, *sums in rows}
    for first, seconds, width, last, *_ in rows[-1:]:
        for place in range(last + 1):
            long = min(width, seconds - place * width)
            rates = per_second(long, *counts.get(place, (0.0, 0.0, 0.0, 0.0)))
            yield Throughput(first + timedelta(seconds=place * width), long, *rates)
