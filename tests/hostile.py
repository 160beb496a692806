"""A server on loopback that answers as no server should: whatever bytes a test wants, as slowly as it wants."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

Answer = bytes | Callable[[socket.socket], None]


def http(body: bytes = b"", *headers: str, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """A well-formed answer."""
    length = f"Content-Length: {len(body)}"
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", length, "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Hostile:
    """answers: what each path gets, `*` for all others. of_body: what a POST gets instead, by its body. heard, bodies:
    heads and bodies of the requests that came."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {"*": http(b"{}")}
        self.of_body: Callable[[bytes], Answer] | None = None
        self.heard: list[str] = []
        self.bodies: list[str] = []
        self.closing = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = f"{self.root}/v1"

    def serve(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(link,), daemon=True).start()

    def _answer(self, link: socket.socket) -> None:
        with suppress(OSError), link:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (piece := link.recv(65536)):
                    return
                head += piece
            head, _, body = head.partition(b"\r\n\r\n")
            text = head.decode("latin-1")
            lengths = [line.split(":")[1] for line in text.split("\r\n") if line.lower().startswith("content-length")]
            while lengths and len(body) < int(lengths[0]):
                body += link.recv(65536)
            self.heard.append(text)
            self.bodies.append(body.decode(errors="replace"))
            method, path = text.split()[:2]
            answer = self.answers.get(path, self.answers["*"])
            if self.of_body and method == "POST":
                answer = self.of_body(body)
            if isinstance(answer, bytes):
                link.sendall(answer)
            else:
                answer(link)
            link.shutdown(socket.SHUT_WR)
            link.settimeout(5)
            while link.recv(65536):  # closed with something unread, it would be a reset
                pass

    def keys(self) -> list[str]:
        """The Authorization of each request that came."""
        found = [line for head in self.heard for line in head.split("\r\n")[1:] if line.lower().startswith("auth")]
        return [line.partition(": ")[2] for line in found]

    def drip(self, first: bytes, piece: bytes, seconds: float = 0.05) -> Callable[[socket.socket], None]:
        """An answer that never ends, a little at a time."""

        def answer(link: socket.socket) -> None:
            link.sendall(first)
            while not self.closing.wait(seconds):
                link.sendall(piece)

        return answer

    def flood(self, first: bytes, piece: bytes = b"x" * 65536) -> Callable[[socket.socket], None]:
        """An answer that never ends, as fast as it is read."""

        def answer(link: socket.socket) -> None:
            link.sendall(first)
            while not self.closing.is_set():
                link.sendall(piece)

        return answer


@contextmanager
def serving() -> Iterator[Hostile]:
    server = Hostile()
    threading.Thread(target=server.serve, daemon=True).start()
    try:
        yield server
    finally:
        server.closing.set()
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with serving() as server:
        yield server


def names(monkeypatch: pytest.MonkeyPatch, known: dict[str, list[str]]) -> list[str]:
    """What names stand for, one after the other and the last for ever; says which were asked for."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def resolve(host: Any, port: int, *more: Any, **others: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name not in known:
            return real(host, port, *more, **others)
        asked.append(name)
        found = known[name].pop(0) if len(known[name]) > 1 else known[name][0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked
