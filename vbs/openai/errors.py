"""The API's errors: exceptions to raise, and the function that writes them as an answer.

Each error is `{"error": {"message", "type", "param", "code"}}`, with all four keys.
"""

import logging
import math
import secrets
from typing import Any

import psycopg
import psycopg_pool
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response

from vbs.accounts.shell import shell_of
from vbs.database.outages import DATABASE_ERRORS, first_line
from vbs.openai import ids
from vbs.run import descriptors, space

log = logging.getLogger(__name__)

RETRY_SECONDS = 5  # after which a client may ask again, unless the error names another time


class ApiError(exceptions.APIException):
    """An error of the API. A subclass sets the status, the `type` and the default `code`."""

    status_code = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code

    def body(self) -> dict[str, Any]:
        return envelope(self.message, self.type, self.param, self.code)

    def headers(self) -> dict[str, str]:
        """The headers that belong to the status."""
        if self.status_code == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": str(RETRY_SECONDS)} if self.status_code in (429, 503) else {}


class InvalidRequest(ApiError):
    status_code = 400
    type = "invalid_request_error"
    code = "invalid_value"


class NotAuthenticated(ApiError):
    status_code = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(ApiError):
    status_code = 403
    type = "permission_error"
    code = "forbidden"


class NotFound(ApiError):
    status_code = 404
    type = "not_found_error"
    code = "not_found"


def missing(kind: str, object_id: str) -> NotFound:
    """The error for an id that does not exist, in OpenAI's words."""
    return NotFound(f"No {kind} found with id '{ids.shown(object_id)}'.", param="id", code=f"{kind}_not_found")


class Conflict(ApiError):
    status_code = 409
    type = "conflict_error"
    code = "conflict"


class TooLarge(ApiError):
    status_code = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Unavailable(ApiError):
    """The server cannot do this now; the same request may work in a few seconds."""

    status_code = 503
    type = "server_error"
    code = "unavailable"


class TooMany(ApiError):
    status_code = 429
    type = "rate_limit_error"
    code = "too_many_requests"


class BadGateway(ApiError):
    """Another server, which would have the answer, gave none that can be used."""

    status_code = 502
    type = "server_error"
    code = "bad_gateway"


class GatewayTimeout(ApiError):
    status_code = 504
    type = "server_error"
    code = "request_timeout"


class StorageFull(ApiError):
    status_code = 507
    type = "server_error"
    code = "storage_full"


TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 409: "conflict_error"} | {
    429: "rate_limit_error"
}


def envelope(message: str, type: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's hook: turns what a view raised into an answer. An unexpected exception is logged under an id."""
    request = context.get("request")
    if isinstance(error, ApiError):
        return Response(error.body(), status=error.status_code, headers=error.headers())
    if refused := refusal(error, request):
        return exception_handler(refused, context)
    if isinstance(error, Http404):
        return exception_handler(NotFound(f"There is nothing at {getattr(request, 'path', '')}."), context)
    if isinstance(error, PermissionDenied):
        return exception_handler(Forbidden(str(error) or "This key may not do this."), context)
    if isinstance(error, RequestDataTooBig):
        return exception_handler(TooLarge("The request body is too large: this route takes at most 2 MB."), context)
    if isinstance(error, SuspiciousOperation):
        return exception_handler(InvalidRequest(f"The request is malformed: {error}"), context)
    if isinstance(error, exceptions.APIException):  # DRF's own: parse errors, 405, 415, 406, 429
        status = error.status_code
        if isinstance(error, exceptions.MethodNotAllowed):
            allowed = ", ".join(getattr(context.get("view"), "allowed_methods", []))
            method = getattr(request, "method", "")
            message, code = f"{method} is not allowed here: this route takes {allowed}.", "method_not_allowed"
        elif isinstance(error, exceptions.UnsupportedMediaType):
            taken = ", ".join(parser.media_type for parser in getattr(context.get("view"), "parser_classes", []))
            message, code = f"{error.detail} This route takes {taken}.", _first_code(error)
        elif isinstance(error, exceptions.ParseError):
            message, code = f"The body could not be parsed: {error.detail}", "invalid_body"
        else:
            message, code = _text(error.detail), _first_code(error)
        kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        wait = getattr(error, "wait", None) or RETRY_SECONDS
        headers = {"Retry-After": str(math.ceil(wait))} if status in (429, 503) else {}
        return Response(envelope(message, kind, None, code), status=status, headers=headers)
    if shell_of(request):
        raise error  # a command in this process sent the request, and shows the exception as any other
    return Response(unforeseen(error, request), status=500)


def refusal(error: BaseException | None, request: Any) -> ApiError | None:
    """The answer to a request when the database failed, or the machine has no disk space, files or connections left.
    Logs the error. None for any other error."""
    if isinstance(error, OSError) and error.errno in descriptors.EXHAUSTED | space.NO_SPACE:
        log.error(
            "The machine has no files, connections or space left for %s: %s", getattr(request, "path", "?"), error
        )
        if space.is_full(error):
            return StorageFull(space.REFUSAL)
        return Unavailable(
            "The server has as many files and connections open as it may have. Try again in a few seconds."
        )
    if not isinstance(error, DATABASE_ERRORS):
        return None
    log.warning("The database failed during %s: %s", getattr(request, "path", "?"), first_line(error))
    match error.__cause__:
        case psycopg.errors.DiskFull():
            return StorageFull(
                "The disk of the server's database is full. Free some space, then send the request again."
            )
        case psycopg.errors.LockNotAvailable() | psycopg.errors.DeadlockDetected():
            why = "Something else is being done with this at the moment."
        case psycopg.errors.QueryCanceled():
            why = "The database took too long for this."
        case psycopg_pool.PoolTimeout() | psycopg_pool.TooManyRequests():
            why = "The server has too much to do."
        case _:
            why = "The server cannot reach its database."
    return Unavailable(f"{why} Try again in a few seconds.")


def unforeseen(error: BaseException | None, request: Any) -> dict[str, Any]:
    """The body of the answer for an exception that nobody expected, which is logged under the id in it."""
    error_id = f"err_{secrets.token_hex(8)}"
    path = getattr(request, "path", "?")
    log.error("Error %s: an unforeseen error at %s", error_id, path, exc_info=error or True)
    return envelope(f"The server had an error. Its log says more under {error_id}.", "server_error", None, error_id)


def _text(detail: Any) -> str:
    if isinstance(detail, dict):
        return " ".join(f"{name}: {_text(value)}" for name, value in detail.items())
    if isinstance(detail, list):
        return " ".join(_text(one) for one in detail)
    return str(detail)


def _first_code(error: exceptions.APIException) -> str:
    codes = error.get_codes()
    while isinstance(codes, (dict, list)):
        codes = next(iter(codes.values() if isinstance(codes, dict) else codes), "error")
    return str(codes)
