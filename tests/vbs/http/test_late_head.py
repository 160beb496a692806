"""An answer whose head waits for its first piece: what fails before is an error, what fails later cuts it off."""

import asyncio
import json
import threading

import pytest
from django.test import Client as Browser
from django.test import override_settings
from django.urls import path

from tests.vbs.http.test_handler import Client, came
from vbs.http.handler import Handler
from vbs.http.late_head import LateHead
from vbs.http.streams import open_streams
from vbs.openai.errors import Unavailable
from vbs.urls import urlpatterns as real

seen: list[tuple[str, str]] = []
pulled = threading.Event()


def note(what):
    seen.append((what, threading.current_thread().name))


def _answer(request, content):
    headers = {"Content-Disposition": "attachment", "X-Here": "yes"}
    return LateHead(request, content, content_type="text/csv", headers=headers)


def whole(request):
    return _answer(request, iter([b"", b"one ", b"", b"two"]))


def empty(request):
    return _answer(request, iter([b""]))


def _raising(error, *first):
    yield from first
    raise error


def refused(request):
    return _answer(request, _raising(Unavailable("Not now.", code="busy"), b""))


def broken(request):
    return _answer(request, _raising(RuntimeError("by request"), b""))


def mistyped(request):
    return _answer(request, _raising(TypeError("by request")))


def cut(request):
    return _answer(request, _raising(Unavailable("Too late."), b"one"))


def endless(request):
    def content():
        try:
            yield b"one"
            while True:
                note("piece")
                pulled.set()
                yield b""
        finally:
            note("closed")

    return _answer(request, content())


VIEWS = (whole, empty, refused, broken, mistyped, cut, endless)
OWN = [path(f"{place}{view.__name__}", view) for view in VIEWS for place in ("v1/", "")]
urlpatterns = [*OWN, *real]  # for the links of a page
handler404, handler500 = "vbs.http.error_pages.not_found", "vbs.http.error_pages.server_error"


@pytest.fixture
def ask():
    seen.clear()

    def asked(where, **options):
        async def run():
            client = Client(Handler(), where, **options)
            await client.task
            return client

        with override_settings(ROOT_URLCONF=__name__):
            return asyncio.run(run())

    yield asked
    assert len(open_streams) == 0


def headers(client):
    return {name.decode().lower(): value.decode() for name, value in client.messages[0]["headers"]}


def test_the_pieces_come_behind_the_head(ask):
    client = ask("/v1/whole")
    assert (client.status, client.body) == (200, b"one two")
    assert [message.get("body") for message in client.messages[1:]] == [b"one ", b"two", b""]
    assert headers(client)["x-here"] == "yes" and headers(client)["content-type"] == "text/csv"
    assert headers(client)["content-disposition"] == "attachment"
    assert (ask("/v1/empty").status, ask("/v1/empty").body) == (200, b"")


def test_what_fails_first_is_the_answer(ask):
    client = ask("/v1/refused")
    assert (client.status, json.loads(client.body)["error"]["code"]) == (503, "busy")
    assert headers(client)["content-type"] == "application/json" and headers(client)["retry-after"]
    assert "content-disposition" not in headers(client)
    for unforeseen in ("/v1/broken", "/v1/mistyped"):
        client = ask(unforeseen)
        assert client.status == 500 and json.loads(client.body)["error"]["code"].startswith("err_")


def test_a_browser_gets_a_page(ask):
    client = ask("/refused", headers=[(b"accept", b"text/html")])
    assert client.status == 503 and b"<h1>The download failed</h1>" in client.body and b"Not now." in client.body
    assert headers(client)["content-type"].startswith("text/html") and headers(client)["content-security-policy"]
    assert ask("/refused", headers=[]).body == b"503 The download failed\n"


def test_what_fails_later_cuts_it_off(ask):
    with pytest.raises(Unavailable):
        ask("/v1/cut")


def test_nothing_is_made_for_a_head(ask):
    client = ask("/v1/endless", method="HEAD")
    assert (client.status, client.body, seen) == (200, b"", [])


def test_it_is_made_in_a_thread_of_its_own_and_ends_with_its_client(ask):
    async def cut_off():
        client = Client(Handler(), "/v1/endless")
        await came(client, b"one")
        await asyncio.to_thread(pulled.wait, 20)
        client.gone.set()
        await client.task

    with override_settings(ROOT_URLCONF=__name__):
        asyncio.run(cut_off())
    threads = {name for _, name in seen}
    assert seen[-1][0] == "closed" and len(threads) == 1
    assert not threads & {threading.main_thread().name} and not any(name.startswith("request") for name in threads)


def test_elsewhere_it_is_a_stream_as_any_other(db):
    with override_settings(ROOT_URLCONF=__name__):
        assert b"".join(Browser().get("/v1/whole").streaming_content) == b"one two"
