"""The pages of settings. Reading needs a permission. Only admins change settings, and only a few can be changed."""

from django.contrib import messages
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from vbs.configuration import audit, runtime
from vbs.configuration.declared import SETTINGS, Setting
from vbs.configuration.pages import page as table
from vbs.configuration.pages.forms import LOSES, ValueForm
from vbs.live.pages import show
from vbs.pages.access import Request, page
from vbs.pages.confirm import confirm

WRONG = 422


@require_GET
@page("configuration.view_override")
def settings(request: Request) -> HttpResponse:
    subjects = [(subject, table.anchor(subject)) for subject in table.subjects()]
    return show(request, "configuration/index.html", table.build(request.viewer, request.GET), subjects=subjects)


@require_http_methods(["GET", "POST"])
@page("configuration.change_override")
def setting(request: Request, name: str) -> HttpResponseBase:
    """The form of a setting, in a dialog or on a page of its own; a POST sets the value."""
    one = _found(name)
    if request.method == "GET":
        return _form(request, ValueForm(initial={"value": one.shown(runtime.value(name))}, setting=one), one)
    form = ValueForm(request.POST, setting=one)
    if not form.is_valid():
        return _form(request, form, one)
    with transaction.atomic():
        before, new = runtime.change(name, form.cleaned_data["value"], request.user.get_username())
        audit.record(request, "setting.change", name, f"{one.shown(before)} → {one.shown(new)}")
    messages.success(request, f"{name} is {one.shown(new)} now. Every process knows within 2 seconds.")
    return redirect("settings")


@require_http_methods(["GET", "POST"])
@page("configuration.change_override")
def reset(request: Request, name: str) -> HttpResponseBase:
    """Removes the value that was set here."""
    one = _found(name)
    value = one.shown(runtime.at_start(one))
    if request.method == "GET":
        words = [f"{one.shown(runtime.value(name))} holds now; {value} will, as {_origin(one)} says."]
        if loses := name == LOSES and runtime.at_start(one) < runtime.value(name):
            words.append(f"The request rows of batches that ended more than {value} days ago are deleted permanently.")
        title, button, back = f"Reset {name}?", "Reset the setting", reverse("settings")
        return confirm(request, title=title, words=words, button=button, back=back, danger=loses)
    with transaction.atomic():
        if changed := runtime.reset(name):
            audit.record(request, "setting.reset", name, f"{one.shown(changed[0])} → {value}")
    messages.success(request, f"{name} is {value}, as {_origin(one)} says.")
    return redirect("settings")


def _found(name: str) -> Setting:
    one = SETTINGS.get(name)
    if one is None or not one.changes:
        raise Http404
    return one


def _origin(one: Setting) -> str:
    return "the environment" if one.given else "the default"


def _form(request: HttpRequest, form: ValueForm, one: Setting) -> HttpResponse:
    template = "configuration/_edit.html" if getattr(request, "htmx", False) else "configuration/edit.html"
    context = {"form": form, "setting": one}
    return render(request, template, context, status=WRONG if form.errors else 200)
