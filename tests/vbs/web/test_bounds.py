"""What connections may hold: who sends a large body is asked for a key first, and nobody is slow, or many, for ever."""

import os
import re
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress

import httpx
import psutil
import pytest

from tests.vbs.web.tiny import KEY, MB, Server, assert_envelope, multipart, raw_answer, until
from vbs.web.connections import network_of
from vbs.web.spool import SpoolSpace

FORM = "Content-Type: multipart/form-data; boundary=x"


def head(*lines, path="/v1/files"):
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@pytest.fixture
def strict(tmp_path):
    """Makes a server with bounds that are reached soon."""
    with ExitStack() as running:

        def start(**bounds):
            server = Server(tmp_path, **bounds)
            running.callback(server.stop)
            return server

        yield start


# Who may send a large body


@pytest.mark.parametrize("length", ["Content-Length: 100000000", "Content-Length: 70000", "Transfer-Encoding: chunked"])
def test_without_a_key_the_answer_comes_before_the_body(server, length):
    calls = server.state()["calls"]
    with closing(server.connect()) as connection:
        connection.sendall(head(FORM, length, "Expect: 100-continue"))
        status, headers, body = raw_answer(connection)
    assert_envelope(status, headers, body, 401, "invalid_api_key")
    assert (headers["www-authenticate"], headers["connection"]) == ("Bearer", "close")
    assert server.state()["calls"] == calls + 1


def test_keyless_connections_hold_nothing(server):
    """They go on sending, as those do who mean harm."""
    before = server.spooled()
    with ExitStack() as open_ones:
        connections = [open_ones.enter_context(closing(server.connect())) for _ in range(8)]
        for connection in connections:
            connection.sendall(head(FORM, "Content-Length: 100000000") + bytes(MB))
            with suppress(OSError):
                for _ in range(10):
                    connection.sendall(bytes(MB))
        assert server.spooled() == before == 0
        for connection in connections:
            assert_envelope(*raw_answer(connection), 401, "invalid_api_key")


def test_a_client_that_only_sends_comes_to_read_that_it_has_no_key(server):
    body, headers, size = multipart(50)
    headers = {name: value for name, value in headers.items() if name not in KEY}
    response = httpx.post(f"{server.url}/v1/files", content=body, headers=headers | size, timeout=60)
    assert_envelope(response.status_code, response.headers, response.content, 401, "invalid_api_key")


def test_with_a_key_the_body_is_asked_for(server):
    with closing(server.connect()) as connection:
        connection.sendall(
            head(
                FORM,
                "Authorization: Bearer slow",
                "Content-Length: 100000",
                "Expect: 100-continue",
                "Connection: close",
            )
        )
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)  # while somebody is asked
        connection.settimeout(20)
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(bytes(100_000))
        assert b'"bytes": 100000' in connection.makefile("rb").read()


def test_a_body_that_is_sent_while_somebody_is_asked_arrives_and_holds_up_nobody(server):
    answers = []
    slow = {"Authorization": "Bearer slow"}

    def send(chunked):
        content = os.urandom(5 * MB)[: 3 * MB]
        content = iter([content]) if chunked else content
        answers.append(httpx.post(f"{server.url}/v1/x", content=content, headers=slow).json()["bytes"])

    threads = [threading.Thread(target=send, args=[chunked]) for chunked in (False, True)]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    assert httpx.post(f"{server.url}/v1/x", content=b"x").json()["bytes"] == 1
    assert time.monotonic() - started < 0.9
    for thread in threads:
        thread.join()
    assert answers == [3 * MB, 3 * MB]


def test_keep_alive_and_pipelined_requests_are_asked_each(server):
    body = os.urandom(70_000)
    one = head("Authorization: Bearer k", f"Content-Length: {len(body)}", path="/v1/x") + body
    chunked = head("Authorization: Bearer k", "Transfer-Encoding: chunked", path="/v1/x") + b"3\r\nabc\r\n0\r\n\r\n"
    keyless = head("Content-Length: 70000", path="/v1/x")
    with closing(server.connect()) as connection:
        connection.sendall(one + chunked + one + keyless + body)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(65536):
            received += data
    assert re.findall(rb'"bytes": (\d+)|HTTP/1.1 (401)', received) == [
        (b"70000", b""), (b"3", b""), (b"70000", b""), (b"", b"401"),
    ]  # fmt: skip


def test_a_client_that_leaves_while_somebody_is_asked(server):
    calls = server.state()["calls"]
    with closing(server.connect()) as connection:
        connection.sendall(head(FORM, "Authorization: Bearer slow", "Content-Length: 100000") + bytes(1000))
    time.sleep(1.5)
    assert server.spooled() == 0
    assert server.state()["calls"] == calls + 1
    assert not [line for line in server.lines if line["level"] == "ERROR"]


