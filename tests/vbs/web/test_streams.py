"""Slow readers: they hold no database connection, and nobody has too many of them."""

import gc
import socket
import time
from contextlib import ExitStack, closing
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncRequestFactory, Client, RequestFactory
from django.utils import timezone

from batches.models import Batch, BatchRequest, BatchStatus, RequestState
from tests.vbs.web.test_door import MB, assert_ok, form
from tests.vbs.web.tiny import until
from vbs.accounts.models import ApiKey, Project
from vbs.http import streams

POOL = 16  # connections of the web process


def read_slowly(held, http, path, **headers):
    """Ask for it, take the head of the answer, and no more than fits into the buffers of the two systems."""
    connection = held.enter_context(closing(socket.socket()))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect((http.base_url.host, http.base_url.port))
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection.recv(15)


@pytest.fixture
def large(http):
    body, headers = form(bytes(7 * MB), purpose="user_data")
    return f"/v1/files/{assert_ok(http.post('/files', content=body, headers=headers))['id']}/content"


@pytest.fixture
def unfinished(key):
    """A batch with 12 MB of answers and no output file yet."""
    batch = Batch.objects.create(
        project=Project.objects.get(), input_file_id_given="file-1", endpoint="/v1/embeddings",
        completion_window="24h", expires_at=timezone.now() + timedelta(days=1), status=BatchStatus.IN_PROGRESS,
    )  # fmt: skip
    BatchRequest.objects.bulk_create(
        BatchRequest(
            batch=batch, line=n, offset=0, length=1, model_index=0, prefix=0, custom_id=f"{n}",
            state=RequestState.COMPLETED, status_code=200, response=f'"{"x" * 4000}"',
        )
        for n in range(1, 3001)
    )  # fmt: skip
    return f"/v1/batches/{batch.pk}/results"


def seconds(http, path="/models"):
    started = time.monotonic()
    assert http.get(path).status_code == 200
    return time.monotonic() - started


def test_slow_readers_hold_no_connection(http, key, large, unfinished):
    keys = [key, *(ApiKey.objects.issue(Project.objects.get(), f"{n}")[1] for n in range(2))]
    with ExitStack() as held:
        for one in keys:
            for _ in range(5):
                for path in (large, unfinished, f"{unfinished}?format=csv"):
                    answer = read_slowly(held, http, path, Authorization=f"Bearer {one}")
                    assert answer == b"HTTP/1.1 200 OK"
        assert len(keys) * 15 > POOL
        assert max(seconds(http) for _ in range(20)) < 5
        assert max(seconds(http, "/files") for _ in range(20)) < 5


def test_the_pages_downloads_hold_none_either(http, key, large, unfinished):
    with ExitStack() as held:
        for n in range(2):
            browser = Client()
            browser.force_login(User.objects.create_superuser(f"root{n}"))
            cookie = f"sessionid={browser.cookies['sessionid'].value}"
            address = unfinished.removeprefix("/v1").removesuffix("results")
            for page in 5 * (f"{address}output", f"{address}results?format=csv"):
                assert read_slowly(held, http, page, Cookie=cookie) == b"HTTP/1.1 200 OK"
        assert max(seconds(http) for _ in range(20)) < 5


def test_what_is_read_slowly_is_whole_in_the_end(http, unfinished):
    with http.stream("GET", unfinished.removeprefix("/v1")) as response:
        lines = sum(1 for _ in response.iter_lines())
    assert lines == 3000


def test_one_key_has_so_many_streams(http, key, large):
    other = ApiKey.objects.issue(Project.objects.get(), "other")[1]
    with ExitStack() as held:
        for _ in range(16):
            assert read_slowly(held, http, large, Authorization=f"Bearer {key}") == b"HTTP/1.1 200 OK"
        refused = http.get(large.removeprefix("/v1"))
        error = refused.json()["error"]
        assert (refused.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "too_many_downloads")
        assert "VBS_MAX_STREAMS" in error["message"] and int(refused.headers["retry-after"]) > 0
        assert http.get("/files").status_code == 200
        answer = read_slowly(held, http, large, Authorization=f"Bearer {other}")
        assert answer == b"HTTP/1.1 200 OK"
    until(lambda: http.get(large.removeprefix("/v1")).status_code == 200)


# What wraps them


def ask(answer, **attributes):
    request = AsyncRequestFactory().get("/")
    for name, value in attributes.items():
        setattr(request, name, value)
    return streams.StreamsMiddleware(lambda request: answer)(request)


def test_a_stream_ends_when_its_response_is_closed_or_lost(settings, db):
    settings.VBS_MAX_STREAMS = 2
    before = len(streams.open_streams)
    first, second = (ask(StreamingHttpResponse(iter([b"a"]))) for _ in range(2))
    assert ask(StreamingHttpResponse(iter([b"a"]))).status_code == 429
    first.close()
    first.close()
    assert len(streams.open_streams) == before + 1
    third = ask(StreamingHttpResponse(iter([b"a"])))
    assert third.status_code == 200
    del second, third, first
    gc.collect()
    assert len(streams.open_streams) == before


def test_readers_are_counted_each(settings, db):
    settings.VBS_MAX_STREAMS = 1
    keys = [ApiKey(pk=n) for n in (1, 2)]
    readers = [{"auth": keys[0]}, {"auth": keys[1]}, {"user": User(pk=1)}, {"user": User(pk=2)}, {}]
    held = [ask(StreamingHttpResponse(iter([b"a"])), **one) for one in readers]
    assert [one.status_code for one in held] == [200] * 5
    assert [ask(StreamingHttpResponse(iter([b"a"])), **one).status_code for one in readers] == [429] * 5
    assert ask(HttpResponse(b"a")).status_code == 200
    for one in held:
        one.close()


def test_pieces_are_pulled_one_by_one(db):
    made = []

    def pieces():
        for n in range(5):
            made.append(n)
            yield b"%d" % n

    async def two(response):
        content = aiter(response)
        found = [await anext(content), await anext(content)]
        await content.aclose()
        return found

    response = ask(StreamingHttpResponse(pieces()))
    assert async_to_sync(two)(response) == [b"0", b"1"]
    assert made == [0, 1]
    response.close()


def test_other_clients_are_left_alone(db):
    content = StreamingHttpResponse(iter([b"a"]))
    assert streams.StreamsMiddleware(lambda request: content)(RequestFactory().get("/")) is content
    assert b"".join(content.streaming_content) == b"a"
