"""The page of one model and its actions. Reading needs an account; changing needs a permission, and no GET changes
anything.

Forms and buttons work without scripts and answer with a page. htmx gets the parts that changed.
"""

from collections.abc import Callable, Collection
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse, HttpResponseBadRequest
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from models_registry.catalog import aliases, allowed
from models_registry.catalog import remove as removal
from models_registry.catalog.folders import ModelError
from models_registry.fit import judge
from models_registry.gpu import operations
from models_registry.gpu.tuning import keep as keeping
from models_registry.hub import downloads
from models_registry.models import OPEN_OPERATIONS, Model, OperationKind
from models_registry.pages.forms import RUN_FORMS, WRONG, EditForm, FitForm, RunForm, TestForm, may_trust, taken
from models_registry.pages.model.page import parts
from models_registry.pages.models import page as models_page
from models_registry.pages.models.rows import CHANGES
from vbs.configuration import audit
from vbs.live.pages import Parts, changes, show
from vbs.pages import once
from vbs.pages.access import Request, page
from vbs.pages.words import size
from vbs.redaction import hide_locations


@require_GET
@page()
def model(request: Request, pk: int) -> HttpResponse:
    return _model(request, _find(pk))


def _model(request: Request, model: Model, **forms: Any) -> HttpResponse:
    """`forms`: the forms with errors, in place of new ones."""
    usual = {
        "edit_form": EditForm(model=model, may_trust=may_trust(request)),
        **{f"{kind}_form": form(model=model, prefix=kind) for kind, form in RUN_FORMS.items()},
        "fit": _judged(request, model),
    }
    context: dict[str, Any] = {"model": model, "adapters": model.adapters.all(), **usual, **forms}
    context["currency"] = settings.VBS_CURRENCY
    return show(request, "models/model.html", parts(model, request.viewer), WRONG if forms else 200, **context)


@require_GET
@page()
def fit(request: Request, pk: int) -> HttpResponse:
    model = _find(pk)
    template = "models/_fit_words.html" if "brief" in request.GET else "models/_fit.html"
    return render(request, template, {"fit": _judged(request, model), "model": model})


def _judged(request: Request, model: Model) -> dict[str, Any]:
    """Whether the model fits with the options in the address, or why that is unknown."""
    form = FitForm(request.GET if {"context", "sequences"} & request.GET.keys() else None)
    asked = form.cleaned_data if form.is_bound and form.is_valid() else {}
    try:
        found = judge.judge(model, asked.get("context"), asked.get("sequences") or 1)
    except ModelError as error:
        return {"form": form, "error": str(error) if request.viewer.may(CHANGES) else hide_locations(str(error))}
    need = found.need
    parts = {"weights": need.weights, "KV cache": need.cache, "LoRA": need.lora, "process": need.process}
    sizes = {name: size(number) for name, number in {**parts, "working memory": need.working}.items()}
    if found.loads:
        sign = "−" if need.correction < 0 else "+"
        sizes["correction"] = f"{sign} {size(abs(need.correction))}, from {found.loads} measured"
    whole = {"need": size(need.total), "room": size(found.available.total)}
    sizes |= {"all of it": whole["need"], f"room ({found.available.kind.upper()})": whole["room"]}
    return {"form": form, "found": found, "sizes": sizes, **whole}


ACTIONS: dict[str, tuple[str, Callable[[Model, str], object]]] = {
    "fetch": ("{} is being fetched.", lambda model, user: downloads.start(model)),
    "pause": ("The download of {} is paused.", lambda model, user: downloads.pause(model)),
    "resume": ("The download of {} continues.", lambda model, user: downloads.resume(model)),
    "cancel": ("The download of {} is cancelled.", lambda model, user: downloads.cancel(model)),
    "retry": ("{} is being fetched again.", lambda model, user: downloads.retry(model)),
    "load": ("{} will be loaded.", lambda model, user: operations.ask(OperationKind.LOAD, model, asked_by=user)),
    "check": (
        "The server of {} is asked whether it is there.",
        lambda model, user: operations.ask(OperationKind.LOAD, model, asked_by=user),
    ),
    "unload": ("{} will be unloaded.", lambda model, user: operations.ask(OperationKind.UNLOAD, model, asked_by=user)),
    "test": ("{} will be tested.", lambda model, user: operations.ask(OperationKind.TEST, model, asked_by=user)),
    "benchmark": (
        "{} will be measured.",
        lambda model, user: operations.ask(OperationKind.BENCHMARK, model, asked_by=user),
    ),
    "stop": ("The operation of {} is cancelled.", lambda model, user: _stop(model)),
}


def _stop(model: Model) -> None:
    for operation in model.operations.filter(state__in=OPEN_OPERATIONS):
        operations.cancel(operation)


@require_POST
@page("models_registry.change_model")
def act(request: Request, pk: int) -> HttpResponseBase:
    """A button's action: `do` names it, and `on` names the page of the button."""
    model = _find(pk)
    if (action := ACTIONS.get(request.POST.get("do", ""))) is None:
        return HttpResponseBadRequest(f"'do' must be one of {', '.join(ACTIONS)}.", content_type="text/plain")
    words, act = action
    do = request.POST["do"]
    _say(request, do, model.name, lambda: act(model, request.user.get_username()), words.format(model.name))
    if request.POST.get("on") == "model":
        return _done(request, lambda: parts(_find(pk), request.viewer), "model", pk)
    return _done(request, lambda: models_page.build(request.viewer, request.GET), "models")


@require_POST
@page("models_registry.change_model")
def run(request: Request, pk: int) -> HttpResponseBase:
    """Queues a test, a benchmark or a tuning with the options of its form."""
    model = _find(pk)
    kind = next((form for name, form in RUN_FORMS.items() if name in request.POST), TestForm)
    form = kind(request.POST, model=model, prefix=kind.kind)
    user, projects = request.user.get_username(), request.viewer.projects
    if not form.is_valid() or (asked := taken(form, lambda: _asked(form, user, projects))) is None:
        return _model(request, model, **{f"{kind.kind}_form": form})
    if asked:
        audit.record(request, f"model.{kind.kind}", model.name)
    else:
        messages.info(request, f"This form was sent before: the {kind.kind} of {model.name} is not run twice.")
    return redirect("model", pk)


def _asked(form: RunForm, user: str, projects: Collection[int] | None) -> bool:
    """False when this form has queued its operation before."""
    _, is_new = once.make(form.cleaned_data["once"], None, lambda: form.ask(user, projects).pk)
    return is_new


@require_POST
@page("models_registry.change_model")
def keep(request: Request, pk: int) -> HttpResponseBase:
    """Gives the model the fastest setting that a tuning has found."""
    model = _find(pk)
    operation = get_object_or_404(model.operations, pk=request.POST.get("operation", "").replace("\0", ""))
    try:
        keeping.keep(operation, lambda detail: audit.record(request, "model.edit", model.name, detail))
    except ModelError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{model.name} has this setting from its next load on.")
    return redirect("model", pk)


@require_POST
@page("models_registry.change_model")
def edit(request: Request, pk: int) -> HttpResponseBase:
    model = _find(pk)
    form = EditForm(request.POST, model=model, may_trust=may_trust(request))
    if not form.is_valid() or taken(form, form.save) is None:
        return _model(request, model, edit_form=form)
    audit.record(request, "model.edit", model.name, ", ".join(sorted(form.changed_data)))
    if "trust_remote_code" in form.changed_data:
        audit.record(request, "model.trust", model.name, allowed.trust_words(form.cleaned_data["trust_remote_code"]))
    messages.success(request, f"{model.name} is saved. If it is loaded, it is reloaded with its next request.")
    return redirect("model", pk)


@require_POST
@page("models_registry.change_model")
def alias(request: Request, pk: int) -> HttpResponseBase:
    """Points an alias at the model, or with `remove` removes the alias."""
    model = _find(pk)
    if name := request.POST.get("remove", ""):
        name = name.replace("\0", "")
        _say(request, "unalias", name, lambda: aliases.remove(name), f"{name} is removed.")
    else:
        name = request.POST.get("name", "").strip()
        _say(
            request,
            "alias",
            f"{name} → {model.name}",
            lambda: aliases.point(name, model),
            f"{name} stands for {model.name}.",
        )
    return redirect("model", pk)


@require_http_methods(["GET", "POST"])
@page("models_registry.delete_model")
def remove(request: Request, pk: int) -> HttpResponseBase:
    """Asks first, and says what space that frees and what still needs the model."""
    model = _find(pk)
    error = ""
    if request.method == "POST":
        try:
            removal.remove(model, files="files" in request.POST)
        except ModelError as reason:
            error = str(reason)
        else:
            audit.record(request, "model.remove", model.name, "with its files" if "files" in request.POST else "")
            messages.success(request, f"{model.name} is removed.")
            return redirect("models")
    preview = removal.preview(model)
    context = {"model": model, "needed_by": removal.needed_by(model), "preview": preview, "error": error}
    context["freed"] = size(preview.bytes)
    return render(request, "models/remove.html", context, status=WRONG if error else 200)


def _find(pk: int) -> Model:
    return get_object_or_404(Model.objects.described(), pk=pk)


def _say(request: Request, verb: str, target: str, step: Callable[[], object], words: str) -> None:
    try:
        step()
    except ModelError as error:
        messages.error(request, str(error))
    else:
        audit.record(request, f"model.{verb}", target)
        messages.success(request, words)


def _done(request: Request, parts: Callable[[], Parts], *address: Any) -> HttpResponseBase:
    if request.htmx:
        return changes(request, parts(), request.POST)
    return redirect(*address)
