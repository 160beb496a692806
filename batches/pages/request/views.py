"""The views of a batch's requests: the table, one request, its call or answer as a file, and it in the playground."""

from collections.abc import AsyncIterator
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET

from batches.files import blobs
from batches.finish.outputs import output_line, wrong
from batches.models import Batch, BatchRequest
from batches.pages.request import page as one
from batches.pages.request import table as many
from models_registry.pages.playground.draft import draft
from models_registry.pages.playground.views import MAY, show
from vbs.live.pages import PageGone
from vbs.openai import raw_json
from vbs.pages.access import Request, page

SIDES = {"prompt": one.prompt, "answer": one.answer}


@require_GET
@page()
def requests(request: Request, pk: str) -> HttpResponse:
    """The table; htmx gets the table without the page."""
    try:
        table = many.build(request.viewer, request.GET, pk)
    except PageGone as gone:
        raise Http404 from gone
    template = "batches/requests/_table.html" if request.htmx else "batches/requests/index.html"
    return render(request, template, table)


@require_GET
@page()
def request(request: Request, pk: str, line: int) -> HttpResponseBase:
    batch, row = _found(request, pk, line)
    if row is None:
        return redirect("batch-requests", pk)  # its page says that the requests are no longer kept
    context: dict[str, Any] = {
        "batch": batch,
        "row": row,
        "state": row.get_state_display().lower(),
        "model": _model(batch, row),
        "wrong": wrong(row),
        "sides": [show(batch, row) for show in SIDES.values()],
        "beside": one.neighbours(batch, line),
    }
    return render(request, "batches/requests/request.html", context)


@require_GET
@page(MAY)
def playground(request: Request, pk: str, line: int) -> HttpResponseBase:
    """The request in the playground, to change it and send it again."""
    batch, row = _found(request, pk, line)
    if row is None:
        return redirect("batch-requests", pk)
    try:
        body = one.body(batch, row)
    except one.Unreadable as error:
        messages.error(request, f"It cannot be opened in the playground. {error}")
        return redirect("batch-request", pk, line)
    if "model" not in body:  # the batch named it
        body["model"] = raw_json.raw(_model(batch, row))
    return show(request, draft(batch.endpoint, body), batch.project_id, batch=batch, line=line)


@require_GET
@page()
def download(request: Request, pk: str, line: int, side: str) -> HttpResponseBase:
    """The line of the input or output file; with `text`, one of its texts."""
    batch, row = _found(request, pk, line)
    if row is None or side not in SIDES:
        raise Http404
    name = f"{batch.pk}_{line}_{side}"
    if "text" in request.GET:
        return _attached(_text(batch, row, side, request.GET["text"]), f"{name}.txt", "text/plain; charset=utf-8")
    if side == "answer":
        whole = BatchRequest.objects.get(pk=row.pk)
        return _attached(output_line(whole), f"{name}.jsonl", "application/jsonl")
    if one.gone(batch):
        raise Http404
    return _attached(_line(batch, row), f"{name}.jsonl", "application/jsonl")


def _found(request: Request, pk: str, line: int) -> tuple[Batch, BatchRequest | None]:
    """The row is None when the batch's requests were deleted."""
    try:
        batch = many.batch_of(request.viewer, pk)
        return batch, None if batch.purged_at else one.find(batch, line)
    except PageGone as gone:
        raise Http404 from gone


def _model(batch: Batch, row: BatchRequest) -> str:
    names = batch.model_names
    return names[row.model_index] if row.model_index < len(names) else ""


def _text(batch: Batch, row: BatchRequest, side: str, place: str) -> bytes:
    pieces = SIDES[side](batch, row).clips
    if not (place.isascii() and place.isdigit() and len(place) < 5 and int(place) < len(pieces)):
        raise Http404
    return pieces[int(place)][0].text.encode(errors="replace")


def _line(batch: Batch, row: BatchRequest) -> bytes | AsyncIterator[bytes]:
    try:
        first = one.read(batch, row)
    except Exception as error:  # storages raise many kinds of errors
        raise Http404 from error
    return first if row.length <= one.MOST else _pieces(batch, row, first)


async def _pieces(batch: Batch, row: BatchRequest, first: bytes) -> AsyncIterator[bytes]:
    assert batch.input_file is not None
    yield first
    async for piece in blobs.parts(batch.input_file.blob, row.offset + len(first), row.length - len(first)):
        yield piece


def _attached(content: bytes | AsyncIterator[bytes], name: str, kind: str) -> HttpResponseBase:
    """As a download, which no browser shows or runs."""
    response: HttpResponseBase
    if isinstance(content, bytes):
        response = HttpResponse(content, content_type=kind)
    else:
        response = StreamingHttpResponse(content, content_type=kind)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
