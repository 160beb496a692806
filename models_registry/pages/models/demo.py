"""The button that adds the demo model: pages without a model show it, and how far the model is."""

from typing import Any

from django.contrib import messages
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, resolve_url
from django.views.decorators.http import require_POST

from models_registry.api.wire import shown_reason
from models_registry.catalog import demo
from models_registry.catalog.folders import ModelError
from models_registry.hub import downloads
from models_registry.models import Download, DownloadState, ModelState
from models_registry.pages.models.rows import CHANGES
from vbs.configuration import audit
from vbs.pages.access import Request, page, way_back
from vbs.pages.viewer import Viewer

NAME = demo.OFFERED.name


@require_POST
@page("models_registry.add_model")
def add(request: Request) -> HttpResponseBase:
    """Adds the demo model, and returns to `next`. Its name makes this work once: whoever asks again changes nothing
    while it is there or on its way."""
    back = way_back(request, request.POST.get("next", "")) or resolve_url("models")
    try:
        model, is_new = downloads.add_offered_demo()
    except ModelError as error:
        messages.error(request, str(error))
        return redirect(back)
    if is_new:
        audit.record(request, "model.add", model.name, "the demo model")
    if model.state == ModelState.READY:
        messages.info(request, f"{model.name} is there already.")
    else:
        messages.success(request, f"{model.name} is being added.")
    return redirect(back)


def progress(viewer: Viewer) -> dict[str, Any]:
    """How far the demo model is: its `name` and the `terms` of its licence, and while it is not ready `doing`, or
    `failed` with the reason. One query."""
    offered = demo.OFFERED
    context: dict[str, Any] = {"name": offered.name, "terms": offered.terms}
    download = Download.objects.select_related("model").filter(model__name=offered.name).first()
    if download is None:
        return context
    model = download.model
    if model.state == ModelState.FAILED:
        context["failed"] = shown_reason(model.reason, viewer.may(CHANGES))
    elif model.state == ModelState.DOWNLOADING:
        waits = download.state == DownloadState.QUEUED and "waiting for a worker"
        context["doing"] = waits or downloads.doing(model, download) or str(download.state)
    return context
