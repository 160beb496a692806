"""Answers to errors outside of a view: a page for browsers, the API's envelope for programs, a line for all others.

The page can do without the database and without a signed-in person, because it is shown when those fail.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from django.contrib.auth.models import User
from django.core.exceptions import DisallowedHost, FieldDoesNotExist, FieldError
from django.db import DataError, ProgrammingError
from django.db import Error as DatabaseFailure
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect, JsonResponse
from django.http.response import HttpResponseBase
from django.template.loader import render_to_string

from vbs.http.redirects import corrected_address
from vbs.openai import routes
from vbs.openai.errors import ApiError, envelope, refusal, unforeseen
from vbs.pages.access import strict
from vbs.pages.viewer import viewer_of
from vbs.places import PROGRAM

log = logging.getLogger(__name__)

NOT_FOR_THE_ADMIN = (DataError, ProgrammingError, FieldDoesNotExist, FieldError, LookupError, ValueError)
PROGRAMS = ("/v1", "/metrics", "/health", "/ready", routes.AZURE)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    message = f"The request is malformed: {exception}"
    todo = "Go back, reload the page and try again."
    if isinstance(exception, DisallowedHost):
        host = request.META.get("HTTP_HOST", "")[:100]
        message = f"This server does not answer for the host {host!r}: it is not in VBS_ALLOWED_HOSTS."
        todo = "Use a name that is in it, or ask the operator of this server to add this one."
    body = envelope(message, "invalid_request_error", None, "bad_request")
    return answer(request, 400, "Bad request", [message, todo], body)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    words = [
        str(exception) or "Your account may not see this or do this.",
        "An admin can give your account another role or project, under System → People.",
    ]
    return answer(request, 403, "Not allowed", words, envelope(words[0], "permission_error", None, "forbidden"))


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    log.warning("A form was refused at %s: %s", request.path, reason)
    words = [
        "What was sent does not come from a page that this server has just shown; nothing was done.",
        "Go back, reload the page and send it again. Cookies must be allowed for this address.",
    ]
    if "Origin" in reason:
        words.append("Behind a proxy, VBS_TRUSTED_ORIGINS must name the address that browsers see.")
    body = envelope(words[0], "permission_error", None, "csrf_failed")
    return answer(request, 403, "The form is too old", words, body)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if not _for_programs(request) and (right := corrected_address(request)) and not _is_of_programs(right):
        return HttpResponseRedirect(right)
    words = [
        "There is nothing at this address, or it belongs to a project that is not yours.",
        "It may have been removed. Look for it from one of the pages below.",
    ]
    return answer(request, 404, "Not found", words, _unknown(request))


def _unknown(request: HttpRequest) -> dict[str, Any]:
    return envelope(routes.unknown_route_message(request), "not_found_error", None, "unknown_route")


def server_error(request: HttpRequest) -> HttpResponse:
    if error := refusal(sys.exc_info()[1], request):
        return refused(request, error, "Try again in a moment" if error.status_code == 503 else "Server error")
    body = unforeseen(None, request)
    words = [body["error"]["message"], f"Try again in a moment. On the server, '{PROGRAM} status' shows what is wrong."]
    return answer(request, 500, "Server error", words, body)


def refused(request: HttpRequest, error: ApiError, title: str) -> HttpResponse:
    answered = answer(request, error.status_code, title, [error.message], error.body())
    for name, value in error.headers().items():
        answered.headers[name] = value
    return answered


def answer(request: HttpRequest, status: int, title: str, words: Sequence[str], body: dict[str, Any]) -> HttpResponse:
    """The same error as a page, as a line or as this JSON body, depending on who asks."""
    if _for_programs(request):
        return JsonResponse(body, status=status)
    if "text/html" in request.headers.get("Accept", "") and "HX-Request" not in request.headers:
        try:
            return _page(request, status, title, words)
        except Exception:  # the line below still says what was wrong
            log.exception("The page of an error cannot be shown")
    return HttpResponse(f"{status} {title}\n", status=status, content_type="text/plain; charset=utf-8")


def _for_programs(request: HttpRequest) -> bool:
    return _is_of_programs(request.path) or routes.is_program(request)


def _is_of_programs(path: str) -> bool:
    return any(routes.is_within(path, one) for one in PROGRAMS)


def _page(request: HttpRequest, status: int, title: str, words: Sequence[str]) -> HttpResponse:
    """With the navigation for who has signed in; without it while the database cannot be reached, for it says who that
    is."""
    context = {"status": status, "title": title, "words": words}
    try:
        html = render_to_string("error.html", context, _recognized(request) if status != 503 else None)
    except DatabaseFailure:
        log.exception("The page of an error is shown without the navigation")
        html = render_to_string("error.html", context)
    shown: Any = strict(lambda request: HttpResponse(html, status=status))(request)
    return shown


def _recognized(request: HttpRequest) -> HttpRequest:
    """With the viewer, as pages have it. An address without a page has not looked for one."""
    user = getattr(request, "user", None)
    if not hasattr(request, "viewer") and isinstance(user, User) and user.is_authenticated:
        vars(request)["viewer"] = viewer_of(user, request.session)
    return request


class ErrorPagesMiddleware:
    """Gives a body to Django's answer 405, which is empty, and answers errors of Django's admin."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Django's admin passes what it is given to the database: a word for a number, or a NUL. Answer 400 then."""
        if request.path.startswith("/admin/") and isinstance(error, NOT_FOR_THE_ADMIN):
            log.warning("The admin got a value that it cannot look for: %s", error, exc_info=True)
            return bad_request(request, ValueError("it has a value that cannot be looked for"))
        return None

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        if not isinstance(response, HttpResponseNotAllowed) or response.content:
            return response
        words = [
            f"This address does not take {request.method}: it takes {response.headers['Allow']}.",
            "Open the page that the address belongs to, and use its buttons.",
        ]
        body = envelope(words[0], "invalid_request_error", None, "method_not_allowed")
        answered = answer(request, 405, "Not possible here", words, body)
        answered.headers["Allow"] = response.headers["Allow"]
        return answered
