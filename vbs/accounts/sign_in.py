"""Signing in: it is kept who did and who failed, and who fails too often from one place has to wait.

Failures are counted in the audit log, so that all web processes know of them: a row for a name and minute, whose
detail has a line for each address. Never a password.
"""

import re
from collections import Counter
from datetime import timedelta
from typing import Any

from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.utils import timezone
from django.views.decorators.http import require_safe

from vbs.configuration import audit
from vbs.configuration.models import AuditEntry
from vbs.pages.access import way_back

FAILED = "user.login_failed"
MOST_FAILURES, WINDOW = 10, timedelta(minutes=5)
MINUTE = timedelta(minutes=1)
MOST_NAMES = 100  # rows a minute; what else is tried then is counted together
MANY = ""  # under this name, which is nobody's
MOST_ADDRESSES = 100  # in a row
NAME_LENGTH = 150
LINE = re.compile(r"(\d+) from (\S+)")


def failed(name: str, address: str) -> None:
    """Count it. Two processes do so one after the other."""
    now = timezone.now()
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext('vbs: failed to sign in'))")
        recent = AuditEntry.objects.filter(action=FAILED, at__gt=now - MINUTE)
        username = _clipped(name)
        row = recent.filter(username=username).first()
        if row is None and recent.count() >= MOST_NAMES:
            username = MANY
            row = recent.filter(username=MANY).first()
        if row is None:
            row = AuditEntry(at=now, username=username, action=FAILED, target=address)
        counts = _counts(row)
        if address in counts or len(counts) < MOST_ADDRESSES:
            counts[address] += 1
        row.detail = "\n".join(f"{count} from {one}" for one, count in counts.items())
        row.save()


def wait(name: str, address: str) -> int:
    """Seconds until this name may be tried again from this address; 0 for now."""
    now = timezone.now()
    rows = list(
        AuditEntry.objects.filter(action=FAILED, at__gt=now - WINDOW, username__in=(_clipped(name), MANY)).order_by(
            "at"
        )
    )
    for username in (_clipped(name), MANY):
        mine = [row for row in rows if row.username == username and address in _counts(row)]
        if sum(_counts(row)[address] for row in mine) >= MOST_FAILURES:
            return max(1, round((mine[0].at + WINDOW - now).total_seconds()))
    return 0


def _counts(row: AuditEntry) -> Counter[str]:
    return Counter({address: int(count) for count, address in LINE.findall(row.detail)})


def _clipped(name: str) -> str:
    """As it is kept: names of accounts are shorter, and have no such characters."""
    return "".join(one for one in name[:NAME_LENGTH] if one.isprintable()) or "?"


def address_of(request: HttpRequest) -> str:
    return request.META.get("REMOTE_ADDR") or "local"


# What Django tells. A request without a method is none: a test's or a command's.


def on_signed_in(sender: Any, request: HttpRequest | None, user: User, **signal: Any) -> None:
    if request is not None and request.method:
        audit.record(request, "user.login", address_of(request))  # type: ignore[arg-type]


def on_signed_out(sender: Any, request: HttpRequest | None, user: User | None, **signal: Any) -> None:
    if request is not None and request.method and user is not None:
        audit.record(request, "user.logout", address_of(request))  # type: ignore[arg-type]


def on_failed(sender: Any, credentials: dict[str, Any], request: HttpRequest | None = None, **signal: Any) -> None:
    if request is not None and request.method:
        failed(str(credentials.get("username") or ""), address_of(request))


# The page


class SignInForm(AuthenticationForm):
    """seconds: how long it has to be waited before this name is tried again from here."""

    seconds = 0

    def clean(self) -> dict[str, Any]:
        name = self.cleaned_data.get("username")
        if name and self.request is not None:
            self.seconds = wait(name, address_of(self.request))
        if self.seconds:
            minutes = -(-self.seconds // 60)
            raise ValidationError(
                f"That failed too often with this name. Try again in {minutes} minute{'s' if minutes > 1 else ''}, "
                "or ask an admin for another password.",
                code="wait",
            )
        return super().clean()


class SignIn(LoginView):
    form_class = SignInForm
    redirect_authenticated_user = True
    extra_context = {"nobody": lambda: not User.objects.exists()}

    def get_redirect_url(self) -> str:
        name = self.redirect_field_name
        return way_back(self.request, self.request.POST.get(name, self.request.GET.get(name, "")))

    def form_invalid(self, form: Any) -> HttpResponse:
        response = self.render_to_response(self.get_context_data(form=form), status=429 if form.seconds else 422)
        if form.seconds:
            response.headers["Retry-After"] = str(form.seconds)
        return response


@require_safe
def admin_sign_in(request: HttpRequest) -> HttpResponse:
    """The admin site has no page of its own for it: there is one place to try names and passwords."""
    if not request.user.is_authenticated:
        response = redirect("login")
        response["Location"] += "?next=/admin/"
        return response
    if not request.user.is_staff:
        raise PermissionDenied
    return HttpResponseRedirect(way_back(request, request.GET.get("next", "")) or "/admin/")
