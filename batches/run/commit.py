"""The runner's statements: read pending requests, write outcomes. Each is one transaction and checks the lease.

An outcome counts only if its request is still pending. So committing it twice, or late, changes nothing.
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
from django.conf import settings
from django.db import DataError, connection, transaction
from django.db.models import F
from django.db.models.functions import Now

from batches.models import CLOSING, RUNNABLE, Batch, BatchRequest, LeaseLost, RequestState, expiry
from batches.models.requests import add_failed, adding
from batches.run.outcomes import Outcome, failure
from batches.run.pace import UNKNOWN, Pace
from vbs.database.outages import first_line

log = logging.getLogger(__name__)

MOST_SAID = 500  # characters of the database's message
REQUESTS = BatchRequest._meta.db_table
BATCHES = Batch._meta.db_table
MOST_CRASHES = 32_767


@dataclass(frozen=True, slots=True)
class Pending:
    """A request to run: the id of its row, and where its line is in the input file."""

    id: int
    prefix: uuid.UUID
    line: int
    offset: int
    length: int
    custom_id: str


@dataclass(frozen=True)
class BatchSignal:
    """What a look at the batch's row showed."""

    closed: bool  # cancelled, or expired
    late: bool  # it seems to be expired: nothing new is sent until a second look agrees


def pending(
    batch_id: str, model_index: int, crashes: tuple[int, int], after: Pending | None, limit: int
) -> list[Pending]:
    """The next requests to run, those with the same prefix together. crashes: the least and the most, inclusive."""
    rows = BatchRequest.objects.filter(
        batch_id=batch_id, model_index=model_index, state=RequestState.PENDING, crashes__range=crashes
    )
    if after is not None:
        rows = rows.extra(where=["(prefix, line) > (%s, %s)"], params=[after.prefix, after.line])
    fields = rows.order_by("prefix", "line").values_list("id", "prefix", "line", "offset", "length", "custom_id")
    return [Pending(*row) for row in fields[:limit]]


_COMMIT = f"""
WITH answer AS (
    SELECT * FROM unnest(
        %(id)s::bigint[], %(state)s::smallint[], %(status_code)s::smallint[], %(response)b::text[],
        %(request_id)s::text[], %(error_code)s::text[], %(error_message)b::text[],
        %(input_tokens)s::integer[], %(cached_tokens)s::integer[], %(output_tokens)s::integer[],
        %(reasoning_tokens)s::integer[]
    ) AS answer (id, state, status_code, response, request_id, error_code, error_message,
                 input_tokens, cached_tokens, output_tokens, reasoning_tokens)
), done AS (
    UPDATE {REQUESTS} request
    SET state = answer.state, status_code = answer.status_code, response = answer.response,
        request_id = answer.request_id, error_code = answer.error_code, error_message = answer.error_message,
        input_tokens = answer.input_tokens, output_tokens = answer.output_tokens, finished_at = now()
    FROM answer
    WHERE request.id = answer.id AND request.batch_id = %(batch)s AND request.state = {RequestState.PENDING.value}
    RETURNING answer.*
), sums AS (
    SELECT count(*) FILTER (WHERE state = {RequestState.COMPLETED.value}) AS completed,
           count(*) FILTER (WHERE state = {RequestState.FAILED.value}) AS failed,
           coalesce(sum(input_tokens), 0) AS input_tokens, coalesce(sum(cached_tokens), 0) AS cached_tokens,
           coalesce(sum(output_tokens), 0) AS output_tokens, coalesce(sum(reasoning_tokens), 0) AS reasoning_tokens
    FROM done
), active AS (
    {adding("sums")}
)
UPDATE {BATCHES} batch
SET completed = batch.completed + sums.completed, failed = batch.failed + sums.failed,
    input_tokens = batch.input_tokens + sums.input_tokens, cached_tokens = batch.cached_tokens + sums.cached_tokens,
    output_tokens = batch.output_tokens + sums.output_tokens,
    reasoning_tokens = batch.reasoning_tokens + sums.reasoning_tokens,
    requests_per_second = %(requests_per_second)s, tokens_per_second = %(tokens_per_second)s,
    oldest_sent_at = now() - %(oldest)s::interval, in_flight = %(in_flight)s,
    last_sent_at = coalesce(now() - %(latest)s::interval, batch.last_sent_at),
    in_flight_seconds = batch.in_flight_seconds + %(spent)s,
    leased_until = now() + %(lease)s
FROM sums WHERE batch.id = %(batch)s
"""  # noqa: S608  (table names only)


