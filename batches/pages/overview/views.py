"""The first page."""

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from batches.pages.overview import page as overview
from vbs.pages.access import Request, page


@require_GET
@page()
def show(request: Request) -> HttpResponse:
    return render(request, "batches/overview/index.html", overview.build(request.viewer, request.GET))
