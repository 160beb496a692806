"""The page of the queue and its actions: pause it, resume it, and set a priority."""

from django import forms
from django.contrib import messages
from django.db import transaction
from django.http import Http404, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.html import format_html
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from batches.models import PRIORITIES, Batch, Pause
from batches.pages.queue.page import build
from batches.queue import pauses, snapshot
from vbs.configuration import audit
from vbs.live.pages import changes, show
from vbs.openai.errors import Conflict
from vbs.pages.access import Request, page, way_back
from vbs.pages.templatetags.words import exact
from vbs.pages.words import number

WRONG = 422  # what was typed cannot be taken
LOWEST, HIGHEST = PRIORITIES[0], PRIORITIES[-1]


class PauseForm(forms.Form):
    reason = forms.CharField(
        required=False,
        max_length=Pause._meta.get_field("reason").max_length,
        label="Why",
        help_text="Everybody who looks at the queue sees it.",
        widget=forms.TextInput(attrs={"dir": "auto", "autofocus": True}),
    )


class PriorityForm(forms.Form):
    """The new priority, or the change of the present one."""

    priority = forms.IntegerField(
        required=False,
        min_value=LOWEST,
        max_value=HIGHEST,
        label=f"From {LOWEST} to {HIGHEST}",
        help_text="A batch with a higher priority runs first; it interrupts a running one within seconds.",
    )
    by = forms.IntegerField(
        required=False,
        min_value=LOWEST - HIGHEST,
        max_value=HIGHEST - LOWEST,
        widget=forms.HiddenInput,
    )

    def wanted(self, now: int) -> int | None:
        """The new priority, or None when the text is not a priority."""
        if not self.is_valid():
            return None
        if (step := self.cleaned_data["by"]) is not None:
            return int(min(HIGHEST, max(LOWEST, now + step)))
        wanted: int | None = self.cleaned_data["priority"]
        return wanted


@require_GET
@page()
def queue(request: Request) -> HttpResponse:
    return _queue(request)


def _queue(request: Request, status: int = 200) -> HttpResponse:
    return show(request, "batches/queue/index.html", build(request.viewer, request.GET), status)


@require_http_methods(["GET", "POST"])
@page("batches.change_pause")
def pause(request: Request) -> HttpResponseBase:
    """Asks first, and says what the pause interrupts."""
    form = PauseForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        with transaction.atomic():
            held = pauses.current()
            if held is None:
                held = pauses.pause(request.user.get_username(), form.cleaned_data["reason"])
                audit.record(request, "queue.pause", detail=held.reason)
                messages.success(request, "The queue is paused. Nothing is lost.")
            else:
                messages.info(request, format_html("The queue is paused already, since {}.", exact(held.began_at)))
        snapshot.forget()
        return redirect("queue")
    template = "batches/queue/_pause.html" if request.htmx else "batches/queue/pause.html"
    context = {"form": form, "running": Batch.objects.running().count()}
    return render(request, template, context, status=WRONG if form.errors else 200)


@require_POST
@page("batches.change_pause")
def resume(request: Request) -> HttpResponseBase:
    with transaction.atomic():
        if pauses.resume(request.user.get_username()):
            audit.record(request, "queue.resume")
            messages.success(request, "The queue is resumed.")
        else:
            messages.info(request, "The queue was not paused.")
    snapshot.forget()
    return _done(request)


@require_http_methods(["GET", "POST"])
@page("batches.change_batch")
def priority(request: Request, pk: str) -> HttpResponseBase:
    """Sets the priority to `priority`, or adds `by` to it. next: the page to return to. A GET shows the form."""
    if "\0" in pk:
        raise Http404
    rows = request.viewer.all_own(Batch.objects.filter(hidden=False))
    if request.method == "GET":
        batch: Batch = get_object_or_404(rows, pk=pk)
        template = "batches/queue/_priority.html" if request.htmx else "batches/queue/priority.html"
        form = PriorityForm(initial={"priority": batch.priority})
        return render(request, template, {"batch": batch, "form": form})
    with transaction.atomic():
        batch = get_object_or_404(rows.select_for_update(), pk=pk)
        before = batch.priority
        wanted = PriorityForm(request.POST).wanted(before)
        if wanted is None:
            given = request.POST.get("priority") or request.POST.get("by") or ""
            words = f"'{given[:50]}' is no priority: it must be a whole number from {LOWEST} to {HIGHEST}."
            messages.error(request, words)
            return _done(request, WRONG)
        try:
            batch.set_priority(wanted)
        except Conflict as conflict:
            messages.error(request, conflict.message)
        else:
            if wanted != before:
                audit.record(request, "batch.priority", pk, f"{before} → {wanted}", project=batch.project_id)
            messages.success(request, f"{pk} has priority {number(wanted)}.")
    snapshot.forget()
    return _done(request)


def _done(request: Request, status: int = 200) -> HttpResponseBase:
    """Returns to the page, or sends htmx the parts that changed; other pages than the queue's get their changes by
    socket."""
    elsewhere = way_back(request, request.POST.get("next", ""))
    if request.htmx:
        response = changes(request, {} if elsewhere else build(request.viewer, request.GET), request.POST)
        response.status_code = status
        return response
    if elsewhere:
        return HttpResponseRedirect(elsewhere)
    return _queue(request, status) if status != 200 else redirect("queue")