def commit(
    batch_id: str,
    worker: uuid.UUID,
    outcomes: Sequence[Outcome],
    pace: Pace = UNKNOWN,
) -> BatchSignal:
    """Write outcomes and counts, and renew the lease. Raises LeaseLost when another worker has it.

    An outcome that the database cannot hold becomes a failure, and does not affect the others.
    """
    try:
        return _commit(batch_id, worker, outcomes, pace)
    except (DataError, UnicodeEncodeError) as error:
        half = len(outcomes) // 2
        if not half:
            log.exception("An answer cannot be stored")
            message = f"The answer cannot be stored: {first_line(error)}"[:MOST_SAID]
            outcomes = [failure(one.id, "invalid_response", message) for one in outcomes]
            return _commit(batch_id, worker, outcomes, pace)
        commit(batch_id, worker, outcomes[:half], pace)
        return commit(batch_id, worker, outcomes[half:], pace)


def _commit(
    batch_id: str,
    worker: uuid.UUID,
    outcomes: Sequence[Outcome],
    pace: Pace,
) -> BatchSignal:
    values: dict[str, Any] = {name: [getattr(one, name) for one in outcomes] for name in Outcome.__dataclass_fields__}
    values["state"] = [int(state) for state in values["state"]]
    values |= {"requests_per_second": pace.requests_per_second, "tokens_per_second": pace.tokens_per_second}
    values |= {"in_flight": pace.in_flight, "spent": pace.spent}
    ago = {"oldest": pace.oldest, "latest": pace.latest}
    values |= {name: None if one is None else timedelta(seconds=one) for name, one in ago.items()}
    values |= {"batch": batch_id, "lease": timedelta(seconds=settings.VBS_LEASE_SECONDS)}
    with transaction.atomic():
        signal = _look(batch_id, worker, lock=True)
        # Django's cursor quotes every answer in Python, which is 400 times slower than sending it as it is.
        with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
            cursor.execute(_COMMIT, values)
    return signal


def check_lease(batch_id: str, worker: uuid.UUID) -> BatchSignal:
    """Check the lease without renewing it. Raises LeaseLost."""
    return _look(batch_id, worker, lock=False)


def _look(batch_id: str, worker: uuid.UUID, lock: bool) -> BatchSignal:
    rows = Batch.objects.select_for_update(no_key=True) if lock else Batch.objects.all()
    fields = rows.annotate(now=Now()).values_list("status", "leased_by", "expires_at", "late_at", "now")
    status, leased_by, expires_at, late_at, now = fields.get(pk=batch_id)
    if leased_by != worker or status not in (*RUNNABLE, *CLOSING):
        raise LeaseLost(batch_id)
    over = expiry.is_over(Batch.objects.filter(pk=batch_id), expires_at, late_at, now)
    return BatchSignal(closed=over or status not in RUNNABLE, late=expires_at <= now)


def mark_crashed(batch_id: str, worker: uuid.UUID, ids: Sequence[int]) -> None:
    """Count an engine's death for these requests, which were in flight then."""
    with transaction.atomic():
        _look(batch_id, worker, lock=True)
        BatchRequest.objects.filter(pk__in=ids, state=RequestState.PENDING).update(crashes=F("crashes") + 1)


def fail_model(batch_id: str, worker: uuid.UUID, model_index: int | None, code: str, message: str) -> int:
    """Fail every pending request, of one model or of all, with this error. Returns how many there were."""
    with transaction.atomic():
        _look(batch_id, worker, lock=True)
        rows = BatchRequest.objects.filter(batch_id=batch_id, state=RequestState.PENDING)
        rows = rows if model_index is None else rows.filter(model_index=model_index)
        failed = rows.update(state=RequestState.FAILED, error_code=code, error_message=message, finished_at=Now())
        Batch.objects.filter(pk=batch_id).update(failed=F("failed") + failed)
        add_failed(batch_id, failed)
    return failed
