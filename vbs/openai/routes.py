"""Addresses that clients of the API ask for and that are none: a slash too many, no /v1, Azure's, answers at once."""

from collections.abc import Callable

from django.conf import settings
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase

SLASHED = ("/v1/", "/health/", "/ready/", "/metrics/", "/openapi.json/")
BESIDE = ("/batches", "/models", "/queue")  # pages that are called as routes of the API are
DIRECT = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
AZURE = "/openai"


def is_program(request: HttpRequest) -> bool:
    """Whether it asks as clients of the API do, and no browser does."""
    accepted = request.headers.get("Accept", "")
    if "text/html" in accepted or "HX-Request" in request.headers or settings.SESSION_COOKIE_NAME in request.COOKIES:
        return False
    has_key = request.headers.get("Authorization", "").lower().startswith("bearer ") or "api-key" in request.headers
    return has_key or accepted.startswith("application/json") or request.content_type == "application/json"


def within(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


def unknown(request: HttpRequest) -> str:
    """What to say of an address that is none, to a program."""
    message = f"Unknown route: {request.method} {request.path}."
    base = f"{request.scheme}://{request.get_host()}/v1"
    if request.path in DIRECT:
        return (
            f"{request.method} {request.path} is not answered directly: this server runs batches. Write the request as "
            f'a line of a file, with "url": "{request.path}", and have it run with POST /v1/batches.'
        )
    if within(request.path, "/v1/v1"):
        return f"{message} It has /v1 twice: set the client's base URL to {base}, once."
    if within(request.path, AZURE):
        return (
            f"{message} This is no Azure address: use the OpenAI client instead of AzureOpenAI, with base_url={base}; "
            "the key may be sent as 'api-key' or as 'Authorization: Bearer'."
        )
    if not within(request.path, "/v1"):
        return f"{message} The API is at /v1: set the client's base URL to {base}."
    return message


class ApiRoutesMiddleware:
    """A slash at the end makes no difference. A program that asks for a page has left out /v1."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        path = request.path_info
        if path.startswith(SLASHED) and path.endswith("/"):
            request.path_info = request.path = path.rstrip("/")
        elif any(within(path, place) for place in BESIDE) and is_program(request):
            raise Http404
        return self.get_response(request)
