"""Who may send a large body: a client with a valid API key, or a browser that has signed in.

The web server asks here before it receives such a body. No result is cached, so a revoked key is refused at once.
"""

from importlib import import_module
from io import BytesIO

from django.conf import settings
from django.contrib.auth import get_user
from django.core.exceptions import SuspiciousOperation
from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from rest_framework.request import Request

from vbs.openai.authentication import ApiKeyAuthentication
from vbs.openai.errors import ApiError, NotAuthenticated, refusal
from vbs.web.refusal import Refusal, RequestHead


def admit(head: RequestHead) -> Refusal | None:
    """None when the body may come in, else the answer. It runs in a thread, which closes its database connection."""
    here = (settings.VBS_HOST, settings.VBS_PORT)
    scope = {"type": "http", "method": head.method, "path": head.path, "headers": head.headers, "server": here}
    request = ASGIRequest(scope, BytesIO())
    close_old_connections()
    try:
        if head.path.startswith("/v1/") or not _signed_in(request):
            ApiKeyAuthentication().authenticate(Request(request))
    except NotAuthenticated as error:
        if head.path.startswith("/v1/"):
            return _refusal(error)
        words = (
            "This request is too long to be taken without signing in. Sign in first, or use the API at /v1 with a key."
        )
        return _refusal(NotAuthenticated(words, code="not_signed_in"))
    except ApiError as error:
        return _refusal(error)
    except SuspiciousOperation as error:
        return Refusal(400, "bad_request", f"The request is malformed: {error}")
    except Exception as error:
        if (answer := refusal(error, request)) is None:
            raise
        return _refusal(answer)
    finally:
        close_old_connections()
    return None


def _refusal(error: ApiError) -> Refusal:
    return Refusal(error.status_code, error.code or error.type, error.message, tuple(error.headers().items()))


def _signed_in(request: ASGIRequest) -> bool:
    sessions = import_module(settings.SESSION_ENGINE)
    request.session = sessions.SessionStore(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
    return get_user(request).is_authenticated
