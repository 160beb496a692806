"""The page of all models, and how one is added: paste, review, plan, add. No GET changes anything.

Forms and buttons work without scripts and answer with a page. htmx gets what changed.
"""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render, resolve_url
from django.views.decorators.http import require_GET, require_POST
from django_htmx.http import HttpResponseClientRedirect

from models_registry.catalog import allowed
from models_registry.catalog.folders import ModelError
from models_registry.fit import judge
from models_registry.hub import downloads
from models_registry.models import Model, ModelState
from models_registry.pages.forms import WRONG, AddForm, PasteForm, may_trust, taken
from models_registry.pages.models.page import build
from vbs.configuration import audit
from vbs.live.pages import show
from vbs.pages import once
from vbs.pages.access import Request, page
from vbs.pages.words import size


@require_GET
@page()
def models(request: Request) -> HttpResponse:
    return _models(request, PasteForm())


def _models(request: Request, paste: PasteForm, add: AddForm | None = None, **context: Any) -> HttpResponse:
    context |= {"paste": paste, "form": add}
    status = WRONG if paste.errors or (add and add.errors) else 200
    if request.htmx:
        return render(request, "models/_add.html", context, status=status)
    return show(request, "models/index.html", build(request.viewer, request.GET), status, **context)


@require_POST
@page("models_registry.add_model")
def read(request: Request) -> HttpResponse:
    """The pasted text as a form to review. Nothing is added yet."""
    paste = PasteForm(request.POST)
    if not paste.is_valid():
        return _models(request, paste)
    found = paste.cleaned_data["text"]
    initial = {name: getattr(found, name) for name in ("name", "source", "on_hub", "revision", "file", "engine_args")}
    form = AddForm(initial=initial | {"task": found.task or ""}, **_may(request))
    return _models(request, PasteForm(), form, refused=found.refused)


@require_POST
@page("models_registry.add_model")
def plan(request: Request) -> HttpResponse:
    """What the download of the form's model will take."""
    form = AddForm(request.POST, **_may(request))
    if not form.is_valid():
        return render(request, "models/_plan.html", {"error": "Correct the form first."})
    draft = form.draft()
    try:
        found = downloads.plan(draft)
    except ModelError as error:
        return render(request, "models/_plan.html", {"error": str(error)})
    try:
        fit = f"is served by the engine of {draft.base}" if draft.base else judge.judge_hub(draft, found).text
    except ModelError as error:
        fit = str(error)
    numbers = {
        "fetch": found.bytes,
        "present": found.present,
        "converted": found.converted,
        "free": found.disk_free,
        "promised": found.promised,
        "after": max(0, found.free_after),
    }
    sizes = {name: size(number) for name, number in numbers.items()}
    return render(request, "models/_plan.html", {"plan": found, "sizes": sizes, "fit": fit})


@require_POST
@page("models_registry.add_model")
def add(request: Request) -> HttpResponseBase:
    form = AddForm(request.POST, **_may(request))
    if form.is_valid() and (made := once.made(form.cleaned_data["once"])):
        messages.info(request, "This form was sent before: its model is added already.")
        return _to(request, resolve_url("model", made) if Model.objects.filter(pk=made).exists() else "/models/")
    if not form.is_valid() or (model := taken(form, form.add)) is None:
        return _models(request, PasteForm(), form)
    once.keep(form.cleaned_data["once"], str(model.pk))
    coming = (
        f", and being {'fetched' if model.hub_id else 'converted'}" if model.state == ModelState.DOWNLOADING else ""
    )
    audit.record(request, "model.add", model.name, model.hub_id or model.source)
    if model.trust_remote_code:
        audit.record(request, "model.trust", model.name, allowed.trust_words(True))
    messages.success(request, f"{model.name} is added{coming}.")
    return _to(request, resolve_url("model", model.pk))


def _to(request: Request, address: str) -> HttpResponseBase:
    return HttpResponseClientRedirect(address) if request.htmx else redirect(address)


def _may(request: Request) -> dict[str, bool]:
    """Whether this person may allow pickles, and code that comes with a model."""
    return {"may_pickle": request.user.has_perm("models_registry.change_model"), "may_trust": may_trust(request)}
