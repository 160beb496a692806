"""A page that is live: what builds its parts, which topics change them, and the address that its pulse asks."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import URLPattern
from django.urls import path as url_path
from django.views.decorators.http import require_GET

from vbs.pages.access import Request, page
from vbs.pages.parts import Part, unseen

MOST_SEEN = 5000  # parts that a browser may claim to have seen

Parts = Mapping[str, Part]


@dataclass(frozen=True)
class Page:
    """build(viewer, query, **named): the parts by name. topics(**named): what changes them. `named` is what the address
    names; build raises Gone when that is not there, or not for them. permission: that it takes to look."""

    build: Callable[..., Parts]
    topics: Callable[..., Iterable[str]]
    permission: str = ""


class Gone(LookupError):
    """What the page is about is not there, or not for this viewer."""


PAGES: list[tuple[str, Page]] = []


def path(route: str, shown: Page, name: str) -> URLPattern:
    """The address that a page's pulse asks, by HTTP here and by a socket in `routes`."""
    if all(known != route for known, _ in PAGES):
        PAGES.append((route, shown))

    @require_GET
    @page(shown.permission)
    def poll(request: Request, **named: Any) -> HttpResponseBase:
        try:
            parts = shown.build(request.viewer, request.GET, **named)
        except Gone:
            return HttpResponse(status=404)
        return changes(request, parts, request.GET)

    return url_path(route, poll, name=name)


def changes(request: HttpRequest, parts: Parts, given: QueryDict) -> HttpResponse:
    """What is not as the browser has seen it, and what there is to say."""
    changed = list(unseen(parts.values(), set(given.getlist("seen")[:MOST_SEEN])))
    if not changed and request.method == "GET":
        return HttpResponse(status=204)
    return render(request, "_changed.html", {"changed": changed})
