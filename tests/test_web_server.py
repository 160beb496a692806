"""The web server as it runs: a process of its own with a tiny application, real sockets, real clients, no database."""

import asyncio
import hashlib
import http.client
import io
import json
import logging.config
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

MB = 1024 * 1024
ROOT = Path(__file__).resolve().parent.parent
FILE_LIMIT = 401 * MB  # VBS_MAX_FILE_MB=400, and 1 MB for what multipart adds

# The application, in the server's process

state = {"calls": 0, "open": 0, "closed": 0, "sent": 0}


async def application(scope, receive, send):
    if scope["type"] == "websocket":
        return await echo(receive, send)
    state["calls"] += 1
    path = scope["path"].removeprefix("/v1")
    if path == "/fail":
        raise RuntimeError("by request")
    if path == "/silent":
        logging.getLogger("tiny").info("silent")
        return None
    if path in ("/stream", "/fail-late"):
        return await stream(path, int(scope["query_string"] or 0), receive, send)
    if path == "/slow":
        await asyncio.sleep(float(scope["query_string"]))
    if path == "/stuck":
        await asyncio.to_thread(time.sleep, 60)
    if path == "/state":
        return await answer(send, dict(state))
    digest, size, largest = hashlib.sha256(), 0, 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        digest.update(message["body"])
        size, largest = size + len(message["body"]), max(largest, len(message["body"]))
        if not message["more_body"]:
            break
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode()
    await answer(send, {"bytes": size, "largest": largest, "sha256": digest.hexdigest(), "request_id": given})


async def answer(send, content):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


async def stream(path, megabytes, receive, send):
    """As Django does it: one task sends, another waits for the disconnect and cancels it."""

    async def body():
        state["open"] += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(megabytes * 16):
                await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
                state["sent"] += 65536
                if path == "/fail-late":
                    raise RuntimeError("by request, late")
            await send({"type": "http.response.body"})
        finally:
            state["closed"] += 1

    await receive()
    sending, gone = asyncio.create_task(body()), asyncio.create_task(receive())
    try:
        await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        sending.cancel()
        gone.cancel()


async def echo(receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


def main():
    """What a test starts: `python -m tests.test_web_server TMP_DIR [full] [seconds]`."""
    from vbs import logs, web

    tempfile.tempdir = sys.argv[1]
    if "full" in sys.argv:
        web.spool = lambda length: io.FileIO("/dev/full", "r+")
    if "impatient" in sys.argv:
        web.IDLE_SECONDS = 1
    logging.config.dictConfig(logs.config("json", "INFO"))
    web.serve(application, web.limits(400), "127.0.0.1", 0)


# The tests


class Server:
    def __init__(self, tmp: Path, *options: str) -> None:
        self.tmp = tmp
        command = [sys.executable, "-m", "tests.test_web_server", str(tmp), *options]
        self.process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.stderr = self.process.stderr
        self.lines: list[dict] = []
        self.ready = threading.Event()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        assert self.ready.wait(20), self.lines
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        for line in self.stderr:
            self.lines.append(json.loads(line))
            if found := re.search(r"listening on http://127.0.0.1:(\d+)", line):
                self.port = int(found[1])
                self.ready.set()

    def stop(self, signum: int = signal.SIGTERM) -> float:
        started = time.monotonic()
        self.process.send_signal(signum)
        try:
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            self.reader.join()
            self.stderr.close()
        return time.monotonic() - started

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def state(self) -> dict:
        return httpx.get(f"{self.url}/state").json()

    def accesses(self, path: str) -> list[dict]:
        return [line for line in self.lines if line["logger"] == "vbs.access" and line.get("path") == path]

    def spooled(self) -> int:
        """Bytes on disk in files without a name, which is where a body waits."""
        size = 0
        for descriptor in Path(f"/proc/{self.process.pid}/fd").iterdir():
            try:
                if os.readlink(descriptor).startswith(str(self.tmp)):
                    size += descriptor.stat().st_size
            except FileNotFoundError:
                continue
        return size

    @contextmanager
    def growth_below(self, megabytes: int) -> Iterator[None]:
        """The peak of resident memory inside, over what it was before."""
        process = psutil.Process(self.process.pid)
        before = peak = process.memory_info().rss
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.01):
                peak = max(peak, process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
        assert (peak - before) / MB < megabytes


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("spool"))
    yield server
    server.stop()


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)
    return result


def pieces(megabytes):
    for _ in range(megabytes):
        yield bytes(MB)


def multipart(megabytes):
    """A form with one file, generated piece by piece; and its headers."""
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    tail = b"\r\n--x--\r\n"

    def body():
        yield head
        yield from pieces(megabytes)
        yield tail

    size = len(head) + len(tail) + megabytes * MB
    return body(), {"Content-Type": "multipart/form-data; boundary=x"}, {"Content-Length": str(size)}


def assert_envelope(status, headers, body, expected_status, code, *said):
    assert status == expected_status
    assert headers["content-type"] == "application/json"
    assert re.fullmatch(r"[\w.-]{1,128}", headers["x-request-id"])
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("server_error" if expected_status >= 500 else "invalid_request_error")
    assert (error["param"], error["code"]) == (None, code)
    for words in said:
        assert words in error["message"]


