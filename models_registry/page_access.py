"""Who may see a page, and what a browser may do with it. Knows no model."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.models import User
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails

POLICY = (
    "default-src 'self'; style-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


class Request(HttpRequest):
    htmx: HtmxDetails
    user: User


View = Callable[..., HttpResponseBase]


def strict(view: View) -> View:
    """Its answers run no scripts but ours, and are kept nowhere."""

    @wraps(view)
    def guarded(request: HttpRequest, *given: Any, **named: Any) -> HttpResponseBase:
        response = view(request, *given, **named)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Cache-Control"] = "no-store"
        return response

    return guarded


def page(permission: str = "") -> Callable[[View], View]:
    """For whoever has signed in, and has this permission on models."""

    def decorator(view: View) -> View:
        @strict
        @wraps(view)
        def checked(request: Request, *given: Any, **named: Any) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return _sign_in(request)
            if permission and not request.user.has_perm(f"models_registry.{permission}"):
                raise PermissionDenied
            return view(request, *given, **named)

        return checked

    return decorator


def _sign_in(request: Request) -> HttpResponseBase:
    if request.htmx:
        return HttpResponseClientRedirect(redirect_to_login(request.htmx.current_url_abs_path or "/models/").url)
    return redirect_to_login(request.get_full_path())
