"""Answers that the web server gives itself, without the application: the API's error envelope."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from vbs.run import descriptors, space

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Refusal:
    """An answer that ends the connection."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[str, str], ...] = ()

    def body(self) -> bytes:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return json.dumps({"error": error}).encode()


def try_later(status: int, code: str, message: str, seconds: int = 5) -> Refusal:
    """An answer that says when to ask again, in seconds."""
    return Refusal(status, code, message, (("Retry-After", str(seconds)),))


def out_of_resources(error: BaseException | None) -> Refusal | None:
    """The answer where the disk is full or no descriptor is left; None for any other error."""
    if space.is_full(error):
        return Refusal(507, "storage_full", space.REFUSAL)
    if isinstance(error, OSError) and error.errno in descriptors.EXHAUSTED:
        words = "The server has as many files and connections open as it may, so the request was not accepted."
        return try_later(503, "no_descriptors", f"{words} Try again in a few seconds.")
    return None


@dataclass(frozen=True)
class RequestHead:
    """What is known of an HTTP request before its body comes."""

    method: str
    path: str
    headers: list[tuple[bytes, bytes]]  # names in lower case
    length: int | None  # of the body; None when it comes in chunks
    address: str


Admit = Callable[[RequestHead], Refusal | None]
"""None when a large body may come in, else the answer. It is called in a thread, with the head of the request."""
