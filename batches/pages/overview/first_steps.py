"""The steps that a new server needs until it has answered its first requests: a model, a batch, its answers."""

from typing import Any

from django.conf import settings
from django.urls import reverse

from batches import phase
from batches.models import Batch
from models_registry.hub import downloads
from models_registry.models import Download, DownloadState, Model, ModelState
from models_registry.pages.models import demo
from vbs.accounts import people
from vbs.accounts.models import ApiKey
from vbs.pages.parts import Part
from vbs.pages.viewer import Viewer

MODEL, BATCH, ANSWERS = "model", "batch", "answers"


def first_steps(viewer: Viewer) -> Part:
    """Empty once all of them are done. Of those that are done only the names are shown."""
    ready = list(Model.objects.filter(state=ModelState.READY).order_by("pk").values_list("name", flat=True)[:1])
    own = viewer.own(Batch.objects.filter(hidden=False).with_holding())
    has_answers = own.filter(completed__gt=0).exists()
    if ready and has_answers:
        return Part("steps", "batches/overview/_steps.html")
    newest = own.order_by("-pk").first()
    done = {MODEL: bool(ready), BATCH: newest is not None, ANSWERS: has_answers}
    context: dict[str, Any] = {
        "steps": done,
        "next": next(name for name, is_done in done.items() if not is_done),
        "ready": "".join(ready),
        "people": people.admins() if not viewer.may("models_registry.add_model") else [],
        "back": reverse("overview"),
    }
    if not ready:
        context |= {"demo": demo.progress(viewer), "coming": _coming()}
    if newest is not None and not has_answers:
        context |= {"batch": newest, "state": phase.word(newest)}
    if settings.VBS_API_AUTH != "open" and viewer.may("accounts.view_apikey"):
        context["needs_key"] = not viewer.own(ApiKey.objects.usable()).exists()
    return Part("steps", "batches/overview/_steps.html", context)


def _coming() -> dict[str, Any] | None:
    """A model other than the demo model that is being fetched or converted."""
    rows = Download.objects.filter(model__state=ModelState.DOWNLOADING).exclude(model__name=demo.NAME)
    if (row := rows.select_related("model").order_by("pk").first()) is None:
        return None
    percent = 100 * row.bytes_done // row.bytes_total if row.bytes_total else None
    doing = downloads.doing(row.model, row) or ("being fetched" if row.state == DownloadState.RUNNING else row.state)
    return {"model": row.model, "percent": percent, "doing": str(doing)}
