"""Who may see a page, and what a browser may do with it."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib.auth.models import User
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.utils.http import url_has_allowed_host_and_scheme
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails

from vbs.accounts import people
from vbs.pages.viewer import Viewer, choices, viewer_of

POLICY = (
    "default-src 'self'; style-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


SIGN_IN = ("/login", "/logout", "/admin/login")
PERMISSION = "takes_permission"  # the attribute of a page's view that says which


class Request(HttpRequest):
    htmx: HtmxDetails
    user: User
    viewer: Viewer


View = Callable[..., HttpResponseBase]


def way_back(request: HttpRequest, given: str) -> str:
    """The address to return to that a form or an address names; empty unless it is ours and is not the page for signing
    in."""
    ours = given.startswith("/") and url_has_allowed_host_and_scheme(given, {request.get_host()})
    return given if ours and given.partition("?")[0].rstrip("/") not in SIGN_IN else ""


def strict(view: View) -> View:
    """The browser runs no scripts in these answers but ours, and stores none of them."""

    @wraps(view)
    def guarded(request: HttpRequest, *given: Any, **named: Any) -> HttpResponseBase:
        response = view(request, *given, **named)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return guarded


def page(permission: str = "") -> Callable[[View], View]:
    """For people who have signed in and have this permission (`app.codename`)."""

    def decorator(view: View) -> View:
        @strict
        @wraps(view)
        def checked(request: Request, *given: Any, **named: Any) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return _sign_in(request)
            request.viewer = viewer_of(request.user, request.session)
            if permission and not request.viewer.may(permission):
                raise PermissionDenied
            return view(request, *given, **named)

        setattr(checked, PERMISSION, permission)
        return checked

    return decorator


# Addresses with their names, and the permission that each takes
NAVIGATION = (
    ("/", "Overview", ""), ("/queue/", "Queue", ""), ("/batches/", "Batches", ""), ("/models/", "Models", ""),
    ("/playground/", "Playground", "models_registry.use_playground"), ("/system/", "System", ""),
    ("/help/", "Help", ""),
)  # fmt: skip


class SqueezeMiddleware(GZipMiddleware):
    """Compresses pages and pads them at random, so that their size tells nothing about secrets in them. Answers of the
    API and downloads stay as they are: their clients are near, or ask for ranges."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        if response.streaming or not response.headers.get("Content-Type", "").startswith("text/html"):
            return response
        return super().process_response(request, response)


class PolicyMiddleware:
    """Forbids scripts that are not ours on every page, also in the admin."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: View) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if response.headers.get("Content-Type", "").startswith("text/html"):
            response.headers.setdefault("Content-Security-Policy", POLICY)
        return response


def shell(request: HttpRequest) -> dict[str, Any]:
    """For templates: what every page shows around its content."""
    viewer = getattr(request, "viewer", None)
    if viewer is None:
        return {}
    here = next((address for address, *_ in NAVIGATION[1:] if request.path.startswith(address)), request.path)
    return {
        "viewer": viewer,
        "perms": viewer.perms,
        "choosable": lambda: choices(viewer),
        "admins": people.admins,
        "pages": [(address, name) for address, name, right in NAVIGATION if not right or viewer.may(right)],
        "here": here,
    }


def _sign_in(request: Request) -> HttpResponseBase:
    if request.htmx:
        return HttpResponseClientRedirect(redirect_to_login(request.htmx.current_url_abs_path or "/").url)
    return redirect_to_login(request.get_full_path())
