"""A model hub for tests and demos: it serves folders as repositories, and fails as networks do.

`python -m models_registry.hub.scripted --port 4090 FOLDER` serves FOLDER/organisation/name as the model
organisation/name, over plain HTTP, as huggingface.co does: the list of files with sizes and checksums, and files with
ranges. It does not depend on Django.
"""

import argparse
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS = (".safetensors", ".bin", ".pt", ".gguf", ".model")
PIECE = 16 * 1024
KINDS = ("cut", "stall", "wrong", "longer", "status")


@dataclass
class Fault:
    """A fault of files whose path matches `path`: it happens `times` times (-1: always), after `after` bytes.

    kind: cut (the connection is closed), stall (nothing more is sent), wrong (one byte is changed), longer (more bytes
    than announced), status (an answer with `status` instead of the file).
    """

    kind: str
    path: str = "*"
    after: int = 0
    times: int = 1
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """KIND[:PATH[:AFTER[:TIMES[:STATUS]]]]"""
        kind, *rest = text.split(":")
        if kind not in KINDS or len(rest) > 4:
            raise ValueError(text)
        names = ("path", "after", "times", "status")
        values = [one if name == "path" else int(one) for name, one in zip(names, rest, strict=False)]
        return cls(kind, **dict(zip(names, values, strict=False)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Asked:
    """An HTTP request that has come; tests look at these."""

    method: str
    path: str
    range: str
    token: str


class ScriptedHub:
    """What is served, and how. Everything may be changed while it runs.

    tokens: the access tokens that are accepted. gated: repositories whose files need one. private: repositories that
    are visible only with one. rate: bytes per second of one connection; 0 is no limit. elsewhere: the URL that files of
    Git LFS are redirected to; empty is this server. extra: more files that every repository's listing has.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens: set[str] = set()
        self.gated: set[str] = set()
        self.private: set[str] = set()
        self.faults: list[Fault] = []
        self.rate = 0
        self.elsewhere = ""
        self.extra: list[dict[str, Any]] = []
        self.asked: list[Asked] = []
        self.url = ""
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, int, int], tuple[str, str]] = {}

    def files(self, repository: str) -> list[str] | None:
        root = self.folder / repository
        if ".." in repository or not root.is_dir():
            return None
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    def sums(self, path: Path) -> tuple[str, str]:
        """The sha256, and git's own checksum."""
        status = path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns)
        if key not in self._sums:
            content = path.read_bytes()
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
            self._sums[key] = (hashlib.sha256(content).hexdigest(), blob.hexdigest())
        return self._sums[key]

    def commit(self, repository: str) -> str:
        lines = [f"{name} {self.sums(self.folder / repository / name)[1]}" for name in self.files(repository) or []]
        return hashlib.sha1("\n".join([repository, *lines]).encode(), usedforsecurity=False).hexdigest()

    def info(self, repository: str) -> dict[str, Any]:
        """The answer to `/api/models/…?blobs=true`."""
        siblings = []
        for name in self.files(repository) or []:
            path = self.folder / repository / name
            sha256, blob = self.sums(path)
            one: dict[str, Any] = {"rfilename": name, "size": path.stat().st_size, "blobId": blob}
            if name.endswith(LFS):
                one["lfs"] = {"sha256": sha256, "size": path.stat().st_size, "pointerSize": 134}
            siblings.append(one)
        return {
            "id": repository,
            "sha": self.commit(repository),
            "gated": "manual" if repository in self.gated else False,
            "private": repository in self.private,
            "tags": ["license:apache-2.0"],
            "cardData": {"license": "apache-2.0"},
            "siblings": siblings + self.extra,
        }

    def fault(self, name: str, *kinds: str) -> Fault | None:
        """Take the next fault of these kinds for this file."""
        with self._lock:
            for fault in self.faults:
                if fault.kind in kinds and fault.times and fnmatch(name, fault.path):
                    fault.times -= 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # which would wait 40 ms between head and body
    server: "Server"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass  # tests look at `asked`

    def _answer(self) -> None:
        hub = self.server.hub
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        hub.asked.append(Asked(self.command, path, self.headers.get("Range", ""), token))
        if path.startswith("/api/models/"):
            repository, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            if self._allowed(repository, revision or "main", token, files=False):
                if fault := hub.fault("api", "status"):
                    self._refuse(fault.status, "", "as asked for", fault.headers)
                else:
                    self._json(hub.info(repository))
        elif path.startswith("/cdn/"):
            repository, name = parse_qs(parts.query)["of"][0].split(":", 1)
            self._file(repository, name)
        elif "/resolve/" in path:
            repository, _, rest = path[1:].partition("/resolve/")
            revision, _, name = rest.partition("/")
            if self._allowed(repository, revision, token, files=True):
                self._resolve(repository, name)
        else:
            self._refuse(404, "", "Not Found")

    def _allowed(self, repository: str, revision: str, token: str, files: bool) -> bool:
        hub = self.server.hub
        known = token in hub.tokens
        if token and not known:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif hub.files(repository) is None or (repository in hub.private and not known):
            self._refuse(404 if known else 401, "RepoNotFound", "Repository not found")
        elif files and repository in hub.gated and not known:
            self._refuse(401, "GatedRepo", f"Access to model {repository} is restricted.")
        elif revision not in ("main", hub.commit(repository)):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return True
        return False

    def _resolve(self, repository: str, name: str) -> None:
        hub = self.server.hub
        if name not in (hub.files(repository) or []):
            self._refuse(404, "EntryNotFound", "Entry not found")
        elif fault := hub.fault(name, "status"):
            self._refuse(fault.status, "", "as asked for", fault.headers)
        elif name.endswith(LFS):
            path = hub.folder / repository / name
            sha256 = hub.sums(path)[0]
            self.send_response(302)
            self.send_header("Location", f"{hub.elsewhere}/cdn/{sha256}?of={repository}:{name}")
            self.send_header("X-Repo-Commit", hub.commit(repository))
            self.send_header("X-Linked-Size", str(path.stat().st_size))
            self.send_header("X-Linked-ETag", f'"{sha256}"')
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._file(repository, name)

    def _file(self, repository: str, name: str) -> None:
        hub = self.server.hub
        path = hub.folder / repository / name
        content = bytearray(path.read_bytes())
        size, start = len(content), 0
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and asked.endswith("-"):
            start = int(asked[6:-1])
        if start and start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if hub.fault(name, "wrong"):
            content[-1] ^= 1
        if hub.fault(name, "longer"):
            content += b"and more"
        body = bytes(content[start:])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{hub.sums(path)[0 if name.endswith(LFS) else 1]}"')
        self.send_header("X-Repo-Commit", hub.commit(repository))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self._send(body, hub.fault(name, "cut", "stall"))

    def _send(self, body: bytes, fault: Fault | None) -> None:
        rate = self.server.hub.rate
        until = len(body) if fault is None else min(fault.after, len(body))
        piece = min(PIECE, max(1, rate // 20)) if rate else PIECE
        for at in range(0, until, piece):
            self.wfile.write(body[at : min(at + piece, until)])
            if rate:
                time.sleep(piece / rate)
        if fault and fault.kind == "stall":
            self.wfile.flush()
            self.server.closing.wait()
        if fault:
            self.close_connection = True

    def _json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        for name, value in {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: ScriptedHub, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.hub = hub
        self.closing = threading.Event()
        hub.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client is gone


@contextmanager
def serving(hub: ScriptedHub, port: int = 0) -> Iterator[ScriptedHub]:
    """Serve the hub from a thread during the block; `hub.url` is its address."""
    server = Server(hub, port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m models_registry.hub.scripted", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--port", type=int, default=4090)
    parser.add_argument("--rate", type=int, default=0, metavar="BYTES", help="per second and connection")
    parser.add_argument("--token", action="append", default=[], help="one that is accepted; may be repeated")
    parser.add_argument("--gated", action="append", default=[], metavar="ID", help="may be repeated")
    parser.add_argument("--private", action="append", default=[], metavar="ID", help="may be repeated")
    parser.add_argument(
        "--fault", action="append", default=[], type=Fault.parse, metavar="FAULT", help=Fault.parse.__doc__
    )
    options = parser.parse_args()
    hub = ScriptedHub(options.folder)
    hub.rate, hub.faults = options.rate, options.fault
    hub.tokens, hub.gated, hub.private = set(options.token), set(options.gated), set(options.private)
    server = Server(hub, options.port)
    print(f"serving {options.folder} at {hub.url}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.closing.set()


if __name__ == "__main__":
    main()
