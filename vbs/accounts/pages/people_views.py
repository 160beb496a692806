"""The pages of people and projects. Only the answer to the form that generates a password shows it."""

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.http import Http404, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from vbs.accounts import people as domain
from vbs.accounts import roles
from vbs.accounts.models import DEFAULT_PROJECT, Project
from vbs.accounts.pages.forms import MembersForm, NewPersonForm, NewProjectForm, PasswordForm, PersonForm
from vbs.configuration import audit
from vbs.pages import once
from vbs.pages.access import Request, page
from vbs.pages.confirm import confirm

WRONG = 422
PER_PAGE = 100
SENT = (
    "This form was sent before, and has done its work. If it generated a password, that was shown then: set another "
    "one if it is lost."
)


@require_http_methods(["GET", "POST"])
@page("auth.view_user")
def people(request: Request) -> HttpResponseBase:
    if request.method == "POST":
        return _add(request)
    return _people(request)


def _people(request: Request, **wrong: Any) -> HttpResponse:
    """`wrong`: the forms with errors, in place of new ones."""
    viewer = request.viewer
    rows = User.objects.order_by("username").prefetch_related("groups", "projects")
    after = request.GET.get("after", "").replace("\0", "")
    if after:
        rows = rows.filter(username__gt=after)
    found = list(rows[: PER_PAGE + 1])
    shown = [_line(request, user) for user in found[:PER_PAGE]]
    context: dict[str, Any] = {
        "tab": "people",
        "people": shown,
        "newer": reverse("people") if after else "",
        "older": _after(shown[-1]["user"]) if len(found) > PER_PAGE else "",
        "form": _person_form(request) if viewer.may("auth.add_user") else None,
        "project_form": NewProjectForm(auto_id="project_%s"),
        "projects": viewer.all_own(Project.objects.prefetch_related("members"), "pk"),
    }
    return render(request, "system/people.html", context | wrong, status=WRONG if wrong else 200)


def _after(user: User) -> str:
    return f"{reverse('people')}?{urlencode({'after': user.username})}"


def _line(request: Request, user: User) -> dict[str, Any]:
    names = {group.name for group in user.groups.all()}
    return {
        "user": user,
        "role": next((role for role in reversed(roles.ROLES) if role in names), ""),
        "projects": [one for one in user.projects.all() if request.viewer.sees(one.pk)],
    }


def _seen(request: Request) -> Any:
    return request.viewer.all_own(Project.objects.all(), "pk")


def _person_form(request: Request, data: Any = None) -> NewPersonForm:
    return NewPersonForm(data, roles=domain.grantable(request.user), projects=_seen(request))


@page("auth.add_user")
@sensitive_variables("generated")
def _add(request: Request) -> HttpResponse:
    form = _person_form(request, request.POST)
    if form.is_valid():
        data = form.cleaned_data
        try:
            with transaction.atomic():
                if not once.first(data["once"]):
                    return _sent_before(request)
                user, generated = domain.make(data["name"], data["password"], data["role"], data["projects"])
                words = f"{data['role']}; projects: {', '.join(one.name for one in data['projects']) or 'none'}"
                audit.record(request, "user.add", user.username, words)
            return _told(request, user, generated, f"{user.username} is added.")
        except domain.AccountRefused as error:
            form.add_error(error.field, str(error))
    return _people(request, form=form)


def _sent_before(request: Request) -> HttpResponse:
    messages.warning(request, SENT)
    return redirect("people")


def _told(request: Request, user: User, generated: str, words: str) -> HttpResponse:
    if generated:
        return render(request, "system/password_made.html", {"tab": "people", "person": user, "password": generated})
    messages.success(request, words)
    return redirect("people")


@require_http_methods(["GET", "POST"])
@page("auth.change_user")
def person(request: Request, pk: int) -> HttpResponse:
    """A person's role and projects."""
    user = get_object_or_404(User, pk=pk)
    role, may = roles.role_of(user), domain.may_change(request.user, user)
    fixed = _why_fixed(request, user, may)
    data = request.POST if request.method == "POST" else None
    initial = {"role": role, "projects": list(user.projects.all())}
    given = domain.grantable(request.user)
    form = PersonForm(data, roles=given, projects=_seen(request), fixed=fixed, initial=initial)
    if may and form.is_valid() and _change(request, user, role, form):
        return redirect("people")
    context = {"tab": "people", "person": user, "role": role, "form": form, "fixed": fixed, "may": may}
    return render(request, "system/person.html", context, status=WRONG if data is not None else 200)


def _why_fixed(request: Request, user: User, may: bool) -> str:
    """Why the role cannot be changed here, or an empty text."""
    if user.is_superuser:
        return "a superuser may do everything, whatever the role"
    if user.pk == request.user.pk:
        return "one's own role is for another admin to change"
    return "" if may else "this account may do more than yours, and only a superuser may change it"


