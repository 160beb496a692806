"""The web server in a process of its own with a tiny application: real sockets, real clients, no database."""

import asyncio
import hashlib
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
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil

from vbs import logs
from vbs.http.body_limits import limits
from vbs.web.limits import Bounds
from vbs.web.refusal import Refusal

MB = 1024 * 1024
ROOT = Path(__file__).resolve().parents[3]
KEY = {"Authorization": "Bearer k"}
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
    if path == "/headers":
        return await answer(send, {"headers": {a.decode(): b.decode("latin-1") for a, b in scope["headers"]}})
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


def admit(head):
    """Those with a key; `slow` takes its time, and `broken` cannot tell."""
    key = dict(head.headers).get(b"authorization", b"").removeprefix(b"Bearer ")
    if key == b"slow":
        time.sleep(1)
    if key == b"broken":
        raise RuntimeError("by request")
    return None if key else Refusal(401, "invalid_api_key", "No key.", (("WWW-Authenticate", "Bearer"),))


def main():
    """What a test starts: `python -m tests.vbs.web.tiny TMP_DIR BOUNDS [full]`, with bounds as JSON."""
    from vbs.web import server, spool

    tempfile.tempdir = sys.argv[1]
    bounds = Bounds(**json.loads(sys.argv[2]))
    if "full" in sys.argv:
        spool.tempfile = SimpleNamespace(TemporaryFile=lambda **options: io.FileIO("/dev/full", "r+"))
    logging.config.dictConfig(logs.config("json", "INFO"))
    server.serve(application, limits(400), admit, "127.0.0.1", 0, bounds)


# Seen from the tests


class Server:
    def __init__(self, tmp: Path, *options: str, files: int = 0, **bounds: float) -> None:
        self.tmp = tmp
        command = [sys.executable, "-m", "tests.vbs.web.tiny", str(tmp), json.dumps(bounds), *options]
        if files:
            command = ["prlimit", f"--nofile={files}:{files}", *command]
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
        return spooled(self.process.pid, self.tmp)

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


def spooled(pid: int, folder: Path) -> int:
    """Bytes that a process has open in files without a name below this folder, which is where a body waits."""
    size = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            target = os.readlink(descriptor)
            if target.startswith(str(folder)) and target.endswith("(deleted)"):
                size += descriptor.stat().st_size
    return size


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
    return body(), KEY | {"Content-Type": "multipart/form-data; boundary=x"}, {"Content-Length": str(size)}


def assert_envelope(status, headers, body, expected_status, code, *said):
    assert status == expected_status
    assert headers["content-type"] == "application/json"
    assert re.fullmatch(r"[\w.-]{1,128}", headers["x-request-id"])
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    assert error["type"] == kinds.get(
        expected_status, "server_error" if expected_status >= 500 else "invalid_request_error"
    )
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


if __name__ == "__main__":
    main()