def test_who_cannot_tell_lets_nobody_in(tmp_path):
    server = Server(tmp_path)
    try:
        with closing(server.connect()) as connection:
            connection.sendall(head(FORM, "Authorization: Bearer broken", "Content-Length: 100000"))
            status, headers, body = raw_answer(connection)
        assert_envelope(status, headers, body, 503, "service_unavailable")
        assert int(headers["retry-after"]) > 0
        assert "by request" in until(lambda: [x for x in server.lines if x["level"] == "ERROR"])[0]["exc_info"]
    finally:
        server.stop()


def test_a_chunked_body_has_a_length_for_the_application(server):
    for content in ([b"ab", b"c" * 300_000], [b""], []):
        given = httpx.post(f"{server.url}/v1/headers", headers=KEY, content=iter(content)).json()["headers"]
        assert given["content-length"] == str(sum(map(len, content)))
        assert "transfer-encoding" not in given
    trailers = b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\nContent-Length: 7\r\n\r\n"
    with closing(server.connect()) as connection:
        lines = "Authorization: Bearer k", "Transfer-Encoding: chunked", "Connection: close"
        connection.sendall(head(*lines, path="/v1/headers") + trailers)
        assert b'"content-length": "3"' in connection.makefile("rb").read()


# Slow ones


@pytest.mark.parametrize("length", ["Content-Length: 1000000", "Transfer-Encoding: chunked", "Content-Length: 1000"])
def test_a_body_that_drips_is_cut_off(strict, length):
    server = strict(patience=1, rate=10_000)
    with closing(server.connect()) as connection:
        connection.sendall(head(FORM, "Authorization: Bearer k", length))
        connection.settimeout(0.05)
        for _ in range(200):
            connection.sendall(b"1\r\nx\r\n" if "chunked" in length else b"x")
            with suppress(TimeoutError):
                status, headers, body = raw_answer(connection)
                break
        else:
            pytest.fail("it never ended")
    assert_envelope(status, headers, body, 408, "request_timeout", "10000 bytes a second")
    until(lambda: server.spooled() == 0)


def test_a_body_that_is_fast_enough_may_take_longer_than_the_patience(strict):
    server = strict(patience=1, rate=1000)
    with closing(server.connect()) as connection:
        connection.sendall(head("Content-Length: 30000", "Connection: close", path="/v1/x"))
        for _ in range(30):
            connection.sendall(bytes(1000))
            time.sleep(0.1)
        assert b'"bytes": 30000' in connection.makefile("rb").read()


