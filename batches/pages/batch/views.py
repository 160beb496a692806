"""The page of one batch, its actions and its downloads. A refused action shows a message on the page."""

from collections.abc import Callable
from typing import TypeVar

import orjson
from django import forms
from django.contrib import messages
from django.db import transaction
from django.http import Http404, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render, resolve_url
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import HttpResponseClientRedirect

from batches.export import download
from batches.finish import downloads
from batches.models import MOST_NAME, Batch
from batches.pages.batch import page as detail
from vbs.configuration import audit
from vbs.live.pages import PageGone, changes, show
from vbs.logs import one_line
from vbs.openai.errors import ApiError, Conflict, NotFound
from vbs.pages.access import Request, page
from vbs.pages.confirm import confirm
from vbs.pages.plain import brief

LOG_LINES = 10_000
WRONG = 422  # what was typed cannot be taken
Answer = TypeVar("Answer", bound=HttpResponseBase)


def _find(request: Request, pk: str) -> Batch:
    try:
        return detail.find(request.viewer, pk)
    except PageGone:
        raise Http404 from None


@require_GET
@page()
def batch(request: Request, pk: str) -> HttpResponse:
    try:
        parts = detail.build(request.viewer, request.GET, pk)
    except PageGone:
        raise Http404 from None
    return show(request, "batches/detail/index.html", parts, pk=pk, tab=parts["title"].context["title"])


# What can be done


@require_http_methods(["GET", "POST"])
@page("batches.change_batch")
def cancel(request: Request, pk: str) -> HttpResponseBase:
    """Asks first, and says how many requests would not be run."""
    batch = _find(request, pk)
    if request.method == "POST":
        try:
            with transaction.atomic():
                batch.request_cancel()
                audit.record(request, "batch.cancel", pk, f"{batch.pending:,} requests not run", batch.project)
        except Conflict as refusal:
            messages.error(request, refusal.message)
        else:
            messages.success(request, f"{brief(batch.title, 80)} is being cancelled. What was answered is kept.")
        return redirect("batch", pk)
    if batch.is_terminal:
        messages.error(request, f"{brief(batch.title, 80)} has ended already: it is {batch.status}.")
        return HttpResponseClientRedirect(resolve_url("batch", pk)) if request.htmx else redirect("batch", pk)
    if batch.validated_at is None:
        left = "Its requests are not counted yet; none of them will be run."
    else:
        left = f"{batch.pending:,} of its {batch.total:,} requests will not be run."
    words = [
        left,
        f"The {batch.answered:,} answers so far are kept; its error file names the requests that were not run.",
    ]
    back = resolve_url("batch", pk)
    return confirm(
        request,
        title=f"Cancel {brief(batch.title, 80)}?",
        words=words,
        button="Cancel the batch",
        back=back,
        no="Keep the batch",
    )


class NameForm(forms.Form):
    name = forms.CharField(
        max_length=MOST_NAME, label="Name", widget=forms.TextInput(attrs={"dir": "auto", "autofocus": True})
    )


@require_http_methods(["GET", "POST"])
@page("batches.change_batch")
def name(request: Request, pk: str) -> HttpResponseBase:
    """Gives the batch another name. A GET shows the form."""
    batch = _find(request, pk)
    form = NameForm(request.POST if request.method == "POST" else None, initial={"name": batch.name})
    if form.is_valid():
        before = batch.title
        with transaction.atomic():
            batch.rename(form.cleaned_data["name"])
            audit.record(request, "batch.name", pk, f"{before} → {batch.name}", batch.project)
        return redirect("batch", pk)
    template = "batches/detail/_name.html" if request.htmx else "batches/detail/name.html"
    return render(request, template, {"batch": batch, "form": form}, status=WRONG if form.errors else 200)


@require_POST
@page("batches.add_batch")
def retry(request: Request, pk: str) -> HttpResponseBase:
    """Makes a new batch of the requests that failed or were not run, and shows its page."""
    batch = _find(request, pk)
    try:
        with transaction.atomic():
            again = batch.retry(request.user.get_username())
            audit.record(request, "batch.retry", pk, f"as {again.pk}", batch.project)
    except Conflict as refusal:
        if other := batch.retries.live().first():  # by a second click, or somebody else
            messages.info(request, f"{brief(batch.title, 80)} is being retried already, by this batch.")
            return _to(request, resolve_url("batch", other.pk))
        messages.error(request, refusal.message)
        if request.htmx:
            return changes(request, detail.build(request.viewer, request.GET, pk), request.POST)
        return redirect("batch", pk)
    messages.success(request, f"This batch runs the requests of {pk} that failed or were not run.")
    return _to(request, resolve_url("batch", again.pk))


def _to(request: Request, address: str) -> HttpResponseBase:
    return HttpResponseClientRedirect(address) if request.htmx else redirect(address)


# Downloads


@require_GET
@page()
def results(request: Request, pk: str) -> HttpResponseBase:
    """The results as a table, in the format and with the columns that the query names."""
    try:
        return download.results(request, _find(request, pk), request.GET)
    except ApiError as refusal:
        messages.error(request, refusal.message)
        return redirect("batch", pk)


@require_GET
@page()
def output(request: Request, pk: str) -> HttpResponseBase:
    return _download(request, pk, "output", downloads.output)


@require_GET
@page()
def errors(request: Request, pk: str) -> HttpResponseBase:
    return _download(request, pk, "errors", downloads.errors)


def _download(
    request: Request, pk: str, kind: str, stream: Callable[[Request, Batch], HttpResponseBase]
) -> HttpResponseBase:
    try:
        return _named(stream(request, _find(request, pk)), f"{pk}_{kind}.jsonl")
    except NotFound as refusal:
        messages.error(request, refusal.message)
        return redirect("batch", pk)


@require_GET
@page()
def validation_errors(request: Request, pk: str) -> HttpResponse:
    """All kept validation errors as JSON."""
    found = _find(request, pk).errors or []
    body = orjson.dumps(found, option=orjson.OPT_INDENT_2)
    return _named(HttpResponse(body, content_type="application/json"), f"{pk}_validation_errors.json")


@require_GET
@page()
def log(request: Request, pk: str) -> HttpResponse:
    events = list(_find(request, pk).events.order_by("-id")[:LOG_LINES])
    text = "".join(f"{one_line(str(event))}\n" for event in reversed(events))
    return _named(HttpResponse(text, content_type="text/plain; charset=utf-8"), f"{pk}_log.txt")


def _named(answer: Answer, name: str) -> Answer:
    for header, value in downloads.named(name).items():
        answer.headers[header] = value
    return answer
