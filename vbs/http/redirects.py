"""Addresses that were, and where what they showed is now; what was asked there is left out. And the address of a page
that was asked for with a slash too many or too few."""

import re

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import Resolver404, path, resolve
from django.utils.encoding import escape_uri_path
from django.views.decorators.http import require_safe

MOST_ADDRESS = 8_000  # characters; nobody types more, and Django redirects to no more than twice that

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


def slashed(request: HttpRequest) -> str:
    """Where a page is, of an address at which nothing is: beginning with one slash, so here. Empty when there is none.

    Where both lead somewhere (`/batches/new/` would be the batch `new`), the one that names more itself is meant; so
    nobody is sent back and forth.
    """
    if request.method not in ("GET", "HEAD") or {".", ".."} & {*request.path_info.split("/")}:  # browsers resolve those
        return ""
    plain = re.sub("/{2,}", "/", request.path_info)
    toggled = plain.rstrip("/") if plain.endswith("/") else f"{plain}/"
    ways = [(parts, found) for found in (plain, toggled) if (parts := _open_parts(found)) is not None]
    here = _open_parts(request.path_info)
    if not ways or (here is not None and min(ways)[0] >= here):
        return ""
    query = request.META.get("QUERY_STRING", "")
    right = escape_uri_path(min(ways)[1]) + (f"?{query}" if query else "")
    return right if len(right) <= MOST_ADDRESS else ""


def _open_parts(address: str) -> int | None:
    """How many parts of this address its route leaves open; None where it is no address."""
    try:
        found = resolve(address)
    except Resolver404:
        return None
    return len(found.args) + len(found.kwargs)
