"""One change of thread for a request, whatever the view; streams and later answers go on in the event loop."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
from django.core.signals import request_finished, request_started
from django.http import HttpResponse, StreamingHttpResponse
from django.test import override_settings
from django.urls import path

from vbs.http.handler import Handler
from vbs.http.later import LaterAnswer
from vbs.http.streams import open_streams

seen: list[tuple[str, str]] = []
gate = SimpleNamespace()


def note(what):
    seen.append((what, threading.current_thread().name))


def plain(request):
    note("view")
    return HttpResponse(f"{request.method} {request.body.decode()}", headers={"X-Here": "yes"})


def broken(request):
    raise RuntimeError("by request")


class Slowly(LaterAnswer):
    async def answer(self, send):
        note("answer")
        await send(self.head(200, {"Content-Type": "text/event-stream"}))
        try:
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await gate.event.wait()
            await send({"type": "http.response.body", "body": b"two"})
        except asyncio.CancelledError:
            note("cancelled")
            raise


def interactive(request):
    note("view")
    return Slowly(headers={"X-Here": "yes"})


def download(request):
    def pieces():
        try:
            for number in range(1000):
                note("piece")
                yield b"%d " % number
        finally:
            note("closed")

    return StreamingHttpResponse(pieces())


urlpatterns = [path("v1/plain", plain), path("v1/broken", broken), path("v1/interactive", interactive)]
urlpatterns += [path("v1/download", download)]
handler404, handler500 = "vbs.http.error_pages.not_found", "vbs.http.error_pages.server_error"


@pytest.fixture
def handler():
    seen.clear()
    started, finished = (lambda **_: note("started")), (lambda **_: note("finished"))
    request_started.connect(started)
    request_finished.connect(finished)
    with override_settings(ROOT_URLCONF=__name__):
        yield Handler()
    request_started.disconnect(started)
    request_finished.disconnect(finished)


class Client:
    """Asks for one path, and has what came of it so far."""

    def __init__(self, handler, path, body=b"", method="GET", headers=((b"authorization", b"Bearer k"),)):
        self.messages, self.came, self.gone = [], asyncio.Event(), asyncio.Event()
        self.unread = [{"type": "http.request", "body": body}]
        scope = {"type": "http", "method": method, "path": path, "query_string": b""}
        scope["headers"] = [(b"host", b"localhost"), *headers]
        self.task = asyncio.ensure_future(handler(scope, self.receive, self.send))

    async def receive(self):
        if self.unread:
            return self.unread.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.messages.append(message)
        self.came.set()
        await asyncio.sleep(0)

    @property
    def status(self):
        return self.messages[0]["status"]

    @property
    def body(self):
        return b"".join(message.get("body", b"") for message in self.messages[1:])


async def ask(handler, path, body=b""):
    client = Client(handler, path, body)
    await client.task
    return client


def test_all_of_a_request_runs_in_one_thread_which_is_kept(handler):
    async def many():
        return [await ask(handler, f"/v1/plain{'/' * (number % 2)}", b"%d" % number) for number in range(20)]

    answers = asyncio.run(many())
    assert [(one.status, one.body) for one in answers] == [(200, b"GET %d" % number) for number in range(20)]
    headers = dict(answers[0].messages[0]["headers"])
    assert headers[b"X-Here"] == b"yes" and headers[b"X-Request-ID"].startswith(b"req_")
    for number in range(20):
        steps, threads = zip(*seen[3 * number : 3 * number + 3], strict=True)
        assert steps == ("started", "view", "finished") and len(set(threads)) == 1
    used = {thread for _, thread in seen}
    assert len(used) <= 3 and threading.main_thread().name not in used


def test_requests_do_not_wait_for_each_other(handler, monkeypatch):
    together = threading.Barrier(3, timeout=20)
    monkeypatch.setitem(globals(), "note", lambda what: what == "view" and together.wait())

    async def three():
        return await asyncio.gather(*(ask(handler, "/v1/plain") for _ in range(3)))

    assert [one.status for one in asyncio.run(three())] == [200] * 3


def test_an_error_is_answered_as_one_and_the_request_is_over(handler):
    failed, unknown = asyncio.run(ask(handler, "/v1/broken")), asyncio.run(ask(handler, "/v1/nothing"))
    assert failed.status == 500 and b'"code": "err_' in failed.body
    assert unknown.status == 404 and b'"unknown_route"' in unknown.body
    assert [what for what, _ in seen] == ["started", "finished"] * 2


async def came(client, text):
    async with asyncio.timeout(20):
        while text not in client.body:
            await client.came.wait()
            client.came.clear()


def test_a_later_answer_comes_from_the_event_loop_when_the_request_is_over(handler):
    async def slowly():
        gate.event = asyncio.Event()
        client = Client(handler, "/v1/interactive")
        await came(client, b"one")
        early = client.body
        gate.event.set()
        await client.task
        return early, client

    early, client = asyncio.run(slowly())
    assert (client.status, early, client.body) == (200, b"one", b"onetwo")
    headers = dict(client.messages[0]["headers"])
    assert headers[b"x-here"] == b"yes" and headers[b"x-request-id"].startswith(b"req_")
    assert [what for what, _ in seen] == ["started", "view", "finished", "answer"]
    assert dict(seen)["answer"] == threading.main_thread().name != dict(seen)["view"]


def test_a_later_answer_ends_with_its_client(handler):
    async def cut_off():
        gate.event = asyncio.Event()
        client = Client(handler, "/v1/interactive")
        await came(client, b"one")
        client.gone.set()
        await client.task
        return client

    assert asyncio.run(cut_off()).body == b"one" and seen[-1][0] == "cancelled"


def test_a_stream_has_a_thread_of_its_own_and_ends_with_its_client(handler):
    async def cut_off():
        client = Client(handler, "/v1/download")
        await came(client, b"3 ")
        client.gone.set()
        await client.task
        return client

    client = asyncio.run(cut_off())
    threads = dict(seen)
    assert client.body.startswith(b"0 1 2 3 ") and b"999" not in client.body
    assert threads["piece"] == threads["closed"] == threads["finished"] != threads["started"]
    assert len(open_streams) == 0
