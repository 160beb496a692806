"""The requests of a batch as a table: one page of rows, filtered by state and by words of the custom_id.

Nothing is counted, because the batch has the counts of its requests. The index on (batch, line) finds a page from its
first line, so the last page costs what the first one costs.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.parse import urlencode

import psycopg
from django.db import OperationalError, connection, transaction
from django.db.models import Case, F, Func, IntegerField, TextField, When
from django.db.models.functions import Left
from django.urls import reverse

from batches.finish.outputs import NOT_RUN
from batches.models import Batch, BatchRequest, BatchStatus, RequestState
from batches.pages.new.beginning import beginning
from batches.pages.request.prompts import beginnings
from vbs.live.pages import PageGone
from vbs.pages.plain import brief
from vbs.pages.viewer import Viewer

PAGE = 50
WHOLE = 100_000  # bytes of an answer that are read to say how it begins; of a longer one, so many characters:
CUT = 2000
MOST_SECONDS = 5  # that looking for requests may take
MOST_LINE = 2**31 - 1
STATES = {state.name.lower(): state for state in RequestState}
SIZE = Func(F("response"), function="octet_length", output_field=IntegerField())  # known without reading it


def response(most: int, characters: int) -> Case:
    """The answers to rows with SIZE as `size`: an answer of at most so many bytes, else its first characters."""
    cut = Left("response", characters)
    return Case(When(size__lte=most, then=F("response")), default=cut, output_field=TextField())


class TooSlow(Exception):
    """The search took too long and was ended."""


def batch_of(viewer: Viewer, pk: str) -> Batch:
    """The batch with this id, if the viewer may see it. Raises PageGone."""
    rows = viewer.all_own(Batch.objects.filter(hidden=False)).select_related("input_file")
    if "\0" in pk or (batch := rows.filter(pk=pk).first()) is None:
        raise PageGone(pk)
    return batch


@contextmanager
def limited(seconds: int = MOST_SECONDS) -> Iterator[None]:
    """Ends a statement in the block that takes longer. Raises TooSlow."""
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", [f"{seconds}s"])
            yield
    except OperationalError as error:
        if isinstance(error.__cause__, psycopg.errors.QueryCanceled):
            raise TooSlow from error
        raise


def build(viewer: Viewer, query: Mapping[str, str], pk: str) -> dict[str, Any]:
    """The table on a page of its own. Raises PageGone."""
    return of(batch_of(viewer, pk), query, "batch-requests")


def of(batch: Batch, query: Mapping[str, str], page: str, most: int = PAGE) -> dict[str, Any]:
    """The rows and the filters of the table. why: why rows are missing.

    query: state, q, and after or before, which are lines. A value that cannot be understood is ignored. page: the name
    of its address. most: rows of a page.
    """
    state = query.get("state", "") if query.get("state") in STATES else ""
    search = query.get("q", "").replace("\0", "").strip()[:512]
    after, before = _line(query.get("after")), _line(query.get("before"))
    url = reverse(page, args=[batch.pk])
    chosen = {name: value for name, value in (("state", state), ("q", search)) if value}

    def to(**more: object) -> str:
        given = chosen | more
        return f"{url}?{urlencode({name: value for name, value in given.items() if value != ''})}".rstrip("?")

    counts = _counts(batch)
    lines: list[int] = []
    has_before = has_after = False
    why = ""
    if not batch.purged_at and counts[state] != 0:
        try:
            lines, has_before, has_after = _lines(batch, state, search, after, before, most)
        except TooSlow:
            why = f"The search was stopped after {MOST_SECONDS} seconds. The output file has every custom_id."
    if not lines and not why and not batch.purged_at:
        why = _why_none(batch, bool(chosen or after or before))
    at = {"before": before} if before else {"after": after} if after else {}
    return {
        "batch": batch,
        "url": url,
        "refresh": to(**at),
        "state": state,
        "search": search,
        "choices": [(name or "all", counts[name], to(state=name), name == state) for name in ("", *STATES)],
        "rows": list(_rows(batch, lines)),
        "before": to(before=lines[0]) if has_before else "",
        "after": to(after=lines[-1]) if has_after else "",
        "why": why,
    }


def _line(given: str | None) -> int:
    return min(int(given[:20]), MOST_LINE) if given and given.isascii() and given.isdigit() else 0


def _counts(batch: Batch) -> dict[str, int]:
    """The number of requests by state."""
    expired = batch.outcome == BatchStatus.EXPIRED
    return {
        "": batch.total,
        "pending": batch.pending,
        "completed": batch.completed,
        "failed": batch.counts.failures,
        "expired": batch.not_run if expired else 0,
        "cancelled": 0 if expired else batch.not_run,
    }


def _lines(batch: Batch, state: str, search: str, after: int, before: int, most: int) -> tuple[list[int], bool, bool]:
    """The lines of a page, and whether there are more before and after them. Raises TooSlow.

    A state or a search walks along the index until it has found a page, and reads each row that it passes (not its
    answer, which is stored apart when it is long). At worst that is every row of this one batch: for 50,000 some
    50 ms, for millions seconds, which is why it is limited. An index for every part of every custom_id would cost
    each batch more than the few searches do.
    """
    rows = BatchRequest.objects.filter(batch=batch)
    if state:
        rows = rows.filter(state=STATES[state])
    if search:
        rows = rows.filter(custom_id__contains=search)
    backwards = before > 0
    rows = rows.filter(line__lt=before).order_by("-line") if backwards else rows.filter(line__gt=after).order_by("line")
    with limited() if state or search else nullcontext():
        found = list(rows.values_list("line", flat=True)[: most + 1])
    more, lines = len(found) > most, found[:most]
    if backwards:
        return lines[::-1], more, bool(lines)
    return lines, after > 0 and bool(lines), more


def _rows(batch: Batch, lines: list[int]) -> Iterator[dict[str, Any]]:
    """Read in a second query, so that only the answers that are shown are read."""
    if not lines:
        return
    found = BatchRequest.objects.filter(batch=batch, line__in=lines).order_by("line")
    columns = (
        "line",
        "offset",
        "length",
        "custom_id",
        "state",
        "status_code",
        "input_tokens",
        "output_tokens",
        "finished_at",
        "error_code",
    )
    read = found.annotate(size=SIZE, read=response(WHOLE, CUT), said=Left("error_message", CUT))
    rows = list(read.values(*columns, "size", "read", "said"))
    prompts = beginnings(batch, [(row["line"], row["offset"], row["length"]) for row in rows])
    for row in rows:
        state = RequestState(row["state"])
        if wrong := state in RequestState.in_error_file():
            words = (row["error_code"], row["said"]) if state == RequestState.FAILED else NOT_RUN[state][1:]
            answer = brief(": ".join(word for word in words if word))
        else:
            answer = beginning(row["read"], (row["size"] or 0) <= WHOLE)
        name = "not run" if state == RequestState.PENDING and batch.is_terminal else state.name.lower()
        yield row | {"state": name, "prompt": prompts.get(row["line"], ""), "answer": answer, "wrong": wrong}


def _why_none(batch: Batch, chosen: bool) -> str:
    if chosen and batch.total:
        return "No request matches."
    if batch.status == BatchStatus.FAILED:
        return "There are no requests, because the input file failed validation. The batch's page says why."
    if batch.validated_at is None and not batch.is_terminal:
        return "The input file is still being read; its requests are listed as soon as it has been."
    return "This batch has no requests."
