"""Redirects: from addresses of earlier versions, whose query is dropped, and from addresses with a slash too many or
too few."""

import re

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import Resolver404, path, resolve
from django.utils.encoding import escape_uri_path
from django.views.decorators.http import require_safe

MOST_ADDRESS = 8_000  # characters; nobody types more, and Django redirects to no more than twice that

# With status 302, not 301: some of these get pages of their own later.
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


def corrected_address(request: HttpRequest) -> str:
    """The address that was meant, with its slashes put right; empty when there is none, or for another method.

    It begins with one slash, so it is on this server. Where two addresses exist (`/batches/new/` could be the batch
    `new`), the one whose route has fewer variable parts is meant, so nobody is redirected back and forth.
    """
    if request.method not in ("GET", "HEAD") or {".", ".."} & {*request.path_info.split("/")}:  # browsers resolve these
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
    """How many variable parts the route of this address has; None when no route matches."""
    try:
        found = resolve(address)
    except Resolver404:
        return None
    return len(found.args) + len(found.kwargs)
