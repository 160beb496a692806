"""Addresses that were, and where what they showed is now. What was asked there is left out."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import path
from django.views.decorators.http import require_safe

# Not for ever (302): some of it gets pages of its own.
OLD = {
    "queue-monitor.html": "/queue/",
    "static/queue-monitor.html": "/queue/",
    "static/model-management.html": "/models/",
    "static/conquest-viewer.html": "/batches/",  # until there is curation
    "static/fine-tuning.html": "/models/",  # until there is fine-tuning
    "static/workbench.html": "/batches/",
    "static/benchmark-runner.html": "/models/",
    "config": "/system/settings",
}


@require_safe
def moved(request: HttpRequest, to: str) -> HttpResponse:
    return redirect(to)


urlpatterns = [path(old, moved, {"to": to}) for old, to in OLD.items()]
