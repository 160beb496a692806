"""The web server as it runs: bodies in, answers out, errors, signals."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing

import httpx
import pytest

from tests.vbs.web.tiny import KEY, MB, ROOT, Server, assert_envelope, multipart, raw_answer, until


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
    response = httpx.post(f"{server.url}/v1/x", headers=KEY, content=iter([content]) if chunked else content)
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
        upload.sendall(b"POST /v1/x HTTP/1.1\r\nAuthorization: Bearer k\r\nContent-Length: 1000000\r\n\r\n12345")
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
    code = f"from vbs.web.server import serve; serve(None, None, None, '127.0.0.1', {server.port})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert result.returncode == 1
    assert f"OSError: cannot listen on 127.0.0.1:{server.port}: " in result.stderr
    assert "in use" in result.stderr


def test_the_page_of_a_new_batch_takes_the_file_of_a_batch():
    code = """
from vbs.http.body_limits import limits
limit, form = limits(512, 300), "multipart/form-data; boundary=x"
for path in ("/batches/new", "/batches/new/check"):
    assert 300 * 2**20 < limit("POST", path, form).bytes < 310 * 2**20
    assert limit("GET", path, form) == limit("POST", path, "text/plain") == limit("POST", "/queue/", form)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
