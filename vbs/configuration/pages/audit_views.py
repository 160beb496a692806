"""The page of the audit log: who did what, the newest entry first."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.db.models import Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_GET

from vbs.configuration.models import AuditEntry
from vbs.pages.access import Request, page
from vbs.pages.plain import visible
from vbs.pages.viewer import Viewer

PER_PAGE = 50
WRONG = 422
SHORT = 160  # characters of a detail that stand in the table

# The form offers these. Others can be typed, and are found by their beginning.
ACTIONS = (
    "batch.", "disk.", "download.", "file.", "key.", "log.", "model.", "operation.", "project.", "queue.", "role.",
    "setting.", "token.", "user.", "user.login", "user.login_failed", "user.logout", "worker.",
)  # fmt: skip


def _text(label: str, most: int, **attributes: str) -> forms.CharField:
    widget = forms.TextInput(attrs={"autocomplete": "off"} | attributes)
    return forms.CharField(label=label, max_length=most, required=False, widget=widget)


def _day(label: str) -> forms.DateField:
    return forms.DateField(label=label, required=False, widget=forms.DateInput(attrs={"type": "date"}))


class AuditFilterForm(forms.Form):
    user = _text("User", 150)
    action = _text("Action begins with", 60, list="actions", placeholder="batch.")
    target = _text("Target begins with", 200)
    since = _day("From (UTC)")
    until = _day("To (UTC)")

    def chosen(self, rows: QuerySet[AuditEntry]) -> QuerySet[AuditEntry]:
        data = self.cleaned_data
        if data["user"]:
            rows = rows.filter(username=data["user"])
        for name in ("action", "target"):
            if data[name]:
                rows = rows.filter(**{f"{name}__startswith": data[name]})
        if data["since"]:
            rows = rows.filter(at__gte=_midnight(data["since"]))
        if data["until"] and data["until"] < date.max:
            rows = rows.filter(at__lt=_midnight(data["until"] + timedelta(days=1)))
        return rows


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


@require_GET
@page("configuration.view_auditentry")
def audit_log(request: Request) -> HttpResponse:
    """?before= or ?after=: the primary key of the entry where the page of rows begins."""
    form = AuditFilterForm(request.GET)
    entries, newer, older = [], None, None
    if form.is_valid():
        rows = form.chosen(_of(request.viewer))
        before, after = (_key(request.GET.get(name, "")) for name in ("before", "after"))
        if after is not None:
            found = list(rows.filter(pk__gt=after).order_by("pk")[: PER_PAGE + 1])
            entries, newer, older = found[:PER_PAGE][::-1], len(found) > PER_PAGE, True
        else:
            found = list(rows.filter(pk__lt=before)[: PER_PAGE + 1] if before is not None else rows[: PER_PAGE + 1])
            entries, newer, older = found[:PER_PAGE], before is not None, len(found) > PER_PAGE
    context: dict[str, Any] = {
        "tab": "audit",
        "form": form,
        "actions": ACTIONS,
        "filtered": form.has_changed(),
        "entries": [_shown(entry) for entry in entries],
        "newer": _address(form, after=entries[0].pk) if newer and entries else _address(form) if newer else "",
        "older": _address(form, before=entries[-1].pk) if older and entries else "",
    }
    return render(request, "system/audit.html", context, status=WRONG if form.errors else 200)


def _of(viewer: Viewer) -> QuerySet[AuditEntry]:
    """The entries of the chosen project, or those of all projects that the viewer sees and those of no project."""
    rows = AuditEntry.objects.select_related("project")
    if viewer.project is not None or viewer.projects is None:
        return viewer.own(rows)
    return rows.filter(Q(project=None) | Q(project__in=viewer.projects))


def _key(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _address(form: AuditFilterForm, **more: int) -> str:
    given = {name: form.data[name] for name in form.fields if form.data.get(name)}
    return f"{reverse('audit')}?{urlencode(given | more)}"


def _shown(entry: AuditEntry) -> dict[str, Any]:
    detail = visible(entry.detail)
    long = len(detail) > SHORT or detail.count("\n") > 3
    return {
        "at": entry.at,
        "username": visible(entry.username),
        "action": entry.action,
        "target": visible(entry.target),
        "project": entry.project.name if entry.project else "",
        "detail": "" if long else detail,
        "start": detail[:SHORT].split("\n")[0] if long else "",
        "whole": detail if long else "",
    }
