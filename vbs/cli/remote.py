"""A client of our own HTTP API: what a vbs server says comes back as its wire objects, or as one exception.

Knows neither the database nor the settings, so it works against any vbs server. What an app's routes do, its own client
says (`batches/cli/remote.py`, `models_registry/cli/remote.py`).
"""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, TypedDict
from urllib.parse import urlsplit

import httpx2

TIMEOUT = httpx2.Timeout(60, connect=10, read=300)  # taking a large file in may need minutes before there is an answer
PAGE = 100  # what the server gives at once


class RemoteError(Exception):
    """The server refused, or gave no answer (then `status` is None). The message is the server's where it has one."""

    def __init__(self, message: str, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code

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
        timeout: httpx2.Timeout = TIMEOUT,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url = url.strip().rstrip("/").removesuffix("/v1")
        host = _host(self.url)
        if not (key.isascii() and key.isprintable()):
            raise RemoteError("The key has characters that no key has: was it copied whole?")
        self._http = httpx2.Client(
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

    def ask(self, method: str, path: str, kind: str, **options: Any) -> Any:
        """The wire object of this kind that comes back. options: httpx2's, such as `json` and `params`."""
        with self._open(method, path, **options) as response:
            found = self._json(response)
            if not isinstance(found, dict) or found.get("object") != kind:
                raise self._stranger()
            return found

    def listed(self, path: str, limit: int, **params: str) -> Iterator[Any]:
        """The objects of a list, as the server orders them, page after page."""
        while limit > 0:
            page = self.ask("GET", path, "list", params={"limit": min(limit, PAGE), **params})
            yield from page["data"]
            limit -= len(page["data"])
            if not page["has_more"] or not page["data"]:
                return
            params["after"] = str(page["last_id"])

    def stream(self, path: str, content_type: str = "") -> Iterator[bytes]:
        """The body in pieces. Raises RemoteError where it is not of this type, if one is named."""
        with self._open("GET", path) as response:
            sent = response.headers.get("content-type", "nothing that it names")
            if content_type and _media_type(sent) != _media_type(content_type):
                raise RemoteError(
                    f"{self.url} sent {sent} where {content_type} was asked for, as a server of an earlier version "
                    "does, which does not know that format: ask for none, or have the server upgraded.",
                    response.status_code,
                )
            yield from response.iter_bytes()

    @contextmanager
    def _open(self, method: str, path: str, allowed: int = 200, **options: Any) -> Iterator[httpx2.Response]:
        try:
            with self._http.stream(method, path, **options) as response:
                if not response.is_success and response.status_code != allowed:
                    response.read()
                    raise self._refusal(response)
                yield response
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RemoteError(f"{self.url} gave no whole answer: {str(error) or type(error).__name__}") from error

    def _json(self, response: httpx2.Response) -> Any:
        response.read()
        try:
            return response.json()
        except ValueError:
            raise self._stranger() from None

    def _refusal(self, response: httpx2.Response) -> RemoteError:
        code = None
        try:
            error = response.json()["error"]
            message, code = error["message"], error.get("code")
        except (ValueError, KeyError, TypeError, AttributeError):
            message = f"{self.url} answered {response.status_code} {response.reason_phrase}"
            if text := response.text[:200].strip():
                message += f": {text}"
        return RemoteError(str(message), response.status_code, code)

    def _stranger(self) -> RemoteError:
        return RemoteError(f"{self.url} does not answer as a vbs server does: is the address right?", 200)


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


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
