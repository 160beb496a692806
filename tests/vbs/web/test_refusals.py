"""What is refused at the door: too large, not HTTP, no room for it."""

import http.client
import socket
import tempfile
import time
from contextlib import closing, suppress

import httpx
import pytest

from tests.vbs.web.tiny import FILE_LIMIT, MB, Server, assert_envelope, multipart, raw_answer, until


def post_httpx(url, **options):
    response = httpx.post(url, timeout=60, **options)
    return response.status_code, response.headers, response.content


def post_requests(url, *, content, headers):
    """Its bodies of known length are files, its iterators are sent in chunks."""
    import requests

    with tempfile.TemporaryFile() as file:
        if length := headers.get("Content-Length"):
            file.truncate(int(length))
            content, headers = file, headers | {"Content-Length": None}
        response = requests.post(url, data=content, headers=headers, timeout=60)
    return response.status_code, response.headers, response.content


@pytest.mark.parametrize("post", [post_httpx, post_requests])
def test_too_large_by_its_length(server, post):
    calls = server.state()["calls"]
    body, headers, size = multipart(500)
    answer = post(f"{server.url}/v1/files", content=body, headers=headers | size)
    said = (size["Content-Length"], str(FILE_LIMIT), "VBS_MAX_FILE_MB is 400", "POST /v1/files")
    assert_envelope(*answer, 413, "request_too_large", *said)
    assert server.state()["calls"] == calls + 1
    assert server.spooled() == 0


@pytest.mark.parametrize("post", [post_httpx, post_requests])
def test_too_large_in_chunks(server, post):
    body, headers, _ = multipart(500)
    answer = post(f"{server.url}/v1/files", content=body, headers=headers)
    assert_envelope(*answer, 413, "request_too_large", str(FILE_LIMIT), "VBS_MAX_FILE_MB")
    assert server.spooled() == 0


def test_too_large_for_the_official_client(server, tmp_path):
    import openai

    large = tmp_path / "large.jsonl"
    with large.open("wb") as file:
        file.truncate(450 * MB)
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", max_retries=0)
    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=large, purpose="batch")
    assert caught.value.status_code == 413
    assert caught.value.body["code"] == "request_too_large"


def test_too_large_for_a_client_that_reads_only_when_all_is_sent(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with closing(connection):
        body, headers, size = multipart(500)
        connection.request("POST", "/v1/files", body=body, headers=headers | size)
        response = connection.getresponse()
        assert_envelope(response.status, response.headers, response.read(), 413, "request_too_large")


def test_too_large_is_said_before_the_body_is_sent(server):
    with closing(server.connect()) as connection:
        connection.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Expect: 100-continue\r\nX-Request-ID: mine\r\nContent-Length: 420478977\r\n\r\n"
        )
        status, headers, body = raw_answer(connection)
    assert_envelope(status, headers, body, 413, "request_too_large", "420478977")
    assert headers["connection"] == "close"
    assert headers["x-request-id"] == "mine"
    line = until(lambda: [line for line in server.accesses("/v1/files") if line["request_id"] == "mine"])[0]
    assert (line["method"], line["status"], line["bytes"]) == ("POST", 413, len(body))


