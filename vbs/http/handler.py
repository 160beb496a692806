"""Django's handler for ASGI, with one change of thread for a request instead of eight.

Django's own starts a thread for each request and another one to end it, and goes from the event loop to the thread
and back for the signal at the beginning, for the middleware, for the view, and to close the response: more than half of
what a short request cost. Our middleware and views are sync, so here a thread that is kept does all of it at once. What
takes longer goes on in the event loop: a stream, and a LaterAnswer, which has not even begun then.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.http import FileResponse, StreamingHttpResponse
from django.urls import set_script_prefix

from vbs.http.later import LaterAnswer, Receive, Send, unless_gone

THREADS = 128  # at most; one is started only when all others have a request


class Handler(ASGIHandler):
    def __init__(self) -> None:
        BaseHandler.__init__(self)  # Django's loads the middleware for the event loop
        self.load_middleware(is_async=False)
        self.threads = ThreadPoolExecutor(THREADS, "request")

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        loop = asyncio.get_running_loop()
        response = await loop.run_in_executor(self.threads, copy_context().run, self.respond, scope, body)
        if isinstance(response, LaterAnswer):
            await unless_gone(response.answer(send), receive)
        elif isinstance(response, StreamingHttpResponse):
            async with ThreadSensitiveContext():  # a thread of its own, for as long as the client reads
                try:
                    await unless_gone(self.send_response(response, send), receive)
                finally:
                    await sync_to_async(response.close)()
        else:  # a client that is gone needs no attention: send() does nothing then
            await self.send_response(response, send)

    def respond(self, scope: Any, body: Any) -> Any:
        """The response. All that belongs to the request has ended then, unless it is streamed."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        request, refused = self.create_request(scope, body)
        response: Any = refused if request is None else self.get_response(request)
        response._handler_class = self.__class__
        if isinstance(response, FileResponse):
            response.block_size = self.chunk_size
        if not isinstance(response, StreamingHttpResponse):
            response.close()
            body.close()
        return response
