"""Handles each HTTP request in one thread, instead of changing the thread for each hook of each middleware."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase


class OneThreadMiddleware:
    """The last middleware in the list. It is sync, as our views and WhiteNoise are, so Django runs all of them in one
    thread; an async middleware between them would cost two changes of thread for each hook."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)
