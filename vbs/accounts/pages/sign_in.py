"""Signing in. The audit log records each sign-in and each failure, and too many failures make a name wait.

An attempt counts as a failure before its password is checked, and is taken back when the password was right, so that a
thousand attempts at the same moment count like a thousand in turn. The audit log counts them, so that all web processes
know of them: one row per name and minute, whose detail has a line for each place. A place is an IPv4 address or an IPv6
network. The log never has a password.

A few attempts at a name from one place are free. All places together have a higher limit for a name. It does not apply
to a place where its person signed in lately, so that strangers cannot lock the person out.
"""

import ipaddress
import re
from collections import Counter
from datetime import datetime, timedelta
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

FAILED, SIGNED_IN = "user.login_failed", "user.login"
MOST_FAILURES, WINDOW = 10, timedelta(minutes=5)
MOST_OF_NAME = 50  # failures from all places together, in that window
HOME = timedelta(days=30)  # where somebody has signed in since, their name's failures elsewhere do not count
MINUTE = timedelta(minutes=1)
MOST_NAMES = 100  # rows a minute; what else is tried then is counted together
MANY = ""  # a name that no account has
MOST_ADDRESSES = 100  # in a row
NAME_LENGTH = 150
LINE = re.compile(r"(\d+) from (\S+)")


def attempt(name: str, place: str) -> int:
    """Counts a failure, until `succeeded` takes it back. Returns how many seconds the person has to wait first; then
    nothing is counted. A lock makes two processes do this in turn."""
    with transaction.atomic():
        _one_at_a_time()
        if seconds := wait(name, place):
            return seconds
        now = timezone.now()
        recent = AuditEntry.objects.filter(action=FAILED, at__gt=now - MINUTE)
        username = _clipped(name)
        row = recent.filter(username=username).first()
        if row is None and recent.count() >= MOST_NAMES:
            username = MANY
            row = recent.filter(username=MANY).first()
        if row is None:
            row = AuditEntry(at=now, username=username, action=FAILED, target=place)
        counts = _counts(row)
        if place in counts or len(counts) < MOST_ADDRESSES:
            counts[place] += 1
        _keep(row, counts)
        return 0


def succeeded(name: str, place: str) -> None:
    """Takes the last failure back, because the password was right."""
    with transaction.atomic():
        _one_at_a_time()
        rows = AuditEntry.objects.filter(action=FAILED, at__gt=timezone.now() - WINDOW).order_by("-at")
        for username in (_clipped(name), MANY):
            for row in rows.filter(username=username):
                counts = _counts(row)
                if counts[place]:
                    counts[place] -= 1
                    _keep(row, +counts)
                    return


def wait(name: str, place: str) -> int:
    """The seconds until this place may try this name again; 0 for now."""
    now, clipped = timezone.now(), _clipped(name)
    rows = list(
        AuditEntry.objects.filter(action=FAILED, at__gt=now - WINDOW, username__in=(clipped, MANY)).order_by("at")
    )
    for username in (clipped, MANY):
        mine = [row for row in rows if row.username == username and place in _counts(row)]
        if sum(_counts(row)[place] for row in mine) >= MOST_FAILURES:
            return _left(mine[0], now)
    of_name = [row for row in rows if row.username == clipped]
    if sum(_counts(row).total() for row in of_name) >= MOST_OF_NAME and not _is_home(clipped, place):
        return _left(of_name[0], now)
    return 0


def _left(first: AuditEntry, now: datetime) -> int:
    return max(1, round((first.at + WINDOW - now).total_seconds()))


def _is_home(username: str, place: str) -> bool:
    """Whether this person signed in from this place lately."""
    since = timezone.now() - HOME
    rows = AuditEntry.objects.filter(action=SIGNED_IN, username=username, at__gt=since).order_by("-at")
    return place in {place_of(address) for address in rows.values_list("target", flat=True)[:100]}


def _one_at_a_time() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('vbs: failed to sign in'))")


def _keep(row: AuditEntry, counts: Counter[str]) -> None:
    row.detail = "\n".join(f"{count} from {one}" for one, count in counts.items())
    if counts:
        row.save()
    else:
        row.delete()


def _counts(row: AuditEntry) -> Counter[str]:
    return Counter({address: int(count) for count, address in LINE.findall(row.detail)})


def _clipped(name: str) -> str:
    """The name as the audit log keeps it: clipped to what an account's name can be."""
    return "".join(one for one in name[:NAME_LENGTH] if one.isprintable()) or "?"


def address_of(request: HttpRequest) -> str:
    return request.META.get("REMOTE_ADDR") or "local"


def place_of(address: str) -> str:
    """The place whose failures count together: a person with one IPv6 address has all 2^64 of its network."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))


# Django's signals. A request without a method is from a test or a command.


def on_signed_in(sender: Any, request: HttpRequest | None, user: User, **signal: Any) -> None:
    if request is not None and request.method:
        audit.record(request, SIGNED_IN, address_of(request))  # type: ignore[arg-type]


def on_signed_out(sender: Any, request: HttpRequest | None, user: User | None, **signal: Any) -> None:
    if request is not None and request.method and user is not None:
        audit.record(request, "user.logout", address_of(request))  # type: ignore[arg-type]


# The page


class SignInForm(AuthenticationForm):
    """seconds: how long this place has to wait before it may try this name again."""

    seconds = 0

    def clean(self) -> dict[str, Any]:
        name, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if not name or not password or self.request is None:
            return super().clean()
        place = place_of(address_of(self.request))
        self.seconds = attempt(name, place)
        if self.seconds:
            minutes = -(-self.seconds // 60)
            raise ValidationError(
                f"This name failed to sign in too often. Try again in {minutes} minute{'s' if minutes > 1 else ''}.",
                code="wait",
            )
        found = super().clean()
        succeeded(name, place)
        return found


class SignIn(LoginView):
    form_class = SignInForm
    redirect_authenticated_user = True
    extra_context = {"nobody": lambda: not User.objects.exists()}

    def get_redirect_url(self, request: HttpRequest | None = None) -> str:
        name = self.redirect_field_name
        return way_back(self.request, self.request.POST.get(name, self.request.GET.get(name, "")))

    def form_invalid(self, form: Any) -> HttpResponse:
        response = self.render_to_response(self.get_context_data(form=form), status=429 if form.seconds else 422)
        if form.seconds:
            response.headers["Retry-After"] = str(form.seconds)
        return response


@require_safe
def admin_sign_in(request: HttpRequest) -> HttpResponse:
    """The admin site sends people to our page, so that there is one place to try names and passwords."""
    if not request.user.is_authenticated:
        response = redirect("login")
        response["Location"] += "?next=/admin/"
        return response
    if not request.user.is_staff:
        raise PermissionDenied
    return HttpResponseRedirect(way_back(request, request.GET.get("next", "")) or "/admin/")
