"""The first page."""

from django.http import HttpResponse
from django.views.decorators.http import require_GET

from batches.pages.overview import page as overview
from vbs.live.pages import show
from vbs.pages.access import Request, page


@require_GET
@page()
def index(request: Request) -> HttpResponse:
    return show(request, "batches/overview/index.html", overview.build(request.viewer, request.GET))
