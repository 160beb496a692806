"""The requests of a batch as a table: one page of rows, filtered by state, words and custom_id."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from django.db.models.functions import Left
from django.urls import reverse

from batches.finish.outputs import NOT_RUN
from batches.models import Batch, BatchRequest, BatchStatus, RequestState, SearchIndex
from batches.pages.new.beginning import beginning
from batches.pages.request import hits
from batches.pages.request.chosen import MOST_SECONDS, STATES, Chosen, TooSlow, lines, searched
from batches.pages.request.prompts import beginnings
from vbs.live.pages import PageGone
from vbs.pages.plain import brief
from vbs.pages.viewer import Viewer
from vbs.pages.words import number

PAGE = 50
WHOLE = 100_000  # bytes of an answer that are read to say how it begins; of a longer one, so many characters:
CUT = 2000
MOST_LINE = 2**31 - 1


def batch_of(viewer: Viewer, pk: str) -> Batch:
    """The batch with this id, if the viewer may see it. Raises PageGone."""
    rows = viewer.all_own(Batch.objects.filter(hidden=False)).select_related("input_file")
    if "\0" in pk or (batch := rows.filter(pk=pk).first()) is None:
        raise PageGone(pk)
    return batch


def build(viewer: Viewer, query: Mapping[str, str], pk: str) -> dict[str, Any]:
    """The table on a page of its own. Raises PageGone."""
    return of(batch_of(viewer, pk), query, "batch-requests")


def of(batch: Batch, query: Mapping[str, str], page: str, most: int = PAGE) -> dict[str, Any]:
    """The rows and the filters of the table. why: why rows are missing.

    query: state, q, words, and after or before, which are lines. A value that cannot be understood is ignored. page:
    the name of its address. most: rows of a page.
    """
    chosen = Chosen.of(query)
    after, before = _line(query.get("after")), _line(query.get("before"))
    url = reverse(page, args=[batch.pk])
    counts = _counts(batch)
    index = searched(chosen, batch)
    found: list[int] = []
    why = chosen.why_none
    if not why and not batch.purged_at and counts[chosen.state] != 0:
        try:
            found = lines(batch, chosen, index, before or after, before > 0, most + 1)
        except TooSlow:
            remedy = "Add a word that fewer have." if chosen.words else "The output file has every custom_id."
            why = f"The search was stopped after {MOST_SECONDS} seconds. {remedy}"
    has_more, found = len(found) > most, found[:most]
    if before:
        found, has_before, has_after = found[::-1], has_more, bool(found)
    else:
        has_before, has_after = after > 0 and bool(found), has_more
    if not found and not why and not batch.purged_at:
        why = _why_none(batch, bool(chosen.narrows or after or before))
    at = {"before": before} if before else {"after": after} if after else {}
    return {
        "batch": batch,
        "url": url,
        "refresh": url + chosen.query(**at),
        "state": chosen.state,
        "search": chosen.custom_id,
        "words": chosen.words,
        "searching": _searching(batch, index) if chosen.words and not batch.purged_at else "",
        "choices": [
            (name or "all", counts[name], url + replace(chosen, state=name).query(), name == chosen.state)
            for name in ("", *STATES)
        ],
        "rows": list(_rows(batch, found, chosen)),
        "before": url + chosen.query(before=found[0]) if has_before else "",
        "after": url + chosen.query(after=found[-1]) if has_after else "",
        "why": why,
    }


def _searching(batch: Batch, index: SearchIndex | None) -> str:
    """How much of the batch is searched, where that is not all."""
    done = index.requests if index else 0
    if done >= batch.total:
        return ""
    rest = "the rest is being indexed" if batch.is_terminal else "the others have no answer yet, or are being indexed"
    return f"Searching {number(done)} of {number(batch.total)} requests; {rest}."


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


def _rows(batch: Batch, lines: list[int], chosen: Chosen) -> Iterator[dict[str, Any]]:
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
    read = found.with_answer(WHOLE, CUT).annotate(said=Left("error_message", CUT))
    rows = list(read.values(*columns, "size", "read", "said"))
    places = [(row["line"], row["offset"], row["length"]) for row in rows]
    prompts = beginnings(batch, places)
    marked = hits.of(batch, places, rows, chosen.terms, WHOLE) if chosen.words else {}
    for row in rows:
        state = RequestState(row["state"])
        if wrong := state in RequestState.in_error_file():
            words = (row["error_code"], row["said"]) if state == RequestState.FAILED else NOT_RUN[state][1:]
            answer = brief(": ".join(word for word in words if word))
        else:
            answer = beginning(row["read"], (row["size"] or 0) <= WHOLE)
        name = "not run" if state == RequestState.PENDING and batch.is_terminal else state.name.lower()
        address = reverse("batch-request", args=[batch.pk, row["line"]]) + chosen.query()
        row |= {"address": address, "state": name, "answer": answer, "wrong": wrong}
        yield row | {"prompt": prompts.get(row["line"], ""), "marked": marked.get(row["line"])}


def _why_none(batch: Batch, chosen: bool) -> str:
    if chosen and batch.total:
        return "No request matches."
    if batch.status == BatchStatus.FAILED:
        return "There are no requests, because the input file failed validation. The batch's page says why."
    if batch.validated_at is None and not batch.is_terminal:
        return "The input file is still being read; its requests are listed as soon as it has been."
    return "This batch has no requests."