def _change(request: Request, user: User, role: str, form: PersonForm) -> bool:
    data, changed = form.cleaned_data, []
    try:
        with transaction.atomic():
            if "role" in data and data["role"] != role:
                user = domain.set_role(request.user, user.pk, data["role"])
                changed.append(f"{role or 'no role'} → {data['role']}")
            if words := domain.set_projects(user, data["projects"], _seen(request)):
                changed.append(f"projects: {words}")
            if changed:
                audit.record(request, "user.change", user.username, "; ".join(changed))
    except domain.AccountRefused as error:
        form.add_error(error.field, str(error))
        return False
    messages.success(request, f"{user.username}: {'; '.join(changed) or 'nothing has changed'}.")
    return True


@require_http_methods(["GET", "POST"])
@page("auth.change_user")
@sensitive_variables("generated")
def password(request: Request, pk: int) -> HttpResponse:
    """Sets a new password, typed or generated."""
    user = get_object_or_404(User, pk=pk)
    form = PasswordForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            with transaction.atomic():
                if not once.first(form.cleaned_data["once"]):
                    return _sent_before(request)
                user, generated = domain.reset_password(request.user, pk, form.cleaned_data["password"])
                audit.record(request, "user.password", user.username)
            return _told(request, user, generated, f"{user.username} has another password.")
        except domain.AccountRefused as error:
            form.add_error(error.field, str(error))
    context = {"tab": "people", "person": user, "form": form, "may": domain.may_change(request.user, user)}
    return render(request, "system/password.html", context, status=WRONG if form.is_bound else 200)


@require_http_methods(["GET", "POST"])
@page("auth.change_user")
def active(request: Request, pk: int) -> HttpResponse:
    """Deactivates an account, or lets it sign in again."""
    user = get_object_or_404(User, pk=pk)
    activate = request.POST.get("active") == "yes" if request.method == "POST" else not user.is_active
    if request.method == "GET":
        ends = [
            f"{user.username} is signed out within a minute, and cannot sign in any more.",
            "Batches continue, and API keys still work: revoke the keys that this person knows.",
        ]
        return confirm(
            request,
            title=f"Let {user.username} sign in again?" if activate else f"Deactivate {user.username}?",
            words=["The role and the projects are as they were."] if activate else ends,
            button="Activate" if activate else "Deactivate",
            back=reverse("people"),
            fields={"active": "yes" if activate else "no"},
            danger=not activate,
        )
    try:
        with transaction.atomic():
            user = domain.set_active(request.user, pk, activate)
            audit.record(request, "user.activate" if activate else "user.deactivate", user.username)
    except User.DoesNotExist:
        raise Http404 from None
    except domain.AccountRefused as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{user.username} {'may sign in again' if activate else 'is deactivated'}.")
    return redirect("people")


# Projects


@require_POST
@page("accounts.add_project")
def add_project(request: Request) -> HttpResponse:
    form = NewProjectForm(request.POST, auto_id="project_%s")
    if form.is_valid():
        name = form.cleaned_data["name"]

        def make() -> str:
            made = Project.objects.create(name=name)
            audit.record(request, "project.add", name, project=made)
            return str(made.pk)

        try:
            pk, is_new = once.make(form.cleaned_data["once"], None, make)
            words = f"The project “{name}” is made. Choose who sees it." if is_new else f"“{name}” was made already."
            messages.success(request, words)
            may = request.viewer.may("accounts.change_project") and request.viewer.sees(int(pk))
            return redirect("project-edit", pk) if may else redirect("people")
        except IntegrityError:
            form.add_error("name", _taken(name))
    if not request.viewer.may("auth.view_user"):
        messages.error(request, " ".join(map(str, form.errors.get("name", []))))
        return redirect("/")
    return _people(request, project_form=form)


def _taken(name: str) -> str:
    return f"There is a project called “{name}” already: choose another name."


@require_http_methods(["GET", "POST"])
@page("accounts.change_project")
def project(request: Request, pk: int) -> HttpResponse:
    """A project's name and members."""
    found: Project = get_object_or_404(_seen(request), pk=pk)
    old, members = found.name, list(found.members.all())
    people = User.objects.order_by("username") if request.viewer.may("auth.view_user") else None
    data = request.POST if request.method == "POST" else None
    form = MembersForm(data, people=people, initial={"name": old, "members": members})
    if old == DEFAULT_PROJECT:
        form.lock("name", "the server itself uses this project by its name")
    if form.is_valid():
        name, changed = form.cleaned_data["name"], []
        try:
            with transaction.atomic():
                if found.rename(name):
                    changed.append(f"renamed from “{old}”")
                if "members" in form.fields:
                    found.members.set(chosen := form.cleaned_data["members"])
                    words = domain.differences((one.username for one in members), (one.username for one in chosen))
                    changed += [f"members: {words}"] if words else []
                if changed:
                    audit.record(request, "project.change", name, "; ".join(changed), found)
            messages.success(request, f"{name}: {'; '.join(changed) or 'nothing has changed'}.")
            return redirect("people")
        except IntegrityError:
            form.add_error("name", _taken(name))
    context = {"tab": "people", "project": found, "old": old, "form": form}
    return render(request, "system/project.html", context, status=WRONG if data is not None else 200)