def test_a_reader_that_drips_is_cut_off(strict):
    server = strict(patience=1, rate=1_000_000)
    with closing(server.connect()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /stream?300 HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            for _ in range(400):
                connection.recv(1000)
                time.sleep(0.05)
    until(lambda: server.state()["closed"] == 1)
    assert [line for line in server.lines if "reads it at less than 1000000 bytes" in line["message"]]


def test_a_reader_that_is_fast_enough_may_take_longer_than_the_patience(strict):
    server = strict(patience=1, rate=100_000)
    with httpx.stream("GET", f"{server.url}/stream?40", timeout=60) as response:
        started, size = time.monotonic(), 0
        for piece in response.iter_bytes(MB):
            size += len(piece)
            time.sleep(0.1)
    assert size == 40 * MB
    assert time.monotonic() - started > 3


def test_who_reads_nothing_of_a_whole_answer_is_forgotten(strict):
    server = strict(patience=1, idle_seconds=1)
    with closing(server.connect()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /stream?4 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        process = psutil.Process(server.process.pid)
        until(lambda: len(process.net_connections()) == 2)
        until(lambda: len(process.net_connections()) == 1)


# Many


def test_so_many_connections_of_one_address(strict):
    server = strict(connections_per_address=5)
    with ExitStack() as held:
        connections = [held.enter_context(closing(server.connect())) for _ in range(5)]
        with closing(server.connect()) as one_more:
            status, headers, body = raw_answer(one_more)
        assert_envelope(status, headers, body, 429, "too_many_connections", "127.0.0.1", "VBS_MAX_CONNECTIONS_PER_AD")
        assert int(headers["retry-after"]) > 0
        assert httpx.post(f"{server.url}/v1/x", content=bytes(60_000)).status_code == 429  # read although it was early
        connections[0].sendall(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connections[0].recv(1000).startswith(b"HTTP/1.1 200")
    until(lambda: httpx.get(f"{server.url}/v1/x").status_code == 200)


def test_so_many_connections_in_all(strict):
    server = strict(connections=3)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(closing(server.connect()))
        with closing(server.connect()) as one_more:
            status, headers, body = raw_answer(one_more)
    assert_envelope(status, headers, body, 503, "too_many_connections", "VBS_MAX_CONNECTIONS")
    assert int(headers["retry-after"]) > 0


def test_websockets_count_until_they_end(strict):
    from websockets.sync.client import connect

    server = strict(connections_per_address=3)
    url = f"ws://127.0.0.1:{server.port}/ws"
    with connect(url), connect(url), closing(server.connect()), closing(server.connect()) as one_more:
        assert_envelope(*raw_answer(one_more), 429, "too_many_connections")
    until(lambda: httpx.get(f"{server.url}/v1/x").status_code == 200)
    with ExitStack() as held:
        for _ in range(2):
            held.enter_context(closing(server.connect()))
        until(lambda: httpx.get(f"{server.url}/v1/x").status_code == 200)


def test_a_flood_of_connections_leaves_those_that_are_there_alone(strict):
    server = strict(connections=50)
    with ExitStack() as held:
        first = held.enter_context(closing(server.connect()))
        others = [held.enter_context(closing(server.connect())) for _ in range(300)]
        for one in others[49:]:
            assert_envelope(*raw_answer(one), 503, "too_many_connections", "VBS_MAX_CONNECTIONS")
        for _ in range(20):
            first.sendall(b"GET /v1/x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert first.recv(1000).startswith(b"HTTP/1.1 200")
        assert len(psutil.Process(server.process.pid).net_connections()) < 50 + 64 + 10


def test_clients_of_a_flood_are_told_why(strict):
    """Also those that are closed at once, while they send."""
    server = strict(connections=5)
    with ExitStack() as held:
        for _ in range(5 + 64):
            held.enter_context(closing(server.connect()))
        told = 0
        for _ in range(50):
            with suppress(httpx.HTTPError):
                answer = httpx.post(f"{server.url}/v1/x", content=bytes(1000))
                assert answer.status_code == 503 and answer.json()["error"]["code"] == "too_many_connections"
                told += 1
        print(f"{told} of 50 were told")
        assert told >= 40
        assert len(psutil.Process(server.process.pid).net_connections()) < 5 + 64 + 10


def test_the_room_for_bodies(strict):
    server = strict(spool=20 * MB)
    with ExitStack() as held:
        connection = held.enter_context(closing(server.connect()))
        connection.sendall(head(FORM, "Authorization: Bearer k", "Content-Length: 9000000") + bytes(8 * MB))
        until(lambda: server.spooled() == 8 * MB)  # one address may have half of the room
        body, headers, size = multipart(4)
        response = httpx.post(f"{server.url}/v1/files", content=body, headers=headers | size)
        given = response.status_code, response.headers, response.content
        assert_envelope(*given, 429, "too_much_at_once", "10 MB", "VBS_MAX_SPOOL_MB")
        assert int(response.headers["retry-after"]) > 0
        body, headers, _ = multipart(4)
        assert httpx.post(f"{server.url}/v1/files", content=body, headers=headers).status_code == 429  # in chunks
        assert httpx.post(f"{server.url}/v1/x", headers=KEY, content=bytes(200_000)).status_code == 200  # in memory
        assert server.spooled() <= 10 * MB
    until(lambda: server.spooled() == 0)
    body, headers, size = multipart(9)
    assert httpx.post(f"{server.url}/v1/files", content=body, headers=headers | size).status_code == 200
    body, headers, size = multipart(9)
    assert httpx.post(f"{server.url}/v1/files", content=body, headers=headers | size).status_code == 200


def test_the_room_of_all_addresses():
    room = SpoolSpace(10)
    for address in ("a", "b"):
        assert room.refuses(address, 5) is None
        room.take(address, 4)
    assert room.refuses("a", 2).status == 429  # half of it is the most for one
    assert room.refuses("c", 3).status == 503
    room.give_back("a", 4)
    assert room.refuses("c", 3) is None
    room.give_back("b", 4)
    assert (room.used, dict(room.by_address)) == (0, {})


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:aaaa::7", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_what_counts_as_one_address(host, counted):
    assert network_of(host) == counted


# No descriptors


def test_without_descriptors_it_is_told_and_goes_on(tmp_path):
    server = Server(tmp_path, files=64)
    try:
        process = psutil.Process(server.process.pid)
        with ExitStack() as held, httpx.Client() as client:
            client.get(f"{server.url}/v1/x")
            for _ in range(100):
                held.enter_context(closing(server.connect()))
            told = until(lambda: [x for x in server.lines if "no descriptor is left" in x["message"]])
            assert "64" in told[0]["message"]
            before = process.cpu_times()
            time.sleep(1)
            after = process.cpu_times()
            assert after.user + after.system - before.user - before.system < 0.5, "it spins"
            body, headers, size = multipart(1)
            response = client.post(f"{server.url}/v1/files", content=body, headers=headers | size)
            given = response.status_code, response.headers, response.content
            assert_envelope(*given, 503, "no_descriptors")
            assert int(response.headers["retry-after"]) > 0
        until(lambda: httpx.get(f"{server.url}/v1/x").status_code == 200)
    finally:
        server.stop()
