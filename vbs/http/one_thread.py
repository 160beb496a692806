"""One change of thread for each request, instead of one for each hook of each middleware."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase


class OneThreadMiddleware:
    """The last in the list. Being sync, it has Django run all that is sync around it in the thread of the view: views
    here are sync, and so is WhiteNoise; an async island between them would cost two changes of thread for each hook."""

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return self.get_response(request)
