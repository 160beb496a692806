"""The runner's statements: read pending requests, write outcomes. Each is one transaction and checks the lease.

An outcome counts only if its request is still pending. So committing it twice, or late, changes nothing.
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import psycopg
from django.conf import settings
from django.db import DataError, connection, transaction
from django.db.models import F, Max, QuerySet
from django.db.models.functions import Greatest, Now

from batches.models import CLOSING, RUNNABLE, Batch, BatchRequest, LeaseLost, RequestState, expiry
from batches.models.requests import add_failed, adding
from batches.run.outcomes import Outcome, failure
from batches.run.pace import UNKNOWN, Pace
from vbs.database.outages import first_line

log = logging.getLogger(__name__)

MOST_SAID = 500  # characters of the database's message
REQUESTS = BatchRequest._meta.db_table
BATCHES = Batch._meta.db_table


@dataclass(frozen=True, slots=True)
class Pending:
    """A request to run: the id of its row, where its line is in the input file, and how many deaths of engines it has
    seen."""

    id: int
    prefix: uuid.UUID
    line: int
    offset: int
    length: int
    custom_id: str
    crashes: int


@dataclass(frozen=True)
class Entry:
    """What is to be committed of one batch."""

    batch_id: str
    outcomes: Sequence[Outcome] = ()
    pace: Pace = UNKNOWN


@dataclass(frozen=True)
class BatchSignal:
    """What a look at the batch's row showed."""

    priority: int
    lost: bool = False  # this worker has not its lease any more
    closed: bool = False  # cancelled, or expired
    late: bool = False  # it seems to be expired: nothing new is sent until a second look agrees


LOST = BatchSignal(priority=0, lost=True)


def pending(batch_id: str, model_index: int, after: Pending | None, limit: int) -> list[Pending]:
    """The next requests to run, those with the same prefix together."""
    rows: QuerySet[BatchRequest] = BatchRequest.objects.filter(
        batch_id=batch_id, model_index=model_index, state=RequestState.PENDING
    )
    if after is not None:
        rows = rows.extra(where=["(prefix, line) > (%s, %s)"], params=[after.prefix, after.line])
    fields = ("id", "prefix", "line", "offset", "length", "custom_id", "crashes")
    return [Pending(*row) for row in rows.order_by("prefix", "line").values_list(*fields)[:limit]]


_COMMIT = f"""
WITH answer AS (
    SELECT * FROM unnest(
        %(batch)s::text[],
        %(id)s::bigint[], %(state)s::smallint[], %(status_code)s::smallint[], %(response)b::text[],
        %(request_id)s::text[], %(error_code)s::text[], %(error_message)b::text[],
        %(input_tokens)s::integer[], %(cached_tokens)s::integer[], %(output_tokens)s::integer[],
        %(reasoning_tokens)s::integer[]
    ) AS answer (batch, id, state, status_code, response, request_id, error_code, error_message,
                 input_tokens, cached_tokens, output_tokens, reasoning_tokens)
), done AS (
    UPDATE {REQUESTS} request
    SET state = answer.state, status_code = answer.status_code, response = answer.response,
        request_id = answer.request_id, error_code = answer.error_code, error_message = answer.error_message,
        input_tokens = answer.input_tokens, output_tokens = answer.output_tokens, finished_at = now()
    FROM answer
    WHERE request.id = answer.id AND request.batch_id = answer.batch AND request.state = {RequestState.PENDING.value}
    RETURNING answer.*
), sums AS (
    SELECT batch,
           count(*) FILTER (WHERE state = {RequestState.COMPLETED.value}) AS completed,
           count(*) FILTER (WHERE state = {RequestState.FAILED.value}) AS failed,
           sum(input_tokens) AS input_tokens, sum(cached_tokens) AS cached_tokens,
           sum(output_tokens) AS output_tokens, sum(reasoning_tokens) AS reasoning_tokens
    FROM done GROUP BY batch
), active AS (
    {adding("sums")}
), pace AS (
    SELECT * FROM unnest(
        %(paced)s::text[], %(requests_per_second)s::float[], %(tokens_per_second)s::float[], %(oldest)s::interval[],
        %(in_flight)s::integer[], %(latest)s::interval[], %(spent)s::float[], %(deaths)s::smallint[]
    ) AS pace (batch, requests_per_second, tokens_per_second, oldest, in_flight, latest, spent, deaths)
)
UPDATE {BATCHES} batch
SET completed = batch.completed + coalesce(sums.completed, 0), failed = batch.failed + coalesce(sums.failed, 0),
    input_tokens = batch.input_tokens + coalesce(sums.input_tokens, 0),
    cached_tokens = batch.cached_tokens + coalesce(sums.cached_tokens, 0),
    output_tokens = batch.output_tokens + coalesce(sums.output_tokens, 0),
    reasoning_tokens = batch.reasoning_tokens + coalesce(sums.reasoning_tokens, 0),
    requests_per_second = pace.requests_per_second, tokens_per_second = pace.tokens_per_second,
    oldest_sent_at = now() - pace.oldest, in_flight = pace.in_flight,
    last_sent_at = coalesce(now() - pace.latest, batch.last_sent_at),
    in_flight_seconds = batch.in_flight_seconds + pace.spent,
    deaths = coalesce(pace.deaths, batch.deaths),
    leased_until = now() + %(lease)s
FROM pace LEFT JOIN sums USING (batch) WHERE batch.id = pace.batch
"""  # noqa: S608  (table names only)


