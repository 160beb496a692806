"""A client of our own HTTP API: what a vbs server says comes back as its wire objects, or as one exception.

Knows neither the database nor the settings, so it works against any vbs server. Files go up and come down in pieces.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypedDict
from urllib.parse import quote, urlsplit

import httpx

from vbs.openai.schema import BatchList, BatchObject, FileObject, QueueObject

TIMEOUT = httpx.Timeout(60, connect=10, read=300)  # taking a large file in may need minutes before there is an answer
PAGE = 100  # what the server gives at once

_UNFIT_FOR_FORM = re.compile(r'["\x00-\x1f]')  # what a name in a multipart form cannot carry unchanged


class RemoteError(Exception):
    """The server refused, or gave no answer (then `status` is None). The message is the server's where it has one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def passing(self) -> bool:
        """May it be over soon, as when the server is being started again?"""
        return self.status is None or self.status == 429 or self.status >= 500


class Readiness(TypedDict):
    status: str
    parts: dict[str, str]


class Remote:
    """A server by its URL, with or without `/v1`, and the key to use there (empty: none)."""

    def __init__(
        self,
        url: str,
        key: str = "",
        timeout: httpx.Timeout = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.strip().rstrip("/").removesuffix("/v1")
        host = _host(self.url)
        if not (key.isascii() and key.isprintable()):
            raise RemoteError("The key has characters that no key has: was it copied whole?")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout,
            transport=transport,
            trust_env=not _is_loopback(host),  # ourselves never through a proxy
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()

    # Files

    def upload(self, path: Path, purpose: str = "batch") -> FileObject:
        with path.open("rb") as file:
            found: FileObject = self._ask(
                "POST", "/v1/files", "file", data={"purpose": purpose}, files={"file": (_label(path), file)}
            )
        return found

    # Batches

    def submit(
        self,
        path: Path,
        *,
        model: str = "",
        endpoint: str = "",
        priority: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> BatchObject:
        """Upload a file and make a batch of it, in one call: both are there afterwards, or neither."""
        fields = {"model": model, "endpoint": endpoint, "priority": "" if priority is None else str(priority)}
        fields = {name: value for name, value in fields.items() if value}
        for name, value in (metadata or {}).items():
            if _UNFIT_FOR_FORM.search(name):
                raise RemoteError(f"The metadata key {name!r} has a quote or a control character; leave that out.")
            fields[f"metadata[{name}]"] = value
        with path.open("rb") as file:
            return self._batch("POST", "/v1/batches", data=fields, files={"file": (_label(path), file)})

    def create(self, input_file_id: str, endpoint: str, completion_window: str = "24h", **options: Any) -> BatchObject:
        """A batch of a file that is there already. options: metadata, priority, output_expires_after."""
        body = {"input_file_id": input_file_id, "endpoint": endpoint, "completion_window": completion_window}
        return self._batch("POST", "/v1/batches", json=body | options)

    def retrieve(self, batch_id: str) -> BatchObject:
        return self._batch("GET", _path(batch_id))

    def cancel(self, batch_id: str) -> BatchObject:
        return self._batch("POST", _path(batch_id, "/cancel"))

    def retry(self, batch_id: str) -> BatchObject:
        """A new batch of what failed in this one, or was not run."""
        return self._batch("POST", _path(batch_id, "/retry"))

    def batches(self, limit: int) -> Iterator[BatchObject]:
        """The newest first."""
        after: dict[str, str] = {}
        while limit > 0:
            page: BatchList = self._ask("GET", "/v1/batches", "list", params={"limit": min(limit, PAGE)} | after)
            yield from page["data"]
            limit -= len(page["data"])
            if not page["has_more"] or not page["data"]:
                return
            after = {"after": str(page["last_id"])}

    def results(self, batch_id: str) -> Iterator[bytes]:
        """Output lines in pieces of any size; while the batch runs, those committed so far."""
        return self._stream(_path(batch_id, "/results"))

    def errors(self, batch_id: str) -> Iterator[bytes]:
        return self._stream(_path(batch_id, "/errors"))

    def logs(self, batch_id: str) -> Iterator[bytes]:
        return self._stream(_path(batch_id, "/logs"))

    # The server

    def queue(self) -> QueueObject:
        found: QueueObject = self._ask("GET", "/v1/queue", "queue")
        return found

    def answers(self) -> bool:
        """Is there a server at all?"""
        try:
            with self._open("GET", "/health"):
                return True
        except RemoteError:
            return False

    def ready(self) -> Readiness:
        with self._open("GET", "/ready", allowed=503) as response:
            found: Readiness = self._json(response)
            if not isinstance(found, dict) or not isinstance(found.get("parts"), dict):
                raise self._stranger()
            return found

    # How it is asked

    def _batch(self, method: str, path: str, **options: Any) -> BatchObject:
        found: BatchObject = self._ask(method, path, "batch", **options)
        return found

    def _ask(self, method: str, path: str, kind: str, **options: Any) -> Any:
        with self._open(method, path, **options) as response:
            found = self._json(response)
            if not isinstance(found, dict) or found.get("object") != kind:
                raise self._stranger()
            return found

    def _stream(self, path: str) -> Iterator[bytes]:
        with self._open("GET", path) as response:
            yield from response.iter_bytes()

    @contextmanager
    def _open(self, method: str, path: str, allowed: int = 200, **options: Any) -> Iterator[httpx.Response]:
        try:
            with self._http.stream(method, path, **options) as response:
                if response.status_code not in (200, allowed):
                    response.read()
                    raise self._refusal(response)
                yield response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RemoteError(f"{self.url} gave no whole answer: {str(error) or type(error).__name__}") from error

    def _json(self, response: httpx.Response) -> Any:
        response.read()
        try:
            return response.json()
        except ValueError:
            raise self._stranger() from None

    def _refusal(self, response: httpx.Response) -> RemoteError:
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"{self.url} answered {response.status_code} {response.reason_phrase}"
            if text := response.text[:200].strip():
                message += f": {text}"
        return RemoteError(str(message), response.status_code)

    def _stranger(self) -> RemoteError:
        return RemoteError(f"{self.url} does not answer as a vbs server does: is the address right?", 200)


def _path(batch_id: str, action: str = "") -> str:
    return f"/v1/batches/{quote(batch_id, safe='')}{action}"


def _label(path: Path) -> str:
    return path.name.encode(errors="replace").decode()


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts.hostname
    except ValueError:
        pass
    raise RemoteError(f"{url!r} is no address of a server; it looks like http://127.0.0.1:4080")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
