"""The page of the audit log: who did what, the newest entry first."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib.auth.models import User
from django.db.models import Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_GET

from vbs.configuration.models import AuditEntry
from vbs.pages.access import Request, page
from vbs.pages.days import DaysForm, first_moment
from vbs.pages.plain import visible
from vbs.pages.viewer import Viewer

PER_PAGE = 50
WRONG = 422
SHORT = 160  # characters of a detail that stand in the table
MOST_NAMES = 200  # of people that the form offers

# The form offers these. Others can be typed, and are found by their beginning.
ACTIONS = (
    "batch.", "disk.", "download.", "file.", "key.", "log.", "model.", "operation.", "project.", "queue.", "role.",
    "setting.", "token.", "user.", "user.login", "user.login_failed", "user.logout", "worker.",
)  # fmt: skip


def _text(label: str, most: int, **attributes: str) -> forms.CharField:
    widget = forms.TextInput(attrs={"autocomplete": "off", "dir": "auto"} | attributes)
    return forms.CharField(label=label, max_length=most, required=False, widget=widget)


class AuditFilterForm(DaysForm):
    user = _text("Who", 150, list="people")
    action = _text("Action begins with", 60, list="actions", placeholder="batch.")
    target = _text("Object begins with", 200, placeholder="an id or a name")
    field_order = ("user", "action", "target", "since", "until", "zone")

    def chosen(self, rows: QuerySet[AuditEntry]) -> QuerySet[AuditEntry]:
        data = self.cleaned_data
        if data["user"]:
            rows = rows.filter(username=data["user"])
        for name in ("action", "target"):
            if data[name]:
                rows = rows.filter(**{f"{name}__startswith": data[name]})
        if data["since"]:
            rows = rows.filter(at__gte=first_moment(data["since"], data["zone"]))
        if data["until"] and data["until"] < date.max:
            rows = rows.filter(at__lt=first_moment(data["until"] + timedelta(days=1), data["zone"]))
        return rows

    @property
    def narrows(self) -> bool:
        return any(name != "zone" for name in self.changed_data)


@require_GET
@page("configuration.view_auditentry")
def audit_log(request: Request) -> HttpResponse:
    """?before= or ?after=: the place of the entry where the page of rows begins."""
    form = AuditFilterForm(request.GET)
    entries, newer, older = [], False, False
    if form.is_valid():
        rows = form.chosen(_of(request.viewer))
        before, after = (_place(request.GET.get(name, "")) for name in ("before", "after"))
        if after is not None:
            newer_ones = rows.filter(at__gte=after[0]).exclude(at=after[0], pk__lte=after[1])
            found = list(newer_ones.order_by("at", "pk")[: PER_PAGE + 1])
            entries, newer, older = found[:PER_PAGE][::-1], len(found) > PER_PAGE, True
        else:
            if before is not None:
                rows = rows.filter(at__lte=before[0]).exclude(at=before[0], pk__gte=before[1])
            found = list(rows.order_by("-at", "-pk")[: PER_PAGE + 1])
            entries, newer, older = found[:PER_PAGE], before is not None, len(found) > PER_PAGE
    context: dict[str, Any] = {
        "tab": "audit",
        "form": form,
        "actions": ACTIONS,
        "people": User.objects.order_by("username").values_list("username", flat=True)[:MOST_NAMES],
        "filtered": form.narrows,
        "entries": [_shown(entry) for entry in entries],
        "newer": _address(form, after=_name(entries[0])) if newer and entries else _address(form) if newer else "",
        "older": _address(form, before=_name(entries[-1])) if older and entries else "",
    }
    return render(request, "system/audit.html", context, status=WRONG if form.errors else 200)


def _of(viewer: Viewer) -> QuerySet[AuditEntry]:
    """The entries of the chosen project, or those of all projects that the viewer sees and those of no project."""
    rows = AuditEntry.objects.select_related("project")
    if viewer.project is not None or viewer.projects is None:
        return viewer.own(rows)
    return rows.filter(Q(project=None) | Q(project__in=viewer.projects))


# The place of an entry in the order of the log: its time in microseconds, and its primary key
_PLACE = re.compile(r"([0-9]{1,17})-([0-9]{1,18})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _name(entry: AuditEntry) -> str:
    return f"{(entry.at - _EPOCH) // timedelta(microseconds=1)}-{entry.pk}"


def _place(name: str) -> tuple[datetime, int] | None:
    if not (found := _PLACE.fullmatch(name)):
        return None
    return _EPOCH + timedelta(microseconds=int(found[1])), int(found[2])


def _address(form: AuditFilterForm, **more: str) -> str:
    given = {name: form.data[name] for name in form.fields if form.data.get(name)}
    return f"{reverse('audit')}?{urlencode(given | more)}"


def _only(**what: str) -> str:
    return f"{reverse('audit')}?{urlencode(what)}"


def _shown(entry: AuditEntry) -> dict[str, Any]:
    """With the addresses of all entries of the same user, action and object."""
    detail = visible(entry.detail)
    long = len(detail) > SHORT or detail.count("\n") > 3
    return {
        "at": entry.at,
        "username": visible(entry.username),
        "of_user": _only(user=entry.username) if entry.username else "",
        "action": entry.action,
        "of_action": _only(action=entry.action),
        "target": visible(entry.target),
        "of_target": _only(target=entry.target) if entry.target else "",
        "project": entry.project.name if entry.project else "",
        "detail": "" if long else detail,
        "start": detail[:SHORT].split("\n")[0] if long else "",
        "whole": detail if long else "",
    }