def raw_answer(connection):
    """Status, headers and body of what comes until the server closes."""
    received = b""
    while data := connection.recv(65536):
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}, body


def test_an_upload_costs_no_memory(server):
    body, headers, size = multipart(300)
    with server.growth_below(30):
        response = httpx.post(f"{server.url}/v1/files", content=body, headers=headers | size, timeout=60)
    assert response.json()["bytes"] == int(size["Content-Length"])
    assert response.json()["largest"] <= 256 * 1024
    assert server.spooled() == 0


def test_a_chunked_upload_costs_no_memory(server):
    body, headers, _ = multipart(300)
    with server.growth_below(30):
        response = httpx.post(f"{server.url}/v1/files", content=body, headers=headers, timeout=60)
    assert response.json()["bytes"] > 300 * MB
    assert server.spooled() == 0


@pytest.mark.parametrize("size", [0, 1, 8192, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 3 * MB + 7])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_arrives_as_it_was_sent(server, size, chunked):
    content = os.urandom(size)
    response = httpx.post(f"{server.url}/v1/x", content=iter([content]) if chunked else content)
    assert response.json()["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_slow_reader_costs_no_memory(server):
    before = server.state()["sent"]
    with server.growth_below(30), httpx.stream("GET", f"{server.url}/stream?300", timeout=60) as response:
        chunks = response.iter_bytes(MB)
        next(chunks)
        time.sleep(1)
        assert server.state()["sent"] - before < 30 * MB, "the server runs ahead of its client"
        assert sum(map(len, chunks)) == 299 * MB


def test_a_reader_that_goes_away_ends_the_stream(server):
    before = server.state()
    with closing(server.connect()) as connection:
        connection.sendall(b"GET /stream?1000 HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.recv(65536)
        until(lambda: server.state()["open"] == before["open"] + 1)
    until(lambda: server.state()["closed"] == before["closed"] + 1)
    assert server.state()["sent"] - before["sent"] < 100 * MB
    assert until(lambda: server.accesses("/stream"))[-1]["status"] in (200, 499)


def test_head_has_no_body_and_the_connection_goes_on(server):
    with httpx.Client() as client:
        assert client.head(f"{server.url}/stream?3").content == b""
        assert client.get(f"{server.url}/v1/x").json()["bytes"] == 0


# Refused at the door


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
        connection.sendall(b"POST /v1/chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
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
        ("/v1/files/", "multipart/form-data; boundary=x", 4 * MB),
        ("/v1/uploads/a/b/parts", "multipart/form-data; boundary=x", 4 * MB),
        ("/anything?path=/v1/files", "multipart/form-data; boundary=x", 4 * MB),
    ],
)
def test_the_limit_of_each_route(server, path, kind, most):
    head = "POST {} HTTP/1.1\r\nHost: x\r\nContent-Type: {}\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n"
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


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"HELLO\r\n\r\n", 400, "invalid_http"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "invalid_http"),
        (b"GET /v1/x HTTP/1.1\r\nno colon\r\n\r\n", 400, "invalid_http"),
        (b"GET /v1/x HTTP/1.1\r\nno colon\r\nHost: x\r\n\r\n", 400, "invalid_http"),
        (b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "invalid_http"),
        (b"POST /v1/x HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "invalid_http"),
        (b"POST /v1/x HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n", 400, "invalid_http"),
        (b"POST /v1/x HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "invalid_http"),
        (b"POST /v1/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nGET / HTTP/1.1\r\n\r\n", 400, "invalid_http"),
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
            assert_envelope(*answer, 507, "insufficient_storage", "disk is full")
        assert "No space left" in until(lambda: [x for x in server.lines if x["level"] == "ERROR"])[0]["message"]
    finally:
        server.stop()


def test_a_client_that_gives_up_leaves_nothing(server):
    calls = server.state()["calls"]
    for head in (b"Content-Length: 200000000", b"Transfer-Encoding: chunked"):
        with closing(server.connect()) as connection:
            connection.sendall(b"POST /v1/files HTTP/1.1\r\nContent-Type: multipart/form-data\r\n" + head + b"\r\n\r\n")
            connection.sendall(b"1400000\r\n" + bytes(20 * MB))
            until(lambda: server.spooled() >= 20 * MB)
        until(lambda: server.spooled() == 0)
    assert not list(server.tmp.iterdir())
    assert server.state()["calls"] == calls + 1
    assert until(lambda: server.accesses("/v1/files"))[-1]["status"] == 499


def test_a_request_that_stands_still(tmp_path):
    server = Server(tmp_path, "impatient")
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


# What Daphne answers itself


@pytest.mark.parametrize("path", ["/fail", "/silent"])
def test_an_application_that_fails(server, path):
    started = time.monotonic()
    response = httpx.get(f"{server.url}/v1{path}", headers={"X-Request-ID": f"req{path[1:]}"})
    assert time.monotonic() - started < 0.5
    assert_envelope(response.status_code, response.headers, response.content, 500, "internal_server_error", "req")
    assert response.headers["x-request-id"] == f"req{path[1:]}"
    line = until(
        lambda: [x for x in server.lines if x["level"] == "ERROR" and x.get("request_id") == f"req{path[1:]}"]
    )[0]
    assert ("by request" in line.get("exc_info", "")) == (path == "/fail")
    assert path == "/fail" or any(x["logger"] == "tiny" and x["request_id"] == "reqsilent" for x in server.lines)
    page = httpx.get(f"{server.url}{path}")
    assert (page.status_code, page.headers["content-type"]) == (500, "text/html; charset=utf-8")


def test_a_stream_that_fails_is_not_taken_for_the_whole(server):
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{server.url}/v1/fail-late?1")
    assert httpx.get(f"{server.url}/v1/fail").status_code == 500  # and failures are still seen


@pytest.mark.parametrize("bad", [b"/v1/x HTTP/1.1\r\nX-A: a\x0bb", b"/v1/\x80 HTTP/1.1", b"/v1/x?\x80 HTTP/1.1"])
def test_what_daphne_does_not_accept(server, bad):
    with closing(server.connect()) as connection:
        connection.sendall(b"GET " + bad + b"\r\nConnection: close\r\n\r\n")
        assert_envelope(*raw_answer(connection), 400, "bad_request")


# Everything else that a server does


def test_pipelined_requests_are_answered_in_order(server):
    with closing(server.connect()) as connection:
        connection.sendall(
            b"".join(b"POST /v1/x HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % n + bytes(n) for n in range(9))
        )
        connection.sendall(b"GET /v1/x HTTP/1.1\r\nConnection: close\r\n\r\n")
        received = b""
        while data := connection.recv(65536):
            received += data
    assert [int(n) for n in re.findall(rb'"bytes": (\d+)', received)] == [*range(9), 0]


def test_a_request_has_one_id_everywhere(server):
    assert httpx.get(f"{server.url}/v1/x", headers={"X-Request-ID": "abc.1_-"}).json()["request_id"] == "abc.1_-"
    made = httpx.get(f"{server.url}/v1/x", headers={"X-Request-ID": "not fit"}).json()["request_id"]
    assert re.fullmatch(r"req_[0-9a-f]{24}", made)
    assert until(lambda: [line for line in server.accesses("/v1/x") if line["request_id"] == made])


def test_the_access_log_says_what_happened_and_no_secrets(server):
    httpx.post(f"{server.url}/v1/logged?key=sk-vbs-secret", content=b"abc")
    (line,) = until(lambda: server.accesses("/v1/logged"))
    assert (line["method"], line["status"], line["level"]) == ("POST", 200, "INFO")
    assert line["bytes"] > 0
    assert line["ms"] > 0
    assert "secret" not in str(server.lines)


def test_websockets(server):
    from websockets.sync.client import connect

    with connect(f"ws://127.0.0.1:{server.port}/ws/x") as websocket:
        for text in ("hello", "x" * 300_000):
            websocket.send(text)
            assert websocket.recv(10) == text


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_the_middle_of_everything(tmp_path, signum):
    from websockets.sync.client import connect

    server = Server(tmp_path)
    with (
        closing(server.connect()) as download,
        closing(server.connect()) as upload,
        connect(f"ws://127.0.0.1:{server.port}/ws") as websocket,
    ):
        download.sendall(b"GET /stream?1000 HTTP/1.1\r\n\r\n")
        download.recv(1000)
        upload.sendall(b"POST /v1/x HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n12345")
        websocket.send("hello")
        websocket.recv(10)
        assert server.stop(signum) < 3
    assert server.process.returncode == 0
    assert not [line for line in server.lines if line["level"] in ("ERROR", "CRITICAL")]


def test_a_thread_that_does_not_come_back_keeps_nobody_waiting(tmp_path):
    server = Server(tmp_path)
    with closing(server.connect()) as connection:
        connection.sendall(b"GET /stuck HTTP/1.1\r\n\r\n")
        time.sleep(0.2)
        assert server.stop() < 3


def test_a_short_request_is_finished_before_the_end(tmp_path):
    server = Server(tmp_path)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(httpx.get(f"{server.url}/slow?0.5")))
    asking.start()
    time.sleep(0.2)
    server.stop()
    asking.join()
    assert answers[0].status_code == 200


def test_an_address_that_is_taken(server, tmp_path):
    code = f"from vbs import web; web.serve(None, web.limits(1), '127.0.0.1', {server.port})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert result.returncode == 1
    assert f"OSError: cannot listen on 127.0.0.1:{server.port}: " in result.stderr
    assert "in use" in result.stderr


if __name__ == "__main__":
    main()


def test_the_page_of_a_new_batch_takes_the_file_of_a_batch():
    code = """
from vbs import web
limit, form = web.limits(512, 300), "multipart/form-data; boundary=x"
for path in ("/batches/new", "/batches/new/check"):
    assert 300 * 2**20 < limit("POST", path, form).bytes < 310 * 2**20
    assert limit("GET", path, form) == limit("POST", path, "text/plain") == limit("POST", "/queue/", form)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
