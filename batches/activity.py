"""How many requests of each batch were answered when: rows of a few seconds each, for charts."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

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


# How long a step may be, in seconds: round, so that it seldom changes while a batch runs.
STEPS = (2, 4, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 3 * 3600, 6 * 3600, 86_400, 7 * 86_400)
# A step has so many outcomes on average, and is so long, unless there were fewer than FEWEST then: answers come in
# waves, and a step with one of them less would be a notch.
ENOUGH, LEAST_SECONDS, FEWEST = 24, 10, 8

# Joins intervals into steps, of which there are at most so many from the first to the last; the last one ends with its
# last outcome. The row that is still growing is left out, because it would look slow.
_SERIES = f"""
WITH mine AS (
    SELECT at, {", ".join(COUNTS)} FROM {TABLE}
    WHERE batch_id = %(batch)s AND (%(whole)s OR at <= now() - %(bucket)s * interval '1 second')
), span AS (
    SELECT min(at) AS first, extract(epoch FROM max(at) - min(at)) + %(bucket)s AS seconds,
           sum(completed + failed) AS outcomes FROM mine
), step AS (
    SELECT first, seconds, coalesce(min(width), seconds / %(points)s) AS width
    FROM span LEFT JOIN unnest(%(steps)s::float[]) AS width
      ON width >= seconds / %(points)s
     AND width >= least(seconds / %(fewest)s, greatest(%(least)s, seconds * %(enough)s / greatest(outcomes, 1)))
    GROUP BY first, seconds
)
SELECT first, seconds::float, width::float, floor(extract(epoch FROM at - first) / width)::int AS place,
       sum(completed)::float, sum(failed)::float, sum(input_tokens)::float, sum(output_tokens)::float
FROM mine, step GROUP BY first, seconds, width, place ORDER BY place
"""  # noqa: S608  (names of columns only)


def series(batch: Batch, points: int = 60) -> list[Throughput]:
    """The batch's pace from its first outcome to its last, in at most so many steps of the same length, of
    which the last can be half as long again; 0 in a pause."""
    values: dict[str, Any] = {
        "batch": batch.pk,
        "whole": batch.status not in RUNNABLE,
        "bucket": Activity.BUCKET_SECONDS,
        "points": points,
        "steps": list(STEPS),
        "enough": ENOUGH,
        "least": LEAST_SECONDS,
        "fewest": FEWEST,
    }
    with connection.cursor() as cursor:
        cursor.execute(_SERIES, values)
        return list(_steps(cursor.fetchall()))


def _steps(rows: list[tuple[datetime, float, float, int, float, float, float, float]]) -> Iterator[Throughput]:
    counts = {place: sums for _, _, _, place, *sums in rows}
    for first, seconds, width, last, *_ in rows[-1:]:
        if last and seconds - last * width < width / 2:  # too short for a pace of its own
            rest = counts.pop(last)
            last -= 1
            counts[last] = [one + more for one, more in zip(counts.get(last, [0.0] * 4), rest, strict=True)]
        for place in range(last + 1):
            long = width if place < last else seconds - last * width
            rates = per_second(long, *counts.get(place, (0.0, 0.0, 0.0, 0.0)))
            yield Throughput(first + timedelta(seconds=place * width), long, *rates)