def commit(
    batch_id: str,
    worker: uuid.UUID,
    outcomes: Sequence[Outcome],
    pace: Pace = UNKNOWN,
) -> BatchSignal:
    """Write outcomes and counts of one batch, and renew its lease. Raises LeaseLost when another worker has it."""
    signal = commit_all(worker, [Entry(batch_id, outcomes, pace)])[batch_id]
    if signal.lost:
        raise LeaseLost(batch_id)
    return signal


def commit_all(worker: uuid.UUID, entries: Sequence[Entry]) -> dict[str, BatchSignal]:
    """Write outcomes and counts of several batches, and renew their leases, in one transaction. Of a batch that another
    worker has nothing is written; the others do not suffer from it. Returns what was seen of each.

    An outcome that the database cannot hold becomes a failure, and does not affect the others.
    """
    try:
        return _commit(worker, entries)
    except (DataError, UnicodeEncodeError) as error:
        if sum(len(entry.outcomes) for entry in entries) > 1:
            first, second = _halves(entries)
            return commit_all(worker, first) | commit_all(worker, second)
        log.exception("Batch %s: an answer cannot be stored", ", ".join(entry.batch_id for entry in entries))
        message = f"The answer cannot be stored: {first_line(error)}"[:MOST_SAID]
        return _commit(
            worker,
            [
                replace(entry, outcomes=[failure(one.id, "invalid_response", message) for one in entry.outcomes])
                for entry in entries
            ],
        )


def _halves(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """The entries as two lists with half of the outcomes each; an entry with several outcomes may be in both."""
    if len(entries) > 1:
        return list(entries[: len(entries) // 2]), list(entries[len(entries) // 2 :])
    entry, half = entries[0], len(entries[0].outcomes) // 2
    return [replace(entry, outcomes=entry.outcomes[:half])], [replace(entry, outcomes=entry.outcomes[half:])]


def _commit(worker: uuid.UUID, entries: Sequence[Entry]) -> dict[str, BatchSignal]:
    with transaction.atomic():
        signals = _look([entry.batch_id for entry in entries], worker, lock=True)
        if kept := [entry for entry in entries if not signals[entry.batch_id].lost]:
            # Django's cursor quotes every answer in Python, which is 400 times slower than sending it as it is.
            with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
                cursor.execute(_COMMIT, _values(kept))
    return signals


def _values(entries: Sequence[Entry]) -> dict[str, Any]:
    outcomes = [one for entry in entries for one in entry.outcomes]
    values: dict[str, Any] = {name: [getattr(one, name) for one in outcomes] for name in Outcome.__dataclass_fields__}
    values["state"] = [int(state) for state in values["state"]]
    values["batch"] = [entry.batch_id for entry in entries for _ in entry.outcomes]
    values["paced"] = [entry.batch_id for entry in entries]
    for name in ("requests_per_second", "tokens_per_second", "in_flight", "spent", "deaths"):
        values[name] = [getattr(entry.pace, name) for entry in entries]
    for name in ("oldest", "latest"):
        ages = [getattr(entry.pace, name) for entry in entries]
        values[name] = [None if age is None else timedelta(seconds=age) for age in ages]
    return values | {"lease": timedelta(seconds=settings.VBS_LEASE_SECONDS)}


def look(batch_ids: Sequence[str], worker: uuid.UUID) -> dict[str, BatchSignal]:
    """Look at these batches without renewing their leases."""
    return _look(batch_ids, worker, lock=False)


def _look(batch_ids: Sequence[str], worker: uuid.UUID, lock: bool) -> dict[str, BatchSignal]:
    rows = Batch.objects.select_for_update(no_key=True) if lock else Batch.objects.all()
    fields = ("pk", "status", "leased_by", "expires_at", "late_at", "now", "priority")
    signals = dict.fromkeys(batch_ids, LOST)
    # Always locked in the same order, so that two of these do not wait for each other.
    found = rows.filter(pk__in=batch_ids).order_by("pk").annotate(now=Now()).values_list(*fields)
    for pk, status, leased_by, expires_at, late_at, now, priority in list(found):
        if leased_by == worker and status in (*RUNNABLE, *CLOSING):
            over = expiry.is_over(Batch.objects.filter(pk=pk), expires_at, late_at, now)
            closed = over or status not in RUNNABLE
            signals[pk] = BatchSignal(priority, closed=closed, late=expires_at <= now)
    return signals


def _hold(batch_id: str, worker: uuid.UUID) -> None:
    """Lock the batch. Raises LeaseLost when another worker has it."""
    if _look([batch_id], worker, lock=True)[batch_id].lost:
        raise LeaseLost(batch_id)


def mark_crashed(batch_id: str, worker: uuid.UUID, ids: Sequence[int]) -> None:
    """Count an engine's death for these requests, which were in flight then."""
    with transaction.atomic():
        _hold(batch_id, worker)
        rows = BatchRequest.objects.filter(pk__in=ids, state=RequestState.PENDING)
        if rows.update(crashes=F("crashes") + 1):
            most = rows.aggregate(most=Max("crashes"))["most"]
            Batch.objects.filter(pk=batch_id).update(deaths=Greatest("deaths", most))


def fail_model(batch_id: str, worker: uuid.UUID, model_index: int | None, code: str, message: str) -> int:
    """Fail every pending request, of one model or of all, with this error. Returns how many there were."""
    with transaction.atomic():
        _hold(batch_id, worker)
        rows = BatchRequest.objects.filter(batch_id=batch_id, state=RequestState.PENDING)
        rows = rows if model_index is None else rows.filter(model_index=model_index)
        failed = rows.update(state=RequestState.FAILED, error_code=code, error_message=message, finished_at=Now())
        Batch.objects.filter(pk=batch_id).update(failed=F("failed") + failed)
        add_failed(batch_id, failed)
    return failed
