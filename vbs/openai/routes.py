"""Helps clients that ask for a wrong address: a slash too many, no /v1, Azure's routes."""

from collections.abc import Callable

from django.conf import settings
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase

WITHOUT_SLASH = ("/v1/", "/health/", "/ready/", "/metrics/", "/openapi.json/")
PAGES = ("/batches", "/models", "/queue")  # pages with the name of a route of the API
# What is passed on to an engine.
INTERACTIVE = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/rerank",
    "/v1/score",
)
AZURE = "/openai"


def is_program(request: HttpRequest) -> bool:
    """Whether a program sent this request, as its headers tell, and not a browser."""
    accepted = request.headers.get("Accept", "")
    if "text/html" in accepted or "HX-Request" in request.headers or settings.SESSION_COOKIE_NAME in request.COOKIES:
        return False
    has_key = request.headers.get("Authorization", "").lower().startswith("bearer ") or "api-key" in request.headers
    return has_key or accepted.startswith("application/json") or request.content_type == "application/json"


def is_within(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


def unknown_route_message(request: HttpRequest) -> str:
    """Tells a program that an address is not a route, and how to correct it."""
    message = f"Unknown route: {request.method} {request.path}."
    base = f"{request.scheme}://{request.get_host()}/v1"
    if is_within(request.path, "/v1/v1"):
        return f"{message} It has /v1 twice: set the client's base URL to {base}."
    if is_within(request.path, AZURE):
        return (
            f"{message} This server has no Azure routes: use the OpenAI client with base_url={base} instead of "
            "AzureOpenAI. Send the key as 'api-key' or as 'Authorization: Bearer'."
        )
    if not is_within(request.path, "/v1"):
        return f"{message} The API is at /v1: set the client's base URL to {base}."
    return message


class ApiRoutesMiddleware:
    """Ignores a slash at the end of a route. Answers 404 to a program that asks for a page, for it has left out /v1."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        path = request.path_info
        if path.startswith(WITHOUT_SLASH) and path.endswith("/"):
            request.path_info = request.path = path.rstrip("/")
        elif any(is_within(path, place) for place in PAGES) and is_program(request):
            raise Http404
        return self.get_response(request)
