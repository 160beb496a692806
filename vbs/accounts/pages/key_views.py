"""The pages of API keys. Only the answer to the form that makes a key shows its secret."""

from typing import Any

from django.contrib import messages
from django.db import transaction
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.html import format_html
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods

from vbs.accounts.models import ApiKey, Project
from vbs.accounts.pages import key_page
from vbs.accounts.pages.forms import KeyForm, NewKeyForm
from vbs.configuration import audit
from vbs.live.pages import show
from vbs.pages.access import Request, page
from vbs.pages.confirm import confirm
from vbs.pages.templatetags.words import when

WRONG = 422
WORDS = "revoked: programs that use it are refused from now on."


@require_http_methods(["GET", "POST"])
@page("accounts.view_apikey")
def keys(request: Request) -> HttpResponseBase:
    if request.method == "POST":
        return _make(request)
    return _keys(request, _form(request))


def _keys(request: Request, form: NewKeyForm) -> HttpResponse:
    parts, status = key_page.build(request.viewer, request.GET), WRONG if form.errors else 200
    return show(request, "system/keys.html", parts, status, tab="keys", form=form)


def _form(request: Request, data: Any = None) -> NewKeyForm:
    viewer = request.viewer
    projects = viewer.all_own(Project.objects.all(), "pk")
    return NewKeyForm(
        data,
        projects=projects,
        may_operate=viewer.may("models_registry.change_model"),
        initial={"project": viewer.project},
    )


@page("accounts.add_apikey")
@sensitive_variables("secret")
def _make(request: Request) -> HttpResponse:
    form = _form(request, request.POST)
    if not form.is_valid():
        return _keys(request, form)
    with transaction.atomic():
        if (made := form.issue()) is None:
            messages.warning(request, "That form has made its key already, and its secret was shown then: it is below.")
            return redirect("keys")
        key, secret = made
        words = f"“{key.name}”, {_until(key)}{', may change the registry' if key.operator else ''}"
        audit.record(request, "key.make", f"{key.prefix}…", words, key.project)
    context = {"tab": "keys", "key": key, "secret": secret, "server": request.build_absolute_uri("/v1")}
    return render(request, "system/key_made.html", context)


def _until(key: ApiKey) -> str:
    return f"until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else "without an end"


@require_http_methods(["GET", "POST"])
@page("accounts.change_apikey")
def edit(request: Request, pk: int) -> HttpResponse:
    """Change a key's name and the time until which it works."""
    key = _find(request, pk)
    form = KeyForm(request.POST if request.method == "POST" else None, initial={"name": key.name, "expires": "same"})
    if key.revoked_at or not form.is_valid():
        context = {"tab": "keys", "key": key, "state": key_page.state_of(key), "form": form}
        return render(request, "system/key.html", context, status=WRONG if request.method == "POST" else 200)
    with transaction.atomic():
        changed = form.change(key)
        if changed:
            audit.record(request, "key.change", f"{key.prefix}…", changed, key.project)
    messages.success(request, f"“{key.name}”: {changed}." if changed else f"“{key.name}” is as it was.")
    return redirect("keys")


@require_http_methods(["GET", "POST"])
@page("accounts.change_apikey")
def revoke(request: Request, pk: int) -> HttpResponse:
    key = _find(request, pk)
    if request.method == "GET":
        used = format_html("It was last used {}.", when(key.last_used_at)) if key.last_used_at else "It was never used."
        return confirm(
            request,
            title=f"Revoke the key “{key.name}” ({key.prefix}…)?",
            words=[
                "Every program that uses it is refused from then on. Batches that were made with it continue.",
                format_html("It belongs to the project {}. {}", key.project, used),
                "This cannot be undone: such a program needs a new key.",
            ],
            button="Revoke the key",
            back=reverse("keys"),
        )
    with transaction.atomic():
        if key.revoke():
            audit.record(request, "key.revoke", f"{key.prefix}…", f"“{key.name}”", key.project)
    messages.success(request, f"“{key.name}” is {WORDS}")
    return redirect("keys")


def _find(request: Request, pk: int) -> ApiKey:
    rows = request.viewer.all_own(ApiKey.objects.select_related("project"))
    found: ApiKey = get_object_or_404(rows, pk=pk)
    return found