def test_too_large_in_chunks_is_said_while_the_client_sends(server):
    with closing(server.connect()) as connection:
        connection.sendall(
            b"POST /v1/chat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(5):
            connection.sendall(b"100000\r\n" + bytes(MB) + b"\r\n")
        assert_envelope(*raw_answer(connection), 413, "request_too_large", str(4 * MB))


@pytest.mark.parametrize(
    ("path", "kind", "most"),
    [
        ("/v1/files", "multipart/form-data; boundary=x", FILE_LIMIT),
        ("/v1/batches", "Multipart/Form-Data; boundary=x", FILE_LIMIT),
        ("/v1/uploads/upload_1/parts", "multipart/form-data; boundary=x", 65 * MB),
        ("/v1/batches", "application/json", 4 * MB),
        ("/v1/files", "application/x-www-form-urlencoded", 4 * MB),
        ("/v1/files/", "multipart/form-data; boundary=x", FILE_LIMIT),
        ("/v1/files//", "multipart/form-data; boundary=x", 4 * MB),
        ("/v1/uploads/a/b/parts", "multipart/form-data; boundary=x", 4 * MB),
        ("/anything?path=/v1/files", "multipart/form-data; boundary=x", 4 * MB),
    ],
)
def test_the_limit_of_each_route(server, path, kind, most):
    head = (
        "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Type: {}\r\n"
        "Expect: 100-continue\r\nContent-Length: {}\r\n\r\n"
    )
    with closing(server.connect()) as connection:
        connection.sendall(head.format(path, kind, most).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
    with closing(server.connect()) as connection:
        connection.sendall(head.format(path, kind, most + 1).encode())
        assert_envelope(*raw_answer(connection), 413, "request_too_large", str(most))


def test_a_refused_client_that_never_stops_is_cut_off(server):
    with closing(server.connect()) as connection:
        connection.sendall(b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        sent, block = 0, bytes(4 * MB)
        with pytest.raises(OSError), server.growth_below(30):
            while sent < 2048 * MB:
                sent += connection.send(block)
        assert sent > 500 * MB
        assert_envelope(*raw_answer(connection), 413, "request_too_large")


BODY = b"POST /v1/x HTTP/1.1\r\nAuthorization: Bearer k\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"HELLO\r\n\r\n", 400, "invalid_http"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "invalid_http"),
        (b"GET /v1/x HTTP/1.1\r\nno colon\r\n\r\n", 400, "invalid_http"),
        (b"GET /v1/x HTTP/1.1\r\nno colon\r\nHost: x\r\n\r\n", 400, "invalid_http"),
        (b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "invalid_http"),
        (b"POST /v1/x HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 400, "invalid_http"),
        (b"POST /v1/x HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "invalid_http"),
        (b"POST /v1/x HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n", 400, "invalid_http"),
        (b"POST /v1/x HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "invalid_http"),
        (BODY.replace(b"\r\n", b"\r\nUpgrade: WebSocket\r\n", 1), 400, "invalid_http"),
        (BODY + b"zz\r\nGET / HTTP/1.1\r\n\r\n", 400, "invalid_http"),
        (BODY + b"2\r\nabcde\r\n", 400, "invalid_http"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 431, "headers_too_large"),
        (b"GET /v1/x HTTP/1.1\r\nX-A: " + b"a" * 20_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /v1/x HTTP/1.1\r\n" + b"X-A: aaaaaaaaaaaa\r\n" * 2000 + b"\r\n", 431, "headers_too_large"),
    ],
)
def test_what_cannot_be_read(server, sent, status, code):
    calls = server.state()["calls"]
    with closing(server.connect()) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert_envelope(*raw_answer(connection), status, code)
    assert server.state()["calls"] == calls + 1


def test_a_full_disk(tmp_path):
    server = Server(tmp_path, "full")
    try:
        for chunked in (False, True):
            body, headers, size = multipart(300)
            answer = post_httpx(f"{server.url}/v1/files", content=body, headers=headers | ({} if chunked else size))
            assert_envelope(*answer, 507, "storage_full", "storage is full")
        assert "No space left" in until(lambda: [x for x in server.lines if x["level"] == "ERROR"])[0]["message"]
    finally:
        server.stop()


def test_a_client_that_gives_up_leaves_nothing(server):
    calls = server.state()["calls"]
    for head in (b"Content-Length: 200000000", b"Transfer-Encoding: chunked"):
        with closing(server.connect()) as connection:
            connection.sendall(
                b"POST /v1/files HTTP/1.1\r\nAuthorization: Bearer k\r\nContent-Type: multipart/form-data\r\n"
                + head
                + b"\r\n\r\n"
            )
            connection.sendall(b"1400000\r\n" + bytes(20 * MB))
            until(lambda: server.spooled() >= 20 * MB)
        until(lambda: server.spooled() == 0)
    assert not list(server.tmp.iterdir())
    assert server.state()["calls"] == calls + 1
    assert until(lambda: server.accesses("/v1/files"))[-1]["status"] == 499


def test_a_request_that_stands_still(tmp_path):
    server = Server(tmp_path, head_seconds=1, idle_seconds=1, patience=1)
    try:
        for start in (b"POST /v1/x HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345", b"GET /v1/x HTTP/1.1\r\nX-A: 1"):
            with closing(server.connect()) as connection:
                connection.sendall(start)
                assert_envelope(*raw_answer(connection), 408, "request_timeout")
        with closing(server.connect()) as drops:
            drops.sendall(b"GET /v1/x HTTP/1.1\r\n")
            drops.settimeout(0.05)
            for _ in range(100):  # a header now and then is no progress
                drops.sendall(b"X: 1\r\n")
                with suppress(TimeoutError):
                    assert_envelope(*raw_answer(drops), 408, "request_timeout")
                    break
            else:
                pytest.fail("it never ended")
        assert httpx.get(f"{server.url}/slow?1.5").status_code == 200  # an application may take its time
        with httpx.Client() as client:
            client.get(f"{server.url}/state")
            time.sleep(1.5)  # an idle connection is closed without a word; the client opens another
            assert client.get(f"{server.url}/state").status_code == 200
    finally:
        server.stop()
