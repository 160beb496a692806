"""The admin site. The audit log records each addition, change, deletion and action there.

`Site.register` puts `Audited` before every class that is registered, so that no class can leave it out.
"""

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from django.contrib import admin
from django.contrib.admin.actions import delete_selected
from django.contrib.admin.models import LogEntry
from django.db import transaction
from django.db.models import Manager, Model, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from vbs.accounts.models import Project
from vbs.configuration import audit
from vbs.pages.access import Request

# The names that the pages' entries in the audit log have.
NOUNS = {"apikey": "key", "group": "role", "hubtoken": "token"}
ACTIONS = {"key.add": "key.make", "model.change": "model.edit"}
MOST_VALUES = 50  # of a field with several values

Action = Callable[..., Any]


class Audited(admin.ModelAdmin):
    """Records every change with the names of its fields, in the transaction that makes it.

    audited_fields: fields that decide who may do what and hold no secret. The record has their values as well.
    """

    audited_fields: tuple[str, ...] = ()

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> LogEntry:
        self._record(request, "add", obj, message)
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> LogEntry:
        if message:
            self._record(request, "change", obj, message)
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        for obj in queryset:
            self._record(request, "delete", obj)
        return super().log_deletions(request, queryset)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        found: dict[str, Any] = super().get_actions(request)
        return {name: (_audited_action(act, name), name, words) for name, (act, _, words) in found.items()}

    def do(self, request: HttpRequest, obj: Any, act: Callable[[Any], Any]) -> Any:
        """Do an action to one row, and record it unless `act` raises or returns False. An action that does not call
        this is recorded for all of its rows."""
        acting: _RunningAction = vars(request)["acting"]
        acting.records_itself = True
        answer = act(obj)
        if answer is not False:
            self._record(request, acting.name, obj)
        return answer

    def _record(self, request: HttpRequest, verb: str, obj: Model, message: Any = None) -> None:
        noun = NOUNS.get(self.opts.model_name or "", self.opts.model_name)
        action = f"{noun}.{verb}"
        target = obj.pk if isinstance(obj.pk, str) else str(obj)
        lines = ["In the admin."]
        if message:
            text = message if isinstance(message, str) else json.dumps(message, default=str)
            lines.append(LogEntry(change_message=text).get_change_message())
        if message is not None:
            lines += [f"{name}: {_value(obj, name)}" for name in self.audited_fields]
        project = obj if isinstance(obj, Project) and verb != "delete" else getattr(obj, "project", None)
        audit.record(cast(Request, request), ACTIONS.get(action, action), target, "\n".join(lines), project)


class _RunningAction:
    """An action of the admin while it runs. records_itself: it has called `Audited.do`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.records_itself = False


def _audited_action(act: Action, name: str) -> Action:
    @wraps(act)
    def acted(self: Audited, request: HttpRequest, rows: QuerySet[Any]) -> Any:
        if act is delete_selected:  # it logs before it deletes, and both must happen or neither
            with transaction.atomic():
                return act(self, request, rows)
        chosen = list(rows)
        acting = vars(request)["acting"] = _RunningAction(name)
        answer = act(self, request, rows)
        for obj in () if acting.records_itself else chosen:
            self._record(request, name, obj)
        return answer

    return acted


def _value(obj: Model, name: str) -> str:
    value = getattr(obj, name)
    if isinstance(value, Manager):
        found = [str(one) for one in value.all()[: MOST_VALUES + 1]]
        return ", ".join(found[:MOST_VALUES]) + (" …" if len(found) > MOST_VALUES else "") or "none"
    return str(value)


class Site(admin.AdminSite):
    site_header = "Database admin (times in UTC)"
    index_title = "Database admin"
    site_url = "/system/"  # it lies under System
    site_title = "vbs"
    final_catch_all_view = False  # an unknown address gets the same page as everywhere: vbs/http/redirects.py

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        given = admin_class or admin.ModelAdmin
        if not issubclass(given, Audited):
            given = type(given.__name__, (Audited, given), {"__doc__": given.__doc__, "__module__": given.__module__})
        super().register(model_or_iterable, given, **options)

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """People change their own password here."""
        with transaction.atomic():
            answer: HttpResponse = super().password_change(request, extra_context)
            if isinstance(answer, HttpResponseRedirect) and request.method == "POST":
                user = cast(Request, request).user
                audit.record(cast(Request, request), "user.password", user.get_username(), "In the admin: their own.")
        return answer
