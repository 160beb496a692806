"""Raw HTTP by chance against the real web process: nothing that comes in makes it fail, hang or keep anything.

`VBS_FUZZ_SEED` and `VBS_FUZZ_CASES` run it again, or for longer.
"""

import os
import random
import re
import socket
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import httpx
import pytest

from tests.vbs.web.tiny import until

SEED = int(os.environ.get("VBS_FUZZ_SEED") or random.randrange(2**32))
CASES = int(os.environ.get("VBS_FUZZ_CASES") or 200)
PATIENCE = 1.0  # seconds for an answer, after which the client says that it has no more to send
HANGS = 30.0

METHODS = [
    b"GET",
    b"POST",
    b"POST",
    b"POST",
    b"DELETE",
    b"PUT",
    b"PATCH",
    b"HEAD",
    b"OPTIONS",
    b"TRACE",
    b"CONNECT",
    b"x",
]
PATHS = [
    b"/v1/files", b"/v1/files/", b"/v1/batches", b"/v1/uploads", b"/v1/uploads/upload_1/parts", b"/v1/models",
    b"/v1/queue", b"/v1/files/file-1/content", b"/v1/batches/batch_1/results", b"/v1/registry/models", b"/v1",
    b"/health", b"/ready", b"/metrics", b"/openapi.json", b"/", b"/login", b"/batches/new", b"/batches/new/check",
    b"/queue/", b"/admin/login/", b"/static/nothing.css", b"/ws/x", b"*", b"http://localhost/v1/files", b"//v1/files",
    b"/v1/files/%00", b"/v1/files/%ff%fe", b"/v1/files/..%2f..%2fetc", b"/v1/models/" + b"a/" * 200, b"/%2e%2e/x",
]  # fmt: skip
QUERIES = [
    b"",
    b"",
    b"",
    b"?limit=1",
    b"?limit=-1",
    b"?after=%00",
    b"?after=\xff",
    b"?" + b"a=1&" * 500,
    b"?a[b]=%",
    b"#x",
]
VERSIONS = [b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9", b"http/1.1", b""]
TYPES = [
    b"application/json", b"multipart/form-data; boundary=b0", b"multipart/form-data", b"multipart/form-data; boundary=",
    b"multipart/form-data; boundary=" + b"b" * 300, b"multipart/form-data; boundary=\xff", b"text/plain; charset=nope",
    b"application/json; charset=utf-16", b"application/x-www-form-urlencoded", b"", b"x",
    b"application/json; charset=\x80",
]  # fmt: skip
ODD = [
    b"Range: bytes=5-1", b"Range: bytes=-", b"If-None-Match: W/\"", b"Upgrade: websocket", b"Connection: Upgrade",
    b"Expect: 100-continue", b"Expect: tea", b"X-Request-ID: \xff", b"X-Request-ID: " + b"a" * 500,
    b"Cookie: sessionid=\x80",
    b"Cookie: sessionid=" + b"a" * 4000, b"Accept: */*;q=x", b"Accept-Encoding: gzip;q=\xff", b"Host: evil", b"Host:",
    b"Origin: null", b"Content-Encoding: gzip", b"Idempotency-Key: \xff", b"X-Forwarded-For: \x00", b"A_B: c", b": x",
    b"X: " + b"y" * 9000, b" folded", b"Sec-WebSocket-Key: x", b"Trailer: Content-Length", b"TE: trailers",
    b"Daphne-Root-Path: %ff",
]  # fmt: skip
LENGTHS = [b"0", b"-1", b"+5", b"0x10", b"9" * 30, b"9" * 5000, b"5, 5", b"", b"1e3", b"\xb2", b"70000", b"99999999"]
ENCODINGS = [b"chunked", b"Chunked", b"identity", b"gzip", b"chunked, chunked", b"gzip, chunked", b"\x0bchunked", b""]


def body(chance):
    multipart = (
        b'--b0\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b0\r\n'
        b'Content-Disposition: form-data; name="file"; filename="\xff.jsonl"\r\n\r\n{"custom_id": 1}\n\r\n--b0--\r\n'
    )
    return chance.choice([
        b"", b"{}", b"[" * 3000, b'{"input_file_id": "file-1", "endpoint": "x"}', b'{"a": "\\ud800"}',
        multipart, multipart, b"\xff\xfe{\x00}\x00", b'{"limit": 1e999, "x": NaN}', multipart,
        multipart[:-30], multipart.replace(b"\r\n", b"\n"), b"a=%ff&b=%",
        multipart.replace(b'name="file"', b"name*=utf-8''%ff"),
        chance.randbytes(chance.choice([1, 100, 70_000, 300_000])),
    ])  # fmt: skip


def chunked(chance, data):
    """As it should be, or nearly."""
    sent, at = b"", 0
    while at < len(data):
        size = chance.choice([1, 7, 1000, 65_536])
        piece = data[at : at + size]
        sent += b"%x%s\r\n%s\r\n" % (len(piece), chance.choice([b""] * 9 + [b";a=b", b';a="\r"']), piece)
        at += size
    end = [b"0\r\n\r\n"] * 4 + [
        b"0\r\nX: 1\r\n\r\n",
        b"-1\r\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"",
        b"0\r\n" + b"X: y\r\n" * 9000,
    ]
    return sent + chance.choice(end)


def request(chance, key):
    """One request, and whether the client says that it is the last."""
    data = body(chance)
    lines = [b"Host: localhost"] if chance.random() < 0.9 else []
    if chance.random() < 0.8:
        lines.append(b"Authorization: Bearer " + chance.choice([key.encode()] * 12 + [b"sk-vbs-x", b"", b"\xff" * 50]))
    if chance.random() < 0.8:
        lines.append(b"Content-Type: " + chance.choice(TYPES[:2] * 8 + TYPES))
    if chance.random() < 0.6:
        lines.append(b"Connection: close")
    match chance.randrange(12):
        case 0 | 1 | 2 | 3 | 4:
            lines.append(b"Content-Length: %d" % len(data))
        case 5 | 6 | 7 | 8:
            lines.append(b"Transfer-Encoding: chunked")
            data = chunked(chance, data)
        case 9:
            lines.append(b"Content-Length: " + chance.choice(LENGTHS))
        case 10:
            lines.append(b"Transfer-Encoding: " + chance.choice(ENCODINGS))
            data = chunked(chance, data)
    lines += chance.sample(ODD, chance.choice([0] * 8 + [1, 2, 5]))
    if chance.random() < 0.2:
        chance.shuffle(lines)
    first = b" ".join([chance.choice(METHODS), chance.choice(PATHS) + chance.choice(QUERIES), chance.choice(VERSIONS)])
    sent = chance.choice([b"\r\n"] * 30 + [b"\n"]).join([first, *lines, b"", b""]) + data
    return mutated(chance, sent) if chance.random() < 0.15 else sent


def mutated(chance, data):
    data = bytearray(data)
    for _ in range(chance.choice([1, 2, 20])):
        at, size = chance.randrange(len(data) + 1), chance.choice([1, 1, 4, 100])
        match chance.randrange(4):
            case 0:
                del data[at : at + size]
            case 1:
                data[at:at] = chance.randbytes(size)
            case 2:
                data[at:at] = data[max(0, at - size) : at]
            case _:
                data[at : at + size] = chance.choice([b"\r\n", b"\0", b"\n", b":", b" ", b"\r"])
    return bytes(data)


def play(address, key, seed):
    """The statuses that a connection is answered, until it ends."""
    chance = random.Random(seed)
    sent = b"".join(request(chance, key) for _ in range(chance.choice([1, 1, 1, 2, 4])))
    received = b""
    with closing(socket.create_connection(address, HANGS)) as connection, suppress(ConnectionError):
        for _ in range(chance.choice([0, 0, 1, 5])):  # in pieces
            cut = chance.randrange(len(sent) + 1)
            connection.sendall(sent[:cut])
            sent = sent[cut:]
        if chance.random() < 0.1:
            return received  # and away
        connection.sendall(sent)
        connection.settimeout(PATIENCE)
        try:
            while data := connection.recv(65536):
                received += data
        except TimeoutError:
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(HANGS)
            while data := connection.recv(65536):
                received += data
    return received


def test_whatever_comes_in(door, key):
    address = httpx.URL(door.url).host, httpx.URL(door.url).port
    print(f"VBS_FUZZ_SEED={SEED}")
    seen = Counter()

    def case(number):
        if number % 10 == 0:  # what the others send is no reason to refuse a client that does it right
            answer = httpx.get(f"{door.url}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=HANGS)
            assert answer.status_code == 200, f"VBS_FUZZ_SEED={SEED}, case {number}: {answer.text}"
            return
        if number % 10 == 1:  # nor to let one in that has no key, or does it wrong
            without = httpx.get(f"{door.url}/v1/models", timeout=HANGS)
            assert without.status_code == 401, f"VBS_FUZZ_SEED={SEED}, case {number}: {without.text}"
            with closing(socket.create_connection(address, HANGS)) as connection:
                connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost : localhost\r\n\r\n")
                assert connection.recv(65536).startswith(b"HTTP/1.1 400 "), f"VBS_FUZZ_SEED={SEED}, case {number}"
            return
        try:
            answer = play(address, key, f"{SEED} {number}")
        except TimeoutError:
            pytest.fail(f"VBS_FUZZ_SEED={SEED}, case {number}: it hangs")
        found = {int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)}
        seen.update(found)
        assert not found & {500, 502, 504}, f"VBS_FUZZ_SEED={SEED}, case {number}: {answer[:2000]!r}"

    with ThreadPoolExecutor(8) as together:
        list(together.map(case, range(CASES)))
    print(dict(seen))
    until(lambda: door.spooled() == 0)
    until(lambda: len(door.connections()) <= 2, 30)  # ours of before, kept alive
    assert httpx.get(f"{door.url}/health").json() == {"status": "ok"}
    assert not door.failures(), f"VBS_FUZZ_SEED={SEED}: {door.failures()[:3]}"
