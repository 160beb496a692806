"""A live page: what builds its parts, which topics change them, and the address that its pulse polls."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.http import HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.middleware.csrf import get_token
from django.shortcuts import render
from django.urls import URLPattern
from django.urls import path as url_path
from django.views.decorators.http import require_GET

from vbs.pages.access import Request, page
from vbs.pages.parts import Part, news, rendered, unseen

MOST_SEEN = 5000  # parts that a browser may claim to have seen

Parts = Mapping[str, Part]


@dataclass(frozen=True)
class Page:
    """build(viewer, query, **named): the parts by name, among them the `pulse`. topics(**named): the topics that change
    them. `named` has the values in the address; build raises PageGone when their object does not exist, or not for this
    viewer. permission: what a viewer needs."""

    build: Callable[..., Parts]
    topics: Callable[..., Iterable[str]]
    permission: str = ""


class PageGone(LookupError):
    """The page's object does not exist, or this viewer may not see it."""


PAGES: list[tuple[str, Page]] = []


def path(route: str, shown: Page, name: str) -> URLPattern:
    """The address of a page's pulse: for HTTP here, for a socket in `routes`."""
    if all(known != route for known, _ in PAGES):
        PAGES.append((route, shown))

    @require_GET
    @page(shown.permission)
    def poll(request: Request, **named: Any) -> HttpResponseBase:
        try:
            parts = shown.build(request.viewer, request.GET, **named)
        except PageGone:
            return HttpResponse(status=404)
        return changes(request, parts, request.GET)

    return url_path(route, poll, name=name)


def show(request: Request, template: str, parts: Parts, status: int = 200, **context: Any) -> HttpResponse:
    """The whole page. Its template gets each rendered part by its name."""
    token = get_token(request)
    fragments = zip(parts, rendered(parts.values(), request.viewer), strict=True)
    shown = {name: fragment.html(token) for name, fragment in fragments}
    return render(request, template, context | shown, status=status)


def changes(request: Request, parts: Parts, given: QueryDict) -> HttpResponse:
    """The parts that differ from what the browser has seen, and the messages."""
    seen = set(given.getlist("seen")[:MOST_SEEN])
    changed = list(unseen(rendered(parts.values(), request.viewer), seen))
    if not changed and request.method == "GET":
        return HttpResponse(status=204)
    return render(request, "_changed.html", {"changed": news(changed)})
