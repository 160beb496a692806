"""The page of all batches. It needs an account, and changes nothing."""

from typing import Any

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from batches.pages.history import page as history
from batches.pages.history.filters import Filter, form
from models_registry.models import Alias, Model
from vbs.live.pages import show
from vbs.pages.access import Request, page

WRONG = 422  # what was typed cannot be taken


@require_GET
@page()
def batches(request: Request) -> HttpResponse:
    """With invalid filters the page lists nothing, for all batches would answer another question."""
    asked = form(request.viewer, request.GET)
    names = [*Alias.objects.values_list("name", flat=True), *Model.objects.values_list("name", flat=True)]
    context: dict[str, Any] = {"form": asked, "names": sorted(names)}
    if not asked.is_valid():
        return render(request, "batches/history/index.html", context, status=WRONG)
    filled = Filter(**asked.cleaned_data)
    parts = history.parts(request.viewer, filled)
    return show(request, "batches/history/index.html", parts, narrowed=filled.narrows, **context)
