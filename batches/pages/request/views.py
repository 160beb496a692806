"""The views of a batch's requests: the table, one request, its parts as files, it in the playground, and run again."""

from collections.abc import AsyncIterator
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from batches.files import blobs
from batches.finish.outputs import output_line, wrong
from batches.models import Batch, BatchRequest
from batches.pages.request import again as anew
from batches.pages.request import page as one
from batches.pages.request import table as many
from batches.pages.request.again import AgainForm
from batches.pages.request.chosen import Chosen
from batches.pages.request.page import Shown
from models_registry.pages.playground import code
from models_registry.pages.playground.draft import draft
from models_registry.pages.playground.views import MAY, show
from models_registry.serving import engines
from vbs.configuration import audit
from vbs.live.pages import PageGone
from vbs.openai import raw_json, routes
from vbs.openai.errors import ApiError, refusal
from vbs.openai.raw_json import Members
from vbs.pages.access import Request, page
from vbs.pages.plain import MOST, brief

SIDES = {"prompt": one.prompt, "answer": one.answer}
BODY = "body"  # of the call, as a file of its own


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
    chosen = Chosen.of(request.GET)
    sides = [show(batch, row) for show in SIDES.values()]
    context: dict[str, Any] = {
        "batch": batch,
        "row": row,
        "within": chosen.query(),
        "state": row.get_state_display().lower(),
        "model": _model(batch, row),
        "wrong": wrong(row),
        "sides": sides,
        "curl": _curl(request, batch, row, sides[0]),
        "again": AgainForm() if sides[0].there else None,
        "beside": one.neighbours(batch, line, chosen),
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
        body = _body(batch, row, one.prompt(batch, row))
    except one.Unreadable as error:
        messages.error(request, f"It cannot be opened in the playground. {error}")
        return redirect("batch-request", pk, line)
    return show(request, draft(batch.endpoint, body), batch.project_id, batch=batch, line=line)


@require_POST
@page("batches.add_batch")
def again(request: Request, pk: str, line: int) -> HttpResponseBase:
    """Makes a batch of this request alone, once however often the button is sent, and shows its page."""
    batch, row = _found(request, pk, line)
    if row is None:
        return redirect("batch-requests", pk)

    def created(made: Batch) -> None:
        audit.record(request, "batch.create", made.pk, f"line {line} of {pk}", batch.project)

    form = AgainForm(request.POST)
    why = one.gone(batch)
    if not form.is_valid():
        why = " ".join(str(error) for error in form.errors["once"])
    if not why:
        try:
            mark = f"{once} {pk} {line}" if (once := form.cleaned_data["once"]) else ""
            new, is_new = anew.run(batch, row, mark, request.user.get_username(), created)
            if is_new:
                messages.success(request, f"This batch runs line {line:,} of {brief(batch.title, 80)} again.")
            else:
                messages.info(request, "This batch was created by that button already.")
            return redirect("batch", new)
        except ApiError as error:
            why = error.message
        except blobs.troubles() as error:
            refused = refusal(error, request)
            why = refused.message if refused else f"Its line cannot be read now ({type(error).__name__})."
    messages.error(request, f"The request is not run again. {why}")
    return redirect("batch-request", pk, line)


@require_GET
@page()
def download(request: Request, pk: str, line: int, side: str) -> HttpResponseBase:
    """The line of the input or output file; with `text`, one of its texts. The body of the call alone."""
    batch, row = _found(request, pk, line)
    if row is None or side not in (*SIDES, BODY):
        raise Http404
    name = f"{batch.pk}_{line}_{side}"
    if side == BODY:
        try:
            body = raw_json.text_of(_body(batch, row, one.prompt(batch, row)))
        except one.Unreadable as error:
            raise Http404 from error
        return _attached(body, f"{name}.json", "application/json")
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


def _body(batch: Batch, row: BatchRequest, shown: Shown) -> Members:
    """The body of the call, with its model, which the batch may have named. Raises Unreadable."""
    body = one.body(shown)
    if "model" not in body:
        body["model"] = raw_json.raw(_model(batch, row))
    return body


def _curl(request: Request, batch: Batch, row: BatchRequest, shown: Shown) -> dict[str, Any] | None:
    """The command that sends this request directly. of_file: it takes the body from a file, because it is long. None
    where it cannot be sent so."""
    if batch.endpoint not in routes.INTERACTIVE or engines.refusal() is not None:
        return None
    try:
        body = code.one_line(_body(batch, row, shown))
    except one.Unreadable:
        return None
    of_file = len(body) > MOST
    server = f"{request.scheme}://{request.get_host()}"
    data = f"@{batch.pk}_{row.line}_{BODY}.json" if of_file else body
    return {"command": code.curl(server, batch.endpoint, data), "of_file": of_file}


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
